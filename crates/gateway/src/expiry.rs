//! When something is over: a token, what it opened, a key. It waits for nothing.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// When something ends, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub u64);

impl Expiry {
    /// The longest time that a client is told, as the protocol has it: 365 days.
    const LONGEST: u64 = 365 * 86_400;

    /// Whole seconds from now on, at most 365 days; nothing when it is over.
    pub fn seconds_left(self) -> Option<u32> {
        let left = self.0.checked_sub(now()).filter(|left| *left > 0)?;
        u32::try_from(left.min(Self::LONGEST)).ok()
    }
}

/// As RFC 3339 has it, in UTC.
impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = i64::try_from(self.0).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        match moment.and_then(|moment| moment.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            // Beyond the year 9999.
            None => write!(f, "{} seconds after 1970", self.0),
        }
    }
}

/// The wall clock, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
