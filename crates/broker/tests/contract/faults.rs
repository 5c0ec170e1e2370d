//! Redis dies, is silent, is deaf, is far away, is not there yet. Nothing may be lost in silence or come twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use fanfare_broker::{Broker, GapCause, RedisConfig};
use fanfare_protocol::{Channel, Kind, Publication};
use tokio::time::Instant;

use crate::instance::{Instance, PATIENCE, Recorder, audit, channel, eventually};
use crate::proxy::Proxy;
use crate::server::Server;

/// Publishes "name:0", "name:1" … every millisecond until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    threads: HashMap<String, JoinHandle<usize>>,
}

impl Traffic {
    pub fn start(publishers: &[(&str, &Instance)], channel: &Channel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = publishers.iter().map(|&(name, instance)| {
            let (broker, channel, stop) = (instance.broker.clone(), channel.clone(), stop.clone());
            let publish = move |name: String| publish_until(&*broker, &channel, &name, &stop);
            (
                name.to_owned(),
                std::thread::spawn({
                    let name = name.to_owned();
                    move || publish(name)
                }),
            )
        });
        Self { threads: threads.collect(), stop }
    }

    /// How many each has published.
    pub fn stop(self) -> HashMap<String, usize> {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().map(|(name, thread)| (name, thread.join().expect("it publishes"))).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "a publisher's pace")]
fn publish_until(broker: &dyn Broker, channel: &Channel, name: &str, stop: &AtomicBool) -> usize {
    let mut count = 0;
    while !stop.load(SeqCst) {
        broker.publish(channel, Publication::new(Kind::Text, format!("{name}:{count}").into()));
        count += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    count
}

/// Ends the traffic, waits until what comes has come, and checks every message.
pub async fn settle(traffic: Traffic, instances: &[(&str, &Instance)], channel: &Channel) {
    let counts = traffic.stop();
    for (name, instance) in instances {
        instance.until_up().await;
        instance.broker.flush().await;
        // In the channel's order this comes behind everything that was sent before.
        instance.publish(channel, &format!("end of {name}"));
    }
    for (_, receiver) in instances {
        for (name, _) in instances {
            receiver.relay.until_text(channel, &format!("end of {name}")).await;
        }
    }
    for (own, instance) in instances {
        audit(&instance.relay, channel, &counts, &[own]);
        assert_eq!(instance.broker.status().spool_dropped, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_nothing_in_silence_and_is_found_again() {
    let mut server = Server::start(&[]).await;
    let news = channel("news");
    let [a, b] = Instance::two([&server.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let (traffic, mut took) = (Traffic::start(&both, &news), Vec::new());
    for _ in 0..3 {
        let heard =
            |relay: &Recorder| relay.delivered(&news).iter().filter(|text| text.starts_with("b:")).count();
        let so_far = heard(&a.relay);
        a.relay.until("the other's publications", |relay| heard(relay) > so_far + 100).await;
        server.kill();
        a.until_down("refuses connections").await;
        b.until_down("refuses connections").await;
        let so_far = a.relay.delivered(&news).len();
        a.relay
            .until("local publications while Redis is away", |relay| {
                relay.delivered(&news).len() > so_far + 50
            })
            .await;
        a.join(&channel("joined while away")).await;
        server.run().await;
        let open = Instant::now();
        a.until_up().await;
        b.until_up().await;
        took.push(open.elapsed());
        server.until_channels(&["joined while away", "news"]).await;
        a.leave(&channel("joined while away"));
    }
    settle(traffic, &both, &news).await;
    // A machine may be busy once or twice, and whoever waits for too long is late each time.
    assert!(took.iter().any(|took| *took < Duration::from_secs(2)), "up {took:?} after Redis");
    for (_, instance) in both {
        assert_eq!(instance.relay.gaps(&news), [GapCause::Disconnected; 3], "one for each time");
        assert_eq!(instance.broker.status().reconnects, 6, "two connections, three times");
    }
    assert_eq!(a.relay.gaps(&channel("joined while away")), [GapCause::Disconnected; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_is_noticed_and_costs_nothing() {
    let server = Server::start(&[]).await;
    let news = channel("news");
    let [a, b] = Instance::two([&server.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &news);
    a.relay.until_text(&news, "b:100").await;
    server.signal("STOP");
    let silent = Instant::now();
    a.until_down("").await;
    assert!(silent.elapsed() < Duration::from_secs(5), "down after {:?}", silent.elapsed());
    let so_far = a.relay.delivered(&news).len();
    a.relay.until("local publications meanwhile", |relay| relay.delivered(&news).len() > so_far + 50).await;
    b.until_down("").await;
    server.signal("CONT");
    a.until_up().await;
    b.until_up().await;
    settle(traffic, &both, &news).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_subscriber_is_found_while_its_publisher_lives() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let news = channel("news");
    let [a, b] = Instance::two([&proxy.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &news);
    a.relay.until_text(&news, "b:100").await;
    proxy.deafen_subscribers(true);
    let deaf = Instant::now();
    a.until_down("deaf").await;
    assert!(deaf.elapsed() < Duration::from_secs(5), "found after {:?}", deaf.elapsed());
    assert!(b.broker.status().up && b.relay.gaps(&news).is_empty(), "the other is not concerned");
    proxy.deafen_subscribers(false);
    a.until_up().await;
    settle(traffic, &both, &news).await;
    assert_eq!(a.relay.gaps(&news), [GapCause::Deaf]);
    assert_eq!(b.relay.gaps(&news), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_answers_and_brings_nothing_is_found() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let a = Instance::at(&proxy.url()).await;
    let news = channel("news");
    a.join(&news).await;
    proxy.forget_subscriptions(true);
    let deaf = Instant::now();
    a.publish(&news, "one");
    a.until_down("deaf").await;
    assert!(deaf.elapsed() < Duration::from_secs(5), "found after {:?}", deaf.elapsed());
    a.relay.until_delivered(&news, &["one"]).await;
    a.until_down("has not come back yet").await;
    a.publish(&news, "two");
    proxy.forget_subscriptions(false);
    a.until_up().await;
    a.publish(&news, "three");
    a.relay.until_delivered(&news, &["one", "two", "three"]).await;
    assert_eq!(a.relay.gaps(&news)[0], GapCause::Deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_concerns_one_instance_alone() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let news = channel("news");
    let [a, b] = Instance::two([&proxy.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &news);
    a.relay.until_text(&news, "b:100").await;
    proxy.black_hole(true);
    let gone = Instant::now();
    a.until_down("").await;
    assert!(gone.elapsed() < Duration::from_secs(5), "found after {:?}", gone.elapsed());
    a.until_down("did not answer within 2s").await;
    eventually("its subscriber has noticed too", async || a.broker.status().subscriptions == 0).await;
    assert!(b.broker.status().up);
    proxy.black_hole(false);
    a.until_up().await;
    settle(traffic, &both, &news).await;
    assert_eq!(b.relay.gaps(&news), []);
    assert_eq!(a.relay.gaps(&news).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_distant_redis_keeps_order_and_pace() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::from_millis(100)).await;
    let news = channel("news");
    let [a, b] = Instance::two([&proxy.url(), &server.url()], &news).await;
    let both = [("a", &a), ("b", &b)];
    let traffic = Traffic::start(&both, &news);
    b.relay.until_text(&news, "a:2000").await;
    assert!(a.broker.status().spool_bytes < 1 << 20, "it keeps up");
    settle(traffic, &both, &news).await;
    for (_, instance) in both {
        assert_eq!(instance.relay.gaps(&news), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_line_is_not_given_more_than_it_can_carry_in_time() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::narrow(server.port, Duration::ZERO, 100_000).await;
    let config = RedisConfig { timeout: Duration::from_millis(500), ..RedisConfig::new(proxy.url()) };
    let (a, b) = (Instance::redis(&config), Instance::at(&server.url()).await);
    a.until_up().await;
    let news = channel("news");
    b.join(&news).await;
    let payload = "x".repeat(500);
    let texts: Vec<_> = (0..600).map(|number| format!("{number} {payload}")).collect();
    texts.iter().for_each(|text| a.publish(&news, text));
    b.relay.until("everything", |relay| relay.delivered(&news).len() >= texts.len()).await;
    assert_eq!(b.relay.delivered(&news), texts);
    assert_eq!(b.relay.gaps(&news), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_come_later() {
    let mut server = Server::reserve(&[]);
    let (a, b) =
        (Instance::redis(&RedisConfig::new(server.url())), Instance::redis(&RedisConfig::new(server.url())));
    let news = channel("news");
    let start = Instant::now();
    a.join(&news).await;
    b.join(&news).await;
    assert!(start.elapsed() < Duration::from_secs(4), "nobody waits for a Redis that is not there");
    a.until_down("refuses connections").await;
    for text in ["one", "two"] {
        a.publish(&news, text);
    }
    a.relay.until_delivered(&news, &["one", "two"]).await;
    let status = a.broker.status();
    assert!(status.spool_bytes > 0 && status.reconnects == 0, "{status:?}");
    tokio::time::timeout(PATIENCE, a.broker.ready()).await.expect("nobody waits for room either");
    server.run().await;
    a.until_up().await;
    b.until_up().await;
    a.publish(&news, "three");
    b.relay.until_text(&news, "three").await;
    a.relay.until_delivered(&news, &["one", "two", "three"]).await;
    assert_eq!(b.relay.gaps(&news), [GapCause::Disconnected], "it cannot know what it missed");
    eventually("the spool is empty", async || a.broker.status().spool_bytes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_the_oldest_and_tells_the_others() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port, Duration::ZERO).await;
    let config = RedisConfig {
        spool_bytes: 100_000,
        timeout: Duration::from_millis(500),
        ..RedisConfig::new(proxy.url())
    };
    let (a, b) = (Instance::redis(&config), Instance::at(&server.url()).await);
    a.until_up().await;
    let (news, quiet) = (channel("news"), channel("quiet"));
    for channel in [&news, &quiet] {
        a.join(channel).await;
        b.join(channel).await;
    }
    proxy.black_hole(true);
    a.until_down("").await;
    eventually("both connections are gone", async || a.broker.status().subscriptions == 0).await;
    let payload = "x".repeat(1000);
    for number in 0..1000 {
        a.publish(&news, &format!("{number} {payload}"));
        assert!(a.broker.status().spool_bytes <= 200_000);
    }
    assert_eq!(a.relay.delivered(&news).len(), 1000, "everybody here has them all");
    assert!(a.broker.status().spool_dropped >= 900);
    proxy.black_hole(false);
    a.until_up().await;
    a.broker.flush().await;
    a.publish(&news, "end");
    b.relay.until_text(&news, "end").await;
    assert_eq!(b.relay.gaps(&news), [GapCause::Overflow]);
    assert_eq!(b.relay.gaps(&quiet), [], "only where something was lost");
    assert_eq!(a.relay.gaps(&news), [GapCause::Deaf], "its own loss is none");
    let arrived = b.relay.delivered(&news);
    assert!((50..200).contains(&arrived.len()), "the newest {} arrive", arrived.len());
    assert!(arrived[arrived.len() - 2].starts_with("999 "));
}
