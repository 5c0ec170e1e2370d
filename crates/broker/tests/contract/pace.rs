//! How fast publications go through Redis with a history and without. Measurements, run by hand:
//! `cargo test --release -p fanfare-broker --test contract pace -- --ignored --nocapture`.

use fanfare_protocol::{Channel, Kind, Publication};
use tokio::time::Instant;

use crate::instance::{Instance, channel};
use crate::server::Server;

const COUNT: usize = 200_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_a_history_costs() {
    for spread in [1, 1000] {
        let mut rates = Vec::new();
        for prefix in ["plain", "kept:100"] {
            let channels: Vec<_> = (0..spread).map(|n| channel(&format!("{prefix}:{n}"))).collect();
            // The best of three: the machine has other work.
            let mut best = (0.0, 0.0);
            for _ in 0..3 {
                let run = run(&channels).await;
                best = if run.0 > best.0 { run } else { best };
            }
            println!("{prefix}, {spread} channels: {:.0}/s, {:.1} µs of Redis each", best.0, best.1);
            rates.push(best.0);
        }
        println!("{spread} channels: {:.2} of the pace", rates[1] / rates[0]);
    }
}

/// Publications a second from the first call to the last delivery, and microseconds of Redis' CPU for each.
async fn run(channels: &[Channel]) -> (f64, f64) {
    let server = Server::start(&[]).await;
    let instance = Instance::at(&server.url()).await;
    for channel in channels {
        instance.join(channel).await;
    }
    let before = cpu(&server).await;
    let started = Instant::now();
    let payload = bytes::Bytes::from(vec![b'x'; 128]);
    for number in 0..COUNT {
        if number % 256 == 0 {
            instance.broker.ready().await;
        }
        let publication = Publication::new(Kind::Text, payload.clone());
        instance.broker.publish(&channels[number % channels.len()], publication);
    }
    instance.relay.until("everything", |relay| relay.count() >= COUNT).await;
    let took = started.elapsed().as_secs_f64();
    (COUNT as f64 / took, (cpu(&server).await - before) * 1e6 / COUNT as f64)
}

async fn cpu(server: &Server) -> f64 {
    let info: String = server.command(&["INFO", "cpu"]).await;
    let value = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .expect("Redis says it")
    };
    value("used_cpu_user:") + value("used_cpu_sys:")
}
