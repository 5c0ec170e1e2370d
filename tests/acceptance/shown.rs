//! What others are shown of a client: who it is, what is said of it, and in which channels. Who comes and goes over
//! several instances is `centrifuge_cluster`'s business.

use serde_json::{Value, json};

use crate::api::result;
use crate::harness::{Caller, Instance, RedisServer, Setup, eventually, token};

/// Nobody is pinged, and nobody is cut for what it leaves unread.
const CHANNELS: &str = "
    client_ping_interval = \"1h\"
    outbox_limit = \"64MiB\"
    [channels]
    may_subscribe = \"client\"
    may_publish = \"client\"
    may_read_presence = \"client\"
    presence = true
    join_leave = \"force\"
    [namespaces.kept]
    may_subscribe = \"client\"
    presence = true
    history_size = 200
    recovery = \"allow\"
    positioning = \"allow\"
";

/// A token of this user, with a claim or two.
async fn claiming(user: &str, claims: &[&str]) -> String {
    let claims = claims.iter().flat_map(|claim| ["--claim", *claim]);
    token(&["--user", user].into_iter().chain(claims).collect::<Vec<_>>()).await
}

/// What is said of the only other one who is there.
fn of_ann(info: &Value) -> [&Value; 3] {
    [&info["user"], &info["conn_info"], &info["chan_info"]]
}

/// What whoever looks it up finds of a user in a channel.
async fn present(instance: &Instance, channel: &str, user: &str) -> Vec<Value> {
    let found = result(instance, "presence", json!({ "channel": channel })).await;
    let all = found["presence"].as_object().unwrap().values();
    all.filter(|info| info["user"] == user).cloned().collect()
}

#[tokio::test]
async fn what_tokens_and_the_back_end_say_of_a_client_is_shown_everywhere() {
    let instance = Setup::new(CHANNELS).tokens().api().start().await;
    let address = instance.address();
    let mut watcher = Caller::connect(address, json!({ "token": claiming("watcher", &[]).await })).await;
    watcher.result("subscribe", json!({ "channel": "room" })).await;
    assert_eq!(watcher.push().await.1, "join");
    let seat =
        async |seat: u64| claiming("ann", &["channel=\"room\"", &format!("info={{\"seat\":{seat}}}")]).await;
    let name = async |name: u64| claiming("ann", &[&format!("info={{\"name\":{name}}}")]).await;
    let mut ann = Caller::connect(address, json!({ "token": name(1).await })).await;
    ann.result("subscribe", json!({ "channel": "room", "token": seat(1).await })).await;
    let (_, kind, event) = watcher.push().await;
    assert_eq!(kind, "join");
    assert_eq!(of_ann(&event["info"]), [&json!("ann"), &json!({ "name": 1 }), &json!({ "seat": 1 })]);
    // (how it changes, what is shown then)
    for (step, names, seats) in [("none", 1, 1), ("refresh", 2, 1), ("sub_refresh", 2, 2), ("back end", 3, 2)]
    {
        match step {
            "refresh" => drop(ann.result("refresh", json!({ "token": name(2).await })).await),
            "sub_refresh" => {
                ann.result("sub_refresh", json!({ "channel": "room", "token": seat(2).await })).await;
            }
            "back end" => {
                result(&instance, "refresh", json!({ "user": "ann", "info": { "name": 3 } })).await;
                assert_eq!(ann.push().await.1, "refresh");
            }
            _ => {}
        }
        let expected = [json!("ann"), json!({ "name": names }), json!({ "seat": seats })];
        let expected = expected.each_ref();
        ann.result("publish", json!({ "channel": "room", "data": step })).await;
        let (_, kind, event) = watcher.push().await;
        assert_eq!((&*kind, &event["data"]), ("pub", &json!(step)));
        assert_eq!(of_ann(&event["info"]), expected, "{step}");
        eventually("it can be looked up", async || {
            let found = present(&instance, "room", "ann").await;
            found.len() == 1 && of_ann(&found[0]) == expected
        })
        .await;
        let found = watcher.result("presence", json!({ "channel": "room" })).await;
        assert!(
            found["presence"].as_object().unwrap().values().any(|info| of_ann(info) == expected),
            "{step}"
        );
        // What it has said itself comes to it as well.
        while ann.push().await.1 != "pub" {}
    }
    // And where the back end has subscribed it.
    let wish = json!({ "user": "ann", "channel": "lounge", "info": { "seat": 9 } });
    result(&instance, "subscribe", wish).await;
    while ann.push().await.1 != "subscribe" {}
    let found = present(&instance, "lounge", "ann").await;
    assert_eq!(of_ann(&found[0]), [&json!("ann"), &json!({ "name": 3 }), &json!({ "seat": 9 })]);
}

/// Of three channels that it asks for at once the first has missed much, which waits for the client, and the last
/// cannot be read; meanwhile the back end says something else of it.
#[tokio::test]
async fn what_comes_to_nothing_leaves_nobody_in_presence() {
    let redis = RedisServer::start().await;
    let instance = Setup::new(CHANNELS).tokens().api().redis(&redis.url()).start().await;
    eventually("it has found Redis", async || instance.page("/readyz").await.status == 200).await;
    for channel in ["kept:much", "kept:little", "kept:broken"] {
        result(&instance, "publish", json!({ "channel": channel, "data": 1 })).await;
    }
    for _ in 0..100 {
        result(&instance, "publish", json!({ "channel": "kept:much", "data": "x".repeat(60_000) })).await;
    }
    redis.cli(&["DEL", "fanfare:top:{kept:broken}"]).await;
    redis.cli(&["LPUSH", "fanfare:top:{kept:broken}", "x"]).await;
    let connect = json!({ "token": claiming("ann", &["info={\"name\":1}"]).await });
    let mut ann = Caller::narrow_as(instance.address(), connect).await;
    let frame = [
        json!({ "id": 11, "subscribe": { "channel": "kept:much", "recover": true } }),
        json!({ "id": 12, "subscribe": { "channel": "kept:little", "recover": true } }),
        json!({ "id": 13, "subscribe": { "channel": "kept:broken", "positioned": true } }),
    ];
    ann.say(&frame.map(|command| command.to_string()).join("\n")).await;
    let there = async |channel: &str| present(&instance, channel, "ann").await.len();
    eventually("the first two are under way, the last is not", async || {
        there("kept:much").await == 1 && there("kept:little").await == 1 && there("kept:broken").await == 0
    })
    .await;
    result(&instance, "refresh", json!({ "user": "ann", "info": { "name": 2 } })).await;
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let message = ann.message().await.unwrap();
        if let Some(id) = message["id"].as_u64() {
            answers.push((id, message["error"]["code"].as_u64()));
        }
    }
    assert_eq!(answers, [(11, None), (12, None), (13, Some(100))]);
    for (channel, expected) in [("kept:much", Some(2)), ("kept:little", Some(2)), ("kept:broken", None)] {
        let expected: Vec<_> = expected.into_iter().map(|name| json!({ "name": name })).collect();
        eventually("it is shown as it is", async || {
            let found = present(&instance, channel, "ann").await;
            found.into_iter().map(|mut info| info["conn_info"].take()).collect::<Vec<_>>() == expected
        })
        .await;
    }
    assert_eq!(instance.metric("fanfare_presence_members", &[]).await, 2.0);
    ann.leave().await;
    eventually("nobody is left", async || instance.metric("fanfare_presence_members", &[]).await == 0.0)
        .await;
}

/// Where joins and leaves are for those who ask for them, they are for those alone who may look up who is there.
#[tokio::test]
async fn who_comes_is_told_to_those_who_may_look_it_up() {
    let file = "
        allow_anonymous = true
        client_ping_interval = \"1h\"
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"client\"
        may_read_presence = \"client\"
        presence = true
        join_leave = \"allow\"
    ";
    let instance = Setup::new(file).tokens().start().await;
    let known = async |user: &str| json!({ "token": claiming(user, &[]).await });
    // (who it is, whether it asks, whether it hears of whoever comes)
    let rows =
        [(json!({}), true, false), (known("bob").await, false, false), (known("eve").await, true, true)];
    let mut watchers = Vec::new();
    for (connect, asks, _) in &rows {
        let mut watcher = Caller::connect(instance.address(), connect.clone()).await;
        watcher.result("subscribe", json!({ "channel": "room", "join_leave": asks })).await;
        watchers.push(watcher);
    }
    let mut ann = Caller::connect(instance.address(), known("ann").await).await;
    ann.result("subscribe", json!({ "channel": "room" })).await;
    ann.result("publish", json!({ "channel": "room", "data": 1 })).await;
    for ((connect, asks, hears), watcher) in rows.iter().zip(&mut watchers) {
        let mut heard = Vec::new();
        loop {
            let (_, kind, event) = watcher.push().await;
            if kind == "pub" {
                break;
            }
            heard.push(event["info"]["user"].clone());
        }
        assert_eq!(heard.contains(&json!("ann")), *hears, "{connect} {asks}: {heard:?}");
        assert!(*hears || heard.is_empty(), "{connect} {asks}: {heard:?}");
    }
}
