//! Whether the load balancer should send clients here, and whether the process still makes progress:
//! two answers out of what is known already, so that asking costs nothing and can block on nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_broker::Broker;
use fanfare_hub::Hub;
use parking_lot::Mutex;
use serde::Serialize;

use crate::memory::Budget;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long the broker must be away, or back, before readiness changes: a blink should not make every
/// load balancer move its clients, and a broker that flaps should not either.
const HYSTERESIS: Duration = Duration::from_secs(1);

/// A worker or the backend that has not moved for so long is stuck. Heartbeats move at least twice a second.
const STUCK: Duration = Duration::from_secs(10);

/// What both are answered from.
#[derive(Default)]
pub struct Readiness(Mutex<State>);

#[derive(Default)]
struct State {
    serving: bool,
    draining: bool,
    broker: Option<Broken>,
    /// Since when the broker's state has differed from what is told.
    differs_since: Option<Instant>,
    backend: Option<Instant>,
    /// For each worker the turns of its heartbeat, and when they last changed.
    workers: Vec<(u64, Instant)>,
}

#[derive(Clone)]
struct Broken {
    because: String,
}

/// One reason not to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `starting`, `draining`, `memory` or `broker`.
    pub cause: &'static str,
    /// For a person.
    pub says: String,
}

impl Readiness {
    /// The workers accept.
    pub fn serving(&self) {
        self.0.lock().serving = true;
    }

    /// The instance is about to empty itself: not ready from now on, without any hysteresis.
    pub fn draining(&self) {
        self.0.lock().draining = true;
    }

    /// Whether it has been told to drain.
    pub fn is_draining(&self) -> bool {
        self.0.lock().draining
    }

    /// What stands against new clients; empty when ready. What `memory` says has a hysteresis of its own, and is what
    /// turns them away, so it is asked at once.
    pub fn causes(&self, memory: &Budget) -> Vec<Cause> {
        let state = self.0.lock();
        let mut causes = Vec::new();
        // Before the first look nothing is known of the broker.
        if !state.serving || state.backend.is_none() {
            causes.push(Cause { cause: "starting", says: "the workers have not started yet".into() });
        }
        if state.draining {
            causes.push(Cause { cause: "draining", says: "the instance is being emptied".into() });
        }
        if memory.is_near() {
            causes.push(Cause { cause: "memory", says: "memory is running out".into() });
        }
        if let Some(broken) = &state.broker {
            causes.push(Cause { cause: "broker", says: broken.because.clone() });
        }
        causes
    }

    /// What does not make progress, by name; empty when the process lives.
    pub fn stuck(&self) -> Vec<String> {
        let state = self.0.lock();
        let is_stuck = |moved: Instant| moved.elapsed() > STUCK;
        let workers = state.workers.iter().enumerate();
        let workers = workers.filter(|(_, (_, moved))| is_stuck(*moved)).map(|(n, _)| format!("worker {n}"));
        let backend = state.backend.filter(|moved| is_stuck(*moved)).map(|_| "backend".to_owned());
        workers.chain(backend).collect()
    }

    /// Looks for as long as the instance lives. It starts not ready where the broker is not up.
    pub async fn watch(self: Arc<Self>, hub: Arc<Hub>, broker: Arc<dyn Broker>) {
        let mut interval = tokio::time::interval(LOOK);
        loop {
            self.look(&hub, broker.as_ref());
            interval.tick().await;
        }
    }

    fn look(&self, hub: &Hub, broker: &dyn Broker) {
        let (now, status) = (Instant::now(), broker.status());
        let broken = (!status.up).then(|| Broken {
            because: status.down_because.unwrap_or_else(|| "the broker is not connected yet".into()),
        });
        let mut state = self.0.lock();
        let first = state.backend.replace(now).is_none();
        for (worker, stats) in hub.stats().enumerate() {
            let ticks = stats.ticks.read();
            match state.workers.get_mut(worker) {
                Some(seen) if seen.0 != ticks => *seen = (ticks, now),
                Some(_) => {}
                None => state.workers.push((ticks, now)),
            }
        }
        if broken.is_some() == state.broker.is_some() {
            state.differs_since = None;
            state.broker = broken;
        } else if first || now - *state.differs_since.get_or_insert(now) >= HYSTERESIS {
            match &broken {
                Some(broken) if first => tracing::info!("not ready yet: {}", broken.because),
                Some(broken) => tracing::warn!("not ready: {}", broken.because),
                None => tracing::info!("ready: the broker is back"),
            }
            state.differs_since = None;
            state.broker = broken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_moved_for_long_is_stuck() {
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(STUCK * 2) else { return };
        for (workers, backend, stuck) in [
            (&[now, now][..], Some(now), &[][..]),
            (&[now, long_ago, now], Some(now), &["worker 1"]),
            (&[long_ago], Some(long_ago), &["worker 0", "backend"]),
            // It has not been looked at yet.
            (&[], None, &[]),
        ] {
            let readiness = Readiness::default();
            *readiness.0.lock() = State {
                backend,
                workers: workers.iter().map(|moved| (1, *moved)).collect(),
                ..State::default()
            };
            assert_eq!(readiness.stuck(), stuck);
        }
    }
}
