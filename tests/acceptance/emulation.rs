//! The client protocol in the bodies of answers: sessions that are spoken to by requests, here or at another
//! instance, and those that only listen. How they end is `emulation_ends`' business.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{
    API_KEY, Body, Caller, Client, Instance, MIB, RedisServer, Remote, Setup, encoded, eventually, field,
    fields, post, request, resident_bytes, token,
};

const CHANNELS: &str = "
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    [namespaces.kept]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 1000
    recovery = \"allow\"
    presence = true
    may_read_history = \"anonymous\"
    may_read_presence = \"anonymous\"
    delta = true
    [namespaces.closed]
";

/// Tokens, an API, these keys, and the channels.
pub fn setup(keys: &str) -> Setup {
    Setup::new(CHANNELS).tokens().api().keys("allow_anonymous = true").keys(keys)
}

/// What became of so many requests.
pub async fn outcome(instance: &Instance, outcome: &str) -> f64 {
    instance.metric("fanfare_emulation_requests_total", &[("outcome", outcome)]).await
}

#[tokio::test]
async fn what_a_websocket_can_requests_can() {
    let keys = "client_ping_interval = \"2s\"\nclient_pong_timeout = \"1900ms\"";
    let instance = setup(keys).start().await;
    let address = instance.address();
    let own = format!("http://{address}");
    for (path, by_post) in
        [("/connection/sse", false), ("/connection/sse", true), ("/connection/http_stream", true)]
    {
        // Commands in the greeting are answered in their order.
        let channel = format!("kept:{path}{by_post}");
        let mut greeting = json!({ "id": 1, "connect": {} }).to_string();
        for id in 2..=4 {
            let channel = if id == 2 { channel.clone() } else { format!("more{id}") };
            greeting += &format!("\n{}", json!({ "id": id, "subscribe": { "channel": channel } }));
        }
        let mut remote = match by_post {
            true => Remote::open_by_post(address, path, &greeting).await.unwrap(),
            false => Remote::open(address, path, &greeting).await.unwrap(),
        };
        let connected = remote.message().await.unwrap();
        remote.remember(&connected);
        assert_eq!((&connected["connect"]["pong"], &connected["connect"]["ping"]), (&json!(true), &json!(2)));
        assert_eq!(remote.node, instance.page("/instance").await.json()["instance"]);
        assert!(remote.session != remote.client && remote.session.len() == 36, "{}", remote.session);
        for id in 2..=4 {
            let answer = remote.message().await.unwrap();
            assert_eq!(
                (answer["id"].as_u64(), answer.get("subscribe").is_some()),
                (Some(id), true),
                "{answer}"
            );
        }
        for (name, value) in [
            (
                "content-type",
                if path.ends_with("sse") {
                    "text/event-stream; charset=utf-8"
                } else {
                    "application/x-ndjson"
                },
            ),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("transfer-encoding", "chunked"),
        ] {
            assert_eq!(remote.head().header(name), Some(value), "{path} {name}");
        }
        // A publication reaches it from wherever it comes, and its own reach others.
        let mut socket = Caller::anonymous(address).await;
        socket.result("subscribe", json!({ "channel": channel })).await;
        remote.result("publish", json!({ "channel": channel, "data": { "by": "request\n" } })).await;
        assert_eq!(socket.publication().await, json!({ "by": "request\n" }));
        socket.result("publish", json!({ "channel": channel, "data": { "by": "socket" } })).await;
        let mut others = Client::connect(instance.url(&format!("{}?echo=false", encoded(&channel)))).await;
        others.send("\"raw\"").await;
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.push(remote.publication().await);
        }
        // Its own may have come before the answer, where it was left aside.
        assert_eq!(
            heard.last().unwrap(),
            &if heard[0]["by"] == "request\n" { json!({ "by": "socket" }) } else { json!("raw") }
        );
        assert_eq!(instance.metric("fanfare_connections", &[("protocol", "json")]).await, 2.0);
        drop(socket);
        // It answers its pings, and lives.
        while remote.pings < 2 {
            remote.result("presence_stats", json!({ "channel": channel })).await;
        }
        let presence = remote.result("presence", json!({ "channel": channel })).await;
        let presence = presence["presence"].as_object().unwrap();
        assert!(presence.contains_key(&remote.client) && !presence.contains_key(&remote.session));
        assert_eq!(remote.call("rpc", json!({})).await["error"]["code"], 108);
        remote.result("unsubscribe", json!({ "channel": channel })).await;
        drop(remote);
        eventually("they have gone", async || {
            instance.metric("fanfare_connections", &[("protocol", "json")]).await == 0.0
        })
        .await;
    }
    assert!(outcome(&instance, "handed_on").await > 20.0);
    for path in [Remote::PATHS[0], Remote::PATHS[1], "/emulation"] {
        let asked = [("Origin", &*own), ("Access-Control-Request-Method", "POST")];
        let preflight = request(address, "OPTIONS", path, &asked).await.unwrap();
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some(&*own)));
        assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"), "{path}");
        assert_eq!(preflight.header("access-control-allow-headers"), Some("content-type"), "{path}");
    }
}

#[tokio::test]
async fn protobuf_goes_both_ways() {
    let instance = setup("").start().await;
    let binary = [("Content-Type", "application/octet-stream")];
    // {"id":1,"connect":{}}, with its length before it.
    let connect = [4, 0x08, 1, 4 << 3 | 2, 0];
    let path = "/connection/http_stream";
    let mut body = Body::ask(instance.address(), "POST", path, &binary, &connect).await.unwrap();
    assert_eq!(body.head.header("content-type"), Some("application/octet-stream"));
    let mut reply = async || {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = body.take(1).await.unwrap()[0];
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 {
                break fields(&body.take(length).await.unwrap());
            }
        }
    };
    let connected = reply().await;
    let connected = fields(&connected[&5]);
    let (session, node) = (&connected[&9], &connected[&10]);
    // {"id":2,"rpc":{}}
    let rpc = [4, 0x08, 2, 13 << 3 | 2, 0];
    let said = [field(1, node), field(2, session), field(3, &rpc)].concat();
    let answer = post(instance.address(), "/emulation", &binary, &said).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (204, ""));
    let answer = reply().await;
    let error = fields(&answer[&2]);
    assert_eq!((&answer[&1][..], &error[&1][..]), (&[2][..], &[108][..]));
}

/// So many requests on one connection, none of which waits for an answer. Gives what was answered.
async fn pipelined(address: SocketAddr, bodies: &[String]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut all = String::new();
    for (place, body) in bodies.iter().enumerate() {
        let close = if place + 1 == bodies.len() { "Connection: close\r\n" } else { "" };
        let length = body.len();
        all +=
            &format!("POST /emulation HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{close}\r\n{body}");
    }
    let (mut from, mut to) = stream.split();
    let mut answers = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut from, &mut answers);
    let (written, read) = tokio::join!(to.write_all(all.as_bytes()), read);
    written.and(read).unwrap();
    answers
}

#[tokio::test]
async fn what_is_said_comes_in_its_order_to_whichever_instance_has_the_session() {
    const COUNT: usize = 300;
    let redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let alone = setup("").start().await;
    let (in_one, in_other) = (one.address(), other.address());
    for (owner, uplink) in [(alone.address(), alone.address()), (in_one, in_one), (in_one, in_other)] {
        for path in Remote::PATHS {
            let channel = format!("kept:{owner}{uplink}{path}");
            let mut listener = Caller::anonymous(owner).await;
            listener.result("subscribe", json!({ "channel": channel })).await;
            let mut remote = Remote::connect(owner, path, json!({})).await;
            remote.uplink = uplink;
            // Each request holds three commands, which stay together.
            let bodies: Vec<_> = (0..COUNT)
                .map(|turn| {
                    let said = (turn * 3..turn * 3 + 3).map(|n| {
                        json!({ "id": n + 2, "publish": { "channel": channel, "data": n } }).to_string()
                    });
                    remote.request(&said.collect::<Vec<_>>().join("\n")).to_string()
                })
                .collect();
            let answers = pipelined(uplink, &bodies).await;
            assert_eq!(answers.matches("HTTP/1.1 204").count(), COUNT, "{answers}");
            for n in 0..COUNT * 3 {
                let answer = remote.message().await.unwrap();
                assert_eq!(
                    (answer["id"].as_u64(), answer.get("publish").is_some()),
                    (Some(n as u64 + 2), true)
                );
            }
            for n in 0..COUNT * 3 {
                assert_eq!(listener.publication().await, json!(n));
            }
        }
    }
    assert!(outcome(&other, "handed_on").await >= 600.0);
    assert_eq!(outcome(&alone, "handed_on").await, 600.0);
    // What is said to a session that has gone is the other instance's to count; to say so would mean to ask it.
    let mut gone = Remote::connect(in_one, "/connection/sse", json!({})).await;
    gone.uplink = in_other;
    let (session, node) = (gone.session.clone(), gone.node.clone());
    assert_eq!(gone.say("nonsense").await, 204);
    assert_eq!(gone.closed().await, 3501);
    gone.session = session;
    assert_eq!(gone.say("{}").await, 204);
    eventually("it is counted", async || one.metric("fanfare_emulation_lost_total", &[]).await == 1.0).await;
    gone.uplink = in_one;
    assert_eq!(gone.say("{}").await, 404, "where it was, it is known to have gone");
    // No instance has this name any more.
    drop(one);
    gone.uplink = in_other;
    gone.node = node;
    eventually("nobody listens for it", async || gone.say("{}").await == 404).await;
    assert!(outcome(&other, "unknown_instance").await >= 1.0);
}

/// Whoever speaks by way of another instance is told, and whoever speaks by its own goes on.
#[tokio::test]
async fn while_redis_is_away_only_other_instances_cannot_be_reached() {
    let mut redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let mut remote = Remote::connect(one.address(), "/connection/sse", json!({})).await;
    let mut listener = Caller::anonymous(one.address()).await;
    listener.result("subscribe", json!({ "channel": "a" })).await;
    redis.kill().await;
    remote.uplink = other.address();
    eventually("it is known to be away", async || remote.say(r#"{"send":{}}"#).await == 503).await;
    let body = remote.request("{}").to_string();
    let answer = post(other.address(), "/emulation", &[], body.as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.body);
    assert!(outcome(&other, "unavailable").await >= 2.0);
    remote.uplink = one.address();
    assert_eq!(remote.call("rpc", json!({})).await["error"]["code"], 108);
    redis.restart().await;
    remote.uplink = other.address();
    let again = r#"{"id":100,"rpc":{}}"#;
    eventually("it is back", async || remote.say(again).await == 204).await;
    loop {
        if remote.message().await.expect("the session goes on")["id"] == 100 {
            break;
        }
    }
}

/// What waits for Redis is bounded, and clients may fill a part of that alone.
#[tokio::test]
async fn clients_leave_room_on_the_bus_for_the_back_end() {
    const SESSIONS: usize = 12;
    const EACH: usize = 2;
    let redis = RedisServer::start().await;
    let keys = "message_limit = \"1MiB\"\noutbox_limit = \"4MiB\"\nredis_timeout = \"1m\"\nheader_timeout = \"1m\"\nhandshake_timeout = \"1m\"";
    let setup = setup(keys).redis(&redis.url());
    let (one, other) = (setup.start().await, setup.start().await);
    let words = json!({ "token": token(&["--user", "ann"]).await });
    let mut ann = Caller::connect(one.address(), words).await;
    let mut remotes = Vec::new();
    for _ in 0..SESSIONS {
        remotes.push(Remote::connect(one.address(), "/connection/sse", json!({})).await);
    }
    let resident = || resident_bytes(other.pid()) / MIB as f64;
    let before = resident();
    redis.pause().await;
    let data = "x".repeat(900 << 10);
    let words = json!({ "id": 900, "rpc": { "data": data } }).to_string();
    let uplink = other.address();
    let mut requests = JoinSet::new();
    for remote in remotes.iter().flat_map(|remote| [remote; EACH]) {
        let said = remote.request(&words).to_string();
        requests.spawn(async move { post(uplink, "/emulation", &[], said.as_bytes()).await.unwrap().status });
    }
    let nearly_all = (SESSIONS * EACH - 4) as f64 * 0.9;
    eventually("it comes there", async || resident() - before > nearly_all).await;
    let (mut used, mut ticks) = (other.cpu_time(), 0);
    eventually("nothing is done with it any more", async || {
        let now = other.cpu_time();
        ticks = if now == used { ticks + 1 } else { 0 };
        used = now;
        ticks == 20
    })
    .await;
    let asked = json!({ "user": "ann" }).to_string();
    let disconnect = async {
        let key = [("X-API-Key", API_KEY)];
        post(other.internal_address(), "/api/disconnect", &key, asked.as_bytes()).await.unwrap()
    };
    let (answer, ()) = tokio::join!(disconnect, async {
        // Others are served meanwhile, so it has come as far as it gets.
        for _ in 0..10 {
            assert_eq!(other.page("/livez").await.status, 200);
        }
        redis.resume().await;
    });
    assert_eq!((answer.status, &*answer.body), (200, "{\"result\":{}}"));
    assert_eq!(ann.closed().await.0, 3503);
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 204);
    }
    for remote in &mut remotes {
        assert_eq!(remote.call("rpc", json!({})).await["error"]["code"], 108, "nothing is wrong with it");
    }
}

/// What waits together while the bus is slow is a sixteenth of the memory: who comes beyond that is told to come
/// again, and who waits gets through.
#[tokio::test]
async fn what_waits_for_the_bus_is_bounded_by_the_memory() {
    // Of 6 MiB, of which each takes 504 KiB.
    const FIT: usize = 12;
    const MORE: usize = 8;
    let redis = RedisServer::start().await;
    let keys = "memory_limit = \"96MiB\"\nredis_spool = \"1MiB\"\nmessage_limit = \"1MiB\"\noutbox_limit = \"4MiB\"\n\
                redis_timeout = \"1m\"\nheader_timeout = \"1m\"\nhandshake_timeout = \"1m\"";
    let setup = setup(keys).redis(&redis.url());
    let (one, other) = (setup.start().await, setup.start().await);
    let mut remote = Remote::connect(one.address(), "/connection/sse", json!({})).await;
    redis.pause().await;
    let words = json!({ "id": 900, "rpc": { "data": "x".repeat(500 << 10) } }).to_string();
    let mut requests = JoinSet::new();
    for _ in 0..FIT + MORE {
        let (said, uplink) = (remote.request(&words).to_string(), other.address());
        requests.spawn(async move { post(uplink, "/emulation", &[], said.as_bytes()).await.unwrap() });
    }
    for _ in 0..MORE {
        let answer = requests.join_next().await.unwrap().unwrap();
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.body);
    }
    assert_eq!(outcome(&other, "unavailable").await as usize, MORE);
    redis.resume().await;
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().status, 204);
    }
    assert_eq!(outcome(&other, "handed_on").await as usize, FIT);
    remote.uplink = other.address();
    assert_eq!(remote.call("rpc", json!({})).await["error"]["code"], 108, "there is room again");
}

#[tokio::test]
async fn whoever_comes_back_another_way_has_missed_nothing() {
    let redis = RedisServer::start().await;
    let one = setup("").redis(&redis.url()).start().await;
    let other = setup("").redis(&redis.url()).start().await;
    let mut speaker = Caller::anonymous(one.address()).await;
    let wish = json!({ "channel": "kept:a", "recoverable": true });
    let mut first = Remote::connect(one.address(), "/connection/sse", json!({})).await;
    let mut at = first.result("subscribe", wish.clone()).await;
    drop(first);
    let mut said = 0;
    for turn in 0..8 {
        for _ in 0..5 {
            speaker.result("publish", json!({ "channel": "kept:a", "data": said })).await;
            said += 1;
        }
        let place = if turn % 2 == 0 { other.address() } else { one.address() };
        let mut remote = Remote::connect(place, Remote::PATHS[turn / 2 % 2], json!({})).await;
        let mut wish = wish.clone();
        (wish["recover"], wish["epoch"]) = (json!(true), at["epoch"].clone());
        wish["offset"] = at["offset"].clone();
        if turn % 3 == 0 {
            wish["delta"] = json!("fossil");
        }
        let subscribed = remote.result("subscribe", wish).await;
        assert_eq!(subscribed["recovered"], true, "{subscribed}");
        let missed = subscribed["publications"].as_array().unwrap();
        assert_eq!(missed.len(), 5, "{subscribed}");
        speaker.result("publish", json!({ "channel": "kept:a", "data": said })).await;
        said += 1;
        let push = remote.message().await.unwrap();
        assert_eq!(push["push"]["pub"]["offset"], said, "{push}");
        at["offset"] = json!(said);
    }
}

#[tokio::test]
async fn who_only_listens_needs_no_more_than_a_request() {
    let keys = "client_ping_interval = \"50ms\"\nclient_pong_timeout = \"20ms\"\ndrain_delay = \"0s\"\ndrain_window = \"0s\"";
    let instance = setup(keys).start().await;
    let address = instance.address();
    let paths = [
        ("/connection/uni_sse", false),
        ("/connection/uni_sse", true),
        ("/connection/uni_http_stream", true),
    ];
    let mut staying = Vec::new();
    for (turn, (path, by_post)) in paths.into_iter().enumerate() {
        let user = token(&["--user", &turn.to_string(), "--claim", "channels=[\"lobby\"]"]).await;
        let open = async |words: &str| match by_post {
            true => Remote::open_by_post(address, path, words).await.unwrap(),
            false => Remote::open(address, path, words).await.unwrap(),
        };
        let mut remote = open(&json!({ "token": user, "subs": { "kept:a": {} } }).to_string()).await;
        let connect = remote.message().await.unwrap();
        let subs: Vec<_> = connect["connect"]["subs"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(subs, ["kept:a", "lobby"], "{connect}");
        let mut raw = Client::connect(format!("{}?token={user}", instance.url("lobby"))).await;
        for n in 0..3 {
            raw.send(format!("{n}").as_str()).await;
        }
        for n in 0..3 {
            let push = remote.message().await.unwrap();
            assert_eq!(push, json!({ "channel": "lobby", "pub": { "data": n } }), "{path}");
        }
        // Pings go on, and want no answer.
        while remote.pings < 3 {
            raw.send("\"still\"").await;
            remote.message().await.unwrap();
        }
        // Who only listens cannot be spoken for.
        let session = connect["connect"]["session"].as_str().unwrap();
        let node = instance.page("/instance").await.json()["instance"].clone();
        let said = json!({ "session": session, "node": node, "data": "{}" }).to_string();
        assert_eq!(post(address, "/emulation", &[], said.as_bytes()).await.unwrap().status, 404);
        staying.push(remote);
        let expired = token(&["--claim", "exp=1000000000"]).await;
        for (words, code) in [(json!({ "token": expired }), 3005), (json!({ "token": "nonsense" }), 3500)] {
            assert_eq!(open(&words.to_string()).await.closed().await, code, "{path} {words}");
        }
    }
    eventually("only who listens is there", async || {
        instance.metric("fanfare_connections", &[("protocol", "uni")]).await == 3.0
    })
    .await;
    instance.signal("TERM").await;
    for mut remote in staying {
        assert_eq!(remote.closed().await, 3001);
    }
}
