//! How far each other lane's publications have come, so that what is published again after a doubtful
//! round trip is relayed once. It knows neither channels nor payloads.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// The highest sequence number heard of each origin. An origin's numbers only grow on one connection of
/// Redis, and what is sent again begins no later than what may have got lost, so one number is enough.
pub(super) struct Origins {
    heard: HashMap<Uuid, Heard>,
    most: usize,
}

struct Heard {
    sequence: u64,
    at: Instant,
}

impl Origins {
    /// Nobody has been heard yet.
    pub fn new() -> Self {
        Self { heard: HashMap::new(), most: MOST }
    }

    /// Whether the publication is new; it is not, the next time.
    pub fn advance(&mut self, origin: Uuid, sequence: u64, now: Instant) -> bool {
        if let Some(heard) = self.heard.get_mut(&origin) {
            heard.at = now;
            let new = sequence > heard.sequence;
            heard.sequence = heard.sequence.max(sequence);
            return new;
        }
        if self.heard.len() >= self.most {
            self.forget(now);
        }
        self.heard.insert(origin, Heard { sequence, at: now });
        true
    }

    /// Makes room: those that have been silent for an hour go, and if that is not enough, the older half.
    fn forget(&mut self, now: Instant) {
        self.heard.retain(|_, heard| now.duration_since(heard.at) < SILENT);
        if self.heard.len() >= self.most {
            let mut times: Vec<_> = self.heard.values().map(|heard| heard.at).collect();
            let middle = times.len() / 2;
            let (_, &mut middle, _) = times.select_nth_unstable(middle);
            self.heard.retain(|_, heard| heard.at > middle);
        }
    }
}

const MOST: usize = 10_000;
const SILENT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut origins = Origins::new();
        let now = Instant::now();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let rows = [
            (a, 1, true),
            (a, 2, true),
            (b, 7, true),
            (a, 2, false),
            (a, 1, false),
            (a, 9, true),
            (b, 6, false),
        ];
        for (origin, sequence, new) in rows {
            assert_eq!(origins.advance(origin, sequence, now), new, "{origin} {sequence}");
        }
    }

    #[test]
    fn the_silent_are_forgotten_and_the_map_is_bounded() {
        let mut origins = Origins { heard: HashMap::new(), most: 4 };
        let start = Instant::now();
        for n in 0..4 {
            origins.advance(Uuid::from_u128(n), 5, start + Duration::from_secs(n as u64 * 1000));
        }
        let later = start + Duration::from_secs(4000);
        origins.advance(Uuid::from_u128(4), 5, later);
        assert!(!origins.advance(Uuid::from_u128(3), 5, later));
        assert!(origins.advance(Uuid::from_u128(0), 1, later), "was silent for more than an hour");
        for n in 100..200 {
            origins.advance(Uuid::from_u128(n), 5, later + Duration::from_secs(n as u64));
            assert!(origins.heard.len() <= 4);
        }
        assert!(
            !origins.advance(Uuid::from_u128(199), 5, later + Duration::from_secs(200)),
            "the newest stay"
        );
    }
}
