//! How many ends of connections are logged at the usual level. Who floods an instance and is cut for it must not flood
//! its log as well; every end is counted, and every one is logged at `debug`.

use std::time::{Duration, Instant};

/// So many lines in a second, of one worker.
const LINES: u32 = 20;

/// What has been logged of the present second.
#[derive(Default)]
pub(super) struct Loudness {
    since: Option<Instant>,
    lines: u32,
    silent: u64,
}

impl Loudness {
    /// Whether one more line may be logged. What was not, is said in sum when the next second has one.
    pub(super) fn permits(&mut self) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            if self.silent > 0 {
                tracing::info!(connections = self.silent, "more ended than are logged one by one");
            }
            *self = Self { since: Some(now), lines: 0, silent: 0 };
        }
        self.lines += 1;
        let permits = self.lines <= LINES;
        self.silent += u64::from(!permits);
        permits
    }
}
