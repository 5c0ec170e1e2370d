//! One message in a channel, as every part between the publisher's socket and the receivers' sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::position::Position;

/// A connection's name: a UUID (v7), unique over all instances.
pub type ConnectionId = uuid::Uuid;

/// Words that a publisher attaches to a publication, so that others can choose by them.
pub type Tags = BTreeMap<String, String>;

/// Whether a payload is text (UTF-8, checked where it entered) or binary. It is delivered as the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// One message in a channel. Cloning shares the payload and all that comes with it.
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
    /// Its place in the channel's history, which the broker alone gives; nothing where no history is kept.
    pub position: Option<Position>,
    /// Who published it, where receivers may know.
    pub info: Option<Arc<Info>>,
    /// Nothing stands for none.
    pub tags: Option<Arc<Tags>>,
}

/// A client, as others may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// The user's name; empty for an anonymous one.
    pub user: String,
    /// The connection's name.
    pub client: String,
    /// What the connection's token says of it, in the client's own format; empty for nothing.
    pub conn_info: Bytes,
    /// What the subscription's token says of it; empty for nothing.
    pub chan_info: Bytes,
}

impl Publication {
    /// A publication made now, for everybody.
    pub fn new(kind: Kind, payload: Bytes) -> Self {
        Self { published_at: now_micros(), ..Self::unstamped(kind, payload) }
    }

    /// Bytes of what it says. Its tags and what is shown of its publisher count as the payload does: they may be as
    /// large.
    pub fn size(&self) -> usize {
        let info = self.info.as_deref().map_or(0, |Info { user, client, conn_info, chan_info }| {
            user.len() + client.len() + conn_info.len() + chan_info.len()
        });
        let tags =
            self.tags.iter().flat_map(|tags| tags.iter()).map(|(name, value)| name.len() + value.len());
        self.payload.len() + info + tags.sum::<usize>()
    }

    /// One without the time at which it was published.
    pub(crate) fn unstamped(kind: Kind, payload: Bytes) -> Self {
        Self { kind, payload, exclude: None, published_at: 0, position: None, info: None, tags: None }
    }
}

/// The wall clock, in microseconds since 1970.
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
