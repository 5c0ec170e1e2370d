//! The HTTP API: who may call it, and what is said of every wrong request. What the methods do is the next file's.

use serde_json::{Value, json};

use crate::harness::{API_KEY, Instance, Response, Setup, post, request};

/// Channels of every sort.
const CHANNELS: &str = "
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    [namespaces.kept]
    may_subscribe = \"anonymous\"
    history_size = 5
    presence = true
    [namespaces.json]
    may_subscribe = \"anonymous\"
    data_format = \"json_object\"
    [namespaces.binary]
    may_subscribe = \"anonymous\"
    data_format = \"binary\"
    [namespaces.named]
    may_subscribe = \"anonymous\"
    name_pattern = \"named:[a-z]+\"
";

/// An API, these keys, and the channels.
pub fn setup(keys: &str) -> Setup {
    Setup::new(CHANNELS).flags(&["--internal-listen", "127.0.0.1:0"]).keys(&format!(
        "api_keys = [\"{API_KEY}\", \"another\"]
{keys}"
    ))
}

async fn raw_call(instance: &Instance, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let path = format!("/api/{method}");
    post(instance.internal_address(), &path, headers, body).await.expect("the instance answers")
}

/// The body of what must be answered with 200.
pub async fn call(instance: &Instance, method: &str, body: Value) -> Value {
    let answer = raw_call(instance, method, &[("X-API-Key", API_KEY)], body.to_string().as_bytes()).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json")),
        "{method} {body}"
    );
    answer.json()
}

pub async fn result(instance: &Instance, method: &str, body: Value) -> Value {
    let answer = call(instance, method, body.clone()).await;
    answer.get("result").unwrap_or_else(|| panic!("{method} {body}: {answer}")).clone()
}

#[tokio::test]
async fn a_key_is_asked_for_and_any_of_several_will_do() {
    let instance = setup("").start().await;
    // (headers, query, status)
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, u16);
    let bearer = format!("Bearer {API_KEY}");
    let apikey = format!("apikey {API_KEY}");
    let rows: &[Row] = &[
        (&[], "", 401),
        (&[("X-API-Key", "wrong")], "", 401),
        (&[("X-API-Key", "")], "", 401),
        (&[("Authorization", &bearer)], "", 401),
        (&[("Authorization", "apikey wrong")], "", 401),
        (&[], "?api_key=wrong", 401),
        (&[("X-API-Key", "wrong")], "?api_key=another", 401),
        (&[("X-API-Key", API_KEY)], "", 200),
        (&[("x-api-key", "another")], "", 200),
        (&[("Authorization", &apikey)], "", 200),
        (&[("authorization", "ApiKey another")], "", 200),
        (&[], "?api_key=another", 200),
        (&[], "?api_key=a%20key%20that%20only%20the%20tests%20have", 200),
    ];
    for (headers, query, status) in rows {
        // Without a key nobody learns what methods there are.
        for method in ["info", "nonsense"] {
            let answer = raw_call(&instance, &format!("{method}{query}"), headers, b"{}").await;
            let expected = if *status == 200 && method == "nonsense" { 404 } else { *status };
            assert_eq!(answer.status, expected, "{method} {headers:?} {query}: {}", answer.body);
            if expected == 401 {
                assert_eq!(answer.body, "");
                assert!(answer.header("www-authenticate").is_some());
            }
            assert!(!answer.body.contains(API_KEY));
        }
    }
    let refused = instance.metric("fanfare_api_refused_total", &[("reason", "key")]).await;
    assert_eq!(refused, 14.0);
    let at_the_clients =
        post(instance.address(), "/api/info", &[("X-API-Key", API_KEY)], b"{}").await.unwrap();
    assert_eq!(at_the_clients.status, 404, "clients cannot reach it");
    let without = Instance::start(&["--internal-listen", "127.0.0.1:0"]).await;
    let answer = raw_call(&without, "info", &[("X-API-Key", "")], b"{}").await;
    assert_eq!(answer.status, 404);
    assert!(answer.json()["message"].as_str().unwrap().contains("api_keys"), "{}", answer.body);
}

#[tokio::test]
async fn every_wrong_request_says_what_is_wrong() {
    let instance =
        setup("api_body_limit = \"4KiB\"\noutbox_limit = \"1KiB\"\nmessage_limit = 1014").start().await;
    let key = [("X-API-Key", API_KEY)];
    for (verb, path, headers, status, says) in [
        ("GET", "/api/publish", &key[..], 405, "expected POST"),
        ("PUT", "/api/publish", &key, 405, "expected POST"),
        ("DELETE", "/api/info", &key, 405, "expected POST"),
        ("POST", "/api/nonsense", &key, 404, "no method \"nonsense\"; expected one of publish, broadcast"),
        ("POST", "/api/publish/more", &key, 404, "no method \"publish/more\""),
        ("POST", "/api/Publish", &key, 404, "no method \"Publish\""),
        ("POST", "/api/", &key, 404, "no method \"\""),
        ("POST", "/api", &key, 404, "no method \"\""),
        (
            "POST",
            "/api/info",
            &[key[0], ("X-Centrifugo-Error-Mode", "both")],
            400,
            "expected response or transport",
        ),
        ("POST", "/api/info", &key, 400, "EOF"),
    ] {
        let answer = request(instance.internal_address(), verb, path, headers).await.unwrap();
        assert_eq!(answer.status, status, "{verb} {path}: {}", answer.body);
        assert!(answer.json()["message"].as_str().unwrap().contains(says), "{verb} {path}: {}", answer.body);
        assert_eq!(answer.header("allow"), (status == 405).then_some("POST"), "{verb} {path}");
    }
    // Bodies that are no requests: 400 in either mode.
    let deep = format!(r#"{{"channel":"a","data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let large = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(4096));
    for (method, body, status, says) in [
        ("publish", "", 400, "EOF"),
        ("publish", "nonsense", 400, "expected"),
        ("publish", "[]", 400, "invalid type: sequence, expected a JSON object"),
        ("publish", r#"["a", 1]"#, 400, "expected a JSON object"),
        ("publish", "null", 400, "invalid type: null, expected a JSON object"),
        ("publish", "7", 400, "invalid type: integer `7`"),
        ("publish", "{\"channel\": \"a\", \"data\": {}", 400, "EOF"),
        ("publish", "{\"channel\": \"a\", \"data\": {}} {}", 400, "goes on behind"),
        ("publish", r#"{"channel": 5, "data": {}}"#, 400, "`channel`: invalid type: integer `5`"),
        ("publish", r#"{"channel": ["a"], "data": {}}"#, 400, "`channel`"),
        ("publish", r#"{"channel": "a", "channel": "b", "data": {}}"#, 400, "duplicate field"),
        ("publish", r#"{"channel": "a", "data": {}, "tags": {"a": 1}}"#, 400, "`tags.a`"),
        ("publish", r#"{"channel": "a", "data": {}, "tags": "a"}"#, 400, "`tags`"),
        ("publish", r#"{"channel": "a", "data": {}, "skip_history": "yes"}"#, 400, "`skip_history`"),
        ("publish", r#"{"channel": "a", "data": {}, "version": -1}"#, 400, "`version`"),
        ("publish", r#"{"channel": "a", "data": {}, "version": 1.5}"#, 400, "`version`"),
        ("publish", r#"{"channel": "a", "b64data": 5}"#, 400, "`b64data`"),
        ("broadcast", r#"{"channels": "a", "data": {}}"#, 400, "`channels`"),
        ("broadcast", r#"{"channels": ["a", 5], "data": {}}"#, 400, "`channels[1]`"),
        ("history", r#"{"channel": "kept:a", "since": 5}"#, 400, "`since`"),
        ("history", r#"{"channel": "kept:a", "since": [1, "x"]}"#, 400, "`since`"),
        ("history", r#"{"channel": "kept:a", "since": {"offset": -1}}"#, 400, "`since.offset`"),
        (
            "history",
            r#"{"channel": "kept:a", "limit": 2147483648}"#,
            400,
            "`limit`: 2147483648 is out of range",
        ),
        (
            "history",
            r#"{"channel": "kept:a", "limit": 1.5}"#,
            400,
            "`limit`: invalid value: floating point `1.5`",
        ),
        ("disconnect", r#"{"user": 42}"#, 400, "`user`"),
        ("disconnect", r#"{"user": "42", "whitelist": "a"}"#, 400, "`whitelist`"),
        ("batch", r#"{"commands": {}}"#, 400, "`commands`"),
        ("publish", &large, 413, "more than 4096 bytes"),
    ] {
        for mode in ["response", "transport"] {
            let headers = [key[0], ("X-Centrifugo-Error-Mode", mode)];
            let answer = raw_call(&instance, method, &headers, body.as_bytes()).await;
            assert_eq!(answer.status, status, "{method} {body}: {}", answer.body);
            let error = answer.json();
            assert_eq!(error["code"], 107, "{method} {body}");
            assert!(error["message"].as_str().unwrap().contains(says), "{method} {body}: {error}");
        }
    }
    let not_utf8 = raw_call(&instance, "publish", &key, b"{\"channel\": \"\xff\", \"data\": {}}").await;
    assert_eq!(not_utf8.status, 400);
    // Requests that can be read and are wrong: the error stands where the mode says.
    let id = "0195d1a0-0000-7000-8000-000000000000";
    let long = "x".repeat(256);
    let reason = "x".repeat(124);
    let (bad, unknown, none, lost, absent) = ((107, 400), (102, 404), (108, 400), (112, 416), (104, 404));
    let data = json!({});
    for (method, body, (code, status), says) in [
        ("publish", json!({}), bad, "channel name is empty"),
        ("publish", json!({ "channel": null, "data": data }), bad, "channel name is empty"),
        ("publish", json!({ "channel": "", "data": data }), bad, "channel name is empty"),
        ("publish", json!({ "channel": long, "data": data }), bad, "256 bytes"),
        ("publish", json!({ "channel": "a" }), bad, "neither `data` nor `b64data`"),
        ("publish", json!({ "channel": "a", "data": null }), bad, "neither `data` nor `b64data`"),
        ("publish", json!({ "channel": "a", "b64data": "" }), bad, "neither `data` nor `b64data`"),
        ("publish", json!({ "channel": "a", "b64data": "no base64" }), bad, "`b64data` is not base64"),
        ("publish", json!({ "channel": "a", "b64data": "YQ" }), bad, "`b64data` is not base64"),
        ("publish", json!({ "channel": "json:a", "data": [] }), bad, "not a JSON object"),
        ("publish", json!({ "channel": "json:a", "b64data": "YQ==" }), bad, "not JSON"),
        ("publish", json!({ "channel": "named:A", "data": data }), bad, "name_pattern"),
        ("publish", json!({ "channel": "nowhere:a", "data": data }), unknown, "no namespace \"nowhere\""),
        (
            "publish",
            json!({ "channel": "a", "data": "x".repeat(2000) }),
            bad,
            "data has 2002 bytes, with its tags and what is shown of its publisher; at most 1014",
        ),
        (
            "publish",
            json!({ "channel": "a", "data": data, "tags": { "a": "x".repeat(2000) } }),
            bad,
            "with its tags and what is shown of its publisher; at most 1014",
        ),
        ("publish", serde_json::from_str(&deep).unwrap_or(json!({ "channel": "" })), bad, ""),
        (
            "publish",
            json!({ "channel": "a", "data": data, "idempotency_key": long }),
            bad,
            "`idempotency_key` has 256 bytes",
        ),
        (
            "publish",
            json!({ "channel": "a", "data": data, "version": 1, "version_epoch": long }),
            bad,
            "`version_epoch`",
        ),
        ("publish", json!({ "channel": "a", "data": data, "version": 1 }), none, "version needs a history"),
        (
            "publish",
            json!({ "channel": "a", "data": data, "version": 1, "skip_history": true }),
            bad,
            "without `skip_history`",
        ),
        ("broadcast", json!({ "data": data }), bad, "`channels` is empty"),
        ("broadcast", json!({ "channels": [], "data": data }), bad, "`channels` is empty"),
        ("broadcast", json!({ "channels": ["a"], "b64data": "?" }), bad, "not base64"),
        ("subscribe", json!({ "channel": "a" }), bad, "no `user`"),
        ("subscribe", json!({ "user": "42" }), bad, "channel name is empty"),
        ("subscribe", json!({ "user": "42", "channel": "nowhere:a" }), unknown, "nowhere"),
        (
            "subscribe",
            json!({ "user": "42", "channel": "a", "client": "me" }),
            bad,
            "`client`: \"me\" is no connection's id",
        ),
        ("subscribe", json!({ "user": "42", "channel": "a", "b64info": "?" }), bad, "`b64info`"),
        ("subscribe", json!({ "user": "42", "channel": "a", "b64data": "?" }), bad, "`b64data`"),
        (
            "subscribe",
            json!({ "user": "42", "channel": "a", "data": "x".repeat(1013) }),
            bad,
            "`data` has 1015 bytes; at most 1014 are possible",
        ),
        (
            "subscribe",
            json!({ "user": "42", "channel": "a", "info": "x".repeat(252) }),
            bad,
            "`info` has 254 bytes; at most 253 are possible",
        ),
        (
            "subscribe",
            json!({ "user": "42", "channel": "a", "b64info": "eHh4".repeat(85) }),
            bad,
            "`info` has 255 bytes; at most 253 are possible",
        ),
        (
            "refresh",
            json!({ "user": "42", "info": "x".repeat(252) }),
            bad,
            "`info` has 254 bytes; at most 253 are possible",
        ),
        ("unsubscribe", json!({ "channel": "a" }), bad, "no `user`"),
        ("unsubscribe", json!({ "user": "42", "channel": "nowhere:a" }), unknown, "nowhere"),
        ("disconnect", json!({}), bad, "no `user`"),
        ("disconnect", json!({ "user": "42", "whitelist": [id, "me"] }), bad, "`whitelist`: \"me\""),
        ("disconnect", json!({ "user": "42", "disconnect": { "code": 1000 } }), bad, "expected 3000 to 4999"),
        ("disconnect", json!({ "user": "42", "disconnect": { "code": 5000 } }), bad, "expected 3000 to 4999"),
        (
            "disconnect",
            json!({ "user": "42", "disconnect": { "code": 4000, "reason": reason } }),
            bad,
            "124 bytes",
        ),
        ("refresh", json!({ "expired": true }), bad, "no `user`"),
        ("presence", json!({}), bad, "channel name is empty"),
        ("presence", json!({ "channel": "a" }), none, "no presence"),
        (
            "presence",
            json!({ "channel": "kept:a", "cursor": "x" }),
            bad,
            "`cursor` is \"x\"; expected `next`",
        ),
        ("channels", json!({ "cursor": "00000000.a" }), bad, "`cursor` is \"00000000.a\""),
        ("presence", json!({ "channel": "nowhere:a" }), unknown, "nowhere"),
        ("presence_stats", json!({ "channel": "a" }), none, "no presence"),
        ("history", json!({ "channel": "a" }), none, "keeps no history"),
        ("history", json!({ "channel": "nowhere:a" }), unknown, "nowhere"),
        (
            "history",
            json!({ "channel": "kept:a", "limit": 1, "reverse": true, "since": { "offset": 0 } }),
            bad,
            "`since.offset`",
        ),
        (
            "history",
            json!({ "channel": "kept:a", "since": { "offset": 1, "epoch": "other" } }),
            lost,
            "`since.epoch`",
        ),
        ("history_remove", json!({ "channel": "a" }), none, "keeps no history"),
        ("batch", json!({}), bad, "no `commands`"),
        ("rpc", json!({}), bad, "no `method`"),
        ("rpc", json!({ "method": "mine", "params": {} }), absent, "no method \"mine\""),
    ] {
        let text = body.to_string();
        let answer = raw_call(&instance, method, &key, text.as_bytes()).await;
        assert_eq!(answer.status, 200, "{method} {text}: {}", answer.body);
        let in_response = answer.json()["error"].clone();
        let headers = [key[0], ("X-Centrifugo-Error-Mode", "transport")];
        let answer = raw_call(&instance, method, &headers, text.as_bytes()).await;
        assert_eq!((answer.status, &answer.json()), (status, &in_response), "{method} {text}");
        assert_eq!(in_response["code"], code, "{method} {text}: {in_response}");
        let message = in_response["message"].as_str().unwrap();
        assert!(message.contains(says), "{method} {text}: {message}");
    }
    // What a method does not know is passed over, as protobuf does.
    result(&instance, "publish", json!({ "channel": "a", "data": 1, "colour": "red", "tags": null })).await;
    result(&instance, "history", json!({ "channel": "kept:a", "limit": 2.0, "since": { "offset": 1e3 } }))
        .await;
    let answer = raw_call(&instance, "publish", &key, deep.as_bytes()).await;
    assert!(answer.body.contains("too deeply"), "{}", answer.body);
    // A command that stands there twice would lose its first.
    let twice = br#"{"commands": [{"publish": {"channel": "a", "data": 1}, "publish": {"channel": "a", "data": 2}}]}"#;
    let answer = raw_call(&instance, "batch", &key, twice).await;
    assert!(answer.body.contains("a command has not one field"), "{}", answer.body);
    // A tag's name and value have room for the same.
    for (name, value, fits) in [(256, 256, true), (257, 1, false), (1, 257, false)] {
        let (name, value) = ("n".repeat(name), "v".repeat(value));
        let answer =
            call(&instance, "publish", json!({ "channel": "a", "data": 1, "tags": { name: value } })).await;
        let refused = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(if fits { refused.is_empty() } else { refused.contains("expected at most 256") }, "{answer}");
    }
    // Of a batch, each command by itself.
    let commands = json!({ "commands": [
        null, 7, {}, { "publish": {}, "info": {} }, { "nonsense": {} }, { "batch": { "commands": [] } },
        { "publish": { "channel": 5 } }, { "publish": { "channel": "nowhere:a", "data": 1 } },
        { "history": { "channel": "kept:a" } },
    ] });
    let replies = call(&instance, "batch", commands).await;
    let codes: Vec<_> =
        replies["replies"].as_array().unwrap().iter().map(|reply| reply["error"]["code"].clone()).collect();
    assert_eq!(json!(codes), json!([107, 107, 107, 107, 107, 107, 107, 102, null]), "{replies}");
    assert_eq!(replies["replies"][8]["history"]["offset"], 0);
}

#[tokio::test]
async fn the_mode_of_errors_can_be_configured() {
    let instance = setup("api_error_mode = \"transport\"").start().await;
    for (headers, status) in [
        (&[("X-API-Key", API_KEY)][..], 404),
        (&[("X-API-Key", API_KEY), ("X-Centrifugo-Error-Mode", "response")], 200),
    ] {
        let answer = raw_call(&instance, "history", headers, br#"{"channel": "nowhere:a"}"#).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn the_document_is_served_and_knows_every_method() {
    let instance = setup("").start().await;
    let answer = request(instance.internal_address(), "GET", "/api/openapi.json", &[]).await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    for path in document["paths"].as_object().unwrap().keys() {
        let method = path.strip_prefix("/api/").unwrap();
        let answer = raw_call(&instance, method, &[("X-API-Key", API_KEY)], b"{}").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
}
