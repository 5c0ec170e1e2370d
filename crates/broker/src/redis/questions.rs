//! How many questions were asked of Redis, how many came to nothing, and how long they took. What becomes of an
//! answer is not counted here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use metrics::Histogram;

/// See the module.
pub(super) struct Questions {
    asked: AtomicU64,
    failed: AtomicU64,
    seconds: Histogram,
}

impl Questions {
    /// None yet; how long each takes goes into `seconds`.
    pub fn new(seconds: Histogram) -> Self {
        Self { asked: AtomicU64::new(0), failed: AtomicU64::new(0), seconds }
    }

    /// Asks one, and counts it when it is answered.
    pub async fn ask<T, E>(&self, question: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let started = Instant::now();
        let answer = question.await;
        self.asked.fetch_add(1, Relaxed);
        self.failed.fetch_add(u64::from(answer.is_err()), Relaxed);
        self.seconds.record(started.elapsed());
        answer
    }

    /// How many there were, and how many of them have failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.asked.load(Relaxed), self.failed.load(Relaxed))
    }
}
