//! How often each method was called and what came of it, and what was turned away before it was a call.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::error::Code;
use super::methods::Method;
use super::no_call::{NoCall, Reason};
use crate::telemetry::Tally;

/// The counts since the start.
pub struct Calls {
    /// For each method: those that went well, then those with each code.
    outcomes: [[AtomicU64; 1 + Code::ALL.len()]; Method::ALL.len()],
    refused: Tally,
    publications: AtomicU64,
}

impl Default for Calls {
    fn default() -> Self {
        let refused = Tally::of(Reason::ALL.map(Reason::label));
        Self { outcomes: Default::default(), refused, publications: AtomicU64::default() }
    }
}

impl Calls {
    /// Counts a call.
    pub fn count(&self, method: Method, outcome: Result<(), Code>) {
        let at = match outcome {
            Ok(()) => 0,
            Err(code) => 1 + Code::ALL.iter().position(|other| *other == code).unwrap_or_default(),
        };
        self.outcomes[method as usize][at].fetch_add(1, Relaxed);
    }

    /// Counts what was no call.
    pub fn refuse(&self, why: &NoCall) {
        self.refused.count(why.reason() as usize);
    }

    /// Counts a publication that the broker took.
    pub fn count_publication(&self) {
        self.publications.fetch_add(1, Relaxed);
    }

    /// Publications that the broker took.
    pub fn publications(&self) -> u64 {
        self.publications.load(Relaxed)
    }

    /// Calls, by method and result.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        Method::ALL.iter().zip(&self.outcomes).flat_map(|(method, outcomes)| {
            Self::results().zip(outcomes).map(|(result, count)| (method.name(), result, count.load(Relaxed)))
        })
    }

    /// What was no call, by reason.
    pub fn read_refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.read()
    }

    /// The values of the label `result`.
    pub fn results() -> impl Iterator<Item = &'static str> {
        std::iter::once("ok").chain(Code::ALL.into_iter().map(Code::label))
    }
}
