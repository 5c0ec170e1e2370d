//! An instance makes good out of the history what its bus did not bring, before anything newer; only what no history
//! holds is announced as a gap.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::BytesMut;
use fanfare_broker::{AppendOptions, BrokerError, GapCause, RedisConfig};
use fanfare_protocol::{Bundle, Channel, Envelope, Epoch, Kind, Position, Publication};
use uuid::Uuid;

use crate::faults::Traffic;
use crate::instance::{Instance, PATIENCE, audit, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

/// Redis that has everything on its disk before it says so.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Ends the traffic and checks that everybody got everything, each once, in order and without a gap, and that this
/// is what the history holds.
pub async fn settle_whole(traffic: Traffic, instances: &[(&str, &Instance)], channel: &Channel) {
    let counts = traffic.stop();
    for (name, instance) in instances {
        instance.until_up().await;
        instance.publish(channel, &format!("end of {name}"));
    }
    let everybody: Vec<&str> = instances.iter().map(|(name, _)| *name).collect();
    for (_, receiver) in instances {
        for name in &everybody {
            receiver.relay.until_text(channel, &format!("end of {name}")).await;
        }
        receiver.relay.assert_contiguous(channel);
        assert_eq!(receiver.relay.gaps(channel), []);
        audit(&receiver.relay, channel, &counts, &everybody);
        let heard = receiver.relay.numbered(channel);
        let kept = receiver.kept(channel).await;
        assert!(kept.ends_with(&heard), "the history is what was delivered");
    }
}

pub async fn some_traffic(instance: &Instance, channel: &Channel) {
    let so_far = instance.relay.delivered(channel).len();
    instance.relay.until("some traffic", |relay| relay.delivered(channel).len() > so_far + 20).await;
}

/// Ends the connections of a kind, each time in the midst of traffic, and takes the scripts from Redis as well.
async fn cut_eight_times(server: &Server, kind: &str, both: &[(&str, &Instance); 2], channel: &Channel) {
    for _ in 0..8 {
        some_traffic(both[0].1, channel).await;
        let before = both.map(|(_, instance)| instance.broker.status().reconnects);
        let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", kind]).await;
        let _: String = server.command(&["SCRIPT", "FLUSH"]).await;
        for ((_, instance), before) in both.iter().zip(before) {
            eventually("it has noticed", async || instance.broker.status().reconnects > before).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_subscribers_miss_nothing() {
    let server = Server::start(&[]).await;
    let kept = channel("kept");
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &kept);
    cut_eight_times(&server, "pubsub", &both, &kept).await;
    settle_whole(traffic, &both, &kept).await;
    // The publisher of each waits for its subscriber, so what is missed is what the other said meanwhile.
    let healed = both.map(|(_, instance)| instance.broker.status().healed_publications);
    assert!(healed.iter().sum::<u64>() > 0, "{healed:?}");
    for (_, instance) in both {
        assert_eq!(instance.broker.status().heals_with_gap, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_publishers_neither_lose_nor_repeat() {
    let server = Server::start(&[]).await;
    let kept = channel("kept");
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &kept);
    cut_eight_times(&server, "normal", &both, &kept).await;
    settle_whole(traffic, &both, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_costs_nothing_that_was_confirmed() {
    let mut server = Server::start(&DURABLE).await;
    let (kept, confirmed) = (channel("kept"), channel("kept:100000:confirmed"));
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    a.join(&confirmed).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &kept);
    let (stop, a_broker) = (Arc::new(AtomicBool::new(false)), a.broker.clone());
    let (stopped, to) = (stop.clone(), confirmed.clone());
    let appending = tokio::spawn(async move {
        let (mut known, mut unknown) = (HashMap::new(), 0);
        for number in 0.. {
            if stopped.load(SeqCst) {
                break;
            }
            let publication = Publication::new(Kind::Text, number.to_string().into());
            match a_broker.append(&to, publication, AppendOptions::default()).await {
                Ok(at) => drop(known.insert(number.to_string(), at.position.expect("a position").offset)),
                Err(BrokerError::Unknown(_)) => unknown += 1,
                Err(BrokerError::Away(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(other) => panic!("{other}"),
            }
        }
        (known, unknown)
    });
    for _ in 0..3 {
        some_traffic(&a, &confirmed).await;
        some_traffic(&b, &kept).await;
        server.kill();
        a.until_down("refuses connections").await;
        b.until_down("refuses connections").await;
        server.run().await;
        a.until_up().await;
        b.until_up().await;
    }
    stop.store(true, SeqCst);
    let (known, unknown) = appending.await.expect("it appends");
    settle_whole(traffic, &both, &kept).await;
    let kept: Vec<_> = a.kept(&confirmed).await;
    let times: HashMap<_, _> = kept.iter().map(|(offset, text)| (text.clone(), *offset)).collect();
    assert_eq!(times.len(), kept.len(), "nothing is there twice");
    for (text, offset) in &known {
        assert_eq!(times.get(text), Some(offset), "{text} was confirmed");
    }
    assert!(kept.len() <= known.len() + unknown);
    a.relay.until("the last", |relay| relay.numbered(&confirmed).len() == kept.len()).await;
    assert_eq!(a.relay.numbered(&confirmed), kept);
    a.relay.assert_contiguous(&confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_nobody_hears_what_has_no_number() {
    let mut server = Server::start(&DURABLE).await;
    let kept = channel("kept");
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    a.append(&kept, "one").await.expect("it is appended");
    // Confirmed is not yet delivered: what has not come back by now comes when Redis does.
    a.relay.until_delivered(&kept, &["one"]).await;
    server.kill();
    a.until_down("refuses connections").await;
    a.publish(&kept, "two");
    a.publish(&kept, "three");
    a.publish(&channel("plain"), "at once");
    let refused = a.append(&kept, "never").await;
    assert!(matches!(&refused, Err(BrokerError::Away(said)) if said.contains("127.0.0.1")), "{refused:?}");
    assert!(refused.is_err_and(|error| error.is_temporary()));
    assert!(matches!(a.broker.position(&kept).await, Err(BrokerError::Away(_))));
    a.relay.until_delivered(&channel("plain"), &["at once"]).await;
    a.relay.until_delivered(&kept, &["one"]).await;
    server.run().await;
    for instance in [&a, &b] {
        instance.until_up().await;
        instance.relay.until_delivered(&kept, &["one", "two", "three"]).await;
        instance.relay.assert_contiguous(&kept);
        assert_eq!(instance.relay.gaps(&kept), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_history_holds_is_a_gap_and_the_rest_is_made_good() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let (few, many, silent) = (channel("kept:5"), channel("kept:10000:many"), channel("kept:9:silent"));
    let (a, b) = (Instance::at(&proxy.url()).await, Instance::at(&server.url()).await);
    for channel in [&few, &many, &silent] {
        a.join(channel).await;
        b.append(channel, "0").await.expect("it is appended");
        a.relay.until_delivered(channel, &["0"]).await;
    }
    proxy.black_hole(true);
    a.until_down("").await;
    for number in 1..=1000 {
        b.publish(&many, &number.to_string());
        b.publish(&few, &number.to_string());
    }
    b.append(&few, "last").await.expect("it is appended");
    proxy.black_hole(false);
    a.until_up().await;
    b.append(&many, "newer").await.expect("it is appended");
    a.relay.until_text(&many, "newer").await;
    a.relay.until_text(&few, "last").await;
    let all: Vec<_> = (0..=1000).map(|number| number.to_string()).chain(["newer".to_owned()]).collect();
    assert_eq!(a.relay.delivered(&many), all);
    assert_eq!(a.relay.delivered(&few), ["0", "997", "998", "999", "1000", "last"]);
    for (channel, gaps) in [(&few, &[GapCause::Forgotten][..]), (&many, &[]), (&silent, &[])] {
        a.relay.assert_contiguous(channel);
        assert_eq!(a.relay.gaps(channel), gaps, "{channel}");
    }
    let status = a.broker.status();
    assert_eq!((status.heals_whole, status.heals_with_gap), (1, 1), "{status:?}");
    assert!(status.healed_publications >= 1005, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_large_is_made_good_no_faster_than_it_is_taken() {
    const MISSED: usize = 40;
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let kept = channel("kept:large");
    let (a, b) = (Instance::at(&proxy.url()).await, Instance::at(&server.url()).await);
    a.join(&kept).await;
    b.append(&kept, "0").await.expect("it is appended");
    a.relay.until_delivered(&kept, &["0"]).await;
    proxy.black_hole(true);
    a.until_down("").await;
    for number in 1..=MISSED {
        b.append(&kept, &format!("{number} {}", "x".repeat(60_000))).await.expect("it is appended");
    }
    a.relay.hear(false);
    proxy.black_hole(false);
    a.relay.until("it waits for those who hear", |relay| relay.waited_for() > 0).await;
    // A piece has come, and nothing is read until that is taken.
    let came = a.relay.delivered(&kept).len() - 1;
    assert!((1..8).contains(&came), "{came}");
    a.relay.hear(true);
    a.relay.until("all has come", |relay| relay.delivered(&kept).len() > MISSED).await;
    a.relay.assert_contiguous(&kept);
    assert_eq!(a.relay.gaps(&kept), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_begins_anew_is_a_gap() {
    let mut server = Server::start(&[]).await;
    let kept = channel("kept");
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    let mut epochs = Vec::new();
    for round in 0..3 {
        let at = b.append(&kept, &format!("before {round}")).await.expect("it is appended");
        epochs.push(at.expect("a position").epoch);
        for instance in [&a, &b] {
            instance.relay.until_text(&kept, &format!("before {round}")).await;
        }
        match round {
            0 => drop(server.command::<String>(&["FLUSHALL"]).await),
            1 => drop(server.command::<u64>(&["DEL", "fanfare:top:{kept}"]).await),
            _ => {
                server.kill();
                a.until_down("").await;
                b.until_down("").await;
                server.run().await;
                a.until_up().await;
                b.until_up().await;
            }
        }
        let at = b.append(&kept, &format!("after {round}")).await.expect("it is appended");
        assert_eq!(at.expect("a position").offset, 1, "round {round}");
        for instance in [&a, &b] {
            instance.relay.until_text(&kept, &format!("after {round}")).await;
            instance.relay.assert_contiguous(&kept);
            assert_eq!(instance.relay.gaps(&kept), vec![GapCause::Forgotten; round + 1]);
            assert_eq!(instance.kept(&kept).await.len(), 1, "nothing of the old one");
        }
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 3);
}

/// Has the channel's numbering stand at this offset.
async fn count(server: &Server, offset: u64) {
    let top: &[u8] = b"fanfare:top:{kept}";
    let _: u64 =
        server.bytes_command(&[b"SETRANGE", top, b"0", &offset.to_be_bytes()]).await.expect("it is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_has_lost_its_last_writes_gives_no_offset_out_twice() {
    let server = Server::start(&[]).await;
    let kept = channel("kept");
    let a = Instance::at(&server.url()).await;
    a.join(&kept).await;
    for number in 1..=5 {
        a.append(&kept, &number.to_string()).await.expect("it is appended");
    }
    a.relay.until_text(&kept, "5").await;
    let old = a.broker.position(&kept).await.expect("it can be read");
    // As after a failover to a replica that was behind.
    count(&server, 3).await;
    let _: u64 = server.command(&["XDEL", "fanfare:stream:{kept}", "4-0", "5-0"]).await;
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    a.relay.until("the gap", |relay| relay.gaps(&kept) == [GapCause::Forgotten]).await;
    a.until_up().await;
    let at = a.append(&kept, "new").await.expect("it is appended").expect("a position");
    assert!(at.offset == 1 && at.epoch != old.epoch, "{at:?}");
    a.relay.until_text(&kept, "new").await;
    a.relay.assert_contiguous(&kept);
}

/// After a failover to a replica that was behind, others may publish before this instance looks where channels stand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_a_redis_has_given_out_twice_are_found() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let kept = channel("kept");
    let (a, b) = (Instance::at(&proxy.url()).await, Instance::at(&server.url()).await);
    a.join(&kept).await;
    for number in 1..=5 {
        b.append(&kept, &number.to_string()).await.expect("it is appended");
    }
    a.relay.until_text(&kept, "5").await;
    proxy.black_hole(true);
    eventually("it is cut off", async || a.broker.status().subscriptions == 0).await;
    let old = b.broker.position(&kept).await.expect("it can be read");
    count(&server, 3).await;
    let _: u64 = server.command(&["XDEL", "fanfare:stream:{kept}", "4-0", "5-0"]).await;
    for offset in 4..=6 {
        let at = b.append(&kept, &format!("other {offset}")).await.expect("it is appended");
        assert_eq!(at, Some(Position { offset, ..old }), "nobody who knows has looked");
    }
    proxy.black_hole(false);
    a.relay.until("the gap", |relay| relay.gaps(&kept) == [GapCause::Forgotten]).await;
    a.until_up().await;
    let at = b.append(&kept, "new").await.expect("it is appended").expect("a position");
    assert!(at.offset == 1 && at.epoch != old.epoch, "{at:?}");
    a.relay.until_text(&kept, "new").await;
    assert_eq!(a.relay.delivered(&kept), ["1", "2", "3", "4", "5", "new"]);
    a.relay.assert_contiguous(&kept);
}

/// Appends to many channels go to Redis in one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_refused_takes_no_other_with_it() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let channels: Vec<_> = (0..40).map(|number| channel(&format!("kept:100:{number}"))).collect();
    let broken = [3, 4, 29];
    for number in broken {
        let top = format!("fanfare:top:{{{}}}", channels[number]);
        let _: u64 = server.command(&["LPUSH", &top, "something else"]).await;
    }
    for round in 1..=3 {
        let appends = channels.iter().map(|channel| a.append(channel, "one"));
        let appended = futures_util::future::join_all(appends).await;
        for (number, appended) in appended.into_iter().enumerate() {
            match appended {
                Err(BrokerError::Refused(because)) if broken.contains(&number) => {
                    assert!(because.contains("WRONGTYPE"), "{because}");
                }
                Ok(Some(at)) if !broken.contains(&number) => assert_eq!(at.offset, round),
                other => panic!("{number}: {other:?}"),
            }
        }
        if round == 2 {
            // What is mended is taken again, as the first in its channel.
            let _: u64 = server.command(&["DEL", "fanfare:top:{kept:100:3}"]).await;
            let at = a.append(&channels[3], "mended").await.expect("it is appended").expect("a position");
            assert_eq!(at.offset, 1);
            let _: u64 = server.command(&["DEL", "fanfare:top:{kept:100:3}"]).await;
            let _: u64 = server.command(&["LPUSH", "fanfare:top:{kept:100:3}", "something else"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_loss_is_found_by_asking_twice() {
    let server = Server::start(&[]).await;
    let config = RedisConfig { position_check: Duration::from_millis(300), ..RedisConfig::new(server.url()) };
    let a = Instance::redis(&config);
    a.until_up().await;
    // No other channel: every read is one of this, however many are in it.
    let kept = channel("kept");
    for _ in 0..200 {
        a.join(&kept).await;
    }
    let at = a.append(&kept, "one").await.expect("it is appended").expect("a position");
    // What is appended and not published is as if the bus had lost it.
    let publication = Publication::new(Kind::Text, "two".into());
    let mut lost = BytesMut::new();
    Envelope { origin: Uuid::from_u128(1), sequence: 1, publication }.encode_into(&mut lost);
    let lost = Bundle::new(Position { offset: 2, ..at }, lost.freeze()).encode();
    let stream: &[u8] = b"fanfare:stream:{kept}";
    let _: String = server.bytes_command(&[b"XADD", stream, b"2-0", b"d", &lost]).await.expect("it is added");
    let before = a.broker.status().history_reads;
    count(&server, 2).await;
    a.relay.until_delivered(&kept, &["one", "two"]).await;
    // The difference is seen, seen once more, and only then is read what is missing.
    let reads = a.broker.status().history_reads - before;
    assert!((3..=4).contains(&reads), "{reads}");
    a.append(&kept, "three").await.expect("it is appended");
    a.relay.until_delivered(&kept, &["one", "two", "three"]).await;
    a.relay.assert_contiguous(&kept);
    assert_eq!(a.relay.gaps(&kept), []);
    let status = a.broker.status();
    assert_eq!((status.healed_publications, status.heals_whole), (1, 1), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_position_moves_nobody() {
    let server = Server::start(&[]).await;
    let kept = channel("kept");
    let a = Instance::at(&server.url()).await;
    a.join(&kept).await;
    let at = a.append(&kept, "one").await.expect("it is appended").expect("a position");
    a.relay.until_delivered(&kept, &["one"]).await;
    let epoch = Epoch::claimed("other");
    for position in [at, Position { offset: 0, ..at }, Position { offset: 7, epoch }] {
        let publication = Publication {
            position: Some(position),
            ..Publication::new(Kind::Text, format!("forged {position:?}").into())
        };
        let forged = Envelope { origin: Uuid::from_u128(1), sequence: 9, publication }.encode();
        let _: u64 =
            server.bytes_command(&[b"PUBLISH", b"fanfare:channel:kept", &forged]).await.expect("published");
    }
    let _: u64 = server.command(&["PUBLISH", "fanfare:channel:kept", "by hand"]).await;
    a.append(&kept, "two").await.expect("it is appended");
    a.relay.until_text(&kept, "two").await;
    assert_eq!(a.relay.delivered(&kept), ["one", "by hand", "two"], "plain text needs no number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_refuses_is_told_and_costs_only_itself() {
    let server = Server::start(&[]).await;
    let (kept, plain) = (channel("kept"), channel("plain"));
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    a.join(&plain).await;
    a.append(&kept, "one").await.expect("it is appended");
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = a.append(&kept, "refused").await;
    assert!(matches!(&refused, Err(BrokerError::Refused(said)) if said.contains("maxmemory")), "{refused:?}");
    a.publish(&plain, "all the same");
    a.relay.until_delivered(&plain, &["all the same"]).await;
    a.publish(&kept, "lost");
    for instance in [&a, &b] {
        instance.relay.until("the gap", |relay| relay.gaps(&kept) == [GapCause::Overflow]).await;
    }
    assert!(a.broker.status().up && a.broker.status().reconnects == 0);
    assert_eq!(a.broker.status().spool_dropped, 1);
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    a.append(&kept, "two").await.expect("it is appended");
    b.relay.until_delivered(&kept, &["one", "two"]).await;
    b.relay.assert_contiguous(&kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_is_a_gap_for_everybody() {
    let mut server = Server::start(&DURABLE).await;
    let kept = channel("kept");
    let config = RedisConfig { spool_bytes: 20_000, ..RedisConfig::new(server.url()) };
    let (a, b) = (Instance::redis(&config), Instance::at(&server.url()).await);
    a.until_up().await;
    a.join(&kept).await;
    b.join(&kept).await;
    server.kill();
    a.until_down("refuses connections").await;
    for number in 0..200 {
        a.publish(&kept, &number.to_string());
    }
    assert!(a.relay.gaps(&kept).contains(&GapCause::Overflow), "it knows at once");
    server.run().await;
    for instance in [&a, &b] {
        instance.relay.until_text(&kept, "199").await;
        instance.relay.assert_contiguous(&kept);
        instance.relay.until("the gap", |relay| relay.gaps(&kept).contains(&GapCause::Overflow)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_kept_channels_are_made_good_together() {
    let server = Server::start(&[]).await;
    let (a, b) = (Instance::at(&server.url()).await, Instance::at(&server.url()).await);
    let channels: Vec<_> = (0..2000).map(|n| channel(&format!("kept:10:many {n}"))).collect();
    futures_util::future::join_all(channels.iter().map(|channel| a.join(channel))).await;
    channels.iter().for_each(|channel| b.publish(channel, "one"));
    a.relay
        .until("the first", |relay| channels.iter().all(|channel| relay.delivered(channel).len() == 1))
        .await;
    let before = a.broker.status().reconnects;
    let addresses: String = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    assert_eq!(addresses.lines().count(), 2);
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    channels.iter().for_each(|channel| b.publish(channel, "two"));
    eventually("it has noticed", async || a.broker.status().reconnects > before).await;
    let all = || channels.iter().all(|channel| a.relay.delivered(channel).len() == 2);
    tokio::time::timeout(PATIENCE, a.relay.until("the second", |_| all())).await.expect("it is made good");
    for channel in &channels {
        a.relay.assert_contiguous(channel);
        assert_eq!(a.relay.gaps(channel), []);
    }
}
