//! Encodings, and how several messages share one frame.
//!
//! A *unit* is one encoded message as it stands in a frame: a line without its line break, or a Protobuf message with
//! its length before it. It does not look into messages.

use memchr::memchr;
use prost::encoding::{decode_varint, encode_varint};
use serde::de::DeserializeOwned;

use super::fields::Object;
use super::offence::Offence;

/// How a client writes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Lines of JSON, in text frames.
    Json,
    /// Length-prefixed messages, in binary frames.
    Protobuf,
}

/// How a push is written: each publication is encoded once for each of these that has receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// In a reply, for bidirectional JSON clients.
    Json,
    /// In a reply, for bidirectional Protobuf clients.
    Protobuf,
    /// Bare, for unidirectional clients.
    UniJson,
}

impl Encoding {
    /// The format of pushes to a bidirectional client.
    pub const fn format(self) -> Format {
        match self {
            Self::Json => Format::Json,
            Self::Protobuf => Format::Protobuf,
        }
    }

    /// Adds a unit to a frame that others may be in already.
    pub fn put_unit(self, frame: &mut Vec<u8>, unit: &[u8]) {
        self.separate(frame);
        frame.extend_from_slice(unit);
    }

    /// Adds a ping to a frame, or a client's pong, which looks the same.
    pub fn put_ping(self, frame: &mut Vec<u8>) {
        self.put_unit(
            frame,
            match self {
                Self::Json => b"{}",
                Self::Protobuf => &[0],
            },
        );
    }

    pub(super) fn separate(self, frame: &mut Vec<u8>) {
        if self == Self::Json && !frame.is_empty() {
            frame.push(b'\n');
        }
    }

    /// Reads one message, which is a unit without its length.
    pub(super) fn read<M: prost::Message + Default + DeserializeOwned>(
        self,
        message: &[u8],
    ) -> Result<M, Offence> {
        match self {
            Self::Json => {
                let text = str::from_utf8(message).map_err(|_| Offence::NotUtf8)?;
                if !text.trim_ascii_start().starts_with('{') {
                    return Err(Offence::NotObject);
                }
                let Object(read) = serde_json::from_str(text).map_err(|error| Offence::json(&error))?;
                Ok(read)
            }
            Self::Protobuf => M::decode(message).map_err(|error| Offence::protobuf(&error)),
        }
    }
}

impl Format {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Json, Self::Protobuf, Self::UniJson];

    /// How it is written.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Json | Self::UniJson => Encoding::Json,
            Self::Protobuf => Encoding::Protobuf,
        }
    }

    /// A number from 0 on, for tables.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The messages of a frame, one after the other. After an offence there are no more.
#[derive(Debug, Clone)]
pub(super) struct Messages<'a> {
    encoding: Encoding,
    /// `None` when the frame is done with.
    rest: Option<&'a [u8]>,
    begun: bool,
}

impl<'a> Messages<'a> {
    pub(super) const fn new(encoding: Encoding, frame: &'a [u8]) -> Self {
        Self { encoding, rest: Some(frame), begun: false }
    }

    /// There are no more.
    pub(super) const fn end(&mut self) {
        self.rest = None;
    }

    fn split(&mut self, frame: &'a [u8]) -> Result<&'a [u8], Offence> {
        match self.encoding {
            Encoding::Json => {
                let (line, rest) = match memchr(b'\n', frame) {
                    Some(end) => (&frame[..end], &frame[end + 1..]),
                    None => (frame, &[][..]),
                };
                self.rest = Some(rest);
                if line.is_empty() { Err(Offence::EmptyLine) } else { Ok(line) }
            }
            Encoding::Protobuf => {
                let mut rest = frame;
                let claimed = decode_varint(&mut rest).map_err(|_| Offence::Varint)?;
                let length = usize::try_from(claimed).ok().filter(|length| *length <= rest.len());
                let Some(length) = length else {
                    return Err(Offence::Claimed { claimed, remaining: rest.len() });
                };
                let (message, rest) = rest.split_at(length);
                self.rest = Some(rest);
                Ok(message)
            }
        }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<&'a [u8], Offence>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.rest.take()?;
        if frame.is_empty() {
            return (!self.begun).then_some(Err(Offence::EmptyFrame));
        }
        self.begun = true;
        let message = self.split(frame);
        if message.is_err() {
            self.end();
        }
        Some(message)
    }
}

/// Puts a length before the message that `write` adds.
pub(super) fn put_length(frame: &mut Vec<u8>, length: usize) {
    frame.reserve(length + 10);
    encode_varint(length as u64, frame);
}
