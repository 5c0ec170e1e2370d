//! The Centrifuge client protocol over several instances: what is made good after Redis was away, who is present, what
//! the back end wants, and how many connections a user may have.

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Value, json};

use crate::centrifuge::now;
use crate::harness::{
    Caller, Client, Event, EventStream, Fault, Instance, RedisServer, Response, Said, Setup, TcpProxy,
    eventually, token, within,
};

const CHANNELS: &str = "
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    may_read_history = \"anonymous\"
    may_read_presence = \"anonymous\"
    history_size = 1000
    recovery = \"force\"
    presence = true
    join_leave = \"force\"
";

struct Cluster {
    redis: RedisServer,
    /// In front of Redis, for the second instance alone.
    proxy: TcpProxy,
    instances: Vec<Instance>,
}

impl Cluster {
    async fn start(keys: &str) -> Self {
        let setup = Setup::new(CHANNELS).tokens().api().keys("allow_anonymous = true").keys(keys);
        let redis = RedisServer::start().await;
        let proxy = TcpProxy::start(redis.address()).await;
        let mut instances = Vec::new();
        for address in [redis.address(), proxy.address()] {
            instances.push(setup.clone().redis(&format!("redis://{address}")).start().await);
        }
        Self { redis, proxy, instances }
    }

    async fn caller(&self, instance: usize, request: Value) -> Caller {
        Caller::connect(self.instances[instance].address(), request).await
    }

    /// Calls the HTTP API of the first instance.
    async fn call(&self, method: &str, body: Value) -> Value {
        self.instances[0].api(method, &body).await
    }
}

async fn user(name: &str) -> Value {
    let token = token(&["--user", name]).await;
    json!({ "token": token })
}

#[tokio::test]
async fn what_was_missed_of_redis_comes_in_order_and_nobody_subscribes_again() {
    let cluster = Cluster::start("").await;
    let (near, far) = (&cluster.instances[0], &cluster.instances[1]);
    let mut speaker = cluster.caller(0, json!({})).await;
    let mut listener = cluster.caller(1, json!({})).await;
    let place = listener.result("subscribe", json!({ "channel": "kept" })).await;
    assert_eq!((&place["recoverable"], &place["positioned"]), (&json!(true), &json!(true)));
    speaker.result("publish", json!({ "channel": "kept", "data": "before" })).await;
    assert_eq!(listener.publication().await, "before");
    // Whom its token or the back end has subscribed could not do so again by itself.
    let by_token = token(&["--user", "ann", "--claim", "channels=[\"kept\"]"]).await;
    let mut led = vec![cluster.caller(1, json!({ "token": by_token })).await];
    led.push(cluster.caller(1, user("bob").await).await);
    cluster.call("subscribe", json!({ "user": "bob", "channel": "kept" })).await;
    while led[1].push().await.1 != "subscribe" {}
    let mut number = 0;
    for _ in 0..2 {
        cluster.proxy.set(Fault::Blackhole);
        cluster.proxy.reset_all();
        eventually("it is cut off", async || far.metric("fanfare_broker_up", &[]).await == 0.0).await;
        // What is there cannot be asked meanwhile, and that is said.
        let mut other = cluster.caller(1, json!({})).await;
        let answer = other.call("subscribe", json!({ "channel": "kept" })).await;
        assert_eq!((&answer["error"]["code"], &answer["error"]["temporary"]), (&json!(100), &json!(true)));
        assert_eq!(other.error("publish", json!({ "channel": "kept", "data": "unheard" })).await, 100);
        for _ in 0..50 {
            speaker.result("publish", json!({ "channel": "kept", "data": number })).await;
            number += 1;
        }
        cluster.proxy.set(Fault::None);
        for expected in number - 50..number {
            let (_, kind, event) = loop {
                let push = listener.push().await;
                if push.1 != "join" && push.1 != "leave" {
                    break push;
                }
            };
            assert_eq!((&*kind, &event["data"]), ("pub", &json!(expected)));
        }
    }
    assert_eq!(far.metric("fanfare_heals_total", &[("result", "gap")]).await, 0.0);
    assert!(far.metric("fanfare_healed_publications_total", &[]).await >= 100.0);
    // What no history holds any more ends the subscription, and its client may subscribe anew.
    cluster.proxy.set(Fault::Blackhole);
    cluster.proxy.reset_all();
    eventually("it is cut off", async || far.metric("fanfare_broker_up", &[]).await == 0.0).await;
    cluster.redis.cli(&["FLUSHALL"]).await;
    let flushed = async || {
        speaker.call("publish", json!({ "channel": "kept", "data": "new" })).await.get("publish").is_some()
    };
    eventually("it can be published again", flushed).await;
    cluster.proxy.set(Fault::None);
    let (_, kind, event) = loop {
        let push = listener.push().await;
        if push.1 == "unsubscribe" {
            break push;
        }
    };
    assert_eq!((&*kind, &event["code"]), ("unsubscribe", &json!(2500)));
    for caller in &mut led {
        assert_eq!(caller.closed().await, (3010, "insufficient state".to_owned()));
    }
    let again =
        json!({ "channel": "kept", "recover": true, "offset": place["offset"], "epoch": place["epoch"] });
    let result = listener.result("subscribe", again).await;
    assert_eq!((result.get("recovered"), &result["was_recovering"]), (None, &json!(true)));
    assert_eq!(near.metric("fanfare_connections_closed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn presence_is_one_over_all_instances_and_has_no_ghosts() {
    let mut cluster = Cluster::start("").await;
    let mut watcher = cluster.caller(0, user("watcher").await).await;
    watcher.result("subscribe", json!({ "channel": "room" })).await;
    let mut heard = Vec::new();
    let mut ann = cluster.caller(1, user("ann").await).await;
    ann.result("subscribe", json!({ "channel": "room" })).await;
    let mut bob = cluster.caller(1, user("bob").await).await;
    bob.result("subscribe", json!({ "channel": "room" })).await;
    for _ in 0..3 {
        let (_, kind, event) = watcher.push().await;
        heard.push(format!("{kind} {}", event["info"]["user"].as_str().unwrap()));
    }
    assert_eq!(heard, ["join watcher", "join ann", "join bob"]);
    let stats = json!({ "num_clients": 3, "num_users": 3 });
    assert_eq!(watcher.result("presence_stats", json!({ "channel": "room" })).await, stats);
    let present = async |caller: &mut Caller| {
        let present = caller.result("presence", json!({ "channel": "room" })).await;
        let members = present["presence"].as_object().unwrap().values();
        let mut users: Vec<_> = members.map(|who| who["user"].as_str().unwrap().to_owned()).collect();
        users.sort();
        users
    };
    assert_eq!(present(&mut bob).await, ["ann", "bob", "watcher"]);
    // Ann comes back through another instance: nobody hears of it. Bob does not, and that is told once.
    cluster.instances[1].kill().await;
    let mut again = cluster.caller(0, user("ann").await).await;
    again.result("subscribe", json!({ "channel": "room" })).await;
    let gone = Duration::from_secs(15);
    within(gone, "bob is gone", async || {
        let stats = watcher.result("presence_stats", json!({ "channel": "room" })).await;
        stats == json!({ "num_clients": 2, "num_users": 2 })
    })
    .await;
    assert_eq!(present(&mut watcher).await, ["ann", "watcher"], "no row stays behind");
    let (_, kind, event) = watcher.push().await;
    assert_eq!((&*kind, &event["info"]["user"]), ("leave", &json!("bob")));
    again.leave().await;
    let (_, kind, event) = watcher.push().await;
    assert_eq!((&*kind, &event["info"]["user"]), ("leave", &json!("ann")));
}

#[tokio::test]
async fn what_the_back_end_wants_is_done_in_its_order() {
    let cluster = Cluster::start("").await;
    let mut callers =
        vec![cluster.caller(0, user("ann").await).await, cluster.caller(1, user("ann").await).await];
    let mut other = cluster.caller(1, user("bob").await).await;
    for n in 0..30 {
        let channel = format!("c{}", n % 3);
        cluster.call("subscribe", json!({ "user": "ann", "channel": channel })).await;
        cluster.call("unsubscribe", json!({ "user": "ann", "channel": channel })).await;
    }
    cluster.call("refresh", json!({ "user": "ann", "expire_at": 4_000_000_000_u64 })).await;
    cluster.call("subscribe", json!({ "user": "ann", "channel": "last" })).await;
    for caller in &mut callers {
        let mut heard = Vec::new();
        while heard.len() < 62 {
            let (channel, kind, _) = caller.push().await;
            if kind != "join" && kind != "leave" {
                heard.push(format!("{kind} {channel}"));
            }
        }
        let turns =
            (0..30).flat_map(|n| [format!("subscribe c{}", n % 3), format!("unsubscribe c{}", n % 3)]);
        let expected: Vec<_> = turns.chain(["refresh ".to_owned(), "subscribe last".to_owned()]).collect();
        assert_eq!(heard, expected);
    }
    let subscribed = async || cluster.instances[1].metric("fanfare_subscriptions", &[]).await == 1.0;
    eventually("only the last one is left", subscribed).await;
    other.result("publish", json!({ "channel": "last", "data": "hello" })).await;
    for caller in &mut callers {
        assert_eq!(caller.publication().await, "hello");
    }
    cluster.call("disconnect", json!({ "user": "ann" })).await;
    for caller in &mut callers {
        assert_eq!(caller.closed().await, (3503, "force disconnect".to_owned()));
    }
    assert_eq!(other.error("rpc", json!({})).await, 108, "nobody else is meant");
    cluster
        .call("disconnect", json!({ "user": "bob", "disconnect": { "code": 4501, "reason": "go" } }))
        .await;
    assert_eq!(other.closed().await, (4501, "go".to_owned()));
}

#[tokio::test]
async fn a_user_has_so_many_connections_over_all_instances() {
    let cluster = Cluster::start("max_connections_per_user = 2").await;
    let ann = user("ann").await;
    let first = cluster.caller(0, ann.clone()).await;
    let _second = cluster.caller(1, ann.clone()).await;
    for instance in [0, 1] {
        let mut third = Caller::open(cluster.instances[instance].address()).await;
        let closed = third.try_call("connect", ann.clone()).await.unwrap_err();
        assert_eq!(closed, (3504, "connection limit".to_owned()));
    }
    // Others do not count, and those without a name are nobody.
    let _bob = cluster.caller(1, user("bob").await).await;
    let mut nobody = Vec::new();
    for _ in 0..3 {
        nobody.push(cluster.caller(0, json!({})).await);
    }
    first.leave().await;
    let has_room = async || {
        let mut next = Caller::open(cluster.instances[1].address()).await;
        next.try_call("connect", ann.clone()).await.is_ok()
    };
    eventually("there is room again", has_room).await;
}

#[tokio::test]
async fn who_comes_back_from_a_killed_instance_is_told_to_come_again() {
    let mut cluster = Cluster::start("max_connections_per_user = 1").await;
    let (ann, bob, carl) =
        (user("ann").await, token(&["--user", "bob"]).await, token(&["--user", "carl"]).await);
    let dora = user("dora").await;
    let bearer = format!("Bearer {carl}");
    let headers = [("Authorization", bearer.as_str())];
    let url = |instance: &Instance| format!("{}?token={bob}", instance.url("news"));
    let _caller = cluster.caller(0, ann.clone()).await;
    let _other = cluster.caller(0, dora.clone()).await;
    let _socket = Client::connect(url(&cluster.instances[0])).await;
    let _stream =
        EventStream::try_connect(cluster.instances[0].address(), "/sse/news", &headers).await.unwrap();
    cluster.instances[0].kill().await;
    let there = &cluster.instances[1];
    let by_protocol = async || {
        let mut caller = Caller::open(there.address()).await;
        let answer = caller.try_call("connect", ann.clone()).await.expect("it is not sent away");
        let error = &answer["error"];
        assert!(error.is_null() || (error["code"] == 111 && error["temporary"] == true), "{answer}");
        error.is_null()
    };
    let is_in = |answer: Option<Response>| {
        answer.is_none_or(|answer| {
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert!(answer.header("retry-after").is_some());
            false
        })
    };
    // Who only listens gets no error.
    let times = Cell::new(0);
    let one_way = async || {
        let mut caller = Caller::open_at(there.address(), "/connection/uni_websocket", &[]).await;
        caller.say(&dora.to_string()).await;
        let Err((code, _)) = caller.message().await else { return true };
        times.set(times.get() + 1);
        assert_eq!(code, 3013);
        false
    };
    let by_socket = async || is_in(Client::try_connect(&url(there), &[]).await.err());
    let by_stream =
        async || is_in(EventStream::try_connect(there.address(), "/sse/news", &headers).await.err());
    tokio::join!(
        eventually("there is room for ann", by_protocol),
        eventually("there is room for dora", one_way),
        eventually("there is room for bob", by_socket),
        eventually("there is room for carl", by_stream),
    );
    assert!(times.get() > 0, "the first is asked before anybody can know");
}

#[tokio::test]
async fn a_raw_connection_is_one_of_its_users() {
    let cluster = Cluster::start("max_connections_per_user = 4").await;
    let eve = token(&["--user", "eve"]).await;
    let bearer = format!("Bearer {eve}");
    let socket = async |instance: usize, channel: &str| {
        let url = cluster.instances[instance].url(channel);
        Client::try_connect(&format!("{url}?token={eve}"), &[]).await.map_err(|answer| answer.status)
    };
    let stream = async |instance: usize| {
        let address = cluster.instances[instance].address();
        let headers = [("Authorization", bearer.as_str())];
        EventStream::try_connect(address, "/sse/news", &headers).await.map_err(|answer| answer.status)
    };
    let mut nobody = Client::connect(cluster.instances[1].url("news")).await;
    let mut here = socket(0, "news").await.unwrap();
    let mut there = socket(1, "news").await.unwrap();
    let mut listener = stream(1).await.unwrap();
    let mut caller = cluster.caller(1, user("eve").await).await;
    assert_eq!(cluster.instances[1].metric("fanfare_users", &[]).await, 1.0, "nobody is not one");

    // They are counted together, whatever is spoken on them, on every instance.
    for instance in [0, 1] {
        assert_eq!(socket(instance, "news").await.err(), Some(429));
        assert_eq!(stream(instance).await.err(), Some(429));
        let rejected = &[("reason", "user_full")];
        let rejected =
            cluster.instances[instance].metric("fanfare_handshakes_rejected_total", rejected).await;
        assert_eq!(rejected, 2.0);
        let mut fifth = Caller::open(cluster.instances[instance].address()).await;
        assert_eq!(fifth.try_call("connect", user("eve").await).await.unwrap_err().0, 3504);
    }

    // One is closed by its name, and all others by that of the user; with what the back end says.
    let id = listener.head.header("fanfare-connection").unwrap().to_owned();
    let banned = json!({ "code": 4403, "reason": "banned" });
    cluster.call("disconnect", json!({ "user": "eve", "client": id, "disconnect": banned })).await;
    let close = Event {
        event: Some("close".to_owned()),
        data: Some(r#"{"code":4403,"reason":"banned"}"#.to_owned()),
        ..Event::default()
    };
    assert_eq!(listener.next().await, Some(close));
    assert_eq!(listener.next().await, None);
    here.send("still here").await;
    assert_eq!(there.next().await, Said::from("still here"));
    cluster.call("disconnect", json!({ "user": "eve", "disconnect": banned })).await;
    assert_eq!(here.rest().await, (vec![Said::from("still here")], (4403, "banned".to_owned())));
    assert_eq!(there.closed().await, (4403, "banned".to_owned()));
    assert_eq!(caller.closed().await, (4403, "banned".to_owned()));

    // Their places are free again; and nobody else has noticed.
    for instance in [0, 1] {
        let users = async || cluster.instances[instance].metric("fanfare_users", &[]).await == 0.0;
        eventually("the user has left", users).await;
    }
    let all = async || {
        let mut all = Vec::new();
        for instance in [0, 1, 0, 1] {
            all.extend(socket(instance, "news").await);
        }
        all.len() == 4
    };
    eventually("there is room for four again", all).await;
    nobody.send("I am").await;
    assert_eq!(nobody.take(2).await, [Said::from("still here"), Said::from("I am")]);
}

#[tokio::test]
async fn a_raw_connection_does_what_the_back_end_wants_of_its_user() {
    let cluster = Cluster::start("").await;
    let connect = async |token: &str| {
        Client::connect(format!("{}?token={token}", cluster.instances[1].url("news"))).await
    };
    let (kicked, expired) = ((1008, "kicked".to_owned()), (1008, "token expired".to_owned()));
    // A user for each: what one was told may still be on its way to another worker, where the next would hear it.
    for (user, method, body, end) in [
        ("one", "unsubscribe", json!({ "user": "one", "channel": "news" }), &kicked),
        ("two", "unsubscribe", json!({ "user": "two", "channel": "" }), &kicked),
        ("three", "refresh", json!({ "user": "three", "expired": true }), &expired),
        ("four", "refresh", json!({ "user": "four", "expire_at": 1_000_000_000 }), &expired),
        ("five", "disconnect", json!({ "user": "five" }), &(3503, "force disconnect".to_owned())),
    ] {
        let mut client = connect(&token(&["--user", user]).await).await;
        // None of these is for it, and what comes for a user is done in its order.
        cluster.call("unsubscribe", json!({ "user": "ann", "channel": "other" })).await;
        cluster.call("disconnect", json!({ "user": "bob" })).await;
        cluster.call("disconnect", json!({ "user": "" })).await;
        cluster.call("publish", json!({ "channel": "news", "data": 1 })).await;
        assert_eq!(client.next().await, Said::from("1"), "{method}");
        cluster.call(method, body).await;
        assert_eq!(client.closed().await, *end, "{method}");
    }
    // Its time ends when the back end says so; without that, when its token does.
    let soon = format!("expire_at={}", now() + 10);
    let brief = token(&["--user", "ann", "--claim", &soon]).await;
    let short = token(&["--user", "bob", "--claim", &soon]).await;
    let (mut client, mut other) = (connect(&brief).await, connect(&short).await);
    cluster.call("refresh", json!({ "user": "ann", "expire_at": 0 })).await;
    assert_eq!(other.closed().await, expired);
    cluster.call("publish", json!({ "channel": "news", "data": 2 })).await;
    assert_eq!(client.next().await, Said::from("2"));
}

#[tokio::test]
async fn who_wants_only_some_publications_gets_those() {
    let cluster = Cluster::start("").await;
    let mut listener = cluster.caller(1, json!({})).await;
    let filter = json!({ "op": "or", "nodes": [
        { "key": "topic", "cmp": "eq", "val": "weather" },
        { "key": "level", "cmp": "gte", "val": "3" },
    ] });
    let place =
        listener.result("subscribe", json!({ "channel": "news", "tf": filter, "delta": "fossil" })).await;
    assert_eq!(place.get("delta"), None, "not both");
    let publish = async |n: u64, tags: Value| {
        cluster.call("publish", json!({ "channel": "news", "data": n, "tags": tags })).await;
    };
    let all = [
        (1, json!({ "topic": "sports" })),
        (2, json!({ "topic": "weather" })),
        (3, json!({})),
        (4, json!({ "level": "3.5", "topic": "sports" })),
        (5, json!({ "level": "2" })),
        (6, json!({ "topic": "weather", "level": "0" })),
    ];
    for (n, tags) in &all {
        publish(*n, tags.clone()).await;
    }
    for expected in [2, 4, 6] {
        assert_eq!(listener.publication().await, expected);
    }
    // So it is with what was missed, which is whole all the same.
    listener.result("unsubscribe", json!({ "channel": "news" })).await;
    let again =
        json!({ "channel": "news", "tf": filter, "recover": true, "epoch": place["epoch"], "offset": 2 });
    let result = listener.result("subscribe", again).await;
    assert_eq!(result["recovered"], true, "{result}");
    let numbers: Vec<_> =
        result["publications"].as_array().unwrap().iter().map(|one| one["data"].clone()).collect();
    assert_eq!(numbers, [4, 6]);
}
