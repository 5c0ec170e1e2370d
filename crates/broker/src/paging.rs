//! Lists that are read piece by piece, so that none is ever held whole, here or at the bus. It says nothing about
//! their order: most have none.

use std::fmt;

/// A place in a list. What it looks like is its broker's business; others only keep it and bring it back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(String);

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is in it; that may be nothing although more follows.
    pub items: Vec<T>,
    /// Where the next one begins; nothing after the last.
    pub next: Option<Cursor>,
}

impl Cursor {
    /// Where every list begins.
    pub fn start() -> Self {
        Self::default()
    }

    /// Takes a cursor that was written down. One that never was is like one whose place is gone: reading goes on
    /// somewhere, or ends.
    pub fn new(written: impl Into<String>) -> Self {
        Self(written.into())
    }

    /// To write it down.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
