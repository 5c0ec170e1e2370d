//! What one worker has done, counted in plain integers that only this worker writes and that the
//! metrics page reads. Nothing here goes down again; what is open now is asked of the registry.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::end::Reason;
use crate::format::Protocol;

/// A count with a single writer: an addition is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owning worker may.
    pub fn add(&self, more: u64) {
        self.set(self.read().wrapping_add(more));
    }

    /// Replaces; only the owning worker may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The count, from any thread.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counts since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections whose handshake was answered, by `Protocol`.
    pub opened: [Count; Protocol::ALL.len()],
    /// Connections that ended, by `Reason`.
    pub closed: [Count; Reason::ALL.len()],
    /// Messages that clients sent.
    pub messages_in: Count,
    /// Those of them that were handed to the broker.
    pub publications: Count,
    /// Bytes read from upgraded sockets.
    pub bytes_in: Count,
    /// Messages written or queued, notices included.
    pub messages_out: Count,
    /// Bytes of frames written or queued, control frames included.
    pub bytes_out: Count,
    /// Publications written or queued, one for each receiver.
    pub deliveries: Count,
    /// Publications that were dropped for connections that do not read, where their channel allows it.
    pub dropped: Count,
    /// Turns of the heartbeat, as a sign of life.
    pub ticks: Count,
}
