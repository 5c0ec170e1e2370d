//! Sessions in the bodies of answers: what cannot be said to them, what they cost, and how they end.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::emulation::{outcome, setup};
use crate::harness::{
    Body, Caller, Client, Frame, Remote, Socket, encoded, eventually, post, request, resident_bytes, token,
};

#[tokio::test]
async fn what_cannot_be_said_is_answered_with_what_is_wrong() {
    let instance = setup("message_limit = \"2KiB\"").start().await;
    let address = instance.address();
    let mut bystander = Remote::connect(address, "/connection/sse", json!({})).await;
    bystander.result("subscribe", json!({ "channel": "a" })).await;
    let large = "x".repeat(3000);
    let deep = format!("{{\"data\":{}", "[".repeat(1500));
    let own = |data: &str| bystander.request(data).to_string();
    let no_session = json!({ "node": bystander.node, "data": "{}" }).to_string();
    let by_client = json!({ "session": bystander.client, "node": bystander.node, "data": "{}" }).to_string();
    let guessed =
        json!({ "session": "00000000-0000-4000-8000-000000000000", "node": bystander.node, "data": "{}" });
    let no_node = json!({ "session": bystander.session, "data": "{}" }).to_string();
    let elsewhere =
        json!({ "session": bystander.session, "node": bystander.session, "data": "{}" }).to_string();
    let number = json!({ "session": bystander.session, "node": bystander.node, "data": 7 }).to_string();
    type Row<'a> = (&'a str, &'a str, &'a str, u16, &'a str, &'a str);
    let json_type = "application/json";
    let binary = "application/octet-stream";
    // (method, type, body, status, what is said, how it is counted)
    let rows: &[Row] = &[
        ("GET", json_type, "", 405, "expected POST", "method"),
        ("PUT", json_type, "{}", 405, "expected POST", "method"),
        ("POST", json_type, "", 400, "expected a JSON object", "malformed"),
        ("POST", json_type, "nonsense", 400, "expected a JSON object", "malformed"),
        ("POST", json_type, "[]", 400, "expected a JSON object", "malformed"),
        ("POST", json_type, "{}", 400, "`data` is missing", "malformed"),
        ("POST", json_type, &deep, 400, "cannot be read", "malformed"),
        ("POST", json_type, &number, 400, "cannot be read", "malformed"),
        ("POST", json_type, &own(""), 400, "`data` is missing", "malformed"),
        ("POST", json_type, &own(&large), 413, "2048", "too_large"),
        ("POST", binary, &own("{}"), 400, "cannot be read", "malformed"),
        ("POST", binary, "\u{1a}\u{7f}", 400, "cannot be read", "malformed"),
        ("POST", json_type, &no_session, 404, "no session of this name", "unknown_session"),
        ("POST", json_type, &by_client, 404, "no session of this name", "unknown_session"),
        ("POST", json_type, &guessed.to_string(), 404, "no session of this name", "unknown_session"),
        ("POST", json_type, &no_node, 404, "no instance of this name", "unknown_instance"),
        ("POST", json_type, &elsewhere, 404, "no instance of this name", "unknown_instance"),
    ];
    let mut counts = BTreeMap::<&str, f64>::new();
    for (method, kind, body, status, says, counted) in rows {
        let headers = [("Content-Type", *kind)];
        let answer = match *method {
            "POST" => post(address, "/emulation", &headers, body.as_bytes()).await.unwrap(),
            other => request(address, other, "/emulation", &headers).await.unwrap(),
        };
        assert_eq!(answer.status, *status, "{method} {kind} {body:.80}: {}", answer.body);
        assert!(answer.body.contains(says), "{method} {kind} {body:.80}: {}", answer.body);
        assert!(!answer.body.contains(&bystander.session), "it names no session");
        *counts.entry(counted).or_default() += 1.0;
    }
    let foreign = [("Origin", "https://elsewhere.example"), ("Content-Type", json_type)];
    let answer = post(address, "/emulation", &foreign, own("{}").as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{}", answer.body);
    assert_eq!(request(address, "OPTIONS", "/emulation", &foreign).await.unwrap().status, 403);
    *counts.entry("origin").or_default() += 2.0;
    // Chunks that claim more than they may, and a length that does.
    for claim in ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nFFFFFF\r\nxxx"] {
        let said = format!("POST /emulation HTTP/1.1\r\nHost: a\r\n{claim}{}", "x".repeat(4000));
        let mut socket = Socket::connect(address).await;
        socket.write(said.as_bytes()).await.unwrap();
        assert_eq!(socket.response().await.status, 413, "{claim}");
        *counts.entry("too_large").or_default() += 1.0;
    }
    for (counted, count) in counts {
        assert_eq!(outcome(&instance, counted).await, count, "{counted}");
    }
    // How a stream is asked for.
    let commands = encoded(r#"{"id":1,"connect":{}}"#);
    let spoilt = encoded("{\"id\":1,\"connect\":{}}\n\n{}");
    let too_much = encoded(&format!(r#"{{"id":1,"connect":{{"name":"{large}"}}}}"#));
    // (method, path, body, status, what is said)
    let rows: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/connection/sse", "", 400, "?cf_connect="),
        ("GET", "/connection/sse?cf_connect=", "", 400, "?cf_connect="),
        ("GET", "/connection/sse?cf_connect=nonsense", "", 400, "expected a JSON object"),
        ("GET", &format!("/connection/sse?cf_connect={spoilt}"), "", 400, "a line is empty"),
        ("GET", &format!("/connection/sse?cf_connect={too_much}"), "", 413, "2048"),
        ("PUT", &format!("/connection/sse?cf_connect={commands}"), "", 405, "expected GET or POST"),
        ("HEAD", &format!("/connection/sse?cf_connect={commands}"), "", 405, ""),
        ("POST", "/connection/sse", "", 400, "expected commands"),
        ("GET", &format!("/connection/http_stream?cf_connect={commands}"), "", 405, "expected POST"),
        ("POST", "/connection/http_stream", "", 400, "expected commands in the body"),
        ("POST", "/connection/http_stream", "[]", 400, "expected a JSON object"),
        ("POST", "/connection/http_stream", &large, 413, "2048"),
        ("GET", "/connection/uni_sse", "", 400, "expected a connect request"),
        ("GET", "/connection/uni_sse?cf_connect=[]", "", 400, "expected a JSON object"),
        ("GET", "/connection/uni_http_stream", "", 405, "expected POST"),
        ("POST", "/connection/uni_http_stream", "1", 400, "expected a JSON object"),
        ("POST", "/connection/nothing", "{}", 404, ""),
    ];
    for (method, path, body, status, says) in rows {
        let answer = match *method {
            "POST" => post(address, path, &[], body.as_bytes()).await.unwrap(),
            other => request(address, other, path, &[]).await.unwrap(),
        };
        assert_eq!(answer.status, *status, "{method} {path:.60}: {}", answer.body);
        assert!(answer.body.contains(says), "{method} {path:.60}: {}", answer.body);
    }
    // At a WebSocket's the same.
    let url = format!("ws://{address}/connection/uni_websocket?cf_connect={too_much}");
    assert_eq!(Client::try_connect(&url, &[]).await.err().unwrap().status, 413);
    let answer = Body::ask(address, "POST", "/connection/http_stream", &foreign, b"{}").await.err().unwrap();
    assert_eq!(answer.status, 403);
    let mut old = Socket::connect(address).await;
    old.write(format!("GET /connection/sse?cf_connect={commands} HTTP/1.0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(old.response().await.status, 505);
    // All that was nobody else's business.
    bystander.result("publish", json!({ "channel": "a", "data": 1 })).await;
    bystander.result("publish", json!({ "channel": "a", "data": 2 })).await;
    assert_eq!(instance.metric("fanfare_connections", &[("protocol", "json")]).await, 1.0);
    let log = instance.log().lines().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains(&bystander.session), "a session's name is never logged");
}

#[tokio::test]
async fn a_session_ends_with_its_reason_and_is_then_unknown() {
    let keys = "drain_delay = \"0s\"\ndrain_window = \"0s\"\noutbox_limit = \"128KiB\"\nmessage_limit = \"64KiB\"\n\
        message_rate = 20\nmessage_burst = 20\nclient_ping_interval = \"1h\"\nmax_connections_per_address = 20";
    let mut instance = setup(keys).start().await;
    let address = instance.address();
    let brief = token(&["--claim", "exp=1000000000"]).await;
    for path in Remote::PATHS {
        let connect = async || Remote::connect(address, path, json!({})).await;
        let ended = async |mut remote: Remote, code: u64| {
            assert_eq!(remote.closed().await, code, "{path}");
            eventually("it is known no more", async || remote.say("{}").await == 404).await;
        };
        for (words, code) in [
            ("nonsense", 3501),
            (r#"{"id":2,"connect":{}}"#, 3501),
            (r#"{"id":2,"nothing":{}}"#, 3501),
            ("{}", 3501),
            (r#"{"send":{"data":1}}"#, 3508),
        ] {
            let remote = connect().await;
            assert_eq!(remote.say(words).await, 204);
            ended(remote, code).await;
        }
        let hasty = connect().await;
        let many = (2..60).map(|id| json!({ "id": id, "rpc": {} }).to_string()).collect::<Vec<_>>();
        assert_eq!(hasty.say(&many.join("\n")).await, 204);
        ended(hasty, 3013).await;
        let kicked = connect().await;
        let at = format!("/connections/{}", kicked.client);
        assert_eq!(request(instance.internal_address(), "DELETE", &at, &[]).await.unwrap().status, 200);
        ended(kicked, 3503).await;
        // The back end names one of two sessions of a user.
        let (named, mut spared) = (connect().await, connect().await);
        let wish = json!({ "user": "", "session": named.session, "disconnect": { "code": 4501, "reason": "told so" } });
        instance.api("disconnect", &wish).await;
        ended(named, 4501).await;
        assert_eq!(spared.call("rpc", json!({})).await["error"]["code"], 108);
        // Whoever does not read is cut at its bound; nobody waits for it.
        let mut slow = connect().await;
        slow.result("subscribe", json!({ "channel": "flood" })).await;
        let text = format!("\"{}\"", "x".repeat(60_000));
        let before = instance.metric("fanfare_slow_consumers_total", &[]).await;
        eventually("the slow one is cut", async || {
            let mut flood = Client::connect(format!("{}?echo=false", instance.url("flood"))).await;
            for _ in 0..15 {
                flood.send(text.as_str()).await;
            }
            flood.close().await;
            instance.metric("fanfare_slow_consumers_total", &[]).await == before + 1.0
        })
        .await;
        ended(slow, 3008).await;
        assert_eq!(spared.call("rpc", json!({})).await["error"]["code"], 108);
        // Who cannot come in is told so in the protocol's words.
        let mut refused =
            Remote::open(address, path, r#"{"id":1,"connect":{"token":"nonsense"}}"#).await.unwrap();
        assert_eq!(refused.closed().await, 3500);
        let expired = json!({ "id": 1, "connect": { "token": brief } }).to_string();
        let mut refused = Remote::open(address, path, &expired).await.unwrap();
        assert_eq!(refused.message().await.unwrap()["error"]["code"], 109);
        let mut hasty = Remote::open(address, path, r#"{"id":1,"subscribe":{"channel":"a"}}"#).await.unwrap();
        assert_eq!(hasty.closed().await, 3501);
    }
    let closed =
        async |reason: &str| instance.metric("fanfare_connections_closed_total", &[("reason", reason)]).await;
    for (reason, count) in
        [("bad_request", 10.0), ("not_available", 2.0), ("rate_limited", 2.0), ("slow_consumer", 2.0)]
    {
        eventually(reason, async || closed(reason).await == count).await;
    }
    // An address has so many connections, of whatever kind.
    let mut all = Vec::new();
    let refused = loop {
        match Remote::open(address, "/connection/sse", r#"{"id":1,"connect":{}}"#).await {
            Ok(remote) => all.push(remote),
            Err(answer) => break answer,
        }
        assert!(all.len() <= 20);
    };
    assert_eq!(refused.status, 429, "{}", refused.body);
    drop(all);
    let mut staying = Vec::new();
    eventually("there is room", async || {
        match Remote::open(address, "/connection/http_stream", r#"{"id":1,"connect":{}}"#).await {
            Ok(remote) => staying.push(remote),
            Err(_) => return false,
        }
        true
    })
    .await;
    instance.signal("TERM").await;
    assert_eq!(staying.pop().unwrap().closed().await, 3001);
    assert!(instance.ended().await.success());
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_closed_and_who_goes_is_missed() {
    let keys = "client_ping_interval = \"100ms\"\nclient_pong_timeout = \"50ms\"\nheader_timeout = \"3s\"\nhandshake_timeout = \"3s\"";
    let instance = setup(keys).start().await;
    for path in Remote::PATHS {
        let mut silent = Remote::connect(instance.address(), path, json!({})).await;
        let last = silent.unanswered().await.unwrap();
        assert_eq!(last["push"]["disconnect"]["code"], 3012, "{path}");
        assert!(silent.pings >= 1);
        // What it may do without a session is nothing.
        let expired = token(&["--claim", "exp=1000000000"]).await;
        let expired = json!({ "id": 1, "connect": { "token": expired } }).to_string();
        let mut stale = Remote::open(instance.address(), path, &expired).await.unwrap();
        assert_eq!(stale.message().await.unwrap()["error"]["code"], 109);
        assert_eq!(stale.closed().await, 3502, "{path}");
    }
}

/// The bar is 5 KiB at 10,000, as for WebSockets. Less is asked here, because a handshake that is not let go of is 2
/// KiB.
#[tokio::test]
async fn an_idle_session_in_a_body_is_small() {
    const COUNT: usize = 2000;
    let instance = setup("client_ping_interval = \"1h\"").start().await;
    let resident = || resident_bytes(instance.pid()) / 1024.0;
    let words = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"lobby\"}}";
    let mut open = Vec::new();
    let mut more = async |count: usize| {
        for _ in 0..count {
            let mut remote = Remote::open(instance.address(), "/connection/sse", words).await.unwrap();
            assert!(remote.message().await.unwrap()["connect"].is_object());
            assert!(remote.message().await.unwrap()["subscribe"].is_object());
            open.push(remote);
        }
    };
    more(200).await;
    let before = resident();
    more(COUNT).await;
    let kib = (resident() - before) / COUNT as f64;
    assert!(kib < 3.0, "{kib} KiB");
}

#[tokio::test]
async fn frames_can_ask_whether_a_client_is_there() {
    let keys = "ping_interval = \"50ms\"\nclient_ping_interval = \"1h\"";
    let instance = setup(keys).start().await;
    let path = "/connection/websocket?cf_ws_frame_ping_pong=true";
    let mut caller = Caller::open_at(instance.address(), path, &[]).await;
    let connected = caller.result("connect", json!({})).await;
    assert_eq!((connected.get("ping"), connected.get("pong")), (None, None), "{connected}");
    let ping = caller.socket().next().await.unwrap();
    assert_eq!((ping.opcode, &ping.payload[..]), (Frame::PING, &b""[..]));
}
