//! What becomes of presence, claims and control when Redis forgets, breaks off or freezes, while every instance lives.

use std::time::Duration;

use fanfare_broker::{Claim, InstanceFacts, RedisConfig, Target, Unsent};
use fanfare_protocol::Control;
use fanfare_protocol::control::Uplink;
use tokio::time::Instant;

use crate::instance::{Instance, channel, eventually};
use crate::leases::{LEASE, all_told, remains, until_all};
use crate::presence::{AT_ONCE, LONG, connection, member};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_written_again_and_nobody_notices() {
    let server = Server::start(&[]).await;
    let room = channel("room");
    let [a, b] = Instance::two_leased(&server.url(), &room).await;
    for (instance, number, user) in [
        (&a, 1, "ann"),
        (&b, 2, "ann"),
        (&a, 3, "bob"),
        (&a, 4, "carl"),
        (&b, 5, ""),
        (&a, 6, "dave"),
        (&a, 7, "eve"),
    ] {
        instance.enter(&room, number, user).await;
    }
    a.depart(&room, 4, LONG);
    a.depart(&room, 6, LEASE);
    assert_eq!(a.claim("ann", 1, 1).await, Claim::Held);
    a.has_subscribers("room", 3);
    a.broker.describe(InstanceFacts { id: a.id, ..InstanceFacts::default() });
    b.until_present(&room, &[1, 2, 3, 5, 7], 4).await;
    let flushed = Instant::now();
    let _: String = server.command(&["FLUSHALL"]).await;
    // Before it is written again.
    a.depart(&room, 7, AT_ONCE);
    until_all(&[&a, &b], &room, &[1, 2, 3, 5], 3).await;
    assert!(flushed.elapsed() < LEASE, "written again after {:?}", flushed.elapsed());
    b.relay.until("-dave and -eve", |relay| relay.told(&room).len() == 8).await;
    let told = all_told(&[&a, &b], &room).await;
    assert_eq!(told[..6], ["+ann", "+bob", "+carl", "+5", "+dave", "+eve"]);
    assert_eq!(b.claim("ann", 9, 1).await, Claim::Full);
    eventually("the census is there again", async || {
        b.listed(None, 10).await.get("room") == Some(&3)
            && b.broker.instances().await.expect("Redis is there").len() == 1
    })
    .await;
    // Everybody leaves, once, and the counts come to nothing.
    b.enter(&room, 8, "carl").await;
    for (instance, number) in [(&a, 1), (&b, 2), (&a, 3), (&b, 5), (&b, 8)] {
        instance.depart(&room, number, AT_ONCE);
    }
    until_all(&[&a, &b], &room, &[], 0).await;
    let mut told = all_told(&[&a, &b], &room).await.split_off(8);
    told.sort();
    assert_eq!(told, ["-5", "-ann", "-bob", "-carl"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_comes_while_redis_has_forgotten_stays_behind() {
    let server = Server::start(&[]).await;
    let config = RedisConfig { lease: Duration::from_secs(20), ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    a.until_up().await;
    let room = channel("room");
    b.join(&room).await;
    a.enter(&room, 1, "ann").await;
    a.enter(&room, 2, "bob").await;
    assert_eq!(a.claim("ann", 1, 2).await, Claim::Held);
    a.depart(&room, 2, Duration::from_millis(500));
    b.until_present(&room, &[1], 1).await;
    let flushed = Instant::now();
    let _: String = server.command(&["FLUSHALL"]).await;
    // All this is under a lease of which Redis knows nothing any more.
    a.enter(&room, 3, "carl").await;
    assert_eq!(a.claim("ann", 2, 2).await, Claim::Held);
    a.until_present(&room, &[1, 3], 2).await;
    assert!(flushed.elapsed() < Duration::from_secs(3), "found by what was written, not by the renewal");
    b.relay.until("-bob", |relay| relay.told(&room).len() == 4).await;
    assert_eq!(b.relay.told(&room), ["+ann", "+bob", "+carl", "-bob"]);
    for number in [1, 3] {
        a.depart(&room, number, AT_ONCE);
        a.broker.give_back("ann", connection(number - number / 2));
    }
    eventually("nothing remains", async || {
        let left: Vec<String> = server.command(&["KEYS", "fanfare:*:{room}"]).await;
        let claims: Vec<String> = server.command(&["KEYS", "fanfare:*:{ann}"]).await;
        left.is_empty() && claims.is_empty()
    })
    .await;
    assert!(remains(&server).await.is_empty());
    let places: Vec<String> = server.command(&["KEYS", "fanfare:places:*"]).await;
    assert!(places.is_empty(), "{places:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_be_away_for_long() {
    let mut server = Server::start(&[]).await;
    let room = channel("room");
    let [a, b] = Instance::two_leased(&server.url(), &room).await;
    a.enter(&room, 1, "ann").await;
    b.enter(&room, 2, "bob").await;
    server.kill();
    a.until_down("refuses connections").await;
    let asked = Instant::now();
    eventually("it is said that Redis is away", async || {
        a.broker.enter(&room, member(3, "carl")).await.is_err()
    })
    .await;
    assert!(a.broker.member_count(&room).await.is_err());
    assert!(
        a.broker
            .members(&room, fanfare_broker::Cursor::start(), fanfare_broker::Portion::of(10))
            .await
            .is_err()
    );
    assert!(a.broker.instances().await.is_err());
    assert!(matches!(a.claim("ann", 1, 1).await, Claim::Unproven(_)));
    assert!(asked.elapsed() < Duration::from_secs(10), "nobody waits for a Redis that is away");
    a.depart(&room, 1, AT_ONCE);
    server.run().await;
    until_all(&[&a, &b], &room, &[2, 3], 2).await;
    a.until_up().await;
    b.until_up().await;
    eventually("the claim counts", async || b.claim("ann", 2, 1).await == Claim::Full).await;
    b.enter(&room, 4, "dave").await;
    for instance in [&a, &b] {
        instance.relay.until("+dave", |relay| relay.told(&room).iter().any(|news| news == "+dave")).await;
    }
    b.relay.until("-ann", |relay| relay.told(&room).iter().any(|news| news == "-ann")).await;
    assert!(!b.relay.told(&room).iter().any(|news| news == "-bob"), "bob was here all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_lets_nobody_go() {
    let server = Server::start(&[]).await;
    let config =
        RedisConfig { lease: LEASE, timeout: Duration::from_millis(500), ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::redis(&config));
    let room = channel("room");
    for (instance, number, user) in [(&a, 1, "ann"), (&b, 2, "bob")] {
        instance.until_up().await;
        instance.join(&room).await;
        instance.enter(&room, number, user).await;
    }
    for _ in 0..2 {
        server.signal("STOP");
        let stopped = Instant::now();
        for instance in [&a, &b] {
            instance.until_down("").await;
        }
        // Longer than every lease.
        eventually("a while has passed", async || stopped.elapsed() > LEASE * 2).await;
        server.signal("CONT");
        for instance in [&a, &b] {
            instance.until_up().await;
        }
        let again = Instant::now();
        eventually("another lease has passed", async || again.elapsed() > LEASE + LEASE / 2).await;
        until_all(&[&a, &b], &room, &[1, 2], 2).await;
    }
    for instance in [&a, &b] {
        let told = instance.relay.told(&room);
        assert!(!told.iter().any(|news| news.starts_with('-')), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_redis_harms_only_what_they_touch() {
    let server = Server::start(&[]).await;
    let a = Instance::leased(&server.url()).await;
    let (room, odd) = (channel("room"), channel("odd"));
    a.join(&room).await;
    let _: String = server.command(&["SET", "fanfare:presence:{odd}", "a string"]).await;
    a.enter(&room, 1, "ann").await;
    assert!(a.broker.enter(&odd, member(2, "bob")).await.is_err());
    a.depart(&odd, 2, AT_ONCE);
    let _: String = server.command(&["SCRIPT", "FLUSH"]).await;
    a.enter(&room, 3, "carl").await;
    a.depart(&room, 1, AT_ONCE);
    a.until_present(&room, &[3], 1).await;
    a.relay.until_told(&room, &["+ann", "+carl", "-ann"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_says_that_others_cannot_be_reached_and_reaches_this_instance() {
    let mut server = Server::start(&[]).await;
    let (a, b) = (Instance::at(&server.url()).await, Instance::at(&server.url()).await);
    let message = |word: &'static str| Control::Uplink(Uplink { session: "s".into(), data: word.into() });
    assert_eq!(a.broker.control(Target::All, message("one")).await, Ok(()));
    b.relay.until("the first", |relay| !relay.controls().is_empty()).await;
    server.kill();
    let mut sent = 1;
    eventually("it is said that Redis is away", async || {
        sent += 1;
        matches!(a.broker.control(Target::All, message("lost")).await, Err(Unsent::Away(_)))
    })
    .await;
    assert_eq!(a.broker.control(Target::Instance(a.id), message("own")).await, Ok(()));
    assert!(matches!(a.broker.control(Target::Instance(b.id), message("lost")).await, Err(Unsent::Away(_))));
    assert_eq!(a.relay.controls().len(), sent + 1);
    server.run().await;
    b.until_up().await;
    eventually("it can be sent again", async || {
        a.broker.control(Target::Instance(b.id), message("two")).await.is_ok()
    })
    .await;
    b.relay.until("the second", |relay| relay.controls().len() >= 2).await;
    assert_eq!(b.relay.controls(), [message("one"), message("two")], "nothing comes late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_come_and_go_while_lines_are_cut() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let (a, b) = (Instance::leased(&url).await, Instance::leased(&url).await);
    let room = channel("room");
    b.join(&room).await;
    let mut random = fastrand::Rng::with_seed(7);
    for cut in 0..8 {
        for _ in 0..100 {
            let number = random.u128(1..40);
            let instance = if number.is_multiple_of(2) { &a } else { &b };
            if random.bool() {
                // Nobody waits: what is wanted last is what counts.
                drop(instance.broker.enter(&room, member(number, &format!("user {}", number % 7))));
            } else {
                instance.depart(&room, number, AT_ONCE);
            }
        }
        let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        for (instance, number) in [(&a, 100 + cut), (&b, 200 + cut)] {
            eventually("it goes on", async || instance.broker.enter(&room, member(number, "")).await.is_ok())
                .await;
        }
    }
    let here = b.present(&room, 100).await;
    let of_users: std::collections::BTreeSet<_> =
        here.iter().filter(|number| **number < 100).map(|number| number % 7).collect();
    assert_eq!(b.count(&room).await, (here.len() as u64, of_users.len() as u64 + 1));
    for number in 1..40 {
        let instance = if number % 2 == 0 { &a } else { &b };
        instance.depart(&room, number, AT_ONCE);
    }
    let anonymous: Vec<_> = (100..108).chain(200..208).collect();
    until_all(&[&a, &b], &room, &anonymous, 1).await;
    let told = all_told(&[&b], &room).await;
    for user in 0..7 {
        let signs: Vec<_> = told.iter().filter(|news| news.ends_with(&format!("user {user}"))).collect();
        let turns = signs.iter().enumerate().all(|(at, news)| news.starts_with(['+', '-'][at % 2]));
        assert!(turns && signs.len() % 2 == 0, "user {user}: {signs:?}");
    }
}

/// It still lets what is there be replaced, and so leases go on and nobody is taken for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_whose_memory_is_full_ends_no_lease() {
    let server = Server::start(&[]).await;
    let room = channel("room");
    let [a, b] = Instance::two_leased(&server.url(), &room).await;
    a.enter(&room, 1, "ann").await;
    b.enter(&room, 2, "bob").await;
    let leases = async || -> Vec<(String, f64)> {
        server.command(&["ZRANGE", "fanfare:alive:{instances}", "0", "-1", "WITHSCORES"]).await
    };
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let before = leases().await;
    let renewed = |now: &[(String, f64)]| {
        let of = |lease: &str| now.iter().find(|(other, _)| other == lease).map(|(_, until)| *until);
        before.iter().all(|(lease, until)| of(lease) > Some(until + 3.0 * LEASE.as_millis() as f64))
    };
    eventually("three times as long as they last", async || renewed(&leases().await)).await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("presence is written again", async || a.broker.enter(&room, member(3, "carl")).await.is_ok())
        .await;
    assert_eq!(all_told(&[&a, &b], &room).await, ["+ann", "+bob", "+carl"]);
    for instance in [&a, &b] {
        let status = instance.broker.presence_status();
        assert_eq!((status.leases_lost, status.leases_ended), (0, 0));
    }
}
