//! What can be wrong with a Redis that is there: who is let in, what kind it is, and what else is said on its bus.

use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{BrokerError, GapCause, RedisConfig, Target, Unsent};
use fanfare_protocol::control::Uplink;
use fanfare_protocol::{Control, Envelope, Kind, Publication};
use tokio::time::Instant;
use uuid::Uuid;

use crate::instance::{Event, Instance, Recorder, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_publishers_are_heard() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let lobby = channel("lobby");
    a.join(&lobby).await;
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:lobby", "hello"]).await;
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:lobby", ""]).await;
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:elsewhere", "nobody"]).await;
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:lobby", "grüezi"]).await;
    a.relay.until_delivered(&lobby, &["hello", "", "grüezi"]).await;
    assert_eq!(a.relay.events().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_is_counted_and_dropped() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let lobby = channel("lobby");
    a.join(&lobby).await;
    let envelope = Envelope {
        origin: Uuid::from_u128(1),
        sequence: 1,
        publication: Publication::new(Kind::Text, Bytes::from_static(b"hello")),
    };
    let right = envelope.encode();
    let mut newer = right.to_vec();
    newer[1] = 2;
    let huge = vec![b'x'; (1 << 20) + 1];
    let junk: &[(&str, &[u8])] = &[
        ("fanfare:channel:lobby", &newer),
        ("fanfare:channel:lobby", &right[..20]),
        ("fanfare:channel:lobby", b"\xFA"),
        ("fanfare:channel:lobby", &huge),
        ("fanfare:control", b""),
        ("fanfare:control", b"hello"),
        ("fanfare:control", &right),
        ("fanfare:control", b"\xFB\x02\x01"),
    ];
    for (at, message) in junk {
        let heard: u64 =
            server.bytes_command(&[b"PUBLISH", at.as_bytes(), message]).await.expect("it is published");
        assert_eq!(heard, 1);
    }
    for _ in 0..2 {
        let _: u64 =
            server.bytes_command(&[b"PUBLISH", b"fanfare:channel:lobby", &right]).await.expect("published");
    }
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:lobby", "after"]).await;
    a.relay.until_text(&lobby, "after").await;
    assert_eq!(a.relay.delivered(&lobby), ["hello", "after"]);
    let status = a.broker.status();
    assert_eq!((status.unknown_envelopes, status.duplicates, status.reconnects), (junk.len() as u64, 1, 0));
    assert!(status.up);
}

/// Whoever asks for a name makes Redis remember it, so that all are told the same of it; but not for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_nothing_was_published_to_are_soon_forgotten() {
    const PASSING: i64 = 120_000;
    const STAYING: i64 = 3_600_000;
    let server = Server::start(&[]).await;
    let config = RedisConfig { position_check: Duration::from_millis(100), ..RedisConfig::new(server.url()) };
    let a = Instance::redis(&config);
    a.until_up().await;
    let left = async |name: &str| server.command::<i64>(&["PTTL", &format!("fanfare:top:{{{name}}}")]).await;
    for number in 0..100 {
        let name = format!("kept:9:made up {number}");
        let asked = a.broker.position(&channel(&name)).await.expect("it can be read");
        let again = a.broker.position(&channel(&name)).await.expect("it can be read");
        assert_eq!((asked.offset, asked), (0, again));
        let left = left(&name).await;
        assert!(left > 0 && left <= PASSING, "{left}");
    }
    // Where somebody stays, it is looked after for longer, and it is the one that was told.
    let stays = channel("kept:9:stays");
    a.join(&stays).await;
    let told = a.broker.position(&stays).await.expect("it can be read");
    eventually("it is looked after", async || left("kept:9:stays").await > PASSING).await;
    assert!(left("kept:9:stays").await <= STAYING);
    assert_eq!(a.broker.position(&stays).await, Ok(told));
    // What was published is remembered for a month.
    let first = a.append(&stays, "one").await.expect("it is appended").expect("a position");
    assert_eq!((first.offset, first.epoch), (1, told.epoch));
    a.broker.position(&stays).await.expect("it can be read");
    assert!(left("kept:9:stays").await > 29 * 24 * STAYING);
    assert_eq!(a.relay.gaps(&stays), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_canary_or_echo_changes_nothing() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let lobby = channel("lobby");
    a.join(&lobby).await;
    let channels: Vec<String> = server.command(&["PUBSUB", "CHANNELS", "fanfare:canary:*"]).await;
    let origin: Uuid = channels[0].rsplit(':').next().expect("the name").parse().expect("a UUID");
    let forged =
        Envelope { origin, sequence: u64::MAX, publication: Publication::new(Kind::Binary, Bytes::new()) };
    for at in [&channels[0], "fanfare:channel:lobby"] {
        let _: u64 =
            server.bytes_command(&[b"PUBLISH", at.as_bytes(), &forged.encode()]).await.expect("published");
    }
    a.publish(&lobby, "still heard");
    a.relay.until_delivered(&lobby, &["still heard"]).await;
    assert_eq!(a.broker.status().unknown_envelopes, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_a_right_one_needs_no_restart() {
    let server = Server::start(&["--requirepass", "sesame"]).await;
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port);
    let (wrong, none) =
        (Instance::redis(&RedisConfig::new(url("wr0ng"))), Instance::redis(&RedisConfig::new(server.url())));
    for instance in [&wrong, &none] {
        instance.until_down("rejects the user or password").await;
        let because = instance.broker.status().down_because.expect("it is down");
        assert!(
            because.contains(&format!("127.0.0.1:{}", server.port)) && !because.contains("wr0ng"),
            "{because}"
        );
    }
    let right = Instance::at(&url("sesame")).await;
    right.publish(&channel("news"), "heard");
    let _: String = server.command(&["CONFIG", "SET", "requirepass", "wr0ng"]).await;
    wrong.until_up().await;
    assert!(right.broker.status().up, "who is in stays in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_databases_and_sockets_are_ways_in() {
    let server = Server::start(&[]).await;
    let rules = ["ACL", "SETUSER", "relay", "on", ">ses@me", "&fanfare:*", "+@pubsub", "+select", "+ping"];
    let _: String = server.command(&rules).await;
    let urls = [
        format!("redis://relay:ses%40me@127.0.0.1:{}", server.port),
        format!("redis://127.0.0.1:{}/3", server.port),
        format!("redis://relay:ses%40me@localhost:{}/15", server.port),
        format!("unix://{}?db=2&user=relay&pass=ses%40me", server.socket()),
    ];
    let news = channel("news");
    let witness = Instance::at(&server.url()).await;
    witness.join(&news).await;
    for url in &urls {
        let instance = Instance::at(url).await;
        instance.join(&news).await;
        instance.publish(&news, url);
        instance.relay.until_text(&news, url).await;
        witness.relay.until_text(&news, url).await;
        let _: u64 = server.command(&["PUBLISH", "fanfare:channel:news", "heard"]).await;
        instance.relay.until_text(&news, "heard").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_it_away_is_told() {
    let server = Server::start(&[]).await;
    let _: String = server.command(&["ACL", "SETUSER", "deaf", "on", "nopass", "&other:*", "+@all"]).await;
    let _: String =
        server.command(&["ACL", "SETUSER", "mute", "on", "nopass", "allchannels", "+@all", "-publish"]).await;
    let rows = [
        (format!("redis://deaf:x@127.0.0.1:{}", server.port), "NOPERM"),
        (format!("redis://mute:x@127.0.0.1:{}", server.port), "NOPERM"),
        (format!("redis://127.0.0.1:{}/99", server.port), "database"),
        ("redis://no-such-host.invalid".to_owned(), "cannot be found"),
        ("unix:///nowhere/redis.sock".to_owned(), "refuses connections"),
        (format!("rediss://127.0.0.1:{}", server.port), "did not answer"),
    ];
    let instances: Vec<_> =
        rows.iter().map(|(url, because)| (Instance::redis(&RedisConfig::new(url)), because)).collect();
    for (instance, because) in &instances {
        instance.until_down(because).await;
    }
    let _: String = server.command(&["ACL", "SETUSER", "deaf", "allchannels"]).await;
    let _: String = server.command(&["ACL", "SETUSER", "mute", "+publish"]).await;
    instances[0].0.until_up().await;
    instances[1].0.until_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_will_not_do() {
    let master = Server::start(&[]).await;
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let port = master.port.to_string();
    let _: String = server.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    a.until_down("is a replica").await;
    let late = Instance::redis(&RedisConfig::new(server.url()));
    late.until_down("is a replica").await;
    let _: String = server.command(&["REPLICAOF", "NO", "ONE"]).await;
    a.until_up().await;
    late.until_up().await;
}

/// It would refuse to say where channels stand, and what it knows of others may be old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_replica_to_say_where_channels_stand() {
    let (master, server) = (Server::start(&[]).await, Server::start(&[]).await);
    let a = Instance::at(&server.url()).await;
    let known = channel("kept:9:known");
    a.join(&known).await;
    a.append(&known, "one").await.expect("it is appended");
    a.broker.position(&known).await.expect("it can be read");
    let _: String = server.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]).await;
    let unread = a.broker.position(&known).await;
    assert!(matches!(&unread, Err(BrokerError::Away(why)) if why.contains("is a replica")), "{unread:?}");
    let channels: Vec<_> = (0..10_000).map(|number| channel(&format!("kept:9:{number}"))).collect();
    let joining = Instant::now();
    futures_util::future::join_all(channels.iter().map(|channel| a.join(channel))).await;
    assert!(joining.elapsed() < Duration::from_secs(5), "joined after {:?}", joining.elapsed());
    a.until_down("is a replica").await;
    let _: String = server.command(&["REPLICAOF", "NO", "ONE"]).await;
    a.until_up().await;
    for channel in channels.iter().step_by(500) {
        let told = |relay: &Recorder| relay.gaps(channel) == [GapCause::Disconnected];
        a.relay.until("they are told once that something may be missing", told).await;
    }
    a.append(&channels[9999], "two").await.expect("it is appended");
    a.relay.until_delivered(&channels[9999], &["two"]).await;
}

/// A name that leads to the new master, while nobody has closed the connections to the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_left_for_the_new_master() {
    let (old, new) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::start(old.port, Duration::ZERO).await;
    let (news, kept, later) = (channel("news"), channel("kept:9:known"), channel("kept:9:later"));
    let witness = Instance::at(&new.url()).await;
    witness.join(&news).await;
    let a = Instance::at(&proxy.url()).await;
    a.join(&kept).await;
    a.append(&kept, "one").await.expect("it is appended");
    a.broker.position(&kept).await.expect("it can be read");
    proxy.lead_to(new.port);
    let _: String = old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]).await;
    // What the replica has taken reaches the others all the same.
    a.publish(&news, "in between");
    witness.relay.until_delivered(&news, &["in between"]).await;
    a.until_up().await;
    a.join(&later).await;
    eventually("histories are read there", async || a.broker.position(&later).await.is_ok()).await;
    let at = a.broker.position(&later).await;
    assert_eq!(at, witness.broker.position(&later).await);
    a.append(&later, "two").await.expect("it is appended");
    a.relay.until_delivered(&later, &["two"]).await;
}

/// Whoever has gone to the new master already does not hear what the old one is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_is_told_for_others_is_not_sent() {
    let (old, new) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::start(old.port, Duration::ZERO).await;
    let (a, witness) = (Instance::at(&proxy.url()).await, Instance::at(&new.url()).await);
    let message = |word: &'static str| Control::Uplink(Uplink { session: "s".into(), data: word.into() });
    let tell = async |word| a.broker.control(Target::All, message(word)).await;
    assert_eq!(tell("before").await, Ok(()));
    proxy.lead_to(new.port);
    let _: String = old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]).await;
    let told = tell("in between").await;
    assert!(matches!(&told, Err(Unsent::Away(away)) if away.0.contains("is a replica")), "{told:?}");
    eventually("it can be sent", async || tell("after").await.is_ok()).await;
    witness.relay.until("it", |relay| !relay.controls().is_empty()).await;
    assert_eq!(witness.relay.controls(), [message("after")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_or_disk_is_no_reason_to_go_away() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let news = channel("news");
    a.join(&news).await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let _: String = server.command(&["CONFIG", "SET", "save", "3600 1"]).await;
    // A snapshot cannot be written where a directory has its name; from then on PING is refused too (MISCONF).
    std::fs::create_dir(server.dir().join("dump.rdb")).expect("it is ours");
    let _: redis::Value = server.command(&["BGSAVE"]).await;
    eventually("PING is refused", async || {
        server.try_command::<String>(&["PING"]).await.is_err_and(|error| error.code() == Some("MISCONF"))
    })
    .await;
    let refused = async || -> u64 {
        let statistics: String = server.command(&["INFO", "errorstats"]).await;
        let of_pings = statistics.split("errorstat_MISCONF:count=").nth(1).expect("there are some");
        of_pings.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
    };
    let before = refused().await;
    eventually("two PINGs of ours were refused", async || refused().await >= before + 2).await;
    a.publish(&news, "all the same");
    a.relay.until_delivered(&news, &["all the same"]).await;
    let status = a.broker.status();
    assert!(status.up && status.reconnects == 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_installations_apart() {
    let server = Server::start(&[]).await;
    let prefixed = |prefix: &str| RedisConfig { prefix: prefix.to_owned(), ..RedisConfig::new(server.url()) };
    let (ours, theirs) = (Instance::redis(&prefixed("ours")), Instance::redis(&prefixed("theirs")));
    let news = channel("news");
    for instance in [&ours, &theirs] {
        instance.until_up().await;
        instance.join(&news).await;
    }
    ours.publish(&news, "for us");
    theirs.publish(&news, "for them");
    ours.relay.until_delivered(&news, &["for us"]).await;
    theirs.relay.until_delivered(&news, &["for them"]).await;
    let _: u64 = server.command(&["PUBLISH", "ours:channel:news", "last"]).await;
    ours.relay.until_delivered(&news, &["for us", "last"]).await;
    assert_eq!(theirs.relay.events(), [Event::Delivered(news, "for them".to_owned())]);
}
