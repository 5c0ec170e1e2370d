//! How much a client may send (`message_rate`, `message_burst`). What becomes of one that sends more is its session's
//! business.

use tokio::time::Instant;

use crate::config::Config;

/// A token bucket: `rate` a second, `burst` at once.
pub struct Bucket {
    tokens: f32,
    rate: f32,
    burst: f32,
    filled: Instant,
}

impl Bucket {
    /// A full one of the configured rate; nothing where there is no limit.
    pub fn new(config: &Config) -> Option<Box<Self>> {
        let rate = config.message_rate?.get() as f32;
        let burst = config.message_burst.map_or(rate, |burst| burst.get() as f32).max(1.0);
        Some(Box::new(Self { tokens: burst, rate, burst, filled: Instant::now() }))
    }

    /// Takes one token; false if there is none, and the client sends too much.
    pub fn take(&mut self) -> bool {
        let now = Instant::now();
        let fresh = now.duration_since(self.filled).as_secs_f32() * self.rate;
        self.filled = now;
        self.tokens = (self.tokens + fresh).min(self.burst);
        let enough = self.tokens >= 1.0;
        self.tokens -= f32::from(u8::from(enough));
        enough
    }
}
