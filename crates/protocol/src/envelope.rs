//! A publication on its way between instances: a small versioned header, then the payload untouched.
//!
//! The first byte can never begin UTF-8 text, so anything else on the bus is a plain text publication
//! from a foreign publisher. Numbers are big-endian:
//!
//! | bytes   | what                                                                        |
//! |---------|-----------------------------------------------------------------------------|
//! | 0       | `0xFA`                                                                      |
//! | 1       | version, 1 or 2                                                             |
//! | 2       | length of the header, 36 or more; what this version does not know is skipped |
//! | 3       | kind: 0 text, 1 binary; 2 somebody joined, 3 somebody left (see `presence`)  |
//! | 4..20   | origin: the UUID of the publishing instance's lane; nil, if nobody need count |
//! | 20..28  | sequence number within the origin, from 1                                   |
//! | 28..36  | published at, microseconds since 1970                                       |
//! | 36..52  | the connection to leave out, where the header has room for it and it is not nil |
//! | 52..60  | the offset, where the header has room for it and an epoch follows           |
//! | 60      | length of the epoch, 1 to 15; 0 for a publication without a position        |
//! | 61..76  | the epoch, filled up with zeros                                             |
//!
//! In version 2 the header is followed by a section (see `section`), and that by the payload. A publication that
//! needs no section is written as version 1, so that an instance of either version reads it.
//!
//! It does not deduplicate; it only carries what a receiver needs for that (origin and sequence).

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::position::{Epoch, Position};
use crate::presence::{Member, PresenceChange};
use crate::publication::{Kind, Publication};
use crate::section;

const MAGIC: u8 = 0xFA;
const PLAIN: u8 = 1;
const WITH_SECTION: u8 = 2;
const SHORT: usize = 36;
const LONG: usize = 52;
const NUMBERED: usize = 76;
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

/// An envelope without its position, for whoever gives it one: `before`, then 24 bytes of position, then `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnumbered {
    /// 52 bytes.
    pub before: Bytes,
    /// The section, if there is one, and the payload.
    pub after: Bytes,
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
    #[error("envelope version {0}; expected {PLAIN} or {WITH_SECTION}")]
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
    /// The epoch is too long or no ASCII.
    #[error("envelope epoch cannot be read; expected 1 to {} bytes of visible ASCII", Epoch::MAX_BYTES)]
    Epoch,
    /// The section is broken off or holds text that is not UTF-8.
    #[error("envelope section cannot be read")]
    Section,
}

/// What stands before a member's row when it is published as news: the header of an envelope without origin,
/// number and time.
pub const JOINED_HEADER: [u8; SHORT] = news_header(JOINED);

/// The same for who has left.
pub const LEFT_HEADER: [u8; SHORT] = news_header(LEFT);

const fn news_header(kind: u8) -> [u8; SHORT] {
    let mut header = [0; SHORT];
    header[0] = MAGIC;
    header[1] = PLAIN;
    header[2] = SHORT as u8;
    header[3] = kind;
    header
}

impl Envelope {
    /// The bytes for the bus.
    pub fn encode(&self) -> Bytes {
        let publication = &self.publication;
        let header = match (publication.position, publication.exclude) {
            (Some(_), _) => NUMBERED,
            (None, Some(_)) => LONG,
            (None, None) => SHORT,
        };
        let mut out = self.encode_header(header);
        if let Some(position) = publication.position {
            put_position(&mut out, position);
        }
        self.encode_rest(&mut out);
        out.freeze()
    }

    /// The same for a publication that has yet to be given its position.
    pub fn encode_unnumbered(&self) -> Unnumbered {
        let mut out = self.encode_header(NUMBERED);
        let before = out.split().freeze();
        self.encode_rest(&mut out);
        Unnumbered { before, after: out.freeze() }
    }

    /// Up to the position, which the caller puts if `header` has room for it.
    fn encode_header(&self, header: usize) -> BytesMut {
        let publication = &self.publication;
        let version = if section::is_needed(publication) { WITH_SECTION } else { PLAIN };
        let mut out = BytesMut::with_capacity(header + publication.payload.len());
        out.put_slice(&[MAGIC, version, header as u8, kind_byte(publication.kind)]);
        out.put_slice(self.origin.as_bytes());
        out.put_u64(self.sequence);
        out.put_u64(publication.published_at);
        if header >= LONG {
            out.put_slice(publication.exclude.unwrap_or(Uuid::nil()).as_bytes());
        }
        out
    }

    fn encode_rest(&self, out: &mut BytesMut) {
        if section::is_needed(&self.publication) {
            section::write(&self.publication, out);
        }
        out.put_slice(&self.publication.payload);
    }
}

impl Unnumbered {
    /// The whole envelope.
    pub fn number(&self, position: Position) -> Bytes {
        let mut out = BytesMut::with_capacity(NUMBERED + self.after.len());
        out.put_slice(&self.before);
        put_position(&mut out, position);
        out.put_slice(&self.after);
        out.freeze()
    }
}

impl Opened {
    /// Reads a message from the bus; the payload shares `message`.
    pub fn read(message: Bytes) -> Result<Self, EnvelopeError> {
        if message.first() != Some(&MAGIC) {
            let kind = if std::str::from_utf8(&message).is_ok() { Kind::Text } else { Kind::Binary };
            return Ok(Self::Foreign(Publication::new(kind, message)));
        }
        let version = *message.get(1).ok_or(EnvelopeError::Truncated)?;
        if version != PLAIN && version != WITH_SECTION {
            return Err(EnvelopeError::Version(version));
        }
        let header = usize::from(*message.get(2).ok_or(EnvelopeError::Truncated)?);
        if header < SHORT || message.len() < header {
            return Err(EnvelopeError::Truncated);
        }
        let mut payload = message.slice(header..);
        let (info, tags) = match version {
            WITH_SECTION => section::read(&mut payload).ok_or(EnvelopeError::Section)?,
            _ => (None, None),
        };
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
        let position = if header >= NUMBERED { read_position(&message)? } else { None };
        Ok(Self::Envelope(Envelope {
            origin: uuid_at(&message, 4),
            sequence: u64_at(&message, 20),
            publication: Publication {
                exclude,
                published_at: u64_at(&message, 28),
                position,
                info,
                tags,
                ..Publication::unstamped(kind, payload)
            },
        }))
    }
}

fn put_position(out: &mut BytesMut, position: Position) {
    let epoch = position.epoch.as_str().as_bytes();
    out.put_u64(position.offset);
    out.put_u8(epoch.len() as u8);
    out.put_slice(epoch);
    out.put_bytes(0, Epoch::MAX_BYTES - epoch.len());
}

fn read_position(message: &[u8]) -> Result<Option<Position>, EnvelopeError> {
    let length = usize::from(message[LONG + 8]);
    let bytes = message[LONG + 9..NUMBERED].get(..length).ok_or(EnvelopeError::Epoch)?;
    let epoch = std::str::from_utf8(bytes).ok().and_then(Epoch::new).ok_or(EnvelopeError::Epoch)?;
    Ok((epoch != Epoch::ANY).then(|| Position { offset: u64_at(message, LONG), epoch }))
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
mod tests;
