//! Why a run did not come to a report. What went wrong *within* a run is in the report instead.

use std::collections::BTreeMap;
use std::io;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// What was asked for cannot be run; whoever asked can mend it.
    #[error("{0}")]
    Setting(String),
    /// The server did not take all connections.
    #[error("not all of {wanted} connections came about: {reasons}")]
    NotConnected {
        /// How many were wanted.
        wanted: usize,
        /// How attempts ended, and how often.
        reasons: String,
    },
    /// The floor's processes did not do their part.
    #[error("the floor failed: {0}")]
    Floor(String),
    /// This process, or one that it reads, failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl BenchError {
    /// `ends` says how attempts ended, and how often; empty if none has ended yet.
    pub(crate) fn not_connected(wanted: usize, ends: &BTreeMap<String, u64>) -> Self {
        let reasons: Vec<String> = ends.iter().map(|(end, count)| format!("{end} ({count} times)")).collect();
        let reasons =
            if reasons.is_empty() { "the server does not answer".to_owned() } else { reasons.join(", ") };
        Self::NotConnected { wanted, reasons }
    }
}
