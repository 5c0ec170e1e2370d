//! Many clients that come at once for what they have missed: they get it at a pace, and hold up neither those who want
//! something else nor, if they dawdle, one another.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use crate::harness::{Caller, DEADLINE, Fault, Instance, RedisServer, Setup, TcpProxy, eventually};

/// One worker, and histories of so many publications that anybody recovers.
fn setup(kept: usize) -> Setup {
    Setup::open(&format!("history_size = {kept}\nrecovery = \"allow\"")).keys("workers = 1")
}

/// So many are taken at once, whatever the rate is.
const BURST: usize = 32;

/// And so many have to wait for their turn.
const MORE: usize = 40;

/// Redis may be silent for as long as a test wants.
const PATIENT: &str = "redis_timeout = \"1m\"";

/// An SDK gives a command up after so long, and comes again.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn recoveries_go_at_their_pace_and_hold_up_nobody() {
    /// So low that it is long until all have had their turns.
    const RATE: usize = 2;
    /// Of those who have to wait, so many are waited for.
    const SERVED: usize = 5;
    let instance = setup(10).keys(&format!("recovery_rate = {RATE}")).start().await;
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
            assert_eq!(answer["recovered"], true, "{answer}");
            let data: Vec<_> =
                answer["publications"].as_array().unwrap().iter().map(|one| one["data"].clone()).collect();
            assert_eq!(data, [json!(1), json!(2), json!(3)]);
            done.fetch_add(1, SeqCst);
        });
    }
    eventually("they come back", async || done.load(SeqCst) > 0).await;
    // The first who comes is let in by a listener that has been waiting for it since before the storm.
    dawdlers.push((TcpStream::connect(address).await.unwrap(), Caller::open(address).await));
    // Somebody who has missed nothing, from connect to a publication that it hears, and those who were there before.
    let mut newcomer = Caller::anonymous(address).await;
    newcomer.result("subscribe", json!({ "channel": "neighbours" })).await;
    neighbour.result("publish", json!({ "channel": "neighbours", "data": "hello" })).await;
    for one in [&mut newcomer, &mut neighbour] {
        assert_eq!(one.publication().await, json!("hello"));
    }
    let before = done.load(SeqCst);
    assert!(before < BURST + MORE / 2, "{before} of those who come back were waited for");
    let served = async || done.load(SeqCst) >= BURST + SERVED;
    eventually("those who waited have their turns", served).await;
    let least = Duration::from_secs(1) * (SERVED - 1) as u32 / RATE as u32;
    assert!(begun.elapsed() >= least, "{SERVED} waited {:?} for their turns", begun.elapsed());
    let recovered = instance.metric("fanfare_recoveries_total", &[("outcome", "recovered")]).await as usize;
    assert!((done.load(SeqCst)..BURST + MORE).contains(&recovered), "{recovered}");
    while let Some(ended) = storm.try_join_next() {
        ended.unwrap();
    }
    drop(dawdlers);
}

/// Whoever comes back while nobody else does waits for the answer and for nothing else: the time that it spends with
/// what it has missed held for it adds up here.
#[tokio::test]
async fn who_comes_back_alone_waits_for_nobody() {
    let redis = RedisServer::start().await;
    let instance = setup(10).keys("recovery_rate = 600").redis(&redis.url()).start().await;
    until_up(&instance).await;
    let mut speaker = Caller::anonymous(instance.address()).await;
    speaker.result("publish", json!({ "channel": "kept", "data": 1 })).await;
    let mut returner = Caller::anonymous(instance.address()).await;
    let all = async {
        for _ in 0..BURST {
            let asked = json!({ "channel": "kept", "recover": true, "offset": 0 });
            let answer = returner.result("subscribe", asked).await;
            assert_eq!(answer["publications"][0]["data"], 1, "{answer}");
            returner.result("unsubscribe", json!({ "channel": "kept" })).await;
        }
    };
    assert!(timeout(PATIENCE, all).await.is_ok(), "{BURST} one after the other took more than {PATIENCE:?}");
}

/// Few who ask for much are served one thing after the other, and whoever comes between waits for one of each.
#[tokio::test]
async fn who_recovers_much_waits_behind_himself() {
    const GREEDY: usize = 4;
    const EACH: usize = 16;
    let instance = setup(10).keys("recovery_rate = 1").start().await;
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

/// Room to read much is taken when it is his turn who has missed it, and nobody waits for both.
#[tokio::test]
async fn who_waits_for_a_turn_keeps_no_room() {
    const OTHERS: usize = 12;
    /// Of 60 kB each: nearly all that may be read at a time.
    const MUCH: usize = 68;
    let options = format!("history_size = {MUCH}\nrecovery = \"allow\"\nmay_read_history = \"anonymous\"");
    let keys = "workers = 1\nrecovery_rate = 2\nmemory_limit = \"96MiB\"";
    let instance = Setup::open(&options).keys(keys).start().await;
    let address = instance.address();
    let mut speaker = Caller::anonymous(address).await;
    let data = "x".repeat(60_000);
    for channel in ["much"; MUCH].into_iter().chain(["some"]) {
        speaker.result("publish", json!({ "channel": channel, "data": data })).await;
    }
    let done = Arc::new(AtomicUsize::new(0));
    let mut storm = JoinSet::new();
    for _ in 0..OTHERS {
        let (mut other, done) = (Caller::anonymous(address).await, done.clone());
        storm.spawn(async move {
            loop {
                other.result("subscribe", json!({ "channel": "little", "recover": true, "offset": 0 })).await;
                other.result("unsubscribe", json!({ "channel": "little" })).await;
                done.fetch_add(1, SeqCst);
            }
        });
    }
    let turns = async |more| {
        let most = done.load(SeqCst) + more;
        eventually("others have their turns", async || done.load(SeqCst) >= most).await;
    };
    turns(BURST + 5).await;
    let mut returner = Caller::anonymous(address).await;
    let mut neighbour = Caller::anonymous(address).await;
    let id = returner.ask("subscribe", json!({ "channel": "much", "recover": true, "offset": 0 })).await;
    // By then it has looked how much that is, and waits for its next turn behind all of them.
    turns(OTHERS + 3).await;
    let before = done.load(SeqCst);
    let asked = json!({ "channel": "some", "limit": 1 });
    assert!(neighbour.result("history", asked).await["publications"][0]["data"] == data);
    let after = done.load(SeqCst);
    assert!(after < before + OTHERS / 2, "{} had their turns before", after - before);
    let answer = returner.message().await.expect("an answer");
    let count = answer["subscribe"]["publications"].as_array().map(Vec::len);
    assert_eq!((answer["id"].as_u64(), count), (Some(u64::from(id)), Some(MUCH)));
}

async fn until_up(instance: &Instance) {
    eventually("Redis is there", async || instance.metric("fanfare_broker_up", &[]).await == 1.0).await;
}

/// Nobody waits for the answer of somebody else's question, and whoever recovers many channels waits for one answer and
/// not for one after the other. So how many come back in a second does not depend on how far away Redis is.
#[tokio::test]
async fn all_ask_before_the_first_is_answered() {
    const ALONE: usize = 40;
    const TOGETHER: usize = 80;
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let instance = setup(10).keys(PATIENT).redis(&format!("redis://{}", proxy.address())).start().await;
    until_up(&instance).await;
    let channels: Vec<_> = (0..ALONE + TOGETHER).map(|number| format!("kept-{number}-")).collect();
    // Somebody is subscribed already, so that there is nothing to ask for but what was missed.
    let mut resident = Caller::anonymous(instance.address()).await;
    for channel in &channels {
        resident.result("subscribe", json!({ "channel": channel, "recoverable": true })).await;
        resident.result("publish", json!({ "channel": channel, "data": channel })).await;
    }
    let mut returners = Vec::new();
    for _ in 0..=ALONE {
        returners.push(Caller::anonymous(instance.address()).await);
    }
    let (alone, together) = channels.split_at(ALONE);
    let wish = |channel: &String| json!({ "channel": channel, "recover": true, "offset": 0 });
    let mut commands = redis.monitor().await;
    proxy.set(Fault::Mute);
    for (returner, channel) in returners.iter_mut().zip(alone) {
        returner.ask("subscribe", wish(channel)).await;
    }
    let asks = together.iter().zip(1000..);
    let asks = asks.map(|(channel, id)| json!({ "id": id, "subscribe": wish(channel) }).to_string());
    let asks: Vec<_> = asks.collect();
    returners[ALONE].say(&asks.join("\n")).await;
    let mut asked = HashSet::new();
    let all_ask = async {
        while asked.len() < channels.len() {
            let command = commands.next_line().await.unwrap().expect("a command");
            // Not by whoever looks after the channel, who asks for no publications, or for others.
            let is_asked =
                |channel: &&String| command.contains(channel.as_str()) && command.contains("\"300\"");
            asked.extend(channels.iter().filter(is_asked));
        }
    };
    let all_ask = timeout(DEADLINE, all_ask).await;
    assert!(all_ask.is_ok(), "{} of {} before the first answer", asked.len(), channels.len());
    proxy.set(Fault::None);
    for (place, returner) in returners.iter_mut().enumerate() {
        let its = if place < ALONE { &alone[place..=place] } else { together };
        for channel in its {
            let answer = returner.message().await.unwrap();
            let result = &answer["subscribe"];
            assert_eq!(
                (&result["recovered"], &result["publications"][0]["data"]),
                (&json!(true), &json!(channel))
            );
        }
    }
}

/// A client that comes to an instance where nobody is subscribed to its channels waits for as many round trips as
/// with one channel, whatever their number: they are subscribed to together. What is much is read again, together
/// with as many others as fit.
#[tokio::test]
async fn many_channels_cost_as_many_round_trips_as_one() {
    const CHANNELS: usize = 100;
    /// Of these, so many have missed so much, of which eleven fit into an outbox together.
    const LARGE: usize = 30;
    const SIZE: usize = 20_000;
    const LANES: usize = 1;
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let url = format!("redis://{}", proxy.address());
    let instance = setup(10).keys(PATIENT).redis(&url).start().await;
    let other = setup(10).keys(PATIENT).redis(&redis.url()).start().await;
    until_up(&instance).await;
    until_up(&other).await;
    let mut speaker = Caller::anonymous(other.address()).await;
    let channels: Vec<_> = (0..CHANNELS).map(|number| format!("kept-{number}-")).collect();
    for (number, channel) in channels.iter().enumerate() {
        let said = "x".repeat(if number < LARGE { SIZE } else { 10 });
        speaker.result("publish", json!({ "channel": channel, "data": said })).await;
    }
    let mut returner = Caller::anonymous(instance.address()).await;
    let mut commands = redis.monitor().await;
    let wish = |channel: &String| json!({ "channel": channel, "recover": true, "offset": 0 });
    let asks = channels.iter().zip(1000..);
    let asks = asks.map(|(channel, id)| json!({ "id": id, "subscribe": wish(channel) }).to_string());
    let asks: Vec<_> = asks.collect();
    proxy.set(Fault::Mute);
    returner.say(&asks.join("\n")).await;
    let mut next = async || {
        let command = timeout(DEADLINE, commands.next_line()).await.expect("a command comes in time");
        command.unwrap().expect("a command").to_lowercase()
    };
    let is_subscribe = |command: &str| command.contains("\"subscribe\"") && command.contains("kept-");
    while !is_subscribe(&next().await) {}
    // Answered by the worker when it has wished for all of them.
    instance.metric("fanfare_connections", &[]).await;
    proxy.set(Fault::None);
    for (number, channel) in channels.iter().enumerate() {
        let answer = returner.message().await.unwrap();
        assert_eq!(answer["id"], 1000 + number, "{answer}");
        assert_eq!(answer["subscribe"]["recovered"], true, "{channel}: {answer}");
        assert_eq!(answer["subscribe"]["publications"].as_array().map(Vec::len), Some(1), "{channel}");
    }
    redis.cli(&["ECHO", "that is all"]).await;
    let (mut subscribes, mut reads) = (1, 0);
    loop {
        let command = next().await;
        match () {
            () if command.contains("that is all") => break,
            () if is_subscribe(&command) => subscribes += 1,
            () if command.contains("\"300\"") => reads += 1,
            () => {}
        }
    }
    // What was wished for when the first was, and what was until that was confirmed.
    assert!(subscribes <= 2 * LANES, "{subscribes} times");
    // Each was looked at once, and once more with as many others as fit.
    assert!((CHANNELS..=2 * CHANNELS).contains(&reads), "{reads} reads of {CHANNELS} channels");
    // And what is published now comes.
    speaker.result("publish", json!({ "channel": channels[CHANNELS - 1], "data": "new" })).await;
    assert_eq!(returner.publication().await, "new");
}

/// What is more than can be read together with others is read by itself, and comes in its place; for one answer that
/// holds it for all channels as well. Of that, no more is read than is enough.
#[tokio::test]
async fn what_is_much_is_read_by_itself_and_answered_in_its_place() {
    const EACH: usize = 10_000;
    const COUNTS: [usize; 8] = [1, 60, 0, 2, 60, 10, 3, 1];
    let redis = RedisServer::start().await;
    let setup = setup(100);
    for setup in [setup.clone().redis(&redis.url()), setup] {
        let instance = setup.start().await;
        until_up(&instance).await;
        let mut speaker = Caller::anonymous(instance.address()).await;
        let channels: Vec<_> = (0..COUNTS.len()).map(|number| format!("kept-{number}")).collect();
        for (channel, count) in channels.iter().zip(COUNTS) {
            for number in 0..count {
                let said = format!("{number}{}", "x".repeat(EACH));
                speaker.result("publish", json!({ "channel": channel, "data": said })).await;
            }
        }
        let check = |result: &Value, channel: &str, count: usize| {
            assert_eq!(
                (&result["recovered"], &result["was_recovering"]),
                (&json!(true), &json!(true)),
                "{channel}"
            );
            let publications = result["publications"].as_array().map_or(&[][..], Vec::as_slice);
            assert_eq!(publications.len(), count, "{channel}");
            for (number, publication) in publications.iter().enumerate() {
                assert_eq!(publication["offset"], number + 1, "{channel}");
                assert!(
                    publication["data"].as_str().unwrap().starts_with(&format!("{number}x")),
                    "{channel}"
                );
            }
        };
        let wish = |channel: &String| json!({ "channel": channel, "recover": true, "offset": 0 });
        let mut returner = Caller::anonymous(instance.address()).await;
        let asks = channels.iter().map(|channel| json!({ "id": 9, "subscribe": wish(channel) }).to_string());
        returner.say(&asks.collect::<Vec<_>>().join("\n")).await;
        for (channel, count) in channels.iter().zip(COUNTS) {
            check(&returner.message().await.unwrap()["subscribe"], channel, count);
        }
        let subs: serde_json::Map<_, _> = channels
            .iter()
            .map(|channel| (channel.clone(), json!({ "recover": true, "offset": 0 })))
            .collect();
        let mut returner = Caller::open(instance.address()).await;
        let answer = returner.result("connect", json!({ "subs": subs })).await;
        let mut before = 0;
        for (channel, count) in channels.iter().zip(COUNTS) {
            let result = &answer["subs"][channel];
            if before > 1 << 20 {
                assert_eq!(
                    (&result["was_recovering"], result.get("recovered")),
                    (&json!(true), None),
                    "{channel}"
                );
            } else {
                check(result, channel, count);
            }
            before += count * EACH;
        }
        assert!(before > 1 << 20);
        // And what is published now comes.
        speaker.result("publish", json!({ "channel": channels[1], "data": "new" })).await;
        assert_eq!(returner.publication().await, "new");
    }
}
