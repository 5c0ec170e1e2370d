//! Who is in a channel, and the news that somebody came or went, as bytes for Redis' rows and for the bus. It knows
//! no leases and no rules; those are the broker's.
//!
//! A member is written as below, numbers big-endian; a news is an envelope (see `envelope`) whose kind is 2 for
//! "joined" or 3 for "left" and whose payload is a member. Instances that know neither count and drop them.
//!
//! | bytes   | what                              |
//! |---------|-----------------------------------|
//! | 0..16   | the connection's UUID             |
//! | 16..20  | length of the user's name         |
//! | 20..    | the user's name, UTF-8            |
//! | ..      | what the gateway adds, untouched  |

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::publication::{ConnectionId, Info};

/// One connection's presence in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Whose subscription it is; unique over all instances.
    pub connection: ConnectionId,
    /// The user behind it; empty for an anonymous one.
    pub user: Arc<str>,
    /// What the gateway tells others about it; the broker hands it on untouched.
    pub info: Bytes,
}

/// What is told in a channel. Who is known by name joins with the first connection and leaves with the last;
/// each anonymous connection is somebody of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceChange {
    /// Came, by this connection.
    Joined(Member),
    /// Is gone; this was the last connection.
    Left(Member),
}

impl Member {
    /// The bytes of a row.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(NAME + self.user.len() + self.info.len());
        out.put_slice(self.connection.as_bytes());
        // A name of 4 GiB reaches no broker: messages are bounded far below.
        out.put_u32(self.user.len() as u32);
        out.put_slice(self.user.as_bytes());
        out.put_slice(&self.info);
        out.freeze()
    }

    /// Reads a row, whose rest it shares; nothing, if the bytes are no member.
    pub fn read(row: &Bytes) -> Option<Self> {
        let connection = Uuid::from_slice(row.get(..16)?).ok()?;
        let length = u32::from_be_bytes(row.get(16..NAME)?.try_into().ok()?);
        let end = NAME.checked_add(usize::try_from(length).ok()?)?;
        let user = std::str::from_utf8(row.get(NAME..end)?).ok()?;
        Some(Self { connection, user: user.into(), info: row.slice(end..) })
    }

    /// The member that a client is. `is_told` says whether others hear that it came and went.
    pub fn of(connection: ConnectionId, client: &Info, is_told: bool) -> Self {
        let mut info = BytesMut::with_capacity(5 + client.conn_info.len() + client.chan_info.len());
        info.put_u8(u8::from(is_told));
        // What a token says fits into a message.
        info.put_u32(client.conn_info.len() as u32);
        info.put_slice(&client.conn_info);
        info.put_slice(&client.chan_info);
        Self { connection, user: client.user.as_str().into(), info: info.freeze() }
    }

    /// The client that it is, as others may see it. What another version has written in another way is left out.
    pub fn client(&self) -> Info {
        let parts = || {
            let length = u32::from_be_bytes(self.info.get(1..5)?.try_into().ok()?);
            let end = 5_usize.checked_add(usize::try_from(length).ok()?)?;
            (end <= self.info.len()).then(|| (self.info.slice(5..end), self.info.slice(end..)))
        };
        let (conn_info, chan_info) = parts().unwrap_or_default();
        let mut id = Uuid::encode_buffer();
        let client = self.connection.hyphenated().encode_lower(&mut id).to_owned();
        Info { user: self.user.as_ref().to_owned(), client, conn_info, chan_info }
    }

    /// Whether others hear that it came and went.
    pub fn is_told(&self) -> bool {
        self.info.first() != Some(&0)
    }

    /// Whether nobody knows who it is.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }
}

impl PresenceChange {
    /// Whom it is about.
    pub fn member(&self) -> &Member {
        match self {
            Self::Joined(member) | Self::Left(member) => member,
        }
    }
}

const NAME: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_member_is_not_read() {
        let member =
            Member { connection: Uuid::from_u128(7), user: "ann".into(), info: Bytes::from_static(b"{}") };
        let whole = member.encode().to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            bytes
        };
        let rows = [
            vec![],
            whole[..16].to_vec(),
            whole[..19].to_vec(),
            whole[..22].to_vec(),
            with(16, 0xFF),
            with(19, 6),
            with(20, 0xFF),
        ];
        for bytes in rows {
            assert_eq!(Member::read(&bytes.clone().into()), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_client_is_known_again() {
        for (conn_info, chan_info, told) in
            [("", "", true), ("{}", "", false), ("", "[1]", true), ("{}", "1", true)]
        {
            let client = Info {
                user: "ann".into(),
                client: Uuid::from_u128(7).to_string(),
                conn_info: conn_info.into(),
                chan_info: chan_info.into(),
            };
            let member = Member::of(Uuid::from_u128(7), &client, told);
            let read = Member::read(&member.encode()).unwrap();
            assert_eq!((read.client(), read.is_told()), (client, told));
        }
        let foreign = Member {
            info: Bytes::from_static(b"\x01\xff\xff\xff\xff"),
            ..Member::of(Uuid::nil(), &Info::default(), true)
        };
        assert_eq!(foreign.client().conn_info, "");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(connection: u128, user: String, info: Vec<u8>) {
            let member = Member { connection: Uuid::from_u128(connection), user: user.into(), info: info.into() };
            prop_assert_eq!(Member::read(&member.encode()), Some(member));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let _ = Member::read(&bytes.into());
        }
    }
}
