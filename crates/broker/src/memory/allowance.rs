//! How much the memory broker may keep in all, the histories of its channels and the results of appends together, and
//! which part of the channels is to give up something next when that is passed. It keeps nothing itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Results of appends go first only if they are more than this part of everything: nobody can have a key forgotten
/// by filling histories.
const RESULTS: usize = 4;

/// See the module. All parts share it; what it counts is changed under a part's lock.
pub(super) struct Allowance {
    most: usize,
    started: Instant,
    streams: AtomicUsize,
    results: AtomicUsize,
    /// By part, when the channel that was published to longest ago was published to, or before.
    idle: Box<[AtomicU64]>,
    /// By part, when the first result ends.
    ending: Box<[AtomicU64]>,
    publications_given_up: AtomicU64,
    results_given_up: AtomicU64,
}

/// What is to be given up, and in which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    History(usize),
    Result(usize),
}

impl Allowance {
    /// `most` bytes for so many parts.
    pub fn new(most: usize, parts: usize) -> Self {
        let none = || (0..parts).map(|_| AtomicU64::new(u64::MAX)).collect();
        Self {
            most,
            started: Instant::now(),
            streams: AtomicUsize::new(0),
            results: AtomicUsize::new(0),
            idle: none(),
            ending: none(),
            publications_given_up: AtomicU64::new(0),
            results_given_up: AtomicU64::new(0),
        }
    }

    /// What should be given up next, because too much is kept.
    pub fn excess(&self) -> Option<Excess> {
        if !self.is_passed() {
            return None;
        }
        if self.results.load(Relaxed) > self.most / RESULTS {
            return first(&self.ending).map(Excess::Result);
        }
        first(&self.idle).map(Excess::History)
    }

    /// Whether too much is kept.
    pub fn is_passed(&self) -> bool {
        self.kept() > self.most
    }

    /// Bytes that are kept, about.
    pub fn kept(&self) -> usize {
        self.streams.load(Relaxed).saturating_add(self.results.load(Relaxed))
    }

    /// Publications, and results, that were given up so far.
    pub fn given_up(&self) -> (u64, u64) {
        (self.publications_given_up.load(Relaxed), self.results_given_up.load(Relaxed))
    }

    /// A history that took `before` bytes takes `after`.
    pub fn history_changed(&self, before: usize, after: usize) {
        change(&self.streams, before, after);
    }

    /// A result that took `before` bytes takes `after`.
    pub fn result_changed(&self, before: usize, after: usize) {
        change(&self.results, before, after);
    }

    pub fn publication_given_up(&self) {
        self.publications_given_up.fetch_add(1, Relaxed);
    }

    pub fn result_given_up(&self) {
        self.results_given_up.fetch_add(1, Relaxed);
    }

    /// Since when the first of a part's channels may not have been published to, and when its first result ends.
    pub fn heads(&self, part: usize, idle: Option<Instant>, ending: Option<Instant>) {
        let nanos = |at: Instant| at.saturating_duration_since(self.started).as_nanos() as u64;
        self.idle[part].store(idle.map_or(u64::MAX, nanos), Relaxed);
        self.ending[part].store(ending.map_or(u64::MAX, nanos), Relaxed);
    }
}

fn change(bytes: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        bytes.fetch_add(after - before, Relaxed);
    } else {
        bytes.fetch_sub(before - after, Relaxed);
    }
}

/// The part whose head is the earliest; nothing, if none has one.
fn first(heads: &[AtomicU64]) -> Option<usize> {
    let heads = heads.iter().map(|head| head.load(Relaxed)).enumerate();
    heads.filter(|(_, head)| *head != u64::MAX).min_by_key(|(_, head)| *head).map(|(part, _)| part)
}
