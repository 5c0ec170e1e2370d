//! What one instance asks of others about clients it may not hold: the HTTP API's subscribe, unsubscribe, disconnect
//! and refresh, and what a client sends up to a session of another instance. Nothing here has an answer.
//!
//! A message is a version (1), a kind, and the kind's fields one after the other, as `wire` writes them. Bytes behind
//! the last field that this version knows are skipped, so a later minor addition is no break; another version or
//! kind is named in the error, and whoever reads counts and drops it.

mod wire;

use bytes::{BufMut, Bytes, BytesMut};

use self::wire::{Field, Reader};
use crate::channel::Channel;
use crate::publication::ConnectionId;

/// One message between instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Subscribe clients to a channel.
    Subscribe(Subscribe),
    /// End subscriptions of clients.
    Unsubscribe(Unsubscribe),
    /// Close connections of clients.
    Disconnect(Disconnect),
    /// Tell clients that their connection expires later, or now.
    Refresh(Refresh),
    /// What a client of a one-way transport sent, for the instance that has its session.
    Uplink(Uplink),
}

/// Which clients are meant: those to whom everything applies that is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whom {
    /// The user; the empty name is that of the anonymous ones.
    pub user: String,
    /// Only this connection.
    pub connection: Option<ConnectionId>,
    /// Only the connection with this session.
    pub session: Option<String>,
}

/// See [`Control::Subscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// To be subscribed.
    pub whom: Whom,
    /// To what.
    pub channel: Channel,
    /// When the subscription expires, in seconds since 1970.
    pub expire_at: Option<u64>,
    /// What others are told about the subscriber in this channel.
    pub info: Option<Bytes>,
    /// What the subscriber is told with the subscription.
    pub data: Option<Bytes>,
    /// The place in the history from which on it wants what it missed.
    pub since: Option<Since>,
    /// What is otherwise than the channel's options say.
    pub overrides: Overrides,
}

/// A place in a channel's history, as the HTTP API names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The last offset that is known.
    pub offset: u64,
    /// The epoch in which that offset was given.
    pub epoch: String,
}

/// Options of a channel that one subscription has otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Whether it appears in presence.
    pub presence: Option<bool>,
    /// Whether others are told that it joined and left.
    pub join_leave: Option<bool>,
    /// Whether it recovers without asking for it.
    pub recovery: Option<bool>,
    /// Whether its position is checked without its asking for it.
    pub positioning: Option<bool>,
    /// Whether it is told who joins and leaves without asking for it.
    pub push_join_leave: Option<bool>,
}

/// See [`Control::Unsubscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Whose subscriptions.
    pub whom: Whom,
    /// Of what; nothing stands for every channel.
    pub channel: Option<Channel>,
    /// The code that the client is told.
    pub code: u32,
    /// The reason that the client is told.
    pub reason: String,
}

/// See [`Control::Disconnect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Whose connections.
    pub whom: Whom,
    /// Not these.
    pub spared: Vec<ConnectionId>,
    /// The code that the client is told.
    pub code: u32,
    /// The reason that the client is told.
    pub reason: String,
}

/// See [`Control::Refresh`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// Whose connections.
    pub whom: Whom,
    /// They are expired now.
    pub expired: bool,
    /// When they expire, in seconds since 1970; nothing stands for never.
    pub expire_at: Option<u64>,
    /// What others are told about the user from now on.
    pub info: Option<Bytes>,
}

/// See [`Control::Uplink`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The session that it is for.
    pub session: String,
    /// What the client sent, as it came.
    pub data: Bytes,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Written by an instance that is newer than this one.
    #[error("control message version {0}; expected {VERSION}")]
    Version(u8),
    /// Of a kind that this version does not know.
    #[error("control message kind {0}; expected {SUBSCRIBE} to {UPLINK}")]
    Kind(u8),
    /// It ends before its last field, or a field is none.
    #[error("control message is broken off or has a field that cannot be read")]
    Broken,
}

impl Control {
    /// The bytes for the bus.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(VERSION);
        out.put_u8(match self {
            Self::Subscribe(_) => SUBSCRIBE,
            Self::Unsubscribe(_) => UNSUBSCRIBE,
            Self::Disconnect(_) => DISCONNECT,
            Self::Refresh(_) => REFRESH,
            Self::Uplink(_) => UPLINK,
        });
        match self {
            Self::Subscribe(subscribe) => subscribe.write(&mut out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.write(&mut out),
            Self::Disconnect(disconnect) => disconnect.write(&mut out),
            Self::Refresh(refresh) => refresh.write(&mut out),
            Self::Uplink(uplink) => uplink.write(&mut out),
        }
        out.freeze()
    }

    /// Reads a message; what it carries shares the bytes.
    pub fn read(message: &Bytes) -> Result<Self, ControlError> {
        let &[version, kind, ..] = &message[..] else { return Err(ControlError::Broken) };
        if version != VERSION {
            return Err(ControlError::Version(version));
        }
        let mut fields = Reader::new(message.slice(2..));
        let control = match kind {
            SUBSCRIBE => fields.read().map(Self::Subscribe),
            UNSUBSCRIBE => fields.read().map(Self::Unsubscribe),
            DISCONNECT => fields.read().map(Self::Disconnect),
            REFRESH => fields.read().map(Self::Refresh),
            UPLINK => fields.read().map(Self::Uplink),
            other => return Err(ControlError::Kind(other)),
        };
        control.ok_or(ControlError::Broken)
    }
}

/// A struct is its fields, in the order in which they are written here and must stay.
macro_rules! in_this_order {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Field for $name {
            fn write(&self, out: &mut BytesMut) {
                $(self.$field.write(out);)*
            }

            fn read(from: &mut Reader) -> Option<Self> {
                Some(Self { $($field: from.read()?),* })
            }
        }
    )*};
}

in_this_order! {
    Whom { user, connection, session }
    Subscribe { whom, channel, expire_at, info, data, since, overrides }
    Since { offset, epoch }
    Overrides { presence, join_leave, recovery, positioning, push_join_leave }
    Unsubscribe { whom, channel, code, reason }
    Disconnect { whom, spared, code, reason }
    Refresh { whom, expired, expire_at, info }
    Uplink { session, data }
}

const VERSION: u8 = 1;
const SUBSCRIBE: u8 = 1;
const UNSUBSCRIBE: u8 = 2;
const DISCONNECT: u8 = 3;
const REFRESH: u8 = 4;
const UPLINK: u8 = 5;

#[cfg(test)]
mod tests;
