//! The room for one answer, or one request, that is made of many parts. Each is counted before it is read, and from
//! then on until the answer is written, so that those who make answers at the same time know of each other. It knows
//! nothing of parts but their size.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::{Instant, sleep};

use super::{Budget, GIVEN_BACK, LOOKS_AGAIN, copies};

/// So much of an answer is made whatever is in use, if there is no other room for it.
pub const LITTLE: usize = 64 << 10;

/// What one answer may be made of. Dropped when it has been written, since it is in use by then.
pub struct AnswerRoom {
    budget: Arc<Budget>,
    /// So much of it is made whatever is in use.
    free: usize,
    /// Bytes that are read, or are being read.
    taken: AtomicUsize,
    /// When it was waited long enough for all parts together: others are not kept waiting for what does not come.
    deadline: OnceLock<Instant>,
}

impl AnswerRoom {
    /// Room within this budget, where there is room for `free` bytes in any case.
    pub fn new(budget: Arc<Budget>, free: usize) -> Self {
        Self { budget, free, taken: AtomicUsize::new(0), deadline: OnceLock::new() }
    }

    /// Room for reading so many bytes, if there is any. It waits for what is free to be given back, which is in use
    /// until then.
    pub async fn to_read(&self, bytes: usize) -> Option<Reading<'_>> {
        let needed = copies(bytes);
        loop {
            self.budget.tally();
            let is_little = self.taken.load(Ordering::Relaxed).saturating_add(bytes) <= self.free;
            // Parts are read by one task, and answers made on one thread: nobody comes between.
            if is_little || self.budget.has_room_beside(needed) {
                self.taken.fetch_add(bytes, Ordering::Relaxed);
                self.budget.promised.fetch_add(needed, Ordering::Relaxed);
                return Some(Reading { room: self, bytes, promised: needed, kept: 0 });
            }
            if Instant::now() >= *self.deadline.get_or_init(|| Instant::now() + GIVEN_BACK) {
                return None;
            }
            sleep(LOOKS_AGAIN).await;
        }
    }
}

impl Drop for AnswerRoom {
    fn drop(&mut self) {
        let written = i64::try_from(*self.taken.get_mut()).unwrap_or(i64::MAX);
        self.budget.promised.fetch_sub(written, Ordering::Relaxed);
    }
}

/// Room for what is being read now. Dropped, it is there for others.
pub struct Reading<'a> {
    room: &'a AnswerRoom,
    bytes: usize,
    promised: i64,
    kept: usize,
}

impl Reading<'_> {
    /// So much of it is kept, and will be written.
    pub fn keep(mut self, bytes: usize) {
        self.kept = bytes;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // What is kept is in use, and will be there once more when it is written.
        let written = i64::try_from(self.kept).unwrap_or(i64::MAX);
        self.room.taken.fetch_add(self.kept, Ordering::Relaxed);
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.room.budget.promised.fetch_add(written, Ordering::Relaxed);
        self.room.budget.promised.fetch_sub(self.promised, Ordering::Relaxed);
    }
}
