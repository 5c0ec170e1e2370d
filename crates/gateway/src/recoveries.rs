//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once and
//! come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer new
//! connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs yet. Nobody
//! holds up anybody by being slow: counted are those who wait for us, not those for whom we wait, and Redis may be far away. Nor
//! by asking for much: a session waits for a turn or for room once, and what else it wants waits behind that. It weighs
//! nothing.

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

/// Bytes of what clients have missed that are held in memory at a time, unless one alone has missed more.
const ROOM: usize = 8 << 20;

/// That is given away in pieces of so many.
const PIECE: usize = 1 << 10;

/// One worker's.
#[derive(Debug)]
pub struct Recoveries {
    /// How long each is behind the one before it; nothing, if as many as come are taken.
    spacing: Option<Duration>,
    /// When the next one would be due, had they all come at that pace.
    next: Cell<Instant>,
    /// Who stands at its head is the next one.
    line: Semaphore,
    /// For sessions, whose channels may have missed much.
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
            room: Arc::new(Semaphore::new(ROOM / PIECE)),
            crowd: Crowd::new(MANY),
        }
    }

    /// Resolves when there is room for so many bytes of what somebody has missed, first come, first served. It is to be held until
    /// all of that waits for his socket; who waits for more must not hold any, or two might wait for each other. Nobody gets more
    /// than all there is, whatever he asks for.
    pub async fn room(&self, bytes: usize) -> Room {
        let pieces = bytes.min(ROOM).div_ceil(PIECE);
        let _waiting = self.crowd.join();
        let permit = self.room.clone().acquire_many_owned(pieces as u32).await;
        Room { _permit: permit.expect("it is never closed") }
    }

    /// Reads what somebody has missed in a channel, in his turn.
    pub async fn in_turn<T>(&self, reading: impl Future<Output = T>) -> T {
        self.turn().await;
        reading.await
    }

    /// Resolves when it is somebody's turn to read what he has missed in a channel. It is nobody's if that is not waited for.
    pub async fn turn(&self) {
        let Some(spacing) = self.spacing else { return };
        let _waiting = self.crowd.join();
        // Never closed.
        let _head = self.line.acquire().await;
        let now = Instant::now();
        let due = self.next.get().max(now.checked_sub(spacing * BURST).unwrap_or(now));
        if due > now {
            sleep_until(due).await;
        }
        self.next.set(due + spacing);
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
    fn there_is_room_for_so_many_bytes_and_who_waits_for_it_is_one_of_the_crowd() {
        let recoveries = Recoveries::new(None);
        let mut held: Vec<_> =
            (0..4).map(|_| recoveries.room(ROOM / 4).now_or_never().expect("room")).collect();
        let mut waiting: Vec<_> = (0..MANY).map(|_| Box::pin(recoveries.room(ROOM / 4))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(recoveries.crowd().are_many());
        held.pop();
        // Who has waited longest is the next one, and does not wait any more.
        assert!(waiting[1].as_mut().now_or_never().is_none());
        let next = waiting[0].as_mut().now_or_never();
        assert!(next.is_some() && !recoveries.crowd().are_many());
        assert!(waiting[1].as_mut().now_or_never().is_none());
        drop((next, waiting));
        // Who asks for more than there is waits for all of it, and those behind him for him.
        let mut all = Box::pin(recoveries.room(usize::MAX));
        assert!(all.as_mut().now_or_never().is_none());
        let mut little = Box::pin(recoveries.room(1));
        assert!(little.as_mut().now_or_never().is_none());
        drop(held);
        let all = all.now_or_never().expect("all of it");
        assert!(little.as_mut().now_or_never().is_none());
        drop(all);
        assert!(little.now_or_never().is_some());
    }

    #[test]
    fn a_turn_that_is_not_waited_for_is_the_next_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let recoveries = Recoveries::new(NonZeroU32::new(1));
            recoveries.next.set(Instant::now() - Duration::from_secs(1) * BURST);
            let at_once = (0..100).take_while(|_| recoveries.turn().now_or_never().is_some()).count();
            assert_eq!(at_once, BURST as usize + 1);
            let next = recoveries.next.get();
            let mut waiting = Box::pin(recoveries.turn());
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(recoveries.turn().now_or_never().is_none());
            drop(waiting);
            assert_eq!(recoveries.next.get(), next);
        });
    }
}
