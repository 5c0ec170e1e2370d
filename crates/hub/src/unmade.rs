//! A frame that is made when the first of its receivers is visited, once for all workers: to deflate a large
//! publication takes a millisecond, and one in six formats should not keep anybody waiting for six. How it is made is
//! for the relay to say, and nobody waits in here for another thread.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use crate::directory::Workers;

/// See the module.
pub struct Unmade {
    make: Box<dyn Fn() -> Bytes + Send + Sync>,
    /// What it counts for while it waits, whether it is made by then or not.
    bytes: usize,
    work: usize,
    /// A worker is at it, or was.
    claimed: AtomicBool,
    /// Those who came to it meanwhile, one bit each.
    waiting: AtomicU64,
    made: OnceLock<Bytes>,
}

/// What a worker finds that needs it.
pub(crate) enum Found {
    Made,
    /// It has been made just now: so much work, for which these workers have waited.
    MadeNow(usize, Workers),
    /// Another worker is at it, and will say when it is made.
    BeingMade,
}

impl Unmade {
    /// What `make` makes, once or, if somebody must have it at once, twice. It counts for `bytes` while it waits, and
    /// takes as much work as to write `work` bytes.
    pub fn new(bytes: usize, work: usize, make: impl Fn() -> Bytes + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            bytes,
            work,
            claimed: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            made: OnceLock::new(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    /// Makes it, if this worker is the first that needs it.
    pub(crate) fn find(&self, worker: usize) -> Found {
        if self.is_made() {
            return Found::Made;
        }
        if !self.claimed.swap(true, Ordering::SeqCst) {
            self.now();
            return Found::MadeNow(self.work, Workers::of_bits(self.waiting.swap(0, Ordering::SeqCst)));
        }
        self.waiting.fetch_or(1 << worker, Ordering::SeqCst);
        // Either it is seen here to be made, or whoever makes it sees the bit.
        if self.is_made() { Found::Made } else { Found::BeingMade }
    }

    /// The frame, for who cannot wait.
    pub(crate) fn now(&self) -> &Bytes {
        if let Some(made) = self.made.get() {
            return made;
        }
        // Made outside of the cell, or others would wait for it there.
        let made = (self.make)();
        self.made.get_or_init(|| made)
    }
}

impl fmt::Debug for Unmade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmade").field("bytes", &self.bytes).field("made", &self.is_made()).finish()
    }
}
