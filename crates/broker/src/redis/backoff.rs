//! How long to wait before the next attempt to reach Redis. It never says to give up.

use std::time::Duration;

/// Doubles from 50 ms to a second, with jitter so that the instances of a cluster do not return in step.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause after a connection that lasted so long. One that lasted less than a second counts as a
    /// failed attempt: Redis may have accepted it only to cut it off.
    pub fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= LONGEST {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause.mul_f64(0.6 + 0.4 * fastrand::f64())
    }
}

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew_after_a_connection_that_held() {
        let mut backoff = Backoff::new();
        let failed = Duration::from_millis(1);
        let mut most = FIRST;
        for _ in 0..100 {
            let pause = backoff.after(failed);
            assert!(pause <= most && pause >= most.mul_f64(0.59), "{pause:?} of {most:?}");
            most = (most * 2).min(LONGEST);
        }
        assert!(backoff.after(Duration::from_secs(1)) <= FIRST);
    }
}
