//! When each message of a paced run is due. The schedule is open: it does not wait for the server, so that what
//! a slow server delays is counted as latency and not left out. It does not send.

/// Moments at an even rate, each a little off the beat.
///
/// The kernel divides CPU time into user and system by looking at its tick. A beat that is a multiple of the
/// tick would show it the same phase of every burst, and make that division wrong by any factor.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    start: u64,
    period: f64,
    dither: fastrand::Rng,
    next: u64,
}

/// The part of a period by which a moment may be late on the beat.
const DITHER: f64 = 0.2;

impl Schedule {
    /// From `start`, in nanoseconds, `rate` moments a second. The same seed makes the same schedule.
    pub(crate) fn new(start: u64, rate: f64, seed: u64) -> Self {
        Self { start, period: 1e9 / rate, dither: fastrand::Rng::with_seed(seed), next: 0 }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let beat = self.next as f64 + self.dither.f64() * DITHER;
        self.next += 1;
        Some(self.start + (beat * self.period) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_the_order_too() {
        let moments: Vec<u64> = Schedule::new(7_000, 1_000.0, 1).take(10_000).collect();
        assert!(moments.is_sorted());
        assert!((7_000..207_000).contains(&moments[0]));
        for (index, moment) in moments.iter().enumerate() {
            let beat = 7_000 + index as u64 * 1_000_000;
            assert!((beat..=beat + 200_000).contains(moment), "{index}: {moment}");
        }
    }

    #[test]
    fn a_seed_makes_the_same_schedule_again() {
        let of = |seed| Schedule::new(0, 10.0, seed).take(100).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
