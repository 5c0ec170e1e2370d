//! What may be in a publication, in its tags, and in what is told of who published it: whoever sends what others could
//! not take harms nobody else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Caller, Client, Instance, Said, Setup, token};

async fn start() -> Instance {
    let tables = "
        [channels]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        [namespaces.kept]
        may_subscribe = \"anonymous\"
        may_publish = \"anonymous\"
        may_read_history = \"anonymous\"
        may_read_presence = \"anonymous\"
        history_size = 10
        recovery = \"allow\"
        delta = true
        presence = true
        join_leave = \"force\"
        data_format = \"json\"
    ";
    Setup::new(tables).tokens().api().keys("allow_anonymous = true").start().await
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[tokio::test]
async fn what_nests_without_end_reaches_no_json_client() {
    let instance = start().await;
    let (fine, deep) = (nested(100), nested(20_000));
    let in_base64 = |text: &str| STANDARD.encode(text);

    // Where the format is JSON it is refused, from the back end as from a client of whatever kind; and what is kept is
    // whole.
    let api = json!({ "channel": "kept:a", "b64data": in_base64(&deep) });
    let refused = instance.api("publish", &api).await;
    assert_eq!(refused["error"]["code"], 107, "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("nested too deeply"), "{refused}");
    let mut raw = Client::connect(instance.url("kept:a")).await;
    raw.send(deep.as_str()).await;
    assert_eq!(raw.closed().await, (1008, "wrong data format".to_owned()));
    let mut json_client = Caller::anonymous(instance.address()).await;
    json_client.say(&format!(r#"{{"id":9,"publish":{{"channel":"kept:a","data":{deep}}}}}"#)).await;
    assert_eq!(json_client.closed().await.0, 3501);
    instance.api("publish", &json!({ "channel": "kept:a", "b64data": in_base64(&fine) })).await;
    for delta in ["", "fossil"] {
        let mut late = Caller::anonymous(instance.address()).await;
        let since = json!({ "channel": "kept:a", "recover": true, "offset": 0, "delta": delta });
        let result = late.result("subscribe", since).await;
        assert_eq!(result["publications"].as_array().unwrap().len(), 1, "{result}");
    }

    // Elsewhere it is no JSON: who reads nothing else is told so, before it sees it; and nobody else notices.
    let mut others = [Client::connect(instance.url("any")).await, Client::connect(instance.url("any")).await];
    let mut readers = Vec::new();
    for path in ["/connection/websocket", "/connection/uni_websocket"] {
        let mut reader = Caller::open_at(instance.address(), path, &[]).await;
        match path {
            "/connection/websocket" => {
                reader.call("connect", json!({})).await;
                reader.result("subscribe", json!({ "channel": "any" })).await;
            }
            _ => {
                reader.say(r#"{"subs":{"any":{}}}"#).await;
                let welcome = reader.message().await.unwrap();
                assert!(welcome["connect"]["subs"]["any"].is_object(), "{welcome}");
            }
        }
        readers.push(reader);
    }
    let [first, second] = &mut others;
    first.send(deep.as_str()).await;
    assert_eq!(second.next().await, Said::from(deep.as_str()));
    for reader in &mut readers {
        assert_eq!(reader.closed().await, (3506, "inappropriate protocol".to_owned()));
    }
}

#[tokio::test]
async fn tags_count_as_the_payload_does() {
    let instance = start().await;
    let mut listener = Caller::anonymous(instance.address()).await;
    listener.result("subscribe", json!({ "channel": "kept:a" })).await;
    // More than an outbox holds, in many and in one; the same in a broadcast.
    let many: serde_json::Map<_, _> =
        (0..10_000).map(|n| (format!("k{n}"), "v".repeat(200).into())).collect();
    let escaped = json!({ "k": "\u{1}".repeat(200 << 10) });
    for tags in [Value::from(many), escaped] {
        let one = json!({ "channel": "kept:a", "data": 1, "tags": tags });
        let refused = instance.api("publish", &one).await;
        assert_eq!(refused["error"]["code"], 107, "{refused}");
        let all = json!({ "channels": ["kept:a"], "data": 1, "tags": tags });
        let refused = instance.api("broadcast", &all).await;
        assert_eq!(refused["result"]["responses"][0]["error"]["code"], 107, "{refused}");
    }
    // Tags that are fine by themselves, on what would have had room alone.
    let some: serde_json::Map<_, _> = (0..60).map(|n| (format!("k{n}"), "v".repeat(250).into())).collect();
    let nearly_all = "x".repeat((1 << 20) - (8 << 10));
    let both = json!({ "channel": "kept:b", "data": nearly_all, "tags": some });
    let refused = instance.api("publish", &both).await;
    assert_eq!(refused["error"]["code"], 107, "{refused}");
    for (data, tags) in [(nearly_all, json!({})), ("x".to_owned(), some.into())] {
        let alone = json!({ "channel": "kept:b", "data": data, "tags": tags });
        let taken = instance.api("publish", &alone).await;
        assert!(taken["result"]["offset"].is_number(), "{taken}");
    }
    instance.api("publish", &json!({ "channel": "kept:a", "data": 2, "tags": { "k": "v" } })).await;
    assert_eq!(listener.publication().await, 2, "it goes on, and was sent nothing else");
}

/// `b64info` may be anything. It is told to whoever can be told, and everybody else goes on.
#[tokio::test]
async fn nobody_is_cut_for_what_a_token_says_of_somebody_else() {
    let instance = start().await;
    let binary = format!("b64info=\"{}\"", STANDARD.encode(b"\xff\x00"));
    let deep = format!("b64info=\"{}\"", STANDARD.encode(nested(200)));
    let mut reader = Caller::anonymous(instance.address()).await;
    reader.result("subscribe", json!({ "channel": "kept:a" })).await;
    let (_, kind, _) = reader.push().await;
    assert_eq!(kind, "join", "its own");
    for (user, info) in [("ann", &binary), ("bob", &deep)] {
        let token = token(&["--user", user, "--claim", info]).await;
        let mut other = Caller::connect(instance.address(), json!({ "token": token })).await;
        other.result("subscribe", json!({ "channel": "kept:a" })).await;
        let (_, kind, join) = reader.push().await;
        assert_eq!((kind.as_str(), &join["info"]["user"]), ("join", &json!(user)), "{join}");
        other.result("publish", json!({ "channel": "kept:a", "data": 1 })).await;
        let (_, kind, published) = reader.push().await;
        assert_eq!((kind.as_str(), &published["info"]["user"]), ("pub", &json!(user)), "{published}");
        let present = reader.result("presence", json!({ "channel": "kept:a" })).await;
        let seen = present["presence"].as_object().unwrap().values().find(|info| info["user"] == user);
        for info in [&join["info"], &published["info"], seen.unwrap()] {
            assert_eq!(info["conn_info"], Value::Null);
        }
        let by_api = instance.api("presence", &json!({ "channel": "kept:a" })).await;
        let seen =
            by_api["result"]["presence"].as_object().unwrap().values().find(|info| info["user"] == user);
        assert_eq!(seen.unwrap()["conn_info"], Value::Null, "{by_api}");
        let kept = reader.result("history", json!({ "channel": "kept:a", "limit": 10 })).await;
        assert_eq!(kept["publications"].as_array().unwrap().last().unwrap()["info"]["user"], user, "{kept}");
        other.leave().await;
        let (_, kind, _) = reader.push().await;
        assert_eq!(kind, "leave");
    }
}
