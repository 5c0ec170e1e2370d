//! How much work there has been in encoding and deflating what was published since somebody last asked, on a thread
//! that serves connections: what is more than one turn's is put off, and the publisher waits for as long. On any other
//! thread nobody has to wait for a turn, and nothing is counted. It does none of the work.

use std::cell::Cell;

/// What is made at once, as bytes: of 64 KiB one encoding and one deflated format, which is a millisecond.
pub const TURN: usize = 256 << 10;

thread_local! {
    static WORK: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on this thread serves connections.
pub fn count() {
    WORK.set(Some(0));
}

/// Something takes so much work, now or when its turn comes.
pub fn add(bytes: usize) {
    WORK.set(WORK.get().map(|work| work.saturating_add(bytes)));
}

/// Whether there was so much work that more of it should wait for its turn.
pub fn is_a_turn() -> bool {
    WORK.get().is_some_and(|work| work >= TURN)
}

/// How much work there was since this was last asked.
pub fn take() -> usize {
    let work = WORK.get();
    WORK.set(work.map(|_| 0));
    work.unwrap_or(0)
}
