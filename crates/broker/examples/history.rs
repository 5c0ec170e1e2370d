//! What a history costs through Redis: publications a second, from publish to delivery, with and without one, in turn.
//! It is no test; figures stand in BENCHMARKS.md.
//!
//! ```console
//! $ redis-server --port 6399 --save '' &
//! $ cargo run --release -p fanfare-broker --example history -- redis://127.0.0.1:6399 1000 200000
//! ```
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program for whoever develops the broker")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_broker::{Broker, Gap, Redis, RedisConfig, Relay, Retain, Retention};
use fanfare_protocol::{Channel, Kind, Publication};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Counts what is delivered.
#[derive(Default)]
struct Counter {
    delivered: AtomicU64,
    wanted: AtomicU64,
    there: Notify,
}

impl Relay for Counter {
    fn deliver(&self, _channel: &Channel, _publication: Publication) {
        if self.delivered.fetch_add(1, Relaxed) + 1 == self.wanted.load(Relaxed) {
            self.there.notify_one();
        }
    }

    fn gap(&self, gap: Gap) {
        println!("something was missed: {gap:?}");
    }

    fn wanted(&self, _channel: &Channel) -> bool {
        true
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the URL of a Redis");
    let channels: usize = arguments.next().map_or(1, |count| count.parse().unwrap());
    let publications: u64 = arguments.next().map_or(200_000, |count| count.parse().unwrap());
    let kept = |channel: &Channel| channel.as_str().starts_with("kept");
    let retain: Retain =
        Arc::new(move |channel| kept(channel).then(|| Retention::new(100, Duration::from_secs(300))));
    let relay = Arc::new(Counter::default());
    let broker = Redis::start(&RedisConfig::new(&url), relay.clone(), retain, &Handle::current()).unwrap();
    let named = |kind: &str| -> Vec<Channel> {
        (0..channels).map(|number| Channel::new(&format!("{kind}{number}")).unwrap()).collect()
    };
    let sides = [named("plain"), named("kept")];
    while !broker.status().up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for channel in sides.iter().flatten() {
        broker.subscribe(channel).await;
    }
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let mut rates = [0.0; 2];
        for (channels, rate) in sides.iter().zip(&mut rates) {
            relay.delivered.store(0, Relaxed);
            relay.wanted.store(publications, Relaxed);
            let started = Instant::now();
            for number in 0..publications {
                let payload = Bytes::from_static(&[b'x'; 128]);
                broker.publish(
                    &channels[number as usize % channels.len()],
                    Publication::new(Kind::Text, payload),
                );
                if number % 64 == 0 {
                    broker.ready().await;
                }
            }
            relay.there.notified().await;
            *rate = publications as f64 / started.elapsed().as_secs_f64();
        }
        let ratio = rates[1] / rates[0];
        println!("without {:.0}, with {:.0}: {ratio:.3}", rates[0], rates[1]);
        // The first one warms up.
        if round > 0 {
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("{channels} channels: median {:.3}", ratios[ratios.len() / 2]);
}

const ROUNDS: usize = 5;
