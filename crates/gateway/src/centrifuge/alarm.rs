//! When a session has to look at its tokens' ends: the earliest of all, in one timer, which most sessions do not have.

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Sleep, sleep};

use crate::expiry::Expiry;

/// A timer that rings once, if it is set.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Sets it to the earliest of these ends, each with `grace` after it; to none of them if there are none.
    pub fn set(&mut self, ends: impl Iterator<Item = Expiry>, grace: Duration) {
        self.0 = ends.min().map(|end| Box::pin(sleep(until(end, grace))));
    }

    /// Resolves when it rings.
    pub async fn rings(&mut self) {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

/// Whether this end, with `grace` after it, has passed.
pub fn has_passed(end: Expiry, grace: Duration) -> bool {
    until(end, grace).is_zero()
}

/// At most a day: clocks change, and what has not passed by then is looked at again.
fn until(end: Expiry, grace: Duration) -> Duration {
    let end = Duration::from_secs(end.0).saturating_add(grace);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    end.saturating_sub(now).min(Duration::from_secs(86_400))
}
