//! Many clients that come at once for what they have missed: they get it at a pace, and hold up neither those who want
//! something else nor, if they dawdle, one another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::harness::{Caller, Setup};

const FILE: &str = "
    workers = 1
    recovery_rate = 20
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 10
    recovery = \"allow\"
";

/// So many are taken at once, whatever the rate is.
const BURST: usize = 32;

/// And so many have to wait for their turn.
const MORE: usize = 40;

#[tokio::test]
async fn recoveries_go_at_their_pace_and_hold_up_nobody() {
    let instance = Setup::new(FILE).start().await;
    let address = instance.address();
    let mut neighbour = Caller::anonymous(address).await;
    neighbour.result("subscribe", json!({ "channel": "neighbours" })).await;
    let epoch = neighbour.result("subscribe", json!({ "channel": "kept", "recoverable": true })).await;
    let epoch = epoch["epoch"].as_str().unwrap().to_owned();
    for number in 1..=3 {
        neighbour.result("publish", json!({ "channel": "kept", "data": number })).await;
        assert_eq!(neighbour.publication().await, json!(number));
    }
    // Who has come and says nothing takes nobody's turn.
    let mut dawdlers = Vec::new();
    for _ in 0..BURST {
        dawdlers.push((TcpStream::connect(address).await.unwrap(), Caller::open(address).await));
    }
    let mut returners = Vec::new();
    for _ in 0..BURST + MORE {
        returners.push(Caller::anonymous(address).await);
    }

    let (begun, done) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut storm = JoinSet::new();
    for mut returner in returners {
        let asked = json!({ "channel": "kept", "recover": true, "epoch": epoch, "offset": 0 });
        let done = done.clone();
        storm.spawn(async move {
            let answer = returner.result("subscribe", asked).await;
            done.fetch_add(1, SeqCst);
            assert_eq!(answer["recovered"], true, "{answer}");
            let data: Vec<_> =
                answer["publications"].as_array().unwrap().iter().map(|one| one["data"].clone()).collect();
            assert_eq!(data, [json!(1), json!(2), json!(3)]);
        });
    }
    // Somebody who has missed nothing, from connect to a publication that he hears, and those who were there before.
    let mut newcomer = Caller::anonymous(address).await;
    newcomer.result("subscribe", json!({ "channel": "neighbours" })).await;
    neighbour.result("publish", json!({ "channel": "neighbours", "data": "hello" })).await;
    for one in [&mut newcomer, &mut neighbour] {
        assert_eq!(one.publication().await, json!("hello"));
    }
    assert!(done.load(SeqCst) < BURST + MORE, "they were not waited for");
    while let Some(returner) = storm.join_next().await {
        returner.unwrap();
    }
    let least = Duration::from_secs(1) * (MORE as u32 - 1) / 20;
    assert!(begun.elapsed() >= least, "all within {:?}", begun.elapsed());
    let recovered = instance.metric("fanfare_recoveries_total", &[("outcome", "recovered")]).await;
    assert_eq!(recovered, (BURST + MORE) as f64);
    drop(dawdlers);
}

/// Few who ask for much are served one thing after the other, and whoever comes between waits for one of each.
#[tokio::test]
async fn who_recovers_much_waits_behind_himself() {
    const GREEDY: usize = 4;
    const EACH: usize = 16;
    let instance = Setup::new(&FILE.replace("recovery_rate = 20", "recovery_rate = 5")).start().await;
    let address = instance.address();
    let wish = |channel: String| json!({ "channel": channel, "recover": true, "offset": 0 });
    let mut greedy = Vec::new();
    for _ in 0..GREEDY {
        greedy.push(Caller::anonymous(address).await);
    }
    let mut modest = Caller::anonymous(address).await;
    for caller in &mut greedy {
        for number in 0..EACH {
            caller.ask("subscribe", wish(format!("one of many {number}"))).await;
        }
    }
    let answer = modest.result("subscribe", wish("only this".to_owned())).await;
    assert_eq!(answer["recovered"], true, "{answer}");
    let served = instance.metric("fanfare_recoveries_total", &[("outcome", "up_to_date")]).await;
    assert!(served < (BURST + EACH) as f64, "{served} of {} were served before", GREEDY * EACH);
    // And newcomers are let in.
    let mut newcomer = Caller::anonymous(address).await;
    newcomer.result("subscribe", json!({ "channel": "neighbours" })).await;
}
