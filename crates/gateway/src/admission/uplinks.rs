//! How much of what clients say in requests may be on its way to other instances. Nobody is ended for it, for who
//! brings it is no connection of the hub's; so more than may wait is sent away, and nothing is kept of it.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What may go over the bus at a time: a quarter of the messages that may wait for it, and half of the bytes. So what
/// the back end says always has room beside them.
const ROOM: u32 = 4096;

/// What may wait for its turn on the bus and be under way there, in KiB, all together: that part of the memory limit,
/// and so much at most.
const MOST: u32 = 64 << 10;
const PART: usize = 16;

/// The whole instance's.
pub struct Uplinks {
    /// In KiB, what may wait, and what is left of that.
    most: u32,
    waiting: Semaphore,
    room: Semaphore,
}

/// So long as it lives, what a client says is on its way.
pub struct Underway<'a> {
    _waiting: SemaphorePermit<'a>,
    _room: SemaphorePermit<'a>,
}

impl Uplinks {
    /// Of an instance that may take so much memory.
    pub fn within(limit: Option<usize>) -> Self {
        let part = limit.map_or(u32::MAX, |limit| u32::try_from(limit / PART / 1024).unwrap_or(u32::MAX));
        let most = part.min(MOST);
        Self { most, waiting: Semaphore::new(most as usize), room: Semaphore::new(ROOM as usize) }
    }

    /// Resolves when it is the turn of so many bytes, in the order of the calls; nothing, at once, if more would wait
    /// then than may.
    pub async fn begin(&self, bytes: usize) -> Option<Underway<'_>> {
        let waiting = self.waiting.try_acquire_many(cost(bytes, self.most)).ok()?;
        let room = self.room.acquire_many(cost(bytes, ROOM)).await.expect("it is never closed");
        Some(Underway { _waiting: waiting, _room: room })
    }
}

/// How much of so much this takes: a kibibyte is one, and there is something to each message.
fn cost(bytes: usize, most: u32) -> u32 {
    u32::try_from(4 + bytes / 1024).unwrap_or(most).min(most)
}
