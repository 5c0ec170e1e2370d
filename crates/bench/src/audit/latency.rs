//! Times, kept in a histogram of bounded size and reported as quantiles. It records what it is given: that a
//! latency counts from the *intended* time of sending is its callers' part.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer times are recorded as this.
const LONGEST: u64 = 600_000_000;

/// Times from a microsecond to ten minutes, three digits exact.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// Quantiles of some times, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many times were recorded.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// Nine in ten were no longer.
    pub p90: u64,
    /// 99 in 100 were no longer.
    pub p99: u64,
    /// 999 in 1,000 were no longer.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constants, and valid"))
    }

    /// Records the time between two moments of the monotonic clock, in nanoseconds.
    pub(crate) fn record(&mut self, from: u64, to: u64) {
        self.0.saturating_record(to.saturating_sub(from) / 1_000);
    }

    /// Takes in what the other has recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms here have the same bounds");
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// In microseconds; all 0 if nothing was recorded.
    pub(crate) fn quantiles(&self) -> Quantiles {
        if self.0.is_empty() {
            return Quantiles::default();
        }
        Quantiles {
            count: self.0.len(),
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p99_9: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantiles(), Quantiles::default());
        for micros in 1..=1_000 {
            latencies.record(5_000, 5_000 + micros * 1_000);
        }
        let expected = Quantiles { count: 1_000, p50: 500, p90: 900, p99: 990, p99_9: 999, max: 1_000 };
        assert_eq!(latencies.quantiles(), expected);
    }

    #[test]
    fn a_time_that_is_too_long_or_runs_backwards_is_still_counted() {
        let mut latencies = Latencies::new();
        latencies.record(10, 0);
        latencies.record(0, u64::MAX);
        let quantiles = latencies.quantiles();
        assert_eq!(quantiles.count, 2);
        assert!(quantiles.max >= LONGEST, "{quantiles:?}");
    }
}
