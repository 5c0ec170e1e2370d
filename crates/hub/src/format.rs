//! The wire formats: the different bytes in which one publication reaches its subscribers. Each is made
//! once, by whoever delivers, for all who want it. How a message is written is not known here, only how
//! several of them are laid together.

use std::sync::Arc;

use bytes::Bytes;

use crate::unmade::Unmade;

/// How a subscriber wants its publications written: what a message says, and what carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What a message says.
    pub encoding: Encoding,
    /// What carries it.
    pub carrier: Carrier,
}

/// What a message says of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The payload and nothing else.
    Raw,
    /// A push of the client protocol in JSON.
    Json,
    /// The same for subscribers that take deltas, whose payloads are strings: the whole payload.
    JsonString,
    /// The same with the delta to the publication before.
    JsonDelta,
    /// A push of the client protocol in Protobuf.
    Protobuf,
    /// The same with the delta to the publication before.
    ProtobufDelta,
    /// A push of the client protocol for those who only listen, in JSON.
    Uni,
}

/// What carries messages to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// WebSocket frames.
    Frame,
    /// WebSocket frames, deflated where that makes them shorter (RFC 7692), for receivers with the widest window.
    Deflated,
    /// The same within the narrowest window, for receivers that asked for less than the widest.
    DeflatedNarrowly,
    /// The body of an HTTP response, messages one behind the other.
    Stream,
    /// The body of an HTTP response, as server-sent events.
    Events,
}

impl Carrier {
    /// Whether it is the body of an answer: what such a client says comes another way, if at all.
    pub fn is_body(self) -> bool {
        matches!(self, Self::Stream | Self::Events)
    }
}

impl Format {
    /// WebSocket messages as they were published.
    pub const PLAIN: Self = Self { encoding: Encoding::Raw, carrier: Carrier::Frame };

    /// The same in another carrier.
    pub const fn carried_by(self, carrier: Carrier) -> Self {
        Self { carrier, ..self }
    }

    /// Whether messages are deflated in it.
    pub fn is_deflated(self) -> bool {
        matches!(self.carrier, Carrier::Deflated | Carrier::DeflatedNarrowly)
    }

    /// Whether publications are written as deltas in it.
    pub fn tells_deltas(self) -> bool {
        matches!(self.encoding, Encoding::JsonDelta | Encoding::ProtobufDelta)
    }

    /// The format of the first publication, where others are written as deltas.
    pub fn whole(self) -> Self {
        let encoding = match self.encoding {
            Encoding::JsonDelta => Encoding::JsonString,
            Encoding::ProtobufDelta => Encoding::Protobuf,
            other => other,
        };
        Self { encoding, ..self }
    }

    /// What stands between the messages of one frame; nothing where each message is a frame of its own.
    pub(crate) fn joint(self) -> Option<&'static [u8]> {
        match (self.carrier, self.encoding) {
            (Carrier::Frame, Encoding::Json | Encoding::JsonString | Encoding::JsonDelta) => Some(b"\n"),
            // Each message says its length.
            (Carrier::Frame, Encoding::Protobuf | Encoding::ProtobufDelta) => Some(b""),
            _ => None,
        }
    }

    fn bit(self) -> u64 {
        1 << (self.encoding as u8 * CARRIERS.len() as u8 + self.carrier as u8)
    }
}

/// What is spoken on a connection, for those who count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Messages are publications.
    Raw,
    /// The client protocol in JSON.
    Json,
    /// The client protocol in Protobuf.
    Protobuf,
    /// The client protocol for those who only listen.
    Uni,
}

impl Protocol {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Json, Self::Protobuf, Self::Uni];

    /// The value of the metric label `protocol`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Uni => "uni",
        }
    }
}

impl Encoding {
    /// Of what it is a part.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Raw => Protocol::Raw,
            Self::Json | Self::JsonString | Self::JsonDelta => Protocol::Json,
            Self::Protobuf | Self::ProtobufDelta => Protocol::Protobuf,
            Self::Uni => Protocol::Uni,
        }
    }
}

const ENCODINGS: [Encoding; 7] = [
    Encoding::Raw,
    Encoding::Json,
    Encoding::JsonString,
    Encoding::JsonDelta,
    Encoding::Protobuf,
    Encoding::ProtobufDelta,
    Encoding::Uni,
];

const CARRIERS: [Carrier; 5] =
    [Carrier::Frame, Carrier::Deflated, Carrier::DeflatedNarrowly, Carrier::Stream, Carrier::Events];

const _: () = assert!(ENCODINGS.len() * CARRIERS.len() <= u64::BITS as usize);

/// A set of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats(u64);

impl Formats {
    /// Those that are in it.
    pub fn iter(self) -> impl Iterator<Item = Format> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let next = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            let (encoding, carrier) = (ENCODINGS[next / CARRIERS.len()], CARRIERS[next % CARRIERS.len()]);
            Some(Format { encoding, carrier })
        })
    }

    /// Whether none is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is in it.
    pub fn contains(self, format: Format) -> bool {
        self.0 & format.bit() != 0
    }

    pub(crate) fn insert(&mut self, format: Format) {
        self.0 |= format.bit();
    }
}

/// One publication in every format that somebody wanted when it was delivered. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Frames(Arc<[(Format, Frame)]>);

/// One publication in one format.
#[derive(Debug)]
pub enum Frame {
    /// Ready to be written.
    Made(Bytes),
    /// It is made when somebody is to get it.
    Later(Box<Unmade>),
    /// It cannot be said in this format, and whoever wants that must go.
    Unsayable,
}

impl Frame {
    /// What it counts for while it waits: always the same, whether it is made or not.
    fn bytes(&self) -> usize {
        match self {
            Self::Made(frame) => frame.len(),
            Self::Later(unmade) => unmade.bytes(),
            Self::Unsayable => 0,
        }
    }
}

impl From<Option<Bytes>> for Frame {
    fn from(frame: Option<Bytes>) -> Self {
        frame.map_or(Self::Unsayable, Self::Made)
    }
}

impl Frames {
    /// Whole frames, each with its format.
    pub fn new(frames: impl IntoIterator<Item = (Format, impl Into<Frame>)>) -> Self {
        Self(frames.into_iter().map(|(format, frame)| (format, frame.into())).collect())
    }

    /// The frame in this format, if it can be said in it, made now if need be. Nothing at all, if nobody wanted it
    /// when the publication was delivered: whoever wants it now has come later.
    pub(crate) fn of(&self, format: Format) -> Option<Option<&Bytes>> {
        Some(match self.find(format)? {
            Frame::Made(frame) => Some(frame),
            Frame::Later(unmade) => Some(unmade.now()),
            Frame::Unsayable => None,
        })
    }

    /// What has yet to be made before somebody can get it in this format.
    pub(crate) fn unmade(&self, format: Format) -> Option<&Unmade> {
        match self.find(format)? {
            Frame::Later(unmade) if !unmade.is_made() => Some(unmade),
            _ => None,
        }
    }

    /// Whether there is a format in which it has yet to be made.
    pub(crate) fn are_unmade(&self) -> bool {
        self.0.iter().any(|(_, frame)| matches!(frame, Frame::Later(unmade) if !unmade.is_made()))
    }

    /// Bytes in all formats together.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, frame)| frame.bytes()).sum()
    }

    fn find(&self, format: Format) -> Option<&Frame> {
        self.0.iter().find(|(other, _)| *other == format).map(|(_, frame)| frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut formats = Formats::default();
        assert_eq!(formats.iter().count(), 0);
        for (count, encoding) in ENCODINGS.into_iter().enumerate() {
            for carrier in CARRIERS {
                let format = Format { encoding, carrier };
                assert!(!formats.contains(format), "each has a place of its own");
                formats.insert(format);
                assert!(formats.iter().any(|other| other == format));
            }
            assert_eq!(formats.iter().count(), (count + 1) * CARRIERS.len());
        }
    }
}
