//! How much of a history is read at a time, by a client of the Centrifuge protocol and by the back end. What that
//! costs is `answers`' business.

use serde_json::{Value, json};

use crate::api::result;
use crate::harness::{Caller, Setup};

const CHANNELS: &str = "
    [namespaces.kept]
    may_subscribe = \"anonymous\"
    may_read_history = \"anonymous\"
    history_size = 2000
    recovery = \"allow\"
";

fn offsets(read: &Value) -> Vec<u64> {
    let said = read["publications"].as_array().map_or(&[][..], Vec::as_slice);
    said.iter().map(|one| one["offset"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn nobody_reads_more_of_a_history_at_a_time_than_is_allowed() {
    let instance = Setup::new(CHANNELS).api().keys("allow_anonymous = true\nhistory_limit = 3").start().await;
    let mut epoch = json!("");
    for n in 1..=5 {
        epoch =
            result(&instance, "publish", json!({ "channel": "kept:a", "data": n })).await["epoch"].clone();
    }
    let mut caller = Caller::anonymous(instance.address()).await;
    for (query, expected) in [
        (json!({ "limit": 2 }), vec![1, 2]),
        (json!({ "limit": 3 }), vec![1, 2, 3]),
        (json!({ "limit": 4 }), vec![1, 2, 3]),
        (json!({ "limit": -1 }), vec![1, 2, 3]),
        (json!({ "limit": i32::MAX, "reverse": true }), vec![5, 4, 3]),
        (json!({ "limit": -1, "since": { "offset": 1, "epoch": epoch } }), vec![2, 3, 4]),
    ] {
        let mut request = query.clone();
        request["channel"] = json!("kept:a");
        assert_eq!(offsets(&caller.result("history", request).await), expected, "{query}");
    }
    for epoch in ["other", "_", &"e".repeat(100)] {
        let since = json!({ "channel": "kept:a", "since": { "offset": 1, "epoch": epoch } });
        assert_eq!(caller.error("history", since).await, 112, "{epoch}");
    }
    // Who has missed more has to begin anew; one who has not gets all of it.
    for (offset, recovered, missed) in [(1, false, vec![]), (2, true, vec![3, 4, 5])] {
        let wish = json!({ "channel": "kept:a", "recover": true, "offset": offset, "epoch": epoch });
        let subscribed = caller.result("subscribe", wish).await;
        assert_eq!(subscribed.get("recovered").is_some(), recovered, "{offset}: {subscribed}");
        assert_eq!(offsets(&subscribed), missed, "{offset}");
        caller.result("unsubscribe", json!({ "channel": "kept:a" })).await;
    }
    // The back end has a limit of its own.
    let channels = vec!["kept:b"; 1100];
    result(&instance, "broadcast", json!({ "channels": channels, "data": 1 })).await;
    for (limit, expected) in [(999, 999), (1000, 1000), (1001, 1000), (-1, 1000)] {
        let read = result(&instance, "history", json!({ "channel": "kept:b", "limit": limit })).await;
        assert_eq!(offsets(&read), (1..=expected).collect::<Vec<_>>(), "{limit}");
    }
}
