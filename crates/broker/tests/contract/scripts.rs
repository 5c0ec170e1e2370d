//! A Redis that forgets the scripts that it was told, as an operator can have it do and as a new master has never known
//! them. Nobody is refused anything for it, and nothing changes its place.

use std::sync::Arc;
use std::time::Duration;

use fanfare_broker::{AppendOptions, Claim, Query, RedisConfig};
use fanfare_protocol::{Kind, Publication};
use futures_util::future::join_all;
use tokio_util::task::AbortOnDropHandle;

use crate::faults::Traffic;
use crate::healing::{settle_whole, some_traffic};
use crate::instance::{Instance, PATIENCE, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_its_scripts_is_told_them_again() {
    const TIMES: u64 = 20;
    let server = Server::start(&[]).await;
    let kept = channel("kept");
    let [a, b] = Instance::two([&server.url(); 2], &kept).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &kept);
    for _ in 0..TIMES {
        some_traffic(&a, &kept).await;
        let _: String = server.command(&["SCRIPT", "FLUSH"]).await;
    }
    settle_whole(traffic, &both, &kept).await;
    // A machine that stands still for two seconds is taken for a Redis that does; what is forgotten is so each time.
    let reconnects = a.broker.status().reconnects + b.broker.status().reconnects;
    assert!(reconnects < TIMES / 2, "{reconnects} of {TIMES}");
}

/// The way to Redis is so slow that scripts are forgotten again before they are run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_its_scripts_all_the_time_costs_nothing() {
    let server = Arc::new(Server::start(&[]).await);
    let proxy = Proxy::narrow(server.port, Duration::ZERO, 100_000).await;
    let a = Instance::redis(&RedisConfig { timeout: PATIENCE, ..RedisConfig::new(proxy.url()) });
    a.until_up().await;
    let (kept, plain, room) = (channel("kept"), channel("plain"), channel("room"));
    for channel in [&kept, &plain, &room] {
        a.join(channel).await;
    }
    let flushed = server.clone();
    let flushes = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let _: String = flushed.command(&["SCRIPT", "FLUSH"]).await;
        }
    }));
    let channels: Vec<_> = (0..20).map(|number| channel(&format!("kept:9:{number}"))).collect();
    for (number, text) in [(1, "one"), (2, "two")] {
        a.append(&kept, text).await.expect("it is appended");
        let publication = Publication::new(Kind::Text, text.into());
        let once = a.broker.append(&plain, publication, AppendOptions::once(text)).await;
        assert_eq!(once.expect("it is published").suppressed, None);
        a.enter(&room, number, text).await;
        assert_eq!(a.claim(text, number, 1).await, Claim::Held);
        let read = channels.iter().map(|channel| a.broker.history(channel, Query::TOP));
        for history in join_all(read).await {
            assert_eq!(history.expect("it is read").top.offset, 0);
        }
    }
    a.depart(&room, 1, Duration::ZERO);
    a.relay.until_told(&room, &["+one", "+two", "-one"]).await;
    drop(flushes);
    for channel in [&kept, &plain] {
        a.relay.until_delivered(channel, &["one", "two"]).await;
        assert_eq!(a.relay.gaps(channel), []);
    }
    let (status, presence) = (a.broker.status(), a.broker.presence_status());
    assert_eq!((status.reconnects, status.history_failures, presence.leases_lost), (0, 0, 0));
}

/// Another instance may tell Redis the script while a pipeline is on its way: what comes behind must not come first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_is_known_in_the_midst_of_a_pipeline_changes_no_order() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let a = Instance::redis(&RedisConfig { timeout: PATIENCE, ..RedisConfig::new(proxy.url()) });
    let b = Instance::at(&server.url()).await;
    a.until_up().await;
    let kept = channel("kept:100000:order");
    b.join(&kept).await;
    a.append(&kept, "first").await.expect("it is appended");
    let line = proxy.line_that_said("kept:100000:order");
    line.shut();
    a.publish(&channel("plain"), "go ahead");
    eventually("the next pipeline waits", async || line.has_said("go ahead")).await;
    // Two calls, of a MiB each at most.
    let texts: Vec<_> = (0..40).map(|number| format!("number {number} {}", "x".repeat(50_000))).collect();
    texts.iter().for_each(|text| a.publish(&kept, text));
    let _: String = server.command(&["SCRIPT", "FLUSH"]).await;
    let _: String = server.command(&["CONFIG", "RESETSTAT"]).await;
    line.open_until("number 35 ");
    eventually("Redis has the first", async || {
        let stats: String = server.command(&["INFO", "stats"]).await;
        let bytes = stats.split("total_net_input_bytes:").nth(1).and_then(|rest| rest.lines().next());
        bytes.and_then(|bytes| bytes.parse::<u64>().ok()) > Some(1_300_000)
    })
    .await;
    b.append(&channel("kept:9:other"), "makes it known").await.expect("it is appended");
    line.open();
    b.relay.until("all", |relay| relay.delivered(&kept).len() > texts.len()).await;
    let delivered = b.relay.delivered(&kept);
    let numbers: Vec<_> = delivered.iter().map(|text| text.trim_end_matches('x')).collect();
    let expected: Vec<_> =
        ["first"].into_iter().chain(texts.iter().map(|text| text.trim_end_matches('x'))).collect();
    assert_eq!(numbers, expected);
}
