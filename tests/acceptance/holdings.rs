//! An instance in a cgroup that would kill it, and what clients of the protocol have it hold: subscriptions, filters,
//! what is said of them, histories. It stays below, and who holds little does not notice. What is made of it for them
//! is `answers`' business.

use std::time::Duration;

use serde_json::json;

use crate::harness::{BYSTANDERS, Caller, Confined, LIMIT, MIB, Setup, Socket, token, within};

/// An instance that does not ping those who only wait for their turn here.
fn patient() -> Setup {
    Setup::open("").flags(&["--client-ping-interval", "1h"])
}

/// The name of a channel that nobody else is in, nearly as long as may be.
fn own_channel(client: usize, number: usize) -> String {
    format!("{:x<250}", format!("{client}-{number}-"))
}

/// All of these in one frame; how many were answered with a subscription, and the codes of the errors, or how it was
/// closed.
async fn subscribe_to(caller: &mut Caller, channels: &[String]) -> Result<(usize, Vec<u64>), (u16, String)> {
    let commands = channels.iter().enumerate().map(|(number, channel)| {
        json!({ "id": 1000 + number, "subscribe": { "channel": channel } }).to_string()
    });
    caller.say(&commands.collect::<Vec<_>>().join("\n")).await;
    let (mut made, mut errors) = (0, Vec::new());
    while made + errors.len() < channels.len() {
        let answer = caller.message().await?;
        match answer["error"]["code"].as_u64() {
            Some(code) => {
                assert_eq!(answer["error"]["temporary"], true, "{answer}");
                errors.push(code);
            }
            None if answer["subscribe"].is_object() => made += 1,
            None => panic!("{answer}"),
        }
    }
    Ok((made, errors))
}

/// As many subscriptions as a client may have, by clients that read every answer: all together would take twice of
/// what there is. Who has most of them is ended; who has two stays.
#[tokio::test]
async fn who_subscribes_to_much_is_ended_before_the_process_is() {
    const SMALL: u64 = 64 * MIB;
    const CLIENTS: usize = 800;
    const EACH: usize = 128;
    let mut confined = Confined::start_as(patient(), SMALL, None).await;
    let address = confined.instance.address();
    let mut modest = Vec::new();
    for number in 0..BYSTANDERS {
        let mut caller = Caller::anonymous(address).await;
        for channel in [own_channel(CLIENTS, number), "shared".to_owned()] {
            caller.result("subscribe", json!({ "channel": channel })).await;
        }
        modest.push(caller);
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Caller::anonymous(address).await);
    }
    let mut told = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        let channels: Vec<_> = (0..EACH).map(|channel| own_channel(number, channel)).collect();
        for some in channels.chunks(32) {
            match subscribe_to(client, some).await {
                Ok(answered) => assert_eq!(answered, (some.len(), vec![])),
                Err(end) => {
                    assert_eq!(end, (1013, "memory pressure".into()));
                    told += 1;
                    break;
                }
            }
        }
        if number % 100 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    let ended = confined.ended().await as usize;
    assert!(ended > CLIENTS / 10 && ended < CLIENTS, "{ended} were ended");
    assert!(told <= ended);
    for (number, caller) in modest.iter_mut().enumerate() {
        let channel = own_channel(CLIENTS, number);
        caller.result("publish", json!({ "channel": channel, "data": number })).await;
        let heard = caller.message().await.expect("who has little stays");
        assert_eq!(heard["push"]["channel"], channel);
    }
    drop((clients, modest));
    confined.recovers("subscriptions").await;
}

/// They hold it for as long as they stay, and nobody is ended for it where it is less than the limit: so it must not be
/// what newcomers are turned away for.
#[tokio::test]
async fn filters_keep_no_newcomer_out() {
    const CLIENTS: usize = 12;
    const CHANNELS: usize = 128;
    let confined = Confined::start_as(patient(), LIMIT, None).await;
    let address = confined.instance.address();
    let of_nodes = |count: usize| {
        let node = json!({ "key": "a", "cmp": "ex" });
        json!({ "op": "or", "nodes": vec![node; count] })
    };
    let (usual, largest) = (of_nodes(8), of_nodes(1023));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let Some(mut client) = Caller::try_anonymous(address).await else {
            panic!("{number} is turned away")
        };
        let mut made = 0;
        for channel in 0..CHANNELS {
            let asked = json!({ "channel": own_channel(number, channel), "tf": largest });
            let answer = client.call("subscribe", asked).await;
            match answer["error"]["code"].as_u64() {
                Some(code) => assert_eq!(code, 106, "{answer}"),
                None => made += 1,
            }
        }
        assert!((1..=8).contains(&made), "{made} were made");
        clients.push(client);
    }
    assert_eq!(confined.instance.page("/readyz").await.status, 200);
    // What one has given up is there for another, and usual ones may be in all channels.
    let client = &mut clients[0];
    client.result("unsubscribe", json!({ "channel": own_channel(0, 0) })).await;
    client.result("subscribe", json!({ "channel": own_channel(0, 0), "tf": largest })).await;
    let more = json!({ "channel": own_channel(0, CHANNELS), "tf": largest });
    assert_eq!(client.error("subscribe", more).await, 106);
    let mut modest = Caller::anonymous(address).await;
    for channel in 0..CHANNELS {
        let asked = json!({ "channel": own_channel(CLIENTS, channel), "tf": usual });
        modest.result("subscribe", asked).await;
    }
    assert_eq!(confined.ended().await, 0.0);
    assert_eq!(confined.rejected().await, 0.0);
    drop((clients, modest));
    confined.recovers("filters").await;
}

/// Users of whom their tokens say much, nearly as much as a message may hold, nearly fill the memory; when it is
/// wanted for something else, they are ended. Who says little stays.
#[tokio::test]
async fn who_is_described_at_length_is_ended_when_memory_runs_out() {
    const SMALL: u64 = 64 * MIB;
    const MOST: usize = 1200;
    let described = |bytes: usize| {
        let info = json!("x".repeat(bytes)).to_string();
        async move { token(&["--user", "ann", "--info", &info]).await }
    };
    let (long, short) = (described(44_000).await, described(100).await);
    let setup = Setup::open("history_size = 10000").tokens().keys("allow_anonymous = true");
    let setup = setup.flags(&["--client-ping-interval", "1h"]);
    let confined = Confined::start_as(setup, SMALL, None).await;
    let address = confined.instance.address();
    let mut modest = Caller::connect(address, json!({ "token": short })).await;
    let mut publisher = Caller::anonymous(address).await;
    // Just so many that newcomers are still let in.
    let most = 0.82 * confined.instance.metric("fanfare_memory_limit_bytes", &[]).await;
    let mut clients = Vec::new();
    while confined.instance.metric("fanfare_memory_used_bytes", &[]).await < most {
        clients.push(Caller::connect(address, json!({ "token": long })).await);
        assert!(clients.len() < MOST, "it takes memory");
    }
    assert_eq!(confined.ended().await, 0.0);
    // Histories are nobody's, and may take a quarter.
    let said = "x".repeat(3_000);
    let mut published = 0;
    while confined.ended().await == 0.0 && published < 50 * MOST {
        for _ in 0..100 {
            let channel = format!("kept-{}", published / 50);
            publisher.result("publish", json!({ "channel": channel, "data": said })).await;
            published += 1;
        }
    }
    let ended = confined.ended().await as usize;
    assert!(ended > 0 && ended < clients.len(), "{ended} of {} were ended", clients.len());
    modest.result("publish", json!({ "channel": "shared", "data": 1 })).await;
    drop((clients, modest, publisher));
    confined.recovers("tokens").await;
}

/// So many that nobody has enough to be given up: the instance takes no more subscriptions for a while, and goes on
/// with what it has.
#[tokio::test]
async fn a_full_instance_refuses_subscriptions_for_a_while_and_nothing_else() {
    const SMALL: u64 = 44 * MIB;
    const CLIENTS: usize = 6000;
    const FEW: usize = 4;
    let mut confined = Confined::start_as(patient(), SMALL, None).await;
    let address = confined.instance.address();
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        let Some(client) = Caller::try_anonymous(address).await else { break };
        clients.push(client);
    }
    let (mut made, mut refused) = (Vec::new(), 0);
    for (number, client) in clients.iter_mut().enumerate() {
        let channels: Vec<_> = (0..FEW).map(|channel| own_channel(number, channel)).collect();
        let (subscribed, errors) = subscribe_to(client, &channels).await.expect("who has little stays");
        assert!(errors.iter().all(|code| *code == 100), "{errors:?}");
        made.push(subscribed);
        refused += errors.len();
        if number % 500 == 0 {
            confined.bystanders_are_served().await;
        }
    }
    assert!(refused > CLIENTS, "only {refused} were refused");
    confined.bystanders_are_served().await;
    assert_eq!(confined.ended().await, 0.0);
    // Who is in is served as before.
    let client = &mut clients[0];
    assert_eq!(made[0], FEW);
    client.result("publish", json!({ "channel": own_channel(0, 0), "data": 1 })).await;
    assert_eq!(client.message().await.expect("its own publication")["push"]["channel"], own_channel(0, 0));
    let mut last = clients.pop().expect("they are many");
    // One after the other: for each that goes the kernel takes a page for a moment.
    while !clients.is_empty() {
        clients.truncate(clients.len().saturating_sub(100));
        confined.bystanders_are_served().await;
    }
    within(Duration::from_secs(30), "there is room for subscriptions", async || {
        matches!(subscribe_to(&mut last, &[own_channel(CLIENTS, 0)]).await, Ok((1, _)))
    })
    .await;
    drop(last);
    confined.recovers("full").await;
}

/// Two and a half times of what there is, in ever new channels: what was published longest ago is forgotten, and
/// whoever comes back for it is told so.
async fn histories_are_forgotten_before_anybody_is_ended(by: &str, each: usize, bytes: usize) {
    const ALL: usize = 240 * MIB as usize;
    let setup =
        Setup::open("history_size = 10000\nrecovery = \"allow\"").flags(&["--client-ping-interval", "10m"]);
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let address = confined.instance.address();
    // It listens to a quiet channel throughout.
    let mut listener = Caller::anonymous(address).await;
    let place = listener.result("subscribe", json!({ "channel": "quiet", "recoverable": true })).await;
    let mut publisher = Caller::anonymous(address).await;
    for said in ["one", "two"] {
        publisher.result("publish", json!({ "channel": "quiet", "data": said })).await;
        listener.publication().await;
    }
    let said = "x".repeat(bytes);
    let mut most = 0.0_f64;
    for number in 0..ALL / bytes {
        let channel = format!("{by}-{}", number / each);
        let answer = publisher.call("publish", json!({ "channel": channel, "data": said })).await;
        assert_eq!(answer.get("error"), None, "{by}: {number}");
        if number % (ALL / bytes / 20) == 0 {
            confined.bystanders_are_served().await;
            most = most.max(confined.instance.metric("fanfare_history_kept_bytes", &[]).await);
            assert_eq!(confined.instance.page("/readyz").await.status, 200, "{by}: {number}");
        }
    }
    let bound = (LIMIT - LIMIT / 4) / 4;
    assert!(most > (bound / 2) as f64 && most <= bound as f64 + 1e6, "{by}: {most} of {bound}");
    assert!(confined.instance.metric("fanfare_history_given_up_total", &[]).await > 0.0);
    assert_eq!(
        (confined.ended().await, confined.rejected().await),
        (0.0, 0.0),
        "{by}: nobody was in the way"
    );
    // Whoever comes back to where nothing is kept any more is told so, and where it stands now.
    let since = json!({ "channel": "quiet", "recover": true, "offset": 1, "epoch": place["epoch"] });
    let mut back = Caller::anonymous(address).await;
    let answer = back.result("subscribe", since).await;
    assert_eq!((&answer["was_recovering"], answer.get("recovered")), (&json!(true), None), "{answer}");
    assert_eq!(answer.get("publications"), None, "{answer}");
    let counted = confined.instance.metric("fanfare_recoveries_total", &[("outcome", "too_far")]).await;
    assert_eq!(counted, 1.0, "{by}");
    let strict =
        json!({ "channel": "quiet", "recover": true, "offset": 1, "epoch": place["epoch"], "flag": 2 });
    let answer = Caller::anonymous(address).await.error("subscribe", strict).await;
    assert_eq!(answer, 112, "{by}");
    let since = format!("quiet?notices=true&since=1:{}", place["epoch"].as_str().unwrap());
    let mut raw = Socket::join(address, &since).await;
    let notice = raw.next_but_pings().await.expect("a notice").payload;
    assert!(String::from_utf8_lossy(&notice).contains("gap"), "{}", String::from_utf8_lossy(&notice));
    // Nobody is told of a gap who has been there: numbers go on behind all that were given.
    publisher.result("publish", json!({ "channel": "quiet", "data": "three" })).await;
    let (_, kind, heard) = listener.push().await;
    assert_eq!((&kind[..], &heard["data"]), ("pub", &json!("three")), "{heard}");
    assert!(heard["offset"].as_u64() > Some(2), "{heard}");
    let again = json!({
        "channel": "quiet", "recover": true, "offset": heard["offset"], "epoch": place["epoch"]
    });
    publisher.result("publish", json!({ "channel": "quiet", "data": "four" })).await;
    let answer = Caller::anonymous(address).await.result("subscribe", again).await;
    assert_eq!((&answer["recovered"], &answer["publications"][0]["data"]), (&json!(true), &json!("four")));
    confined.recovers(by).await;
}

#[tokio::test]
async fn histories_of_small_messages_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("small", 2000, 2500).await;
}

#[tokio::test]
async fn histories_of_large_messages_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("large", 50, 60_000).await;
}

#[tokio::test]
async fn histories_of_one_message_each_are_forgotten_before_anybody_is_ended() {
    histories_are_forgotten_before_anybody_is_ended("one", 1, 5000).await;
}

/// Twenty who want deltas in a hundred channels each: what those are made to would take more than there is.
#[tokio::test]
async fn what_deltas_are_made_to_is_bounded() {
    const CLIENTS: usize = 20;
    const CHANNELS: usize = 100;
    let setup = Setup::open("history_size = 1\ndelta = true");
    let setup = setup.flags(&["--history-memory", "1MiB", "--client-ping-interval", "10m"]);
    let mut confined = Confined::start_as(setup, LIMIT, None).await;
    let said = "x".repeat(60_000);
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut caller = Caller::anonymous(confined.instance.address()).await;
        for channel in 0..CHANNELS {
            let channel = format!("{client}-{channel}");
            let answer = caller.result("subscribe", json!({ "channel": channel, "delta": "fossil" })).await;
            assert_eq!(answer["delta"], true);
            for _ in 0..2 {
                caller.result("publish", json!({ "channel": channel, "data": said })).await;
                let (_, kind, _) = caller.push().await;
                assert_eq!(kind, "pub");
            }
        }
        clients.push(caller);
        confined.bystanders_are_served().await;
        assert_eq!(confined.instance.page("/readyz").await.status, 200, "{client}");
    }
    let deltas = confined.instance.metric("fanfare_deltas_total", &[]).await;
    assert!(deltas > 100.0 && deltas < (CLIENTS * CHANNELS) as f64, "{deltas}");
    assert_eq!((confined.ended().await, confined.rejected().await), (0.0, 0.0));
    confined.recovers("deltas").await;
}
