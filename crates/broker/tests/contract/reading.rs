//! Many who read histories at once: few reads are under way at a time, who wants the same shares an answer, and that answer
//! is never older than his question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_broker::{BrokerError, Query, RedisConfig};
use futures_util::future::join_all;

use crate::instance::{Instance, channel};
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
