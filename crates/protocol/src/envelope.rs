//! A publication on its way between instances: a small versioned header, then the payload untouched.
//!
//! The first byte can never begin UTF-8 text, so anything else on the bus is a plain text publication
//! from a foreign publisher. Numbers are big-endian:
//!
//! | bytes   | what                                                                        |
//! |---------|-----------------------------------------------------------------------------|
//! | 0       | `0xFA`                                                                      |
//! | 1       | version, 1                                                                  |
//! | 2       | length of the header, 36 or more; what this version does not know is skipped |
//! | 3       | kind: 0 text, 1 binary; 2 somebody joined, 3 somebody left (see `presence`)  |
//! | 4..20   | origin: the UUID of the publishing instance's lane                          |
//! | 20..28  | sequence number within the origin, from 1                                   |
//! | 28..36  | published at, microseconds since 1970                                       |
//! | 36..52  | the connection to leave out, where the header has room for it and it is not nil |
//!
//! It does not deduplicate; it only carries what a receiver needs for that (origin and sequence).

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::presence::{Member, PresenceChange};
use crate::publication::{Kind, Publication, now_micros};

const MAGIC: u8 = 0xFA;
const VERSION: u8 = 1;
const SHORT: usize = 36;
const LONG: usize = 52;
const JOINED: u8 = 2;
const LEFT: u8 = 3;

/// A publication with its place in what its origin has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The lane that published it; new whenever a process starts.
    pub origin: Uuid,
    /// Its number among the origin's publications: 1, 2, 3 …
    pub sequence: u64,
    /// What was published.
    pub publication: Publication,
}

/// What a message on the bus turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// From an instance.
    Envelope(Envelope),
    /// Somebody came or went; it has no origin and no number, because it is published together with the row that
    /// it is about, once.
    Presence(PresenceChange),
    /// Plain bytes from a foreign publisher: text if they are UTF-8, binary if not.
    Foreign(Publication),
}

/// Why a message that claims to be an envelope cannot be read. It is counted and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Written by an instance that is newer than this one.
    #[error("envelope version {0}; expected {VERSION}")]
    Version(u8),
    /// The header is shorter than it says or than it must be.
    #[error("envelope header is broken off")]
    Truncated,
    /// The kind byte is none that this version knows.
    #[error("envelope kind {0}; expected 0 to 3")]
    Kind(u8),
    /// It says that somebody came or went, and not who.
    #[error("envelope of a member that cannot be read")]
    Member,
    /// It says text, and is not UTF-8.
    #[error("envelope says text, and its payload is not UTF-8")]
    NotUtf8,
}

/// What stands before a member's row when it is published as news: the header of an envelope without origin,
/// number and time.
pub const JOINED_HEADER: [u8; SHORT] = news_header(JOINED);

/// The same for who has left.
pub const LEFT_HEADER: [u8; SHORT] = news_header(LEFT);

const fn news_header(kind: u8) -> [u8; SHORT] {
    let mut header = [0; SHORT];
    header[0] = MAGIC;
    header[1] = VERSION;
    header[2] = SHORT as u8;
    header[3] = kind;
    header
}

impl Envelope {
    /// The bytes for the bus.
    pub fn encode(&self) -> Bytes {
        let header = if self.publication.exclude.is_some() { LONG } else { SHORT };
        let mut out = BytesMut::with_capacity(header + self.publication.payload.len());
        out.put_slice(&[MAGIC, VERSION, header as u8, kind_byte(self.publication.kind)]);
        out.put_slice(self.origin.as_bytes());
        out.put_u64(self.sequence);
        out.put_u64(self.publication.published_at);
        if let Some(connection) = self.publication.exclude {
            out.put_slice(connection.as_bytes());
        }
        out.put_slice(&self.publication.payload);
        out.freeze()
    }
}

impl Opened {
    /// Reads a message from the bus; the payload shares `message`.
    pub fn read(message: Bytes) -> Result<Self, EnvelopeError> {
        if message.first() != Some(&MAGIC) {
            let kind = if std::str::from_utf8(&message).is_ok() { Kind::Text } else { Kind::Binary };
            return Ok(Self::Foreign(Publication {
                kind,
                payload: message,
                exclude: None,
                published_at: now_micros(),
            }));
        }
        let version = *message.get(1).ok_or(EnvelopeError::Truncated)?;
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let header = usize::from(*message.get(2).ok_or(EnvelopeError::Truncated)?);
        if header < SHORT || message.len() < header {
            return Err(EnvelopeError::Truncated);
        }
        let payload = message.slice(header..);
        let kind = match message[3] {
            0 if std::str::from_utf8(&payload).is_err() => return Err(EnvelopeError::NotUtf8),
            0 => Kind::Text,
            1 => Kind::Binary,
            kind @ (JOINED | LEFT) => {
                let member = Member::read(&payload).ok_or(EnvelopeError::Member)?;
                return Ok(Self::Presence(match kind {
                    JOINED => PresenceChange::Joined(member),
                    _ => PresenceChange::Left(member),
                }));
            }
            other => return Err(EnvelopeError::Kind(other)),
        };
        let exclude = (header >= LONG).then(|| uuid_at(&message, SHORT)).filter(|id| !id.is_nil());
        Ok(Self::Envelope(Envelope {
            origin: uuid_at(&message, 4),
            sequence: u64_at(&message, 20),
            publication: Publication { kind, payload, exclude, published_at: u64_at(&message, 28) },
        }))
    }
}

fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Text => 0,
        Kind::Binary => 1,
    }
}

fn uuid_at(message: &[u8], start: usize) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&message[start..start + 16]);
    Uuid::from_bytes(bytes)
}

fn u64_at(message: &[u8], start: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&message[start..start + 8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(exclude: bool) -> Envelope {
        Envelope {
            origin: Uuid::from_u128(7),
            sequence: 9,
            publication: Publication {
                kind: Kind::Text,
                payload: Bytes::from_static(b"hello"),
                exclude: exclude.then(|| Uuid::from_u128(8)),
                published_at: 11,
            },
        }
    }

    #[test]
    fn broken_envelopes_are_named() {
        let whole = envelope(true).encode().to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            bytes
        };
        let rows: &[(Vec<u8>, EnvelopeError)] = &[
            (vec![MAGIC], EnvelopeError::Truncated),
            (vec![MAGIC, 1], EnvelopeError::Truncated),
            (whole[..40].to_vec(), EnvelopeError::Truncated),
            (with(1, 2), EnvelopeError::Version(2)),
            (with(2, 35), EnvelopeError::Truncated),
            (with(2, 255), EnvelopeError::Truncated),
            (with(3, 2), EnvelopeError::Member),
            (with(3, 4), EnvelopeError::Kind(4)),
            (with(54, 0xFF), EnvelopeError::NotUtf8),
        ];
        for (bytes, expected) in rows {
            assert_eq!(Opened::read(Bytes::from(bytes.clone())), Err(*expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_longer_header_of_the_same_version_is_understood() {
        let mut bytes = envelope(true).encode().to_vec();
        bytes[2] += 3;
        bytes.splice(LONG..LONG, [1, 2, 3]);
        assert_eq!(Opened::read(bytes.into()), Ok(Opened::Envelope(envelope(true))));
    }

    #[test]
    fn news_of_a_member_are_read() {
        let member = Member { connection: Uuid::from_u128(7), user: "ann".into(), info: Bytes::new() };
        for (header, change) in [
            (JOINED_HEADER, PresenceChange::Joined(member.clone())),
            (LEFT_HEADER, PresenceChange::Left(member.clone())),
        ] {
            let message = [&header[..], &member.encode()].concat();
            assert_eq!(Opened::read(message.into()), Ok(Opened::Presence(change)));
        }
    }

    #[test]
    fn foreign_bytes_are_publications() {
        for (bytes, kind) in [(&b"hello"[..], Kind::Text), (b"", Kind::Text), (b"\xC3\x28", Kind::Binary)] {
            let Ok(Opened::Foreign(publication)) = Opened::read(Bytes::copy_from_slice(bytes)) else {
                panic!("{bytes:?} is foreign");
            };
            assert_eq!((publication.kind, &publication.payload[..]), (kind, bytes));
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_again(binary: bool, payload: String, exclude: Option<u128>, sequence: u64, published_at: u64) {
            let sent = Envelope {
                origin: Uuid::from_u128(1),
                sequence,
                publication: Publication {
                    kind: if binary { Kind::Binary } else { Kind::Text },
                    payload: payload.into(),
                    exclude: exclude.map(|id| Uuid::from_u128(id | 1)),
                    published_at,
                },
            };
            prop_assert_eq!(Opened::read(sent.encode()), Ok(Opened::Envelope(sent)));
        }

        #[test]
        fn no_bytes_break_the_reader(tail: Vec<u8>) {
            let mut bytes = vec![MAGIC, VERSION];
            bytes.extend(tail);
            let _ = Opened::read(bytes.into());
        }
    }
}
