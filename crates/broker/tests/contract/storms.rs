//! Subscribers that come and go while Redis keeps cutting the line: at the end everything is as it is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::faults::{Traffic, settle};
use crate::instance::{Instance, channel, eventually};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_lines_and_restless_clients_end_in_what_is_wanted() {
    let server = Server::start(&[]).await;
    let news = channel("news");
    let [a, b] = Instance::two([&server.url(), &server.url()], &news).await.map(Arc::new);
    let both = [("a", &*a), ("b", &*b)];
    let traffic = Traffic::start(&both, &news);
    let stop = Arc::new(AtomicBool::new(false));
    // As a gateway does it, the first of a channel's clients subscribes and the last releases; here each does both.
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let (instance, stop) = (if n % 2 == 0 { a.clone() } else { b.clone() }, stop.clone());
            let channel = channel(&format!("restless {}", n % 20));
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    instance.join(&channel).await;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..30))).await;
                    instance.leave(&channel);
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
                }
            })
        })
        .collect();
    for cut in 0..6 {
        let reconnects = a.broker.status().reconnects;
        let killed: u64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed, 2, "one subscriber for each instance, cut {cut}");
        eventually("a is back", async || a.broker.status().reconnects > reconnects).await;
        a.until_up().await;
        b.until_up().await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("it comes and goes");
    }
    settle(traffic, &both, &news).await;
    server.until_channels(&["news"]).await;
    let last = channel("restless 7");
    a.join(&last).await;
    b.publish(&last, "once");
    b.publish(&last, "end");
    a.relay.until_text(&last, "end").await;
    let after: Vec<_> = a.relay.delivered(&last);
    assert_eq!(after, ["once", "end"]);
    server.until_channels(&["news", "restless 7"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_whose_lines_are_cut_lose_and_repeat_nothing() {
    let server = Server::start(&[]).await;
    let news = channel("news");
    let [a, b] = Instance::two([&server.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &news);
    for cut in 0..8 {
        let so_far = b.relay.delivered(&news).len();
        b.relay.until("some traffic", |relay| relay.delivered(&news).len() > so_far + 10).await;
        let reconnects = both.map(|(_, instance)| instance.broker.status().reconnects);
        // In the midst of a pipeline, as far as chance wants it.
        let killed: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(killed >= 2, "the publishers, cut {cut}");
        for ((_, instance), before) in both.iter().zip(reconnects) {
            eventually("it has noticed", async || instance.broker.status().reconnects > before).await;
            instance.until_up().await;
        }
    }
    settle(traffic, &both, &news).await;
    for (_, instance) in both {
        assert_eq!(instance.relay.gaps(&news), [], "so the audit has found every message");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_channels_are_back_within_two_seconds() {
    let mut server = Server::start(&[]).await;
    let a = Instance::at(&server.url()).await;
    let channels: Vec<_> = (0..5000).map(|n| channel(&format!("many {n}"))).collect();
    futures_util::future::join_all(channels.iter().map(|channel| a.join(channel))).await;
    assert_eq!(a.broker.status().subscriptions, 5001);
    // A machine may be busy once or twice, and whoever asks too slowly is late each time.
    const TRIES: usize = 5;
    const BACK: Duration = Duration::from_secs(2);
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took >= BACK) {
        assert!(took.len() < TRIES, "back after {took:?}");
        server.kill();
        a.until_down("").await;
        server.run().await;
        let open = tokio::time::Instant::now();
        eventually("all are back", async || a.broker.status().subscriptions == 5001).await;
        took.push(open.elapsed());
        a.until_up().await;
    }
    for channel in [&channels[0], &channels[4999]] {
        a.relay.until("the gap", |relay| relay.gaps(channel).len() == took.len()).await;
    }
}
