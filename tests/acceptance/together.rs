//! Commands that come in one frame: each is worth what it would be worth by itself. What they cost is `storm`'s and
//! `answers`' business.

use serde_json::{Value, json};

use crate::api::result;
use crate::harness::{Caller, RedisServer, Setup, eventually, token};

const CHANNELS: &str = "
    max_channels = 3
    [channels]
    may_subscribe = \"client\"
    may_publish = \"client\"
    [namespaces.kept]
    may_subscribe = \"client\"
    history_size = 10
    positioning = \"allow\"
";

/// What becomes of these commands, each 0 or the code of its error.
async fn fates(caller: &mut Caller, commands: &[Value]) -> Vec<u64> {
    let frame = commands.iter().enumerate().map(|(number, command)| {
        let mut command = command.clone();
        command["id"] = json!(100 + number);
        command.to_string()
    });
    caller.say(&frame.collect::<Vec<_>>().join("\n")).await;
    let mut fates = Vec::new();
    while fates.len() < commands.len() {
        let message = caller.message().await.unwrap();
        if let Some(id) = message["id"].as_u64() {
            assert_eq!(id, 100 + fates.len() as u64, "in the client's order: {message}");
            fates.push(message["error"]["code"].as_u64().unwrap_or_default());
        }
    }
    fates
}

#[tokio::test]
async fn a_subscription_that_fails_stands_in_nobodys_way() {
    let redis = RedisServer::start().await;
    let instance = Setup::new(CHANNELS).tokens().api().redis(&redis.url()).start().await;
    eventually("it has found Redis", async || instance.page("/readyz").await.status == 200).await;
    result(&instance, "publish", json!({ "channel": "kept:broken", "data": 1 })).await;
    redis.cli(&["DEL", "fanfare:top:{kept:broken}"]).await;
    redis.cli(&["LPUSH", "fanfare:top:{kept:broken}", "x"]).await;
    let past = token(&["--user", "ann", "--channel", "a", "--claim", "expire_at=1000000000"]).await;
    let bad = token(&["--user", "ann", "--channel", "a", "--claim", "exp=1000000000"]).await;
    let good = |channel: &str| json!({ "subscribe": { "channel": channel } });
    let filter = json!({ "op": "", "key": "k", "cmp": "nothing", "val": "x" });
    let filtered = json!({ "subscribe": { "channel": "a", "tf": filter } });
    let with = |token: &str| json!({ "subscribe": { "channel": "a", "token": token } });
    // No broker reads it.
    let broken = json!({ "subscribe": { "channel": "kept:broken", "positioned": true } });
    let rows = [
        (vec![filtered.clone(), good("a")], vec![107, 0]),
        (vec![with(&past), good("a")], vec![110, 0]),
        (vec![with(&bad), good("a")], vec![109, 0]),
        (vec![broken.clone(), good("kept:broken")], vec![100, 0]),
        (vec![good("a"), good("a")], vec![0, 105]),
        (vec![good("a"), good("b"), good("a"), filtered.clone()], vec![0, 0, 105, 105]),
        // A place that nobody has is for the next one.
        (vec![good("a"), good("b"), good("c"), good("d"), good("e")], vec![0, 0, 0, 106, 106]),
        (
            vec![filtered.clone(), broken.clone(), good("b"), good("c"), good("d"), good("e")],
            vec![107, 100, 0, 0, 0, 106],
        ),
        (vec![good("a"), good("b"), broken, good("d"), good("e")], vec![0, 0, 100, 0, 106]),
    ];
    let connect = json!({ "token": token(&["--user", "ann"]).await });
    for (commands, expected) in rows {
        let mut caller = Caller::connect(instance.address(), connect.clone()).await;
        assert_eq!(fates(&mut caller, &commands).await, expected, "{commands:?}");
    }
}

/// Each of them counts, of whatever kind.
#[tokio::test]
async fn a_frame_of_commands_keeps_to_the_rate() {
    let keys = "message_rate = 5\nmessage_burst = 20\nallow_anonymous = true";
    let channels = "[channels]\nmay_subscribe = \"anonymous\"\nmay_publish = \"anonymous\"";
    let instance = Setup::new(channels).keys(keys).start().await;
    let subscribe = |number: usize| json!({ "subscribe": { "channel": format!("c{number}") } });
    let publish = |_| json!({ "publish": { "channel": "c", "data": 1 } });
    let rpc = |_| json!({ "rpc": {} });
    let rows: [(&str, &dyn Fn(usize) -> Value); 3] =
        [("subscribe", &subscribe), ("publish", &publish), ("rpc", &rpc)];
    for (name, command) in rows {
        let mut caller = Caller::connect(instance.address(), json!({})).await;
        let frame = (0..200).map(|number| {
            let mut command = command(number);
            command["id"] = json!(100 + number);
            command.to_string()
        });
        caller.say(&frame.collect::<Vec<_>>().join("\n")).await;
        let mut answered = 0;
        let closed = loop {
            match caller.message().await {
                Ok(message) if message["id"].is_u64() => answered += 1,
                Ok(_) => {}
                Err(closed) => break closed,
            }
        };
        assert_eq!(closed.0, 3013, "{name}");
        assert!((15..40).contains(&answered), "{name}: {answered}");
    }
}
