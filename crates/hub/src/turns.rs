//! Heavy work of many connections, a piece at a time: what a socket takes that was full, or what the kernel frees with it,
//! may be megabytes, and where many come in the same moment everybody else would wait for all of them. It does none of
//! that work itself.

use std::cell::Cell;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Everybody else has a turn after so many bytes: a tenth of a millisecond, or two.
const TURN: usize = 256 << 10;

/// One worker's heavy work, first come, first served.
pub(crate) struct Turns {
    place: Semaphore,
    done: Cell<usize>,
}

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { place: Semaphore::const_new(1), done: Cell::new(0) }
    }

    /// Does a piece of work when its turn has come. The work says for how many bytes it counts.
    pub(crate) async fn take<T>(&self, work: impl FnOnce() -> (T, usize)) -> T {
        // Never closed; and were it, the work must be done all the same.
        let _place = self.place.acquire().await;
        let (result, bytes) = work();
        let done = self.done.get() + bytes;
        self.done.set(if done < TURN { done } else { 0 });
        if done >= TURN {
            yield_now().await;
        }
        result
    }
}
