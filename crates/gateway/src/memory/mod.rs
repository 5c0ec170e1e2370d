//! How much memory the instance may take, and how much it takes now: who would take more asks here first.
//! What is in use is measured by the keeper a few times a second, and between two looks the allocations of
//! all threads are added to it, so that nobody can outrun it. It ends no connection; the keeper has that done.

mod answer;
mod gauge;
mod heap;
mod keeper;
mod room;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::MemoryLimit;

pub use answer::{AnswerRoom, LITTLE, Reading};
pub use gauge::Gauge;
pub use heap::give_back_by_itself;
pub use keeper::keep;
pub use room::{FIRST_LOOK, Room, allowance};

use room::Rooms;

/// Of what the system allows, this part is for what is not measured in time: what the kernel is charged with
/// between two looks, and the allocator's own …
const RESERVE: usize = 10;

/// … but so much at least, since a fast network is as fast where there is little …
const LEAST_RESERVE: usize = 32 << 20;

/// … and this part at most.
const MOST_RESERVE: usize = 4;

/// From here on new clients are sent elsewhere, in hundredths of the limit …
const NEAR: i64 = 85;

/// … until it is less than this again.
const CLEAR: i64 = 80;

/// When the limit is passed, so much is in use afterwards.
const SHED_TO: i64 = 95;

/// So many times of what an answer is made of is there at once: what comes from Redis until it has been taken apart,
/// what that is then, and the answer.
const COPIES: i64 = 3;

/// By then what is free has been given back to the kernel (`heap.rs`), and that been measured.
const GIVEN_BACK: Duration = Duration::from_secs(2);

/// How often it is looked meanwhile.
const LOOKS_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
pub struct Budget {
    /// The most. Without one nothing is ever near.
    limit: Option<i64>,
    /// What was measured last, less what was allocated then.
    beside: AtomicI64,
    /// Beyond this, nobody reads. The limit; more if that is passed and there is nothing to give up.
    ceiling: AtomicI64,
    /// What answers that are being made will take beside what is in use.
    promised: AtomicI64,
    /// For what is read of what clients have missed or ask for.
    rooms: Rooms,
    near: AtomicBool,
    past: AtomicBool,
    alarm: Notify,
    relieved: Notify,
}

impl Budget {
    /// The budget that is configured, within what the system allows.
    pub fn new(configured: MemoryLimit, gauge: &Gauge) -> Self {
        let allowed = gauge.limit().map(|limit| limit - reserve(limit));
        let limit = match (configured, allowed) {
            (MemoryLimit::None, _) | (MemoryLimit::Auto, None) => None,
            (MemoryLimit::Auto, Some(allowed)) => Some(allowed),
            (MemoryLimit::Bytes(bytes), Some(allowed)) if bytes > allowed => {
                tracing::warn!(
                    memory_limit = bytes,
                    cgroup_limit = gauge.limit(),
                    possible = allowed,
                    "the cgroup allows less memory than memory_limit, and some of that is kept in reserve"
                );
                Some(allowed)
            }
            (MemoryLimit::Bytes(bytes), _) => Some(bytes),
        };
        Self::with_limit(limit)
    }

    fn with_limit(limit: Option<usize>) -> Self {
        let most = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        Self {
            limit: most,
            beside: AtomicI64::new(0),
            ceiling: AtomicI64::new(most.unwrap_or(i64::MAX)),
            promised: AtomicI64::new(0),
            rooms: Rooms::within(limit.map(reserve)),
            near: AtomicBool::new(false),
            past: AtomicBool::new(false),
            alarm: Notify::new(),
            relieved: Notify::new(),
        }
    }

    /// The most, in bytes.
    pub fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| limit.unsigned_abs() as usize)
    }

    /// Whether so much more fits, beside all that is promised. Not up to the limit: what the kernel takes to send it
    /// comes on top, and nobody is to be ended for an answer.
    fn has_room_beside(&self, needed: i64) -> bool {
        let taken = || self.in_use().saturating_add(self.promised.load(Ordering::Relaxed));
        self.limit.is_none_or(|limit| taken().saturating_add(needed) <= limit / 100 * SHED_TO)
    }

    /// What is in use now, in bytes.
    pub fn used(&self) -> usize {
        usize::try_from(self.in_use()).unwrap_or(0)
    }

    /// Whether new clients should go elsewhere.
    pub fn is_near(&self) -> bool {
        self.near.load(Ordering::Relaxed)
    }

    /// Whether whoever can wait before taking more should.
    pub fn is_past(&self) -> bool {
        self.past.load(Ordering::Relaxed)
    }

    /// Whether more is in use than may be, and nobody holds any that could be given up: what would stay is to come
    /// later.
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.ceiling.load(Ordering::Relaxed) > limit)
    }

    /// Resolves when that is over.
    pub async fn relieved(&self) {
        loop {
            let relieved = self.relieved.notified();
            tokio::pin!(relieved);
            relieved.as_mut().enable();
            if !self.is_past() {
                return;
            }
            relieved.await;
        }
    }

    /// Takes this thread's allocations into account. To be called wherever some may have come together.
    pub fn tally(&self) {
        if self.limit.is_some()
            && heap::tally()
            && self.in_use() > self.ceiling.load(Ordering::Relaxed)
            && !self.past.swap(true, Ordering::Relaxed)
        {
            self.alarm.notify_one();
        }
    }

    fn in_use(&self) -> i64 {
        self.beside.load(Ordering::Relaxed).saturating_add(heap::live())
    }

    /// So much is in use now, as it was measured.
    fn measured(&self, used: usize) {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.beside.store(used.saturating_sub(heap::live()), Ordering::Relaxed);
    }

    /// Lets everybody go on; `ceiling` is where they stop again. Beyond the limit, the instance is full.
    fn relieve(&self, ceiling: i64) {
        self.ceiling.store(ceiling, Ordering::Relaxed);
        if self.past.swap(false, Ordering::Relaxed) {
            self.relieved.notify_waiters();
        }
    }
}

/// What making an answer of so many bytes takes.
fn copies(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(COPIES)
}

fn reserve(limit: usize) -> usize {
    (limit / RESERVE).max(LEAST_RESERVE.min(limit / MOST_RESERVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_within_what_the_system_allows() {
        use MemoryLimit::{Auto, Bytes, None as Unlimited};
        // (configured, the cgroup's, in force)
        let rows = [
            (Auto, None, None),
            (Auto, Some(1000 << 20), Some(900 << 20)),
            (Auto, Some(256 << 20), Some(224 << 20)),
            (Auto, Some(100 << 20), Some(75 << 20)),
            (Bytes(100 << 20), None, Some(100 << 20)),
            (Bytes(100 << 20), Some(1000 << 20), Some(100 << 20)),
            (Bytes(950 << 20), Some(1000 << 20), Some(900 << 20)),
            (Unlimited, Some(1000 << 20), None),
        ];
        for (configured, system, expected) in rows {
            let gauge = gauge::fixed(system);
            let limit = Budget::new(configured, &gauge).limit();
            assert_eq!(limit, expected, "{configured:?} {system:?}");
        }
    }

    #[test]
    fn allocations_count_before_they_are_measured() {
        let budget = Budget::with_limit(Some(1 << 30));
        budget.measured((1 << 30) - (64 << 20));
        budget.tally();
        assert!(!budget.is_past());
        let much = vec![0_u8; 256 << 20];
        budget.tally();
        assert!(budget.is_past() && budget.used() > 1 << 30);
        drop(much);
        budget.tally();
        assert!(budget.is_past(), "only the keeper gives the all-clear");
        budget.relieve(1 << 30);
        assert!(!budget.is_past());
    }
}
