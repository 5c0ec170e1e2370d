//! Counts by one label, whose values are a closed list: for what any thread counts, and what happens rarely enough for
//! counts that all share. What a label means is known where it is counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often each has happened since the start.
pub struct Tally(Box<[(&'static str, AtomicU64)]>);

impl Tally {
    /// None has happened yet. The labels are in the order of their places.
    pub fn of(labels: impl IntoIterator<Item = &'static str>) -> Self {
        Self(labels.into_iter().map(|label| (label, AtomicU64::new(0))).collect())
    }

    /// Once more what has this place among the labels.
    pub fn count(&self, place: usize) {
        self.0[place].1.fetch_add(1, Ordering::Relaxed);
    }

    /// How often, by label.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(label, count)| (*label, count.load(Ordering::Relaxed)))
    }

    /// The labels, in their order.
    #[cfg(test)]
    pub fn labels(&self) -> Vec<&'static str> {
        self.read().map(|(label, _)| label).collect()
    }
}
