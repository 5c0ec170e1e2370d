//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once and
//! come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer new
//! connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs yet. Nobody
//! holds up anybody by being slow: counted are those who wait for us, not those for whom we wait.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::crowd::Crowd;

/// So many are taken at once after a pause: ordinary clients that come back wait for nothing.
const BURST: u32 = 32;

/// While so many wait, others come later.
const MANY: usize = 32;

/// One worker's.
#[derive(Debug)]
pub struct Recoveries {
    /// How long each is behind the one before it; nothing, if as many as come are taken.
    spacing: Option<Duration>,
    /// When the next one would be due, had they all come at that pace.
    next: Cell<Instant>,
    /// Who stands at its head is the next one.
    line: Semaphore,
    crowd: Crowd,
}

impl Recoveries {
    /// So many a second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            spacing: rate.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Cell::new(Instant::now()),
            line: Semaphore::new(1),
            crowd: Crowd::new(MANY),
        }
    }

    /// Reads what somebody has missed, in his turn.
    pub async fn in_turn<T>(&self, reading: impl Future<Output = T>) -> T {
        let _waiting = self.crowd.join();
        if let Some(spacing) = self.spacing {
            self.turn(spacing).await;
        }
        reading.await
    }

    async fn turn(&self, spacing: Duration) {
        // Never closed.
        let _head = self.line.acquire().await;
        let now = Instant::now();
        let due = self.next.get().max(now.checked_sub(spacing * BURST).unwrap_or(now));
        self.next.set(due + spacing);
        if due > now {
            sleep_until(due).await;
        }
    }

    /// Those who wait for what they missed.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }
}
