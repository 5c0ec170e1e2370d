//! How many questions were asked of Redis, how many came to nothing, and how long they took. What becomes of an answer is not
//! counted here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

#[derive(Default)]
pub(super) struct Questions {
    asked: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Questions {
    /// Asks one, and counts it when it is answered.
    pub async fn ask<T, E>(&self, question: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let started = Instant::now();
        let answer = question.await;
        self.asked.fetch_add(1, Relaxed);
        self.failed.fetch_add(u64::from(answer.is_err()), Relaxed);
        self.micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        answer
    }

    /// How many there were, how many of them have failed, and how many microseconds they took together.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.asked.load(Relaxed), self.failed.load(Relaxed), self.micros.load(Relaxed))
    }
}
