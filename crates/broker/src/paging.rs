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
    /// It would have been so many bytes, which is more than it was to be: then there is nothing in it, and the next one
    /// begins where it would have begun.
    pub too_much: Option<usize>,
}

/// How much a page may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// About how many entries.
    pub entries: usize,
    /// How many bytes at most, [`Portion::ENTRY`] for each of them among these.
    pub bytes: usize,
}

impl Portion {
    /// What an entry takes beside its texts, about.
    pub const ENTRY: usize = 256;

    /// So many entries, however large they are.
    pub fn of(entries: usize) -> Self {
        Self { entries, bytes: usize::MAX }
    }
}

impl<T> Page<T> {
    /// Nothing at a place where there is nothing.
    pub(crate) fn end() -> Self {
        Self { items: Vec::new(), next: None, too_much: None }
    }

    /// What begins at `from` and is so many bytes, unless that is too much.
    pub(crate) fn within(portion: Portion, bytes: usize, from: &Cursor, page: impl FnOnce() -> Self) -> Self {
        if bytes <= portion.bytes {
            return page();
        }
        Self { items: Vec::new(), next: Some(from.clone()), too_much: Some(bytes) }
    }
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
