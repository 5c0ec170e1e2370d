//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once and
//! come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer new
//! connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs yet. Nobody
//! holds up anybody by being slow: counted are those who wait for us, not those for whom we wait. Nor by asking for much: a
//! session waits for room once, and what else it wants waits behind that. It weighs nothing.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::crowd::Crowd;

/// So many are taken at once after a pause: ordinary clients that come back wait for nothing.
const BURST: u32 = 32;

/// While so many wait, others come later.
const MANY: usize = 32;

/// What so many sessions have missed is held in memory at a time, which may be megabytes each.
const ROOM: usize = 2;

/// One worker's.
#[derive(Debug)]
pub struct Recoveries {
    /// How long each is behind the one before it; nothing, if as many as come are taken.
    spacing: Option<Duration>,
    /// When the next one would be due, had they all come at that pace.
    next: Cell<Instant>,
    /// Who stands at its head is the next one.
    line: Semaphore,
    /// For sessions, whose channels may all have missed something.
    room: Arc<Semaphore>,
    crowd: Crowd,
}

/// So long as it lives, what a session has missed may be held in memory.
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Recoveries {
    /// So many a second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            spacing: rate.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Cell::new(Instant::now()),
            line: Semaphore::new(1),
            room: Arc::new(Semaphore::new(ROOM)),
            crowd: Crowd::new(MANY),
        }
    }

    /// Resolves when there is room for what a session has missed, first come, first served. It is to be held until all of that
    /// waits for the session's socket.
    pub async fn room(&self) -> Room {
        let _waiting = self.crowd.join();
        let permit = self.room.clone().acquire_owned().await;
        Room { _permit: permit.expect("it is never closed") }
    }

    /// Reads what somebody has missed in a channel, in his turn.
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn there_is_room_for_few_and_who_waits_for_it_is_one_of_the_crowd() {
        let recoveries = Recoveries::new(None);
        let mut held: Vec<_> = (0..ROOM).map(|_| recoveries.room().now_or_never().expect("room")).collect();
        let mut waiting: Vec<_> = (0..MANY).map(|_| Box::pin(recoveries.room())).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(recoveries.crowd().are_many());
        held.pop();
        // Who has waited longest is the next one, and does not wait any more.
        assert!(waiting[1].as_mut().now_or_never().is_none());
        let next = waiting[0].as_mut().now_or_never();
        assert!(next.is_some() && !recoveries.crowd().are_many());
        assert!(waiting[1].as_mut().now_or_never().is_none());
        drop(next);
        assert!(waiting[1].as_mut().now_or_never().is_some());
    }
}
