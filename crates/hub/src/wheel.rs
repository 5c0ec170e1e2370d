//! When to look at a connection again: one coarse timer wheel for all of a worker's heartbeats and
//! deadlines. An entry is never taken out early; whoever is looked at says when to look next.

use std::time::Duration;

use crate::registry::Key;

const SLOTS: usize = 256;

/// A wheel of keys by the tick at which each is due.
pub(crate) struct Wheel {
    slots: Vec<Vec<Key>>,
    now: u64,
    tick: Duration,
}

impl Wheel {
    /// A wheel that can tell `shortest` apart to about a fortieth of it.
    pub(crate) fn new(shortest: Duration) -> Self {
        let tick = (shortest / 40).clamp(Duration::from_millis(5), Duration::from_millis(500));
        Self { slots: vec![Vec::new(); SLOTS], now: 0, tick }
    }

    /// How often to call `turn`.
    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// The present, in ticks.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// A span in ticks, rounded up.
    pub(crate) fn ticks(&self, span: Duration) -> u64 {
        span.as_nanos().div_ceil(self.tick.as_nanos()) as u64
    }

    /// Looks at `key` at tick `due`, or earlier if that is more than a turn of the wheel away.
    pub(crate) fn at(&mut self, due: u64, key: Key) {
        let ahead = due.saturating_sub(self.now).clamp(1, SLOTS as u64 - 1);
        self.slots[(self.now + ahead) as usize % SLOTS].push(key);
    }

    /// Goes on by one tick; the keys that are due go into `due`.
    pub(crate) fn turn(&mut self, due: &mut Vec<Key>) {
        self.now += 1;
        let slot = &mut self.slots[self.now as usize % SLOTS];
        due.append(slot);
        // A slot that held a storm of connections gives its memory back.
        slot.shrink_to(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_when_due_or_after_a_turn_at_the_latest() {
        let mut wheel = Wheel::new(Duration::from_secs(4));
        assert_eq!((wheel.tick(), wheel.ticks(Duration::from_millis(101))), (Duration::from_millis(100), 2));
        for (due, expected) in [(0, 1), (1, 1), (7, 7), (254, 254), (9_999, 255)] {
            let mut wheel = Wheel::new(Duration::from_secs(4));
            wheel.at(due, Key::new(5, 6));
            let mut found = Vec::new();
            while found.is_empty() {
                wheel.turn(&mut found);
            }
            assert_eq!((wheel.now(), &found[..]), (expected, &[Key::new(5, 6)][..]), "{due}");
        }
        wheel.turn(&mut Vec::new());
    }
}
