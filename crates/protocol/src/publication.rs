//! One message in a channel, as every part between the publisher's socket and the receivers' sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// A connection's name: a UUID (v7), unique over all instances.
pub type ConnectionId = uuid::Uuid;

/// Whether a payload is text (UTF-8, checked where it entered) or binary. It is delivered as the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// One message in a channel. Cloning shares the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Text or binary.
    pub kind: Kind,
    /// What was sent, byte for byte.
    pub payload: Bytes,
    /// The connection that must not get it: a publisher that asked for `echo=false`.
    pub exclude: Option<ConnectionId>,
    /// When it was published, in microseconds since 1970 by the publishing instance's clock.
    pub published_at: u64,
}

impl Publication {
    /// A publication made now, for everybody.
    pub fn new(kind: Kind, payload: Bytes) -> Self {
        Self { kind, payload, exclude: None, published_at: now_micros() }
    }
}

/// The wall clock, in microseconds since 1970.
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
