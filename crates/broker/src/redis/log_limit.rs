//! Something that may happen a million times and is worth a line in the log now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Says when a line is due: the first time, and after that at most once a minute.
pub(super) struct LogLimit(Mutex<(Option<Instant>, u64)>);

impl LogLimit {
    pub fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Counts once more. If a line is due, how often it happened since the line before.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.1 += 1;
        if state.0.is_some_and(|said| now.duration_since(said) < PAUSE) {
            return None;
        }
        *state = (Some(now), state.1);
        Some(std::mem::take(&mut state.1))
    }
}

const PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_a_minute() {
        let limit = LogLimit::new();
        let start = Instant::now();
        for (seconds, expected) in
            [(0, Some(1)), (1, None), (59, None), (60, Some(3)), (61, None), (200, Some(2))]
        {
            assert_eq!(limit.happened(start + Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
