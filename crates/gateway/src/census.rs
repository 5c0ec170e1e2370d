//! What this instance says of itself to the others: how many it serves and what it takes. It counts what is open by
//! asking the workers, as the metrics do; nobody asks another instance.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_broker::InstanceFacts;
use tokio::time::{MissedTickBehavior, interval};

use crate::instance::Instance;

/// How often it is said.
const PAUSE: Duration = Duration::from_secs(2);

/// Kernel ticks a second in `/proc/…/stat`: 100 on every Linux (proc(5), sysconf(3), `USER_HZ`).
const TICKS: f64 = 100.0;

/// Says it for as long as the instance lives.
pub async fn tell(instance: Arc<Instance>) {
    let started = Instant::now();
    let name = host();
    let mut interval = interval(PAUSE);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looked, mut spent) = (Instant::now(), seconds_spent());
    let mut cpu = 0.0;
    loop {
        interval.tick().await;
        let (now, by_now) = (Instant::now(), seconds_spent());
        let passed = now.duration_since(looked).as_secs_f64();
        // The first time, next to nothing has passed.
        if passed > PAUSE.as_secs_f64() / 2.0 {
            cpu = (by_now - spent) / passed;
            (looked, spent) = (now, by_now);
        }
        let counted = instance.hub.census().await;
        let total = |of: fn(&fanfare_hub::Census) -> u64| counted.iter().map(of).sum();
        instance.broker.describe(InstanceFacts {
            id: instance.id,
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: total(|census| census.connections),
            users: instance.users.count(),
            subscriptions: total(|census| census.subscriptions),
            channels: instance.hub.channels() as u64,
            uptime: started.elapsed(),
            cpu,
            resident_bytes: resident_bytes(),
        });
    }
}

/// The machine's or the container's name; an instance has none of its own.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// User and system time of this process so far (proc(5), fields 14 and 15 of `stat`).
fn seconds_spent() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, a name in brackets, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Of this process (proc(5), `VmRSS` of `status`).
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}
