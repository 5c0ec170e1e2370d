//! The Centrifuge client protocol on one instance, rule by rule: what is malformed, what is refused and with which
//! code, and lies about positions. Who a client is, is `centrifuge_identity`'s business.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Caller, Client, Frame, Instance, Said, Setup, run_to_end};

const CHANNELS: &str = "
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    [namespaces.chat]
    may_subscribe = \"anonymous\"
    may_publish = \"subscriber\"
    may_read_history = \"subscriber\"
    may_read_presence = \"client\"
    history_size = 5
    recovery = \"allow\"
    positioning = \"allow\"
    presence = true
    join_leave = \"force\"
    delta = true
    [namespaces.json]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    data_format = \"json_object\"
    [namespaces.named]
    may_subscribe = \"anonymous\"
    name_pattern = \"named:[a-zé]+\"
    [namespaces.users]
    may_subscribe = \"client\"
    [namespaces.dialog]
    may_subscribe = \"token\"
    user_limited = true
    [namespaces.closed]
";

/// Tokens, these keys, and the channels.
pub fn setup(keys: &str) -> Setup {
    Setup::new(CHANNELS).tokens().keys(keys)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A neighbour who must not notice anything.
struct Bystander {
    listener: Caller,
    said: u64,
}

impl Bystander {
    async fn new(instance: &Instance) -> Self {
        let mut listener = Caller::anonymous(instance.address()).await;
        listener.result("subscribe", json!({ "channel": "bystander" })).await;
        Self { listener, said: 0 }
    }

    async fn is_well(&mut self) {
        self.said += 1;
        self.listener.result("publish", json!({ "channel": "bystander", "data": self.said })).await;
        assert_eq!(self.listener.publication().await, json!(self.said));
    }
}

/// What a message comes to: nothing is said of it, an error, or a close.
#[derive(Debug, PartialEq)]
pub enum Fate {
    Error(u64),
    Close(u16),
}

use Fate::{Close, Error};

pub async fn fate(caller: &mut Caller) -> Fate {
    match caller.message().await {
        Ok(message) => match message["error"]["code"].as_u64() {
            Some(code) => Error(code),
            None => panic!("it was answered: {message}"),
        },
        Err((code, _)) => Close(code),
    }
}

#[tokio::test]
async fn what_is_no_command_closes_the_connection() {
    let instance = setup("allow_anonymous = true").start().await;
    let mut bystander = Bystander::new(&instance).await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let nested = format!(r#"{{"id":1,"connect":{{"data":{}}}}}"#, deep(200));
    let very_deep = format!(r#"{{"id":1,"connect":{{"data":{}}}}}"#, deep(20_000));
    let repeated = format!(r#"{{"id":1{}}}"#, r#","connect":{}"#.repeat(2000));
    let before: Vec<&str> = vec![
        "",
        "\n",
        "[]",
        "null",
        "1",
        "\"{}\"",
        "{",
        "nonsense",
        "{}{}",
        "{}",
        r#"{"id":1}"#,
        r#"{"id":1,"nothing":{}}"#,
        r#"{"id":1,"connect":null}"#,
        r#"{"id":1,"connect":[]}"#,
        r#"{"id":1,"connect":1}"#,
        r#"{"id":0,"connect":{}}"#,
        r#"{"connect":{}}"#,
        r#"{"id":-1,"connect":{}}"#,
        r#"{"id":4294967296,"connect":{}}"#,
        r#"{"id":1.5,"connect":{}}"#,
        r#"{"id":"1","connect":{}}"#,
        r#"{"id":1,"connect":{"token":7}}"#,
        r#"{"id":1,"connect":{"subs":[]}}"#,
        r#"{"id":1,"ping":{}}"#,
        r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":1}}"#,
        r#"{"send":{"data":1}}"#,
        &nested,
        &very_deep,
        &repeated,
    ];
    for text in before {
        let mut caller = Caller::open(instance.address()).await;
        caller.say(text).await;
        assert_eq!(fate(&mut caller).await, Close(3501), "{}", &text[..text.len().min(80)]);
    }
    let after = [
        ("{}", 3501),
        ("\n", 3501),
        ("", 3501),
        ("{\"id\":2,\"rpc\":", 3501),
        (r#"{"id":2,"connect":{}}"#, 3501),
        (r#"{"id":2,"ping":{}}"#, 3501),
        (r#"{"id":2}"#, 3501),
        (r#"{"id":2,"send":{"data":1}}"#, 3508),
        (r#"{"send":{}}"#, 3508),
        (r#"{"id":2,"subscribe":{}}"#, 3501),
        (r#"{"id":2,"subscribe":{"channel":""}}"#, 3501),
        (r#"{"id":2,"subscribe":{"channel":"a","delta":"bsdiff"}}"#, 3501),
        (r#"{"id":2,"subscribe":{"channel":"a","offset":-1}}"#, 3501),
        (r#"{"id":2,"subscribe":{"channel":"a","offset":18446744073709551616}}"#, 3501),
        (r#"{"id":2,"unsubscribe":{}}"#, 3501),
        (r#"{"id":2,"publish":{"data":1}}"#, 3501),
        (r#"{"id":2,"presence":{}}"#, 3501),
        (r#"{"id":2,"presence_stats":{}}"#, 3501),
        (r#"{"id":2,"history":{}}"#, 3501),
        (r#"{"id":2,"sub_refresh":{"token":"x"}}"#, 3501),
        (r#"{"id":2,"refresh":{}}"#, 3501),
        ("{\"id\":2,\"publish\":{\"channel\":\"a\",\"data\":\"\u{0}\"}}", 3501),
    ];
    for (text, code) in after {
        let mut caller = Caller::anonymous(instance.address()).await;
        caller.say(text).await;
        assert_eq!(fate(&mut caller).await, Close(code), "{text}");
    }
    // What comes before an offence in a frame is done, and what comes behind it is not.
    let mut caller = Caller::open(instance.address()).await;
    let frame = r#"{"id":1,"connect":{}}
{"id":2,"publish":{"channel":"bystander","data":"before"}}
nonsense
{"id":3,"publish":{"channel":"bystander","data":"behind"}}"#;
    caller.say(frame).await;
    assert_eq!(caller.closed().await.0, 3501);
    assert_eq!(bystander.listener.publication().await, json!("before"));
    bystander.is_well().await;
    // Invalid UTF-8 and what is too big are WebSocket's.
    let mut caller = Caller::anonymous(instance.address()).await;
    caller.socket().send(Frame::TEXT, b"{\"id\":2,\"rpc\":{\"method\":\"\xFF\"}}").await.unwrap();
    assert_eq!(fate(&mut caller).await, Close(1007));
    let mut caller = Caller::anonymous(instance.address()).await;
    caller.say(&format!(r#"{{"id":2,"publish":{{"channel":"a","data":"{}"}}}}"#, "x".repeat(70_000))).await;
    assert_eq!(fate(&mut caller).await, Close(1009));
    bystander.is_well().await;
}

#[tokio::test]
async fn what_is_no_protobuf_closes_the_connection() {
    let instance = setup("allow_anonymous = true").start().await;
    let mut bystander = Bystander::new(&instance).await;
    // Command { id: 1, connect: {} }, behind its length.
    let connect = [4, 0x08, 1, 0x22, 0];
    let rows: &[&[u8]] = &[
        b"",
        // A length that never ends, one beyond 64 bits, one that nobody has, one that is longer than what follows.
        &[0xFF; 11],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x08],
        &[0x80, 0x80, 0x80, 0x80, 0x10, 0x08],
        &[5, 0x08, 1, 0x22, 0],
        &[0x80],
        // A pong before anything was asked; no request; an unknown wire type; a field that is cut.
        &[0],
        &[2, 0x08, 1],
        &[2, 0x0F, 1],
        &[4, 0x08, 1, 0x22, 9],
        // A connect, and behind it half a command.
        &[4, 0x08, 1, 0x22, 0, 7, 0x08],
        b"{\"id\":1,\"connect\":{}}",
    ];
    for query in ["?format=protobuf", "?cf_protocol=protobuf&cf_protocol_version=v2"] {
        for bytes in rows {
            let path = format!("/connection/websocket{query}");
            let mut caller = Caller::open_at(instance.address(), &path, &[]).await;
            caller.socket().send(Frame::BINARY, bytes).await.unwrap();
            assert_eq!(caller.closed().await.0, 3501, "{bytes:02x?}");
        }
    }
    // The subprotocol is answered, and counts more than the query.
    for (offered, query, agreed, is_protobuf) in [
        ("centrifuge-protobuf", "", Some("centrifuge-protobuf"), true),
        ("centrifuge-json", "?format=protobuf", Some("centrifuge-json"), false),
        ("other, centrifuge-json", "", Some("centrifuge-json"), false),
        ("centrifuge-json,centrifuge-protobuf", "", Some("centrifuge-protobuf"), true),
        ("other", "", None, false),
    ] {
        let mut socket = crate::harness::Socket::connect(instance.address()).await;
        let path = format!("/connection/websocket{query}");
        let answer = socket.upgrade_at(&path, &[("Sec-WebSocket-Protocol", offered)]).await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, agreed), "{offered}");
        let (opcode, hello): (u8, &[u8]) = match is_protobuf {
            true => (Frame::BINARY, &connect),
            false => (Frame::TEXT, b"{\"id\":1,\"connect\":{}}"),
        };
        socket.send(opcode, hello).await.unwrap();
        let frame = socket.next().await.unwrap();
        assert_eq!(frame.opcode, opcode, "{offered}");
        let begin: &[u8] = if is_protobuf { &[0x08, 1, 0x2A] } else { b"{\"id\":1,\"connect\":{" };
        let skipped = usize::from(is_protobuf);
        assert!(frame.payload[skipped..].starts_with(begin), "{offered}: {:02x?}", frame.payload);
    }
    bystander.is_well().await;
}

#[tokio::test]
async fn what_is_refused_is_an_error_and_the_session_goes_on() {
    let instance = setup("allow_anonymous = true\nmax_channels = 3").start().await;
    let long = "a".repeat(256);
    let bad_filter = json!({ "op": "xor" });
    let rows: Vec<(&str, Value, u64)> = vec![
        ("subscribe", json!({ "channel": long }), 107),
        ("subscribe", json!({ "channel": "käse" }), 107),
        ("subscribe", json!({ "channel": "named:A" }), 107),
        ("subscribe", json!({ "channel": "nowhere:a" }), 102),
        ("subscribe", json!({ "channel": "$private" }), 103),
        ("subscribe", json!({ "channel": "users:a" }), 103),
        ("subscribe", json!({ "channel": "closed:a" }), 103),
        ("subscribe", json!({ "channel": "dialog:#42" }), 103),
        ("subscribe", json!({ "channel": "dialog:#" }), 103),
        ("subscribe", json!({ "channel": "a", "type": 1 }), 103),
        ("subscribe", json!({ "channel": "a", "type": 4 }), 108),
        ("subscribe", json!({ "channel": "a", "type": -7 }), 103),
        ("subscribe", json!({ "channel": "a", "tf": bad_filter }), 107),
        ("subscribe", json!({ "channel": "a", "tf": { "cmp": "eq" } }), 107),
        ("subscribe", json!({ "channel": "a", "token": "nonsense" }), 103),
        ("publish", json!({ "channel": "nowhere:a", "data": 1 }), 102),
        ("publish", json!({ "channel": "chat:a", "data": 1 }), 103),
        ("publish", json!({ "channel": "closed:a", "data": 1 }), 103),
        ("publish", json!({ "channel": "lobby" }), 107),
        ("publish", json!({ "channel": "json:a", "data": [1] }), 107),
        ("publish", json!({ "channel": "lobby", "data": 1, "type": 1 }), 108),
        ("publish", json!({ "channel": "lobby", "data": 1, "key": "k" }), 108),
        ("publish", json!({ "channel": long, "data": 1 }), 107),
        ("unsubscribe", json!({ "channel": long }), 107),
        ("presence", json!({ "channel": long }), 107),
        ("presence", json!({ "channel": "lobby" }), 108),
        ("presence", json!({ "channel": "chat:a" }), 103),
        ("presence", json!({ "channel": "nowhere:a" }), 102),
        ("presence_stats", json!({ "channel": long }), 107),
        ("presence_stats", json!({ "channel": "nowhere:a" }), 102),
        ("presence_stats", json!({ "channel": "lobby" }), 108),
        ("presence_stats", json!({ "channel": "chat:a" }), 103),
        ("history", json!({ "channel": long }), 107),
        ("history", json!({ "channel": "nowhere:a" }), 102),
        ("history", json!({ "channel": "lobby" }), 108),
        ("history", json!({ "channel": "chat:a" }), 103),
        ("history", json!({ "channel": "chat:a", "reverse": true, "since": { "offset": 0 } }), 107),
        ("rpc", json!({ "method": "anything", "data": 1 }), 108),
        ("sub_refresh", json!({ "channel": "lobby", "token": "x" }), 103),
        ("sub_refresh", json!({ "channel": "lobby" }), 107),
        ("sub_refresh", json!({ "channel": "lobby", "type": 1 }), 108),
        ("sub_refresh", json!({ "channel": long, "token": "x" }), 107),
    ];
    let mut caller = Caller::anonymous(instance.address()).await;
    for (method, request, code) in &rows {
        let answer = caller.call(method, request.clone()).await;
        assert_eq!(answer["error"]["code"], *code, "{method} {request}: {answer}");
        assert_eq!(answer["error"].get("temporary"), None, "{answer}");
    }
    // None of it has changed anything.
    assert_eq!(caller.result("unsubscribe", json!({ "channel": "a" })).await, json!({}));
    for channel in ["a", "named:é", "chat:a"] {
        caller.result("subscribe", json!({ "channel": channel })).await;
        assert_eq!(caller.error("subscribe", json!({ "channel": channel })).await, 105, "{channel}");
    }
    assert_eq!(caller.error("subscribe", json!({ "channel": "b" })).await, 106);
    caller.result("unsubscribe", json!({ "channel": "a" })).await;
    caller.result("subscribe", json!({ "channel": "b" })).await;
    let metrics = instance.metrics().await;
    let refused = metrics.value("fanfare_commands_total", &[("method", "publish"), ("result", "error")]);
    assert_eq!(refused, 8.0);
    let many: serde_json::Map<_, _> = (0..4).map(|n| (format!("c{n}"), json!({}))).collect();
    let mut caller = Caller::open(instance.address()).await;
    assert_eq!(caller.try_call("connect", json!({ "subs": many })).await.unwrap_err().0, 3505);
    let mut caller = Caller::open(instance.address()).await;
    let unknown = json!({ "subs": { "nowhere:a": {} } });
    assert_eq!(caller.try_call("connect", unknown).await.unwrap_err().0, 3501);
    // Those that it may not have are passed over, and the others are there from the start.
    let mut caller = Caller::open(instance.address()).await;
    let some = json!({ "subs": { "closed:a": {}, "b": {}, "": {}, "käse": {} } });
    let connected = caller.result("connect", some).await;
    assert_eq!(connected["subs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn a_delta_is_made_once_for_all_who_get_it() {
    const COUNT: u64 = 6;
    let instance = setup("allow_anonymous = true\nworkers = 2").start().await;
    let mut receivers = Vec::new();
    for _ in 0..8 {
        let mut receiver = Caller::anonymous(instance.address()).await;
        let subscribed =
            receiver.result("subscribe", json!({ "channel": "chat:a", "delta": "fossil" })).await;
        assert_eq!(subscribed["delta"], true);
        receivers.push(receiver);
    }
    // The same in Protobuf: Command { id: 1, connect: {} }, and { id: 2, subscribe: { channel, delta } }.
    let mut binary = Caller::open_at(instance.address(), "/connection/websocket?format=protobuf", &[]).await;
    let mut words = vec![4, 0x08, 1, 0x22, 0, 20, 0x08, 2, 0x2A, 16];
    words.extend_from_slice(b"\x0A\x06chat:a\x62\x06fossil");
    binary.socket().send(Frame::BINARY, &words).await.unwrap();
    let is_answer = |frame: &Frame| frame.payload.windows(2).any(|two| two == [0x08, 2]);
    while !is_answer(&binary.socket().next().await.unwrap()) {}
    let mut speaker = Caller::anonymous(instance.address()).await;
    speaker.result("subscribe", json!({ "channel": "chat:a" })).await;
    for n in 0..COUNT {
        let data = json!({ "text": "the same for all of them, and for the next one ".repeat(5), "n": n });
        speaker.result("publish", json!({ "channel": "chat:a", "data": data })).await;
    }
    for receiver in &mut receivers {
        for n in 0..COUNT {
            let publication = loop {
                let (_, kind, event) = receiver.push().await;
                if kind == "pub" {
                    break event;
                }
            };
            assert_eq!(publication["delta"].as_bool().unwrap_or(false), n > 0, "{publication}");
        }
    }
    // The first one has none before it.
    assert_eq!(instance.metric("fanfare_deltas_total", &[]).await, (COUNT - 1) as f64);
}

#[tokio::test]
async fn lies_about_positions_recover_nothing() {
    let instance = setup("allow_anonymous = true").start().await;
    let mut speaker = Caller::anonymous(instance.address()).await;
    let place = speaker.result("subscribe", json!({ "channel": "chat:a", "positioned": true })).await;
    let epoch = place["epoch"].as_str().unwrap().to_owned();
    assert_eq!((place.get("offset"), place["positioned"].as_bool()), (None, Some(true)));
    for n in 1..=8 {
        speaker.result("publish", json!({ "channel": "chat:a", "data": { "n": n } })).await;
    }
    // Five are kept: 4 to 8. (offset, epoch, what is recovered)
    let long = "e".repeat(100);
    let rows: &[(u64, &str, Option<&[u64]>)] = &[
        (8, &epoch, Some(&[])),
        (5, &epoch, Some(&[6, 7, 8])),
        (3, &epoch, Some(&[4, 5, 6, 7, 8])),
        (5, "", Some(&[6, 7, 8])),
        (2, &epoch, None),
        (0, &epoch, None),
        (0, "", None),
        (9, &epoch, None),
        (u64::MAX, &epoch, None),
        (u64::MAX, "", None),
        (u64::MAX - 1, &epoch, None),
        (5, "other", None),
        (8, "other", None),
        (8, "_", None),
        (0, "_", None),
        (8, &long, None),
        (8, "né\u{0}", None),
    ];
    for (offset, epoch_claimed, recovered) in rows {
        let mut caller = Caller::anonymous(instance.address()).await;
        let mut request =
            json!({ "channel": "chat:a", "recover": true, "offset": offset, "epoch": epoch_claimed });
        let result = caller.result("subscribe", request.clone()).await;
        let said = format!("{offset} {epoch_claimed}: {result}");
        assert_eq!(result["was_recovering"], true, "{said}");
        assert_eq!(result["epoch"], epoch, "{said}");
        assert_eq!(result.get("recovered").is_some(), recovered.is_some(), "{said}");
        // Recovered, it is where it said it was, and goes on from there.
        let at = if recovered.is_some() { *offset } else { 8 };
        assert_eq!(result["offset"], at, "{said}");
        let publications = result["publications"].as_array().cloned().unwrap_or_default();
        let numbers: Vec<_> = publications.iter().map(|one| one["data"]["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, recovered.unwrap_or_default(), "{said}");
        // Whoever would rather have an error, gets one.
        caller.result("unsubscribe", json!({ "channel": "chat:a" })).await;
        request["flag"] = json!(2);
        let answer = caller.call("subscribe", request).await;
        assert_eq!(answer["error"]["code"].as_u64(), recovered.is_none().then_some(112), "{answer}");
    }
    for (outcome, times) in
        [("recovered", 6.0), ("up_to_date", 2.0), ("too_far", 14.0), ("other_epoch", 12.0)]
    {
        let counted = instance.metric("fanfare_recoveries_total", &[("outcome", outcome)]).await;
        assert_eq!(counted, times, "{outcome}");
    }
    // What is published from then on comes to everybody once.
    let mut caller = Caller::anonymous(instance.address()).await;
    caller
        .result("subscribe", json!({ "channel": "chat:a", "recover": true, "offset": 7, "epoch": epoch }))
        .await;
    speaker.result("publish", json!({ "channel": "chat:a", "data": { "n": 9 } })).await;
    assert_eq!(caller.publication().await, json!({ "n": 9 }));
}

#[tokio::test]
async fn what_is_no_json_ends_json_clients_alone() {
    let instance = setup("allow_anonymous = true").start().await;
    let mut caller = Caller::anonymous(instance.address()).await;
    caller.result("subscribe", json!({ "channel": "lobby" })).await;
    let mut bystander = Bystander::new(&instance).await;
    let mut raw = Client::connect(instance.url("lobby")).await;
    raw.send("{\"is\": \"JSON\"}").await;
    assert_eq!(caller.publication().await, json!({ "is": "JSON" }));
    raw.send("{\n\"on\": \"lines\"\r\n}").await;
    assert_eq!(caller.publication().await, json!({ "on": "lines" }));
    for said in [Said::from("hello"), Said::Binary(vec![0xFF]), Said::from("{")] {
        let mut other = Caller::anonymous(instance.address()).await;
        other.result("subscribe", json!({ "channel": "lobby" })).await;
        raw.send(said.clone()).await;
        assert_eq!(other.closed().await, (3506, "inappropriate protocol".to_owned()));
    }
    assert_eq!(caller.closed().await.0, 3506);
    bystander.is_well().await;
    let ended =
        instance.metric("fanfare_connections_closed_total", &[("reason", "inappropriate_protocol")]).await;
    assert_eq!(ended, 4.0);
}

/// The bar is 5 KiB at 10,000.
#[tokio::test]
async fn an_idle_subscribed_connection_is_small() {
    let instance = setup("allow_anonymous = true").start().await;
    let (pid, url) =
        (instance.pid().to_string(), format!("ws://{}/connection/websocket", instance.address()));
    for protocol in ["centrifuge-json", "centrifuge-protobuf"] {
        let idle = ["bench", "idle", &url, "--connections", "2000", "--pid", &pid, "--json"];
        let spoken = ["--protocol", protocol, "--channel", "lobby"];
        let output = run_to_end(&[&idle[..], &spoken].concat(), &[]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let kib = report["kib_per_connection"].as_f64().unwrap();
        assert!(kib < 5.0, "{protocol}: {kib} KiB");
    }
}
