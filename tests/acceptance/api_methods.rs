//! What each method of the HTTP API does to everybody else, and what it says while Redis is away.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::{call, result, setup};
use crate::emulation;
use crate::harness::{Caller, Client, RedisServer, Remote, SECRET, Said, Setup, eventually, token};

/// From the API to raw subscribers and Redis listeners, on whatever instance.
#[tokio::test]
async fn a_back_end_reaches_everybody() {
    let redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let mut clients = Vec::new();
    for instance in [&one, &other] {
        for channel in ["news", "kept:a", "binary:a"] {
            clients.push((channel, Client::connect(instance.url(channel)).await));
        }
    }
    assert_eq!(
        result(&one, "publish", json!({ "channel": "news", "data": { "n": [1, "ž"] } })).await,
        json!({})
    );
    let kept = result(&other, "publish", json!({ "channel": "kept:a", "data": "text" })).await;
    assert_eq!(kept["offset"], 1);
    let again = json!({ "channel": "kept:a", "data": 2, "idempotency_key": "once", "tags": { "a": "b" } });
    for instance in [&one, &other] {
        let twice = result(instance, "publish", again.clone()).await;
        assert_eq!((&twice["offset"], &twice["epoch"]), (&json!(2), &kept["epoch"]));
    }
    result(&one, "publish", json!({ "channel": "kept:a", "data": 3, "skip_history": true })).await;
    result(&one, "publish", json!({ "channel": "binary:a", "b64data": "AP8Q" })).await;
    result(&one, "publish", json!({ "channel": "binary:a" })).await;
    let channels = json!(["news", "nowhere:a", "kept:a", "", "json:a"]);
    let answer = result(&other, "broadcast", json!({ "channels": channels, "data": [4] })).await;
    let responses = &answer["responses"];
    assert_eq!((&responses[0], &responses[1]["error"]["code"]), (&json!({ "result": {} }), &json!(102)));
    assert_eq!(responses[2]["result"]["offset"], 3);
    assert_eq!((&responses[3]["error"]["code"], &responses[4]["error"]["code"]), (&json!(107), &json!(107)));
    for (version, offset) in [(5, 4), (5, 4), (4, 4), (6, 5)] {
        let publish = json!({ "channel": "kept:a", "data": { "version": version }, "version": version });
        assert_eq!(result(&one, "publish", publish).await["offset"], offset, "{version}");
    }
    for (channel, client) in &mut clients {
        let expected: Vec<Said> = match *channel {
            "news" => vec![r#"{"n":[1,"ž"]}"#.into(), "[4]".into()],
            "kept:a" => {
                ["\"text\"", "2", "3", "[4]", r#"{"version":5}"#, r#"{"version":6}"#].map(Said::from).into()
            }
            _ => vec![Said::Binary(vec![0, 0xFF, 0x10]), Said::Binary(vec![])],
        };
        assert_eq!(client.take(expected.len()).await, expected, "{channel}");
    }
    let history = result(&one, "history", json!({ "channel": "kept:a", "limit": -1 })).await;
    let said = history["publications"].as_array().unwrap();
    let offsets: Vec<_> = said.iter().map(|said| said["offset"].clone()).collect();
    assert_eq!((json!(offsets), &history["offset"]), (json!([1, 2, 3, 4, 5]), &json!(5)));
    assert_eq!((&said[1]["data"], &said[1]["tags"]), (&json!(2), &json!({ "a": "b" })));
    for (query, offsets) in [
        (json!({}), json!([])),
        (json!({ "limit": 2 }), json!([1, 2])),
        (json!({ "limit": 2, "reverse": true }), json!([5, 4])),
        (json!({ "limit": 9, "since": { "offset": 3, "epoch": history["epoch"] } }), json!([4, 5])),
        (json!({ "limit": 9, "since": { "offset": 3 } }), json!([4, 5])),
        (json!({ "limit": 9, "reverse": true, "since": { "offset": 3 } }), json!([2, 1])),
    ] {
        let mut request = json!({ "channel": "kept:a" });
        request.as_object_mut().unwrap().extend(query.as_object().unwrap().clone());
        let read = result(&other, "history", request).await;
        let found: Vec<_> =
            read["publications"].as_array().unwrap().iter().map(|said| said["offset"].clone()).collect();
        assert_eq!((json!(found), &read["offset"]), (offsets, &json!(5)), "{query}");
    }
    assert_eq!(result(&one, "history_remove", json!({ "channel": "kept:a" })).await, json!({}));
    let read = result(&other, "history", json!({ "channel": "kept:a", "limit": 9 })).await;
    assert_eq!((&read["publications"], &read["offset"]), (&json!([]), &json!(5)));
    let counted = one.metric("fanfare_api_calls_total", &[("method", "publish"), ("result", "ok")]).await;
    assert_eq!(counted, 9.0);
    assert_eq!(
        other.metric("fanfare_api_calls_total", &[("method", "history"), ("result", "ok")]).await,
        7.0
    );
}

#[tokio::test]
async fn channels_and_instances_are_listed_over_all_instances() {
    let redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let mut clients = Vec::new();
    for (instance, channel) in [(&one, "a"), (&one, "kept:b"), (&other, "a"), (&other, "kept:c")] {
        clients.push(Client::connect(instance.url(channel)).await);
    }
    let counts = |found: &Value| -> Vec<(String, u64)> {
        let channels = found["channels"].as_object().unwrap().iter();
        channels.map(|(name, facts)| (name.clone(), facts["num_clients"].as_u64().unwrap())).collect()
    };
    let expected = [("a", 2), ("kept:b", 1), ("kept:c", 1)].map(|(name, count)| (name.to_owned(), count));
    eventually("all channels are listed", async || {
        counts(&result(&one, "channels", json!({})).await) == expected
    })
    .await;
    let found = result(&other, "channels", json!({ "pattern": "kept:*" })).await;
    assert_eq!(counts(&found), expected[1..]);
    let (mut pages, mut cursor) = (Vec::new(), json!(""));
    while !cursor.is_null() {
        let page = result(&one, "channels", json!({ "limit": 1, "cursor": cursor })).await;
        pages.extend(counts(&page));
        cursor = page["next"].clone();
        let elsewhere = call(&one, "presence", json!({ "channel": "kept:b", "cursor": cursor })).await;
        assert_eq!(elsewhere["error"].is_object(), !cursor.is_null(), "{elsewhere}");
    }
    pages.sort();
    pages.dedup();
    assert_eq!(pages, expected);
    eventually("both instances are listed, with what they have", async || {
        let info = result(&other, "info", json!({})).await;
        let nodes = info["nodes"].as_array().unwrap();
        nodes.len() == 2
            && nodes.iter().all(|node| {
                node["num_clients"] == 2
                    && node["num_subs"] == 2
                    && node["num_channels"] == 2
                    && node["process"]["rss"].as_u64().unwrap() > 1 << 20
            })
    })
    .await;
    drop(clients);
    eventually("nobody is left", async || counts(&result(&other, "channels", json!({})).await).is_empty())
        .await;
}

/// Every answer is there long before anybody would give up waiting, and says what it would otherwise. What the instance
/// should do meanwhile it does when it goes on.
#[tokio::test]
async fn nobody_who_asks_waits_for_an_instance_that_stands_still() {
    const SOON: Duration = Duration::from_secs(2);
    let redis = RedisServer::start().await;
    let setup = emulation::setup("client_ping_interval = \"10m\"").redis(&redis.url());
    let (still, other) = (setup.start().await, setup.start().await);
    let words = json!({ "token": token(&["--user", "ann"]).await });
    let channel = json!({ "channel": "kept:a" });
    let mut ann = Caller::open(still.address()).await;
    let ann_is = ann.result("connect", words.clone()).await["client"].as_str().unwrap().to_owned();
    let mut asks = Caller::connect(other.address(), words).await;
    for caller in [&mut ann, &mut asks] {
        caller.result("subscribe", channel.clone()).await;
    }
    let mut remote = Remote::connect(still.address(), Remote::PATHS[0], json!({})).await;
    remote.uplink = other.address();
    let counted = async || result(&other, "channels", json!({})).await["channels"]["kept:a"].clone();
    let on_each = async || {
        let info = result(&other, "info", json!({})).await;
        let nodes = info["nodes"].as_array().unwrap().iter();
        let mut counts: Vec<_> = nodes.map(|node| node["num_clients"].as_u64().unwrap()).collect();
        counts.sort_unstable();
        counts
    };
    eventually("both are listed", async || {
        counted().await == json!({ "num_clients": 2 }) && on_each().await == [1, 2]
    })
    .await;
    let publication = json!({ "channel": "kept:a", "data": "meanwhile" });
    let kept = json!({ "channel": "kept:a", "limit": 9 });
    let epoch = result(&other, "history", kept.clone()).await["epoch"].clone();
    still.signal("STOP").await;
    let stopped = Instant::now();

    let at_ann = json!({ "user": "ann", "channel": "kept:b" });
    let (both, is_present) =
        (json!({ "num_clients": 2, "num_users": 1 }), format!("/presence/{ann_is}/user"));
    // (what is asked, where in its result that is to be found)
    let rows = [
        ("publish", publication.clone(), "/offset", json!(1)),
        ("broadcast", json!({ "channels": ["kept:a"], "data": 2 }), "/responses/0/result/offset", json!(2)),
        ("history", kept.clone(), "/publications/1/data", json!(2)),
        ("presence_stats", channel.clone(), "", both.clone()),
        ("presence", channel.clone(), &is_present, json!("ann")),
        ("channels", json!({}), "/channels/kept:a/num_clients", json!(2)),
        ("subscribe", at_ann.clone(), "", json!({})),
        ("unsubscribe", at_ann, "", json!({})),
        ("disconnect", json!({ "user": "bob" }), "", json!({})),
    ];
    for (method, request, place, expected) in rows {
        let answer = timeout(SOON, result(&other, method, request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method} waits"));
        assert_eq!(answer.pointer(place), Some(&expected), "{method}: {answer}");
    }
    // For longer than Redis is waited for, and not as long as a lease.
    sleep_until(stopped + Duration::from_secs(3)).await;
    assert_eq!(timeout(SOON, on_each()).await.expect("info waits"), [1, 2]);
    let all = json!({ "channel": "kept:a", "recover": true, "epoch": epoch, "offset": 0 });
    let rows = [
        ("history", kept, "/publications/1/data", json!(2)),
        ("presence_stats", channel.clone(), "", both),
        ("presence", channel.clone(), &is_present, json!("ann")),
        ("publish", publication, "", json!({})),
        ("unsubscribe", channel, "", json!({})),
        ("subscribe", all, "/publications/2/data", json!("meanwhile")),
    ];
    for (method, request, place, expected) in rows {
        let answer = timeout(SOON, asks.result(method, request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("a client's {method} waits"));
        assert_eq!(answer.pointer(place), Some(&expected), "{method}: {answer}");
    }
    let said = timeout(SOON, remote.say(r#"{"id":2,"rpc":{}}"#)).await;
    assert_eq!(said.expect("what is said to the other's session waits"), 204);
    let ended = timeout(SOON, result(&other, "disconnect", json!({ "user": "ann" }))).await;
    assert_eq!(ended.expect("disconnect waits"), json!({}));
    timeout(SOON, asks.closed()).await.expect("who is here is ended at once");

    still.signal("CONT").await;
    assert_eq!(remote.message().await.unwrap()["id"], 2);
    let mut pushed = Vec::new();
    let end = loop {
        match ann.message().await {
            Ok(message) => pushed.push(message),
            Err(end) => break end,
        }
    };
    assert_eq!(end.0, 3503, "{pushed:?}");
    let heard =
        |data: &Value| pushed.iter().filter(|message| message["push"]["pub"]["data"] == *data).count();
    assert_eq!((heard(&json!("meanwhile")), heard(&json!(2))), (2, 1), "{pushed:?}");
}

/// While Redis is away, whoever publishes with a confirmation is told so, and what is asked of others fails.
#[tokio::test]
async fn a_broker_that_is_away_is_said_to_be() {
    let mut redis = RedisServer::start().await;
    let instance = setup("redis_timeout = \"500ms\"").redis(&redis.url()).start().await;
    let up = async || instance.metric("fanfare_broker_up", &[]).await;
    eventually("the broker is up", async || up().await == 1.0).await;
    redis.kill().await;
    eventually("the broker is away", async || up().await == 0.0).await;
    for (method, body) in [
        ("publish", json!({ "channel": "a", "data": 1 })),
        ("publish", json!({ "channel": "kept:a", "data": 1 })),
        ("history", json!({ "channel": "kept:a" })),
        ("history_remove", json!({ "channel": "kept:a" })),
        ("presence", json!({ "channel": "kept:a" })),
        ("presence_stats", json!({ "channel": "kept:a" })),
        ("channels", json!({})),
        ("info", json!({})),
        ("disconnect", json!({ "user": "42" })),
    ] {
        let answer = call(&instance, method, body.clone()).await;
        let error = &answer["error"];
        assert_eq!(error["code"], 100, "{method} {body}: {answer}");
        assert!(error["message"].as_str().unwrap().contains("Redis at"), "{method} {body}: {answer}");
    }
    redis.restart().await;
    eventually("it publishes again", async || {
        let answer = call(&instance, "publish", json!({ "channel": "kept:a", "data": 1 })).await;
        answer["result"]["offset"].is_u64()
    })
    .await;
}

#[tokio::test]
async fn what_is_published_is_counted_in_its_namespace_whoever_publishes() {
    let instance = setup("").start().await;
    result(&instance, "publish", json!({ "channel": "kept:a", "data": 1 })).await;
    result(&instance, "broadcast", json!({ "channels": ["kept:b", "json:c"], "data": {} })).await;
    // What is refused was not published.
    let refused = call(&instance, "publish", json!({ "channel": "json:c", "data": 5 })).await;
    assert_eq!(refused["error"]["code"], 107, "{refused}");
    let mut client = Client::connect(instance.url("lobby")).await;
    client.send("hello").await;
    assert_eq!(client.next().await, Said::from("hello"));
    for (namespace, publications) in [("kept", 2.0), ("json", 1.0), ("binary", 0.0), ("(default)", 1.0)] {
        let labels = [("namespace", namespace)];
        let counted = async || instance.metric("fanfare_namespace_publications_total", &labels).await;
        eventually(namespace, async || counted().await == publications).await;
    }
}

/// Fifty of those that the file names have labels of their own, however many it names.
#[tokio::test]
async fn the_rest_of_many_namespaces_is_counted_together() {
    let tables: String =
        (0..70).map(|n| format!("[namespaces.n{n:02}]\nmay_subscribe = \"anonymous\"\n")).collect();
    let instance = Setup::new(&tables).api().keys("allow_anonymous = true").start().await;
    let mut caller = Caller::anonymous(instance.address()).await;
    for n in 0..70 {
        let channel = format!("n{n:02}:a");
        result(&instance, "publish", json!({ "channel": channel, "data": 1 })).await;
        caller.result("subscribe", json!({ "channel": channel })).await;
    }
    let metrics = instance.metrics().await;
    for name in ["fanfare_namespace_publications_total", "fanfare_namespace_subscribed_total"] {
        // The default is one of them.
        assert_eq!(metrics.label_values(name, "namespace").len(), 51, "{name}");
        for (label, expected) in [("(default)", 0.0), ("n00", 1.0), ("n48", 1.0), ("(other)", 21.0)] {
            assert_eq!(metrics.value(name, &[("namespace", label)]), expected, "{name} of {label}");
        }
    }
}

/// From memory, and by either of two instances that share a Redis.
#[tokio::test]
async fn what_comes_again_is_counted_as_that() {
    let redis = RedisServer::start().await;
    let alone = [setup("").start().await];
    let shared = [setup("").redis(&redis.url()).start().await, setup("").redis(&redis.url()).start().await];
    for instances in [&alone[..], &shared[..]] {
        for instance in instances {
            let up = async || instance.metric("fanfare_broker_up", &[]).await == 1.0;
            eventually("the broker is up", up).await;
        }
        for (channel, key, value) in [
            ("kept:a", "idempotency_key", json!("one")),
            ("a", "idempotency_key", json!("one")),
            ("kept:v", "version", json!(7)),
        ] {
            let publication = json!({ "channel": channel, "data": 1, key: value });
            for instance in instances {
                let first = result(instance, "publish", publication.clone()).await;
                assert_eq!(result(instance, "publish", publication.clone()).await, first);
            }
            let several = json!({ "channels": [channel, channel], "data": 1, key: value });
            result(&instances[0], "broadcast", several).await;
        }
        let mut counted = [0.0; 4];
        for instance in instances {
            let metrics = instance.metrics().await;
            let suppressed =
                |reason| metrics.value("fanfare_publications_suppressed_total", &[("reason", reason)]);
            let now = [
                metrics.value("fanfare_publications_total", &[]),
                metrics.value("fanfare_namespace_publications_total", &[]),
                suppressed("repeated"),
                suppressed("outdated"),
            ];
            (0..4).for_each(|at| counted[at] += now[at]);
        }
        let again = 1.0 + 2.0 * (instances.len() - 1) as f64 + 2.0;
        assert_eq!(counted, [3.0, 3.0, 2.0 * again, again], "{} instances", instances.len());
    }
}

/// What a client may not ask for, the server does not give it either, and closes it.
#[tokio::test]
async fn who_is_subscribed_to_too_much_is_closed() {
    let instance = setup(&format!("token_secrets = [\"{SECRET}\"]\nmax_channels = 2")).start().await;
    let token = token(&["--user", "ann"]).await;
    let mut ann = Caller::connect(instance.address(), json!({ "token": token })).await;
    for channel in ["a", "b", "a", "c"] {
        result(&instance, "subscribe", json!({ "user": "ann", "channel": channel })).await;
    }
    for channel in ["a", "b"] {
        let (name, kind, _) = ann.push().await;
        assert_eq!((&*kind, &*name), ("subscribe", channel));
    }
    assert_eq!(ann.closed().await, (3505, "channel limit".to_owned()));
}

#[tokio::test]
async fn how_long_histories_and_presence_take_is_told() {
    let redis = RedisServer::start().await;
    for instance in [setup("").start().await, setup("").redis(&redis.url()).start().await] {
        for _ in 0..3 {
            for method in ["history", "presence", "presence_stats"] {
                result(&instance, method, json!({ "channel": "kept:a" })).await;
            }
        }
        let metrics = instance.metrics().await;
        for (what, least) in [("history", 3.0), ("presence", 6.0)] {
            let value = |suffix: &str, labels: &[(&str, &str)]| {
                metrics.value(&format!("fanfare_{what}_read_seconds_{suffix}"), labels)
            };
            let count = value("count", &[]);
            assert!(count >= least, "{what}: {count}");
            assert_eq!(value("bucket", &[("le", "10")]), count, "{what}");
            assert!(value("sum", &[]) > 0.0, "{what}");
        }
    }
}
