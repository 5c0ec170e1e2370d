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
//! Version 3 is a bundle of publications that were given consecutive positions:
//!
//! | bytes   | what                                                                        |
//! |---------|-----------------------------------------------------------------------------|
//! | 0, 1    | `0xFA`, 3                                                                   |
//! | 2       | length of the header, 28 or more; what this version does not know is skipped |
//! | 3       | 0                                                                           |
//! | 4..12   | the offset of the first                                                     |
//! | 12      | length of the epoch, 1 to 15                                                |
//! | 13..28  | the epoch, filled up with zeros                                             |
//!
//! and then, for each, the length of its envelope in 4 bytes, and the envelope, without a position.
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
const BUNDLE: u8 = 3;
const BUNDLE_HEADER: usize = 28;
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

/// Publications of one channel, in the order of their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    first: Position,
    /// Each with its length before it.
    envelopes: Bytes,
}

/// What a message on the bus turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// From an instance.
    Envelope(Envelope),
    /// From instances, and numbered by Redis.
    Bundle(Bundle),
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
    #[error("envelope version {0}; expected {PLAIN} to {BUNDLE}")]
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
    /// In a bundle there is something else than publications.
    #[error("bundle holds something else than publications")]
    Bundle,
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

    /// Adds it to what a bundle will hold; the position it gets there.
    pub fn encode_into(&self, bundle: &mut BytesMut) {
        let publication = &self.publication;
        let header = if publication.exclude.is_some() { LONG } else { SHORT };
        let start = bundle.len();
        bundle.reserve(4 + header + publication.payload.len());
        bundle.put_u32(0);
        self.put_header(header, bundle);
        self.encode_rest(bundle);
        let length = (bundle.len() - start - 4) as u32;
        bundle[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Up to the position, which the caller puts if `header` has room for it.
    fn encode_header(&self, header: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(header + self.publication.payload.len());
        self.put_header(header, &mut out);
        out
    }

    fn put_header(&self, header: usize, out: &mut BytesMut) {
        let publication = &self.publication;
        let version = if section::is_needed(publication) { WITH_SECTION } else { PLAIN };
        out.put_slice(&[MAGIC, version, header as u8, kind_byte(publication.kind)]);
        out.put_slice(self.origin.as_bytes());
        out.put_u64(self.sequence);
        out.put_u64(publication.published_at);
        if header >= LONG {
            out.put_slice(publication.exclude.unwrap_or(Uuid::nil()).as_bytes());
        }
    }

    fn encode_rest(&self, out: &mut BytesMut) {
        if section::is_needed(&self.publication) {
            section::write(&self.publication, out);
        }
        out.put_slice(&self.publication.payload);
    }
}

impl Bundle {
    /// What was put together with `Envelope::encode_into`, from this position on.
    pub fn new(first: Position, envelopes: Bytes) -> Self {
        Self { first, envelopes }
    }

    /// The bytes for the bus.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(BUNDLE_HEADER + self.envelopes.len());
        out.put_slice(&[MAGIC, BUNDLE, BUNDLE_HEADER as u8, 0]);
        put_position(&mut out, self.first);
        out.put_slice(&self.envelopes);
        out.freeze()
    }

    /// One after the other, with their positions. What cannot be read keeps its number to itself; where the rest is
    /// broken off, that is the last.
    pub fn envelopes(self) -> impl Iterator<Item = Result<Envelope, EnvelopeError>> {
        let (mut rest, mut position) = (self.envelopes, self.first);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = rest.first_chunk().map(|length| 4 + u32::from_be_bytes(*length) as usize);
            let Some(end) = end.filter(|end| *end <= rest.len()) else {
                rest.clear();
                return Some(Err(EnvelopeError::Truncated));
            };
            let read = Opened::read(rest.split_to(end).slice(4..));
            let at = position;
            position.offset = position.offset.saturating_add(1);
            Some(match read {
                Ok(Opened::Envelope(mut envelope)) => {
                    envelope.publication.position = Some(at);
                    Ok(envelope)
                }
                Ok(_) => Err(EnvelopeError::Bundle),
                Err(error) => Err(error),
            })
        })
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
        if version == BUNDLE {
            return Self::read_bundle(message);
        }
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
        let position = if header >= NUMBERED { read_position(&message[LONG..NUMBERED])? } else { None };
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

    fn read_bundle(mut message: Bytes) -> Result<Self, EnvelopeError> {
        let header = usize::from(*message.get(2).ok_or(EnvelopeError::Truncated)?);
        if header < BUNDLE_HEADER || message.len() < header {
            return Err(EnvelopeError::Truncated);
        }
        let first = read_position(&message[4..BUNDLE_HEADER])?.ok_or(EnvelopeError::Epoch)?;
        Ok(Self::Bundle(Bundle { first, envelopes: message.split_off(header) }))
    }
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_u64(position.offset);
    out.put_slice(&position.epoch.padded());
}

/// From 24 bytes: the offset, the epoch's length, the epoch and zeros.
fn read_position(bytes: &[u8]) -> Result<Option<Position>, EnvelopeError> {
    let epoch = bytes[9..].get(..usize::from(bytes[8])).ok_or(EnvelopeError::Epoch)?;
    let epoch = std::str::from_utf8(epoch).ok().and_then(Epoch::new).ok_or(EnvelopeError::Epoch)?;
    Ok((epoch != Epoch::ANY).then(|| Position { offset: u64_at(bytes, 0), epoch }))
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
