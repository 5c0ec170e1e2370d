//! Recovery against a model, over real instances and a real Redis: clients that are cut off, an instance that is cut off
//! from Redis, histories that are too short or gone, and publications all the while, in a random order that its seed
//! repeats. What a client was told it has recovered must be everything, once and in order; what it was not told so, it
//! must have been told is missing.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::{Caller, Fault, RedisServer, Setup, TcpProxy, eventually};

const FILE: &str = "
    redis_timeout = \"300ms\"
    client_ping_interval = \"1s\"
    client_pong_timeout = \"900ms\"
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 12
    recovery = \"force\"
";

/// What one client has seen.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// It has a place now; nothing is missing before it, or something may be.
    Place { epoch: String, offset: u64, whole: bool },
    /// A publication: its offset and its number.
    Publication(u64, u64),
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A client as a library has it: it comes back, subscribes again, and asks for what it has missed.
async fn client(address: SocketAddr, log: Log, mut cut: mpsc::Receiver<()>) {
    let mut place: Option<(String, u64)> = None;
    loop {
        let mut caller = Caller::anonymous(address).await;
        let ended = async {
            loop {
                let asked = match &place {
                    None => json!({ "channel": "kept" }),
                    Some((epoch, offset)) => {
                        json!({ "channel": "kept", "recover": true, "epoch": epoch, "offset": offset })
                    }
                };
                let Ok(mut answer) = caller.try_call("subscribe", asked).await else { return };
                let mut result = answer["subscribe"].take();
                if result.is_null() {
                    assert_eq!(answer["error"]["temporary"], true, "{answer}");
                    continue;
                }
                let epoch = result["epoch"].as_str().unwrap().to_owned();
                let mut offset = result["offset"].as_u64().unwrap_or(0);
                let whole = result["recovered"] == true;
                log.lock().push(Seen::Place { epoch: epoch.clone(), offset, whole });
                let take = |publication: &Value| {
                    let offset = publication["offset"].as_u64().unwrap();
                    log.lock().push(Seen::Publication(offset, publication["data"][0].as_u64().unwrap()));
                    offset
                };
                for publication in result["publications"].take().as_array().into_iter().flatten() {
                    offset = take(publication);
                }
                place = Some((epoch.clone(), offset));
                loop {
                    let Ok(message) = caller.message().await else { return };
                    let push = &message["push"];
                    if let Some(publication) = push.get("pub") {
                        place = Some((epoch.clone(), take(publication)));
                    } else {
                        assert_eq!(push["unsubscribe"]["code"], 2500, "{message}");
                        break;
                    }
                }
            }
        };
        tokio::select! {
            () = ended => {}
            asked = cut.recv() => {
                if asked.is_none() {
                    return;
                }
            }
        }
    }
}

/// Holds what a client has seen against the rules, and against what all others have seen.
fn judge(log: &[Seen], all: &mut HashMap<(String, u64), u64>, seed: u64) {
    let (mut at, mut last): (Option<(String, u64)>, u64) = (None, 0);
    for (n, seen) in log.iter().enumerate() {
        let around = || &log[n.saturating_sub(6)..(n + 6).min(log.len())];
        match seen {
            Seen::Place { epoch, offset, whole } => {
                if *whole {
                    let before = at.as_ref().expect("only what was there before is recovered");
                    assert_eq!(before, &(epoch.clone(), *offset), "seed {seed}: it goes on where it was");
                }
                at = Some((epoch.clone(), *offset));
            }
            Seen::Publication(offset, number) => {
                let (epoch, before) = at.as_mut().expect("nothing comes before the answer");
                assert_eq!(*offset, *before + 1, "seed {seed}: a hole, or twice: {:?}", around());
                assert!(*number > last, "seed {seed}: {number} after {last}");
                let known = *all.entry((epoch.clone(), *offset)).or_insert(*number);
                assert_eq!(known, *number, "seed {seed}: others have seen something else at {offset}");
                (*before, last) = (*offset, *number);
            }
        }
    }
}

/// What is published: every other time so much that a few of it are not read together with other channels'.
fn said(seed: u64, number: u64) -> Value {
    json!([number, "x".repeat(seed as usize % 2 * 6000)])
}

async fn play(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut random = fastrand::Rng::with_seed(seed);
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let mut instances = Vec::new();
    for address in [redis.address(), proxy.address()] {
        instances.push(Setup::new(FILE).redis(&format!("redis://{address}")).start().await);
    }
    let (mut clients, mut cuts, mut logs) = (JoinSet::new(), Vec::new(), Vec::new());
    for number in 0..6 {
        let (cut, asked) = mpsc::channel(8);
        let log = Log::default();
        clients.spawn(client(instances[number % 2].address(), log.clone(), asked));
        cuts.push(cut);
        logs.push(log);
    }
    let mut speaker = Caller::anonymous(instances[0].address()).await;
    let (mut number, mut steps) = (0, BTreeMap::new());
    for _ in 0..120 {
        let step = match random.u32(0..100) {
            0..55 => {
                for _ in 0..random.u32(1..4) {
                    number += 1;
                    speaker.call("publish", json!({ "channel": "kept", "data": said(seed, number) })).await;
                }
                "published"
            }
            55..60 => {
                // More than the history holds.
                for _ in 0..random.u32(10..30) {
                    number += 1;
                    speaker.ask("publish", json!({ "channel": "kept", "data": said(seed, number) })).await;
                }
                speaker.call("rpc", json!({})).await;
                "evicted"
            }
            60..80 => {
                let _ = cuts[random.usize(0..6)].try_send(());
                "client cut"
            }
            80..88 => {
                proxy.reset_all();
                "lines reset"
            }
            88..93 => {
                proxy.set(Fault::Blackhole);
                "silent"
            }
            93..98 => {
                proxy.set(Fault::None);
                "healed"
            }
            _ => {
                redis.cli(&["FLUSHALL"]).await;
                "forgotten"
            }
        };
        *steps.entry(step).or_insert(0) += 1;
    }
    // In the end everybody hears the last one.
    proxy.set(Fault::None);
    let up = async || instances[1].metric("fanfare_broker_up", &[]).await == 1.0;
    eventually("Redis is back", up).await;
    let everybody = async || {
        number += 1;
        speaker.call("publish", json!({ "channel": "kept", "data": said(seed, number) })).await;
        let heard =
            |log: &Log| log.lock().iter().any(|seen| matches!(seen, Seen::Publication(_, n) if *n == number));
        let mut patience = 0;
        while patience < 100 && !logs.iter().all(heard) {
            patience += 1;
            tokio::task::yield_now().await;
            speaker.call("rpc", json!({})).await;
        }
        logs.iter().all(heard)
    };
    eventually("everybody hears the last one", everybody).await;
    cuts.clear();
    while clients.join_next().await.is_some_and(|ended| ended.is_ok()) {}
    assert!(clients.is_empty(), "seed {seed}: a client has panicked");
    let mut all = HashMap::new();
    for log in &logs {
        let log = log.lock().clone();
        judge(&log, &mut all, seed);
        for seen in &log {
            if let Seen::Place { whole, .. } = seen {
                *steps.entry(if *whole { "recovered" } else { "not recovered" }).or_insert(0) += 1;
            }
        }
    }
    assert!(all.len() > 50, "seed {seed}: hardly anything was heard");
    steps
}

#[tokio::test]
async fn whatever_happens_nothing_is_lost_doubled_or_out_of_order_in_silence() {
    let first = std::env::var("FANFARE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..4, |seed: u64| seed..seed + 1);
    let mut total = BTreeMap::new();
    for seed in seeds {
        for (step, times) in play(seed).await {
            *total.entry(step).or_insert(0) += times;
        }
    }
    // It is worth nothing if the interesting things did not happen.
    for step in ["recovered", "not recovered", "client cut", "silent"] {
        assert!(total.contains_key(step), "{total:?}");
    }
    println!("{total:?}");
}
