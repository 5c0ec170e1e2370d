//! Room for reading what clients have missed or ask for, of all workers together: as much at a time as the reserve has
//! place for, first come, first served. What is more than that by itself is read alone, and only where it fits into
//! what is not in use. It knows neither clients nor what is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::{Budget, COPIES, GIVEN_BACK, LOOKS_AGAIN, copies};

/// So many bytes of a history are read whatever it is, for each who asks: most have missed less, and are answered after
/// one read.
pub const FIRST_LOOK: usize = 16 << 10;

/// Bytes that are read at a time where memory has no limit, or enough of it.
const ENOUGH: usize = 16 << 20;

/// This part of the reserve is for them; the rest is for what the kernel takes between two looks.
const PART_OF_RESERVE: usize = 2;

/// They are given away in pieces of so many.
const PIECE: usize = 1 << 10;

/// All the room there is.
#[derive(Debug)]
pub(super) struct Rooms {
    pieces: Arc<Semaphore>,
    /// In bytes.
    at_once: usize,
}

/// So long as it lives, so much may be held in memory that has been read.
pub struct Room {
    _pieces: OwnedSemaphorePermit,
    _promise: Option<Promise>,
}

/// What will be in use.
struct Promise {
    budget: Arc<Budget>,
    bytes: i64,
}

/// The room for so many bytes, about, and for some that may come meanwhile.
pub fn allowance(bytes: usize, more: usize) -> usize {
    bytes.saturating_add(bytes / 8).saturating_add(more)
}

impl Rooms {
    /// As much as this reserve has place for.
    pub fn within(reserve: Option<usize>) -> Self {
        let at_once =
            reserve.map_or(ENOUGH, |reserve| reserve / PART_OF_RESERVE / COPIES as usize).min(ENOUGH);
        Self { pieces: Arc::new(Semaphore::new(at_once.div_ceil(PIECE))), at_once }
    }
}

impl Budget {
    /// So much may be read at a time of which it is not known whether it fits.
    pub fn at_once(&self) -> usize {
        self.rooms.at_once
    }

    /// The room for so many bytes, of which it was found that they do not fit into the room there was. More of them may
    /// come meanwhile: who has been wrong once takes twice as much. And they may have been estimated by the first of
    /// them: nobody takes more than what is read at a time before it is known that this is not enough.
    pub fn room_after(&self, room: usize, bytes: usize) -> usize {
        let at_once = self.rooms.at_once;
        let is_new = room <= FIRST_LOOK || room == at_once;
        let needs = if is_new { allowance(bytes, FIRST_LOOK) } else { bytes.saturating_mul(2) };
        if room < at_once { needs.min(at_once) } else { needs }
    }

    /// Resolves when there is room to read so many bytes, and memory is not short. It is to be held until what was read
    /// waits for its socket; who waits for more must not hold any, or two might wait for each other. Nothing, if they
    /// are more than what is read at a time, and do not fit, also when what is free has been given back.
    pub async fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let mut deadline = None;
        loop {
            if self.may_be_read(bytes) {
                let pieces = bytes.min(self.rooms.at_once).div_ceil(PIECE);
                let taken = self.rooms.pieces.clone().acquire_many_owned(pieces as u32).await;
                let taken = taken.expect("it is never closed");
                // Whoever had it before may have left nothing.
                let fits = self.may_be_read(bytes);
                if self.is_past() {
                    drop(taken);
                    self.relieved().await;
                    continue;
                }
                if fits {
                    let promise = (bytes > self.rooms.at_once).then(|| Promise::of(self, copies(bytes)));
                    return Some(Room { _pieces: taken, _promise: promise });
                }
            }
            if Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + GIVEN_BACK) {
                return None;
            }
            sleep(LOOKS_AGAIN).await;
        }
    }

    fn may_be_read(&self, bytes: usize) -> bool {
        self.tally();
        bytes <= self.rooms.at_once || self.has_room_beside(copies(bytes))
    }
}

impl Promise {
    fn of(budget: &Arc<Budget>, bytes: i64) -> Self {
        budget.promised.fetch_add(bytes, Ordering::Relaxed);
        Self { budget: budget.clone(), bytes }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.budget.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    /// A budget of which so much is in use.
    fn budget(limit: usize, used: usize) -> Arc<Budget> {
        let budget = Arc::new(Budget::with_limit(Some(limit)));
        budget.measured(used);
        budget
    }

    #[test]
    fn what_is_read_at_a_time_fits_into_half_of_the_reserve() {
        // (the limit, bytes at a time)
        for (limit, at_once) in
            [(None, 16 * MIB), (Some(8 << 30), 16 * MIB), (Some(96 * MIB), 4 * MIB), (Some(24 * MIB), MIB)]
        {
            assert_eq!(Budget::with_limit(limit).at_once(), at_once, "{limit:?}");
        }
    }

    #[test]
    fn more_is_asked_for_until_it_is_enough() {
        let budget = budget(8 << 30, 0);
        let all = budget.at_once();
        // (the room there was, how many bytes there are said to be, the room there will be)
        for (room, bytes, next) in [
            (FIRST_LOOK, 80_000, 90_000 + FIRST_LOOK),
            (1 << 10, 80_000, 90_000 + FIRST_LOOK),
            (90_000, 100_000, 200_000),
            (FIRST_LOOK, 10 * all, all),
            (all / 2 + 1, all - 1, all),
            (all, 2 * all, 2 * all + all / 4 + FIRST_LOOK),
            (2 * all, 3 * all, 6 * all),
            (2 * all, usize::MAX, usize::MAX),
        ] {
            assert_eq!(budget.room_after(room, bytes), next, "{room} {bytes}");
        }
    }

    #[test]
    fn it_is_given_in_the_order_in_which_it_is_asked_for() {
        let budget = budget(8 << 30, 0);
        let all = budget.at_once();
        let mut held: Vec<_> =
            (0..4).map(|_| budget.room(all / 4).now_or_never().flatten().expect("room")).collect();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(budget.room(all / 4))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        held.pop();
        assert!(waiting[1].as_mut().now_or_never().is_none());
        assert!(waiting[0].as_mut().now_or_never().flatten().is_some());
        drop((held, waiting));
        assert!(budget.room(all).now_or_never().flatten().is_some());
    }

    #[test]
    fn who_has_waited_for_room_looks_at_the_memory_again() {
        let budget = budget(960 * MIB, 0);
        let all = budget.at_once();
        let held = budget.room(all).now_or_never().flatten().expect("room");
        let mut next = Box::pin(budget.room(all));
        assert!(next.as_mut().now_or_never().is_none());
        budget.past.store(true, Ordering::Relaxed);
        drop(held);
        assert!(next.as_mut().now_or_never().is_none(), "what was read before has left nothing");
        assert_eq!(budget.rooms.pieces.available_permits(), all / PIECE, "nobody keeps room meanwhile");
        budget.relieve(960 << 20);
        assert!(next.now_or_never().flatten().is_some());
    }

    #[test]
    fn what_is_much_is_read_alone_and_where_it_fits() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let _time = runtime.as_ref().expect("a runtime").enter();
        let budget = budget(960 * MIB, 100 * MIB);
        let all = budget.at_once();
        let room = |bytes| budget.room(bytes).now_or_never().flatten();
        let little = room(1);
        let mut alone = Box::pin(budget.room(2 * all));
        assert!(alone.as_mut().now_or_never().is_none(), "somebody reads");
        drop(little);
        let alone = alone.now_or_never().flatten().expect("room");
        assert_eq!(budget.promised.load(Ordering::Relaxed), copies(2 * all));
        assert!(room(1).is_none(), "it is read alone");
        drop(alone);
        assert_eq!(budget.promised.load(Ordering::Relaxed), 0);
        assert!(room(300 * MIB).is_none(), "it takes three times as much");
        budget.measured(900 * MIB);
        assert!(room(2 * all).is_none());
        assert!(room(all).is_some(), "that is what the reserve is for");
    }
}
