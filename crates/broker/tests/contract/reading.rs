//! Many who read histories at once: few reads are under way at a time, who wants the same shares an answer, and that
//! answer is never older than its question, but for those who hear what has come since.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_broker::{BrokerError, Query, RedisConfig};
use fanfare_protocol::{Channel, Position};
use futures_util::future::join_all;

use crate::instance::{Instance, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_the_same_shares_an_answer() {
    let server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let kept = channel("kept");
    for text in ["one", "two", "three"] {
        a.append(&kept, text).await.expect("it is appended");
    }
    let before = a.broker.status().history_reads;
    let read = join_all((0..1000).map(|_| a.kept(&kept))).await;
    let expected = [(1, "one".to_owned()), (2, "two".to_owned()), (3, "three".to_owned())];
    assert!(read.iter().all(|read| *read == expected));
    let reads = a.broker.status().history_reads - before;
    assert!((1..100).contains(&reads), "{reads} reads for a thousand who want the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_never_older_than_its_question() {
    let server = Server::start(&[]).await;
    let a = Arc::new(Instance::at(&server.url()).await);
    let kept = channel("kept");
    let readers = (0..40).map(|_| {
        let (a, kept) = (a.clone(), kept.clone());
        tokio::spawn(async move {
            for _ in 0..50 {
                let appended = a.append(&kept, "x").await.expect("it is appended").expect("it has a number");
                let history = a.broker.history(&kept, Query::TOP).await.expect("it can be read");
                assert!(history.top.offset >= appended.offset, "{:?} after {appended:?}", history.top);
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.expect("it has read what was there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_to_a_channel_that_is_heard_gets_what_was_read_for_others() {
    const BACK: u64 = 1000;
    let server = Server::start(&[]).await;
    let [a, b] = Instance::two([&server.url(), &server.url()], &channel("kept")).await;
    let kept = channel("kept");
    for text in ["one", "two", "three"] {
        b.append(&kept, text).await.expect("it is appended");
    }
    let top = a.broker.history(&kept, Query::TOP).await.expect("it can be read").top;
    a.relay.until_text(&kept, "three").await;
    let missed = async |offset: u64, to: &Instance, channel: &Channel| -> Vec<u64> {
        let query = Query::since(Position { offset, ..top }, 100).or_recent();
        let read = to.broker.history(channel, query).await.expect("it can be read");
        assert!(read.epoch_matches && !read.too_much && read.top.offset >= offset, "{read:?}");
        read.publications.iter().filter_map(|one| one.position).map(|position| position.offset).collect()
    };
    let before = a.broker.status().history_reads;
    for client in 0..BACK {
        let offset = client % 4;
        assert_eq!(missed(offset, &a, &kept).await, (offset + 1..=3).collect::<Vec<_>>());
    }
    let reads = a.broker.status().history_reads - before;
    // Once for each of four offsets, and again each second.
    assert!((1..BACK / 4).contains(&reads), "{reads} reads for {BACK} clients that come back");

    // What has come since is missing in no answer, whether the instance has heard it yet or not.
    for offset in 4..40 {
        b.append(&kept, "more").await.expect("it is appended");
        let read = missed(3, &a, &kept).await;
        let heard = || a.relay.numbered(&kept).last().map_or(0, |(offset, _)| *offset);
        a.relay.until("what the answer has not", |_| heard() >= offset).await;
        assert!(
            read.iter().copied().eq(4..4 + read.len() as u64) && read.len() as u64 + 3 <= offset,
            "{read:?}"
        );
        assert_eq!(missed(3, &a, &kept).await, (4..=offset).collect::<Vec<_>>());
        // Claimed by who has heard it elsewhere.
        assert_eq!(missed(offset, &a, &kept).await, [0; 0]);
    }

    // What was removed is gone.
    a.broker.remove_history(&kept).await.expect("it is removed");
    assert_eq!(missed(3, &a, &kept).await, [0; 0]);

    // Nobody here hears this one, so each asks for himself.
    let unheard = channel("kept unheard");
    let there = b.append(&unheard, "one").await.expect("it is appended").expect("it has a number");
    let before = a.broker.status().history_reads;
    for _ in 0..10 {
        let query = Query::since(Position { offset: 0, ..there }, 100).or_recent();
        let read = a.broker.history(&unheard, query).await.expect("it can be read");
        assert_eq!(read.publications.len(), 1);
    }
    assert_eq!(a.broker.status().history_reads - before, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_at_once_that_redis_is_silent() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let server = Server::start(&[]).await;
    let a = Instance::redis(&RedisConfig { timeout: TIMEOUT, ..RedisConfig::new(server.url()) });
    a.until_up().await;
    a.append(&channel("kept"), "one").await.expect("it is appended");
    server.signal("STOP");
    let silent = Instant::now();
    let channels: Vec<_> = (0..200).map(|n| channel(&format!("kept {n}"))).collect();
    let answers = join_all(channels.iter().map(|channel| a.broker.history(channel, Query::TOP))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(BrokerError::Away(_)))));
    // In their turns they would have waited for it one after the other.
    assert!(silent.elapsed() < TIMEOUT * 4, "told after {:?}", silent.elapsed());
    server.signal("CONT");
    a.until_up().await;
    assert_eq!(a.kept(&channel("kept")).await, [(1, "one".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connect_at_once_share_a_connection_and_do_not_give_up_each_others() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let a =
        Instance::redis(&RedisConfig { timeout: Duration::from_secs(1), ..RedisConfig::new(proxy.url()) });
    a.until_up().await;
    let read = |name: &str| {
        let (broker, channel) = (a.broker.clone(), channel(name));
        async move { broker.history(&channel, Query::TOP).await }
    };
    read("kept:9:first").await.expect("it can be read");
    let lost = proxy.line_that_said("kept:9:first");
    // Two that are under way on their own lose their connection together, and both open another.
    lost.shut();
    let mut under_way = Vec::new();
    for name in ["kept:9:one", "kept:9:two"] {
        under_way.push(tokio::spawn(read(name)));
        eventually("it has asked", async || lost.has_said(name)).await;
    }
    let before = proxy.lines().len();
    proxy.shut_new_lines(true);
    lost.cut();
    eventually("both connect", async || proxy.lines().len() == before + 2).await;
    proxy.shut_new_lines(false);
    let [first, second] = &proxy.lines()[before..] else { panic!("there are two") };
    // The first is there, is asked, and falls silent; then the second is there as well.
    first.open_until("kept:9:");
    eventually("it is asked", async || first.is_shut()).await;
    second.open();
    eventually("one is given up", async || first.is_closed() || second.is_closed()).await;
    assert!(first.is_closed() && !second.is_closed(), "the silent one, of whose answers nothing is known");
    read("kept:9:last").await.expect("it is read over the one that is left");
    for read in under_way {
        let _ = read.await.expect("it ends");
    }
}
