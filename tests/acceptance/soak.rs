//! The long run: three instances are killed and replaced, and their Redis is killed and started again, in a random
//! order that its seed repeats, while publishers try again what was not acknowledged and recovering subscribers come
//! back wherever there is an instance. What every subscriber was given is audited at the end: each publication once,
//! in order; if Redis keeps what it was told, nobody is ever told that something is missing; and whatever happened,
//! everybody is back in one history and gets what is published then. No answer takes longer than an SDK waits for
//! one, and there are as many channels as come at once. It measures no pace.
//!
//! `FANFARE_SOAK` is the number of faults, `FANFARE_SEED` the seed; a fault takes about a second.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use crate::harness::{Caller, Instance, RedisServer, eventually, post};

const KEY: &str = "a key that only the tests have";
const FILE: &str = "
    allow_anonymous = true
    api_keys = [\"a key that only the tests have\"]
    client_ping_interval = \"2s\"
    client_pong_timeout = \"1s\"
    [channels]
    may_subscribe = \"anonymous\"
    history_size = 1000000
    recovery = \"force\"
";
const INSTANCES: usize = 3;
const CHANNELS: [&str; 3] = ["one", "two", "three"];
const SUBSCRIBERS: usize = 9;
const PUBLISHERS: usize = 3;

/// An SDK gives a command up after so long, tears its connection down and comes again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the instances are, public and internal; nothing for one that is dead.
type Map = Arc<Mutex<[Option<(SocketAddr, SocketAddr)>; INSTANCES]>>;

/// A position: an epoch and an offset.
type Place = (String, u64);

/// What a subscriber has seen of one channel.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// It was told that something may be missing before what follows.
    Told,
    /// A publication: whose, and its number.
    Publication(usize, u64),
}

/// All that a subscriber has seen of one channel, and where that has brought it.
struct Heard {
    place: Place,
    seen: Vec<Seen>,
}

type Log = Arc<Mutex<HashMap<&'static str, Heard>>>;

/// All that goes on while faults happen.
struct Scene {
    map: Map,
    /// Acknowledged publications of all.
    acknowledged: AtomicU64,
    retries: AtomicU64,
    recoveries: AtomicU64,
    recovered: AtomicU64,
    /// Milliseconds until the last of all answers to a subscription.
    slowest: AtomicU64,
    over: AtomicBool,
}

impl Scene {
    /// Some instance that lives.
    fn any(&self, random: &mut fastrand::Rng) -> Option<(SocketAddr, SocketAddr)> {
        let alive: Vec<_> = self.map.lock().iter().flatten().copied().collect();
        random.choice(alive)
    }
}

/// Publishes 1, 2, 3 … to every channel, the next when the last is acknowledged. Gives the last number.
async fn publisher(name: usize, scene: Arc<Scene>, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut number = 0;
    while !scene.over.load(Ordering::Acquire) {
        number += 1;
        for channel in CHANNELS {
            let body = json!({
                "channel": channel, "data": [name, number], "idempotency_key": format!("{name}:{number}"),
            });
            while publish(&scene, &mut random, &body).await.is_none() {
                scene.retries.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            scene.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    number
}

/// The place that it was acknowledged with.
async fn publish(scene: &Scene, random: &mut fastrand::Rng, body: &Value) -> Option<Place> {
    let (_, internal) = scene.any(random)?;
    let headers = [("X-API-Key", KEY), ("Content-Type", "application/json")];
    let answer = post(internal, "/api/publish", &headers, body.to_string().as_bytes()).await.ok()?;
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    Some((answer["result"]["epoch"].as_str()?.to_owned(), answer["result"]["offset"].as_u64()?))
}

/// A client as a library has it: it comes back wherever there is an instance, subscribes again, and asks for what it
/// missed.
async fn subscriber(scene: Arc<Scene>, log: Log, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let Some((address, _)) = scene.any(&mut random) else {
            tokio::task::yield_now().await;
            continue;
        };
        let connected = timeout(PATIENCE, Caller::try_anonymous(address)).await;
        if let Some(mut caller) = connected.unwrap_or_else(|_| panic!("not let in within {PATIENCE:?}")) {
            // It ends with the connection.
            let _ = listen(&mut caller, &scene, &log).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

async fn listen(caller: &mut Caller, scene: &Scene, log: &Log) -> Result<(), (u16, String)> {
    // What was asked for and not answered yet, and since when.
    let mut asked = HashMap::new();
    for channel in CHANNELS {
        asked.insert(ask(caller, channel, log).await, (channel, Instant::now()));
    }
    loop {
        let message = match asked.values().map(|(_, since)| *since + PATIENCE).min() {
            None => caller.message().await?,
            Some(end) => {
                let message = timeout_at(end, caller.message()).await;
                message.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}: {asked:?}"))?
            }
        };
        let id = message["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        if let Some((channel, since)) = id.and_then(|id| asked.remove(&id)) {
            scene.slowest.fetch_max(since.elapsed().as_millis() as u64, Ordering::Relaxed);
            if message["subscribe"].is_object() {
                begin(channel, &message["subscribe"], scene, log);
            } else {
                assert_eq!(message["error"]["temporary"], true, "{message}");
                asked.insert(ask(caller, channel, log).await, (channel, Instant::now()));
            }
            continue;
        }
        let push = &message["push"];
        let channel = CHANNELS.into_iter().find(|channel| push["channel"] == **channel);
        let channel = channel.unwrap_or_else(|| panic!("of no channel: {message}"));
        if let Some(publication) = push.get("pub") {
            take(channel, publication, log);
        } else {
            assert_eq!(push["unsubscribe"]["code"], 2500, "{message}");
            asked.insert(ask(caller, channel, log).await, (channel, Instant::now()));
        }
    }
}

/// Asks for a channel and what was missed there; gives the command's id.
async fn ask(caller: &mut Caller, channel: &'static str, log: &Log) -> u32 {
    let wish = match log.lock().get(channel) {
        None => json!({ "channel": channel }),
        Some(Heard { place: (epoch, offset), .. }) => {
            json!({ "channel": channel, "recover": true, "epoch": epoch, "offset": offset })
        }
    };
    caller.ask("subscribe", wish).await
}

/// Writes down where a subscription begins, and what was missed.
fn begin(channel: &'static str, result: &Value, scene: &Scene, log: &Log) {
    let place = (result["epoch"].as_str().unwrap().to_owned(), result["offset"].as_u64().unwrap_or(0));
    match log.lock().entry(channel) {
        Entry::Vacant(new) => drop(new.insert(Heard { place, seen: Vec::new() })),
        Entry::Occupied(mut heard) => {
            scene.recoveries.fetch_add(1, Ordering::Relaxed);
            if result["recovered"] == true {
                scene.recovered.fetch_add(1, Ordering::Relaxed);
            } else {
                let heard = heard.get_mut();
                assert_ne!(
                    heard.place.0, place.0,
                    "{channel}: told of a loss in a history that has lost nothing"
                );
                heard.seen.push(Seen::Told);
                heard.place = place;
            }
        }
    }
    for publication in result["publications"].as_array().into_iter().flatten() {
        take(channel, publication, log);
    }
}

/// Writes down what came, and that it has no hole before it.
fn take(channel: &'static str, publication: &Value, log: &Log) {
    let mut log = log.lock();
    let heard = log.get_mut(channel).expect("nothing comes before the answer");
    let offset = publication["offset"].as_u64().unwrap();
    assert_eq!(offset, heard.place.1 + 1, "{channel}: a hole, or twice: {publication}");
    heard.place.1 = offset;
    let data = &publication["data"];
    let (name, number) = (data[0].as_u64().unwrap() as usize, data[1].as_u64().unwrap());
    heard.seen.push(Seen::Publication(name, number));
}

/// Holds what a subscriber has seen of a channel against what was acknowledged to the publishers. A publication whose
/// acknowledgement was lost together with Redis' memory may come again behind the news of that.
fn judge(seen: &[Seen], acknowledged: &[u64], durable: bool, what: &str) {
    let mut last: Vec<Option<u64>> = vec![None; acknowledged.len()];
    let mut told = vec![false; acknowledged.len()];
    for one in seen {
        match *one {
            Seen::Told => {
                assert!(!durable, "{what}: told of a loss where there is none");
                told.fill(true);
            }
            Seen::Publication(name, number) => {
                // Whoever has just come begins where the channel stands.
                if let Some(last) = last[name] {
                    let expected = if told[name] { last..=u64::MAX } else { last + 1..=last + 1 };
                    assert!(
                        expected.contains(&number),
                        "{what}: {number} of {name} after {last}, told: {}",
                        told[name]
                    );
                }
                (last[name], told[name]) = (Some(number), false);
            }
        }
    }
    for (name, acknowledged) in acknowledged.iter().enumerate() {
        // Behind the end nobody has anything to be told.
        assert!(
            last[name] == Some(*acknowledged) || told[name] && name < PUBLISHERS,
            "{what}: {:?} of {name}, not {acknowledged}",
            last[name]
        );
    }
}

async fn instance(file: &Path, redis: &RedisServer) -> Instance {
    let flags =
        ["--config", file.to_str().unwrap(), "--redis", &redis.url(), "--internal-listen", "127.0.0.1:0"];
    Instance::start(&flags).await
}

/// Plays `faults` faults; gives how often each thing happened.
async fn play(seed: u64, faults: u64, durable: bool) -> BTreeMap<&'static str, u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("some.toml");
    fs::write(&file, FILE).unwrap();
    let mut redis = if durable { RedisServer::start_durable().await } else { RedisServer::start().await };
    let scene = Arc::new(Scene {
        map: Map::default(),
        acknowledged: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        recoveries: AtomicU64::new(0),
        recovered: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        let instance = instance(&file, &redis).await;
        scene.map.lock()[number] = Some((instance.address(), instance.internal_address()));
        instances.push(instance);
    }
    let logs: Vec<Log> = (0..SUBSCRIBERS).map(|_| Log::default()).collect();
    let mut subscribers = JoinSet::new();
    for log in &logs {
        subscribers.spawn(subscriber(scene.clone(), log.clone(), random.u64(..)));
    }
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|name| tokio::spawn(publisher(name, scene.clone(), random.u64(..)))).collect();
    let mut steps = BTreeMap::new();
    for _ in 0..faults {
        // The next fault comes in the middle of things, and now and then before the last is over.
        let goal = scene.acknowledged.load(Ordering::Relaxed) + random.u64(0..300);
        let there = async || {
            assert!(subscribers.try_join_next().is_none(), "seed {seed}: a subscriber has panicked");
            scene.acknowledged.load(Ordering::Relaxed) >= goal
        };
        eventually("publications are acknowledged", there).await;
        let step = match random.u32(0..100) {
            0..55 => {
                let number = random.usize(0..INSTANCES);
                instances[number].kill().await;
                scene.map.lock()[number] = None;
                instances[number] = instance(&file, &redis).await;
                let replaced = &instances[number];
                scene.map.lock()[number] = Some((replaced.address(), replaced.internal_address()));
                "instance killed"
            }
            55..80 => {
                redis.kill().await;
                redis.restart().await;
                "Redis killed"
            }
            _ => {
                // Both at a time, and the instance comes back first.
                let number = random.usize(0..INSTANCES);
                redis.kill().await;
                instances[number].kill().await;
                scene.map.lock()[number] = None;
                instances[number] = instance(&file, &redis).await;
                let replaced = &instances[number];
                scene.map.lock()[number] = Some((replaced.address(), replaced.internal_address()));
                redis.restart().await;
                "both killed"
            }
        };
        *steps.entry(step).or_insert(0) += 1;
    }
    scene.over.store(true, Ordering::Release);
    let mut acknowledged = Vec::new();
    for publisher in publishers {
        acknowledged.push(publisher.await.expect("a publisher goes on until it is acknowledged"));
    }
    // One more, which brings everybody to where the channels are: whoever has been to places that Redis has forgotten
    // is told of that, and this may be what it is told of. Then one that everybody must be given.
    let mut places = HashMap::new();
    for number in [1, 2] {
        for channel in CHANNELS {
            let last = json!({
                "channel": channel, "data": [PUBLISHERS, number], "idempotency_key": format!("last {number}"),
            });
            let acknowledge = async || {
                let place = publish(&scene, &mut random, &last).await;
                place.map(|place| places.insert(channel, place)).is_some()
            };
            eventually("the last is acknowledged", acknowledge).await;
        }
        let there = async || {
            assert!(subscribers.try_join_next().is_none(), "seed {seed}: a subscriber has panicked");
            logs.iter().all(|log| {
                let log = log.lock();
                places.iter().all(|(channel, place)| {
                    log.get(channel).is_some_and(|heard| {
                        let given = heard.seen.last() == Some(&Seen::Publication(PUBLISHERS, number));
                        heard.place == *place && (given || number == 1)
                    })
                })
            })
        };
        let took = eventually("everybody is where the last is", there).await;
        steps.insert(
            ["ms until all were there", "ms until all had the last"][number as usize - 1],
            took.as_millis() as u64,
        );
    }
    acknowledged.push(2);
    subscribers.abort_all();
    for (number, log) in logs.iter().enumerate() {
        for (channel, heard) in &*log.lock() {
            judge(
                &heard.seen,
                &acknowledged,
                durable,
                &format!("seed {seed}, subscriber {number}, channel {channel}"),
            );
            *steps.entry("deliveries").or_insert(0) += heard.seen.len() as u64;
        }
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    steps.insert("acknowledged", count(&scene.acknowledged));
    steps.insert("tried again", count(&scene.retries));
    steps.insert("recoveries", count(&scene.recoveries));
    steps.insert("recovered", count(&scene.recovered));
    steps.insert("ms until the slowest answer", count(&scene.slowest));
    steps
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn killed_instances_and_a_killed_redis_cost_recovering_subscribers_nothing() {
    let seed = setting("FANFARE_SEED").unwrap_or(1);
    let steps = play(seed, setting("FANFARE_SOAK").unwrap_or(12), true).await;
    println!("seed {seed}: {steps:?}");
    assert!(steps["recoveries"] > 0 && steps["recovered"] == steps["recoveries"], "{steps:?}");
}

#[tokio::test]
async fn a_redis_that_forgets_everything_costs_nothing_in_silence() {
    let seed = setting("FANFARE_SEED").unwrap_or(2);
    let steps = play(seed, setting("FANFARE_SOAK").unwrap_or(8), false).await;
    println!("seed {seed}: {steps:?}");
    assert!(steps["recovered"] < steps["recoveries"], "somebody was told: {steps:?}");
}
