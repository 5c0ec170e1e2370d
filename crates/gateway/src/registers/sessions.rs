//! The sessions of this instance whose clients speak by requests of their own, by the name that each such client was
//! told: who knows the name may speak for the session. Only those are here, so a WebSocket costs nothing. What is
//! said does not come by here; it goes to the worker that has the session, in the order in which it came to the hub.

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_hub::Key;
use papaya::HashMap;
use uuid::Uuid;

/// See the module. Names are hashed with a key of the process's, so how long a look takes says nothing about them.
#[derive(Default)]
pub struct Sessions {
    by_name: HashMap<Uuid, Seat>,
    lost: AtomicU64,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The worker's number.
    pub worker: usize,
    /// Its connection there.
    pub key: Key,
}

impl Sessions {
    /// A name that nobody guesses: 122 random bits.
    pub fn name() -> Uuid {
        Uuid::new_v4()
    }

    /// From now on the session can be spoken to.
    pub fn enter(&self, name: Uuid, seat: Seat) {
        self.by_name.pin().insert(name, seat);
    }

    /// It has ended, or is about to.
    pub fn leave(&self, name: Uuid) {
        self.by_name.pin().remove(&name);
    }

    /// Where the session of this name is, if it goes on.
    pub fn find(&self, name: &str) -> Option<Seat> {
        self.by_name.pin().get(&name.parse::<Uuid>().ok()?).copied()
    }

    /// Something came for one that is not here, or not any more.
    pub fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was so.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
