//! What every message of a run carries, so that whoever receives it can tell which it is and when it should
//! have been sent. It does not say whether it should have come: that is the auditor's part.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::audit::json::Documents;
use crate::error::BenchError;

/// A message's name and its intended time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which run; drawn at random, so that what another run left behind is noticed.
    pub run: u64,
    /// Which of the run's publishers, from 0.
    pub publisher: u32,
    /// Its number among the publisher's messages, from 0.
    pub sequence: u64,
    /// When it should have been sent: nanoseconds of the monotonic clock.
    pub intended: u64,
}

/// What the messages of a run are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// Binary messages: the stamp and then the same letters in each, so that checking them costs next to nothing.
    Binary,
    /// The same as text, the stamp in hexadecimal.
    Text,
    /// JSON documents, each with its own values, which compress as real ones do.
    Json,
}

/// How messages of a run look: their size, their kind, and what fills them beside the stamp.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// A whole binary message; only the stamp at its beginning differs from message to message.
    Binary(Vec<u8>),
    /// The same as text.
    Text(Vec<u8>),
    /// Documents, all of which differ.
    Json(Documents),
}

const MAGIC: [u8; 4] = *b"fan1";
const BYTES: usize = 32;

/// The length of a stamp in hexadecimal.
pub(crate) const HEX_BYTES: usize = BYTES * 2;

impl Payload {
    /// Bytes of the smallest message that has room for its stamp.
    pub fn smallest(self) -> usize {
        match self {
            Self::Binary => BYTES,
            Self::Text => HEX_BYTES,
            Self::Json => Documents::SMALLEST,
        }
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "binary" => Ok(Self::Binary),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected binary, text or json".to_owned()),
        }
    }
}

impl Display for Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl Pattern {
    /// Messages of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`BenchError::Setting`] if a stamp does not fit into them.
    pub fn new(payload: Payload, size: usize) -> Result<Self, BenchError> {
        let smallest = payload.smallest();
        if size < smallest {
            return Err(BenchError::Setting(format!(
                "a message of {size} bytes has no room for its stamp; the smallest is {smallest}"
            )));
        }
        let letters = || b"abcdefghijklmnopqrstuvwxyz0123456789 ".iter().copied().cycle().take(size);
        Ok(match payload {
            Payload::Binary => Self::Binary(letters().collect()),
            Payload::Text => Self::Text(letters().collect()),
            Payload::Json => Self::Json(Documents::new(size)),
        })
    }

    /// Whether messages are text.
    pub fn is_text(&self) -> bool {
        !matches!(self, Self::Binary(_))
    }

    /// The message that bears the stamp.
    pub fn stamp(&mut self, stamp: &Stamp) -> &[u8] {
        match self {
            Self::Binary(body) => {
                body[..BYTES].copy_from_slice(&stamp.to_bytes());
                body
            }
            Self::Text(body) => {
                body[..HEX_BYTES].copy_from_slice(&stamp.to_hex());
                body
            }
            Self::Json(documents) => documents.of(stamp),
        }
    }

    /// The stamp of a message that came, if it is of this kind and size and nothing in it was altered.
    pub fn read(&mut self, text: bool, message: &[u8]) -> Option<Stamp> {
        if text != self.is_text() {
            return None;
        }
        match self {
            Self::Binary(body) => Stamp::from_bytes(before_filling(body, message)?),
            Self::Text(body) => Stamp::from_hex(before_filling(body, message)?),
            Self::Json(documents) => documents.read(message),
        }
    }
}

/// The first bytes of a message, if the others are what they should be.
fn before_filling<'m, const STAMP: usize>(body: &[u8], message: &'m [u8]) -> Option<&'m [u8; STAMP]> {
    let (stamp, filling) = message.split_first_chunk()?;
    (filling == &body[STAMP..]).then_some(stamp)
}

impl Stamp {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.run.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[24..].copy_from_slice(&self.intended.to_be_bytes());
        bytes
    }

    /// As text and JSON carry it.
    pub(crate) fn to_hex(self) -> [u8; HEX_BYTES] {
        let mut hex = [0; HEX_BYTES];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.to_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        hex
    }

    /// The stamp of a run, if these are one.
    pub(crate) fn from_hex(hex: &[u8; HEX_BYTES]) -> Option<Self> {
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_be_bytes);
        if bytes[..4] != MAGIC {
            return None;
        }
        Some(Self {
            publisher: u32::from_be_bytes(bytes[4..8].try_into().ok()?),
            run: number(8).ok()?,
            sequence: number(16).ok()?,
            intended: number(24).ok()?,
        })
    }
}

const HEX: [u8; 16] = *b"0123456789abcdef";

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { run: 0xA1B2_C3D4_E5F6_0718, publisher: 3, sequence: 70_000, intended: 1 << 40 };

    #[test]
    fn what_was_stamped_is_read_again() {
        let rows = [
            (Payload::Binary, 32),
            (Payload::Binary, 33),
            (Payload::Binary, 128),
            (Payload::Text, 64),
            (Payload::Text, 65),
            (Payload::Text, 70_000),
            (Payload::Json, 119),
            (Payload::Json, 1024),
        ];
        for (payload, size) in rows {
            let mut writer = Pattern::new(payload, size).unwrap();
            let mut reader = writer.clone();
            let message = writer.stamp(&STAMP).to_vec();
            assert_eq!(message.len(), size);
            let text = payload != Payload::Binary;
            assert!(!text || std::str::from_utf8(&message).is_ok());
            assert_eq!(reader.read(text, &message), Some(STAMP), "{size} {payload}");
        }
    }

    #[test]
    fn sizes_below_the_stamp_are_refused() {
        for (payload, smallest) in [(Payload::Binary, 32), (Payload::Text, 64), (Payload::Json, 119)] {
            let error = Pattern::new(payload, smallest - 1).unwrap_err().to_string();
            assert!(error.ends_with(&format!("the smallest is {smallest}")), "{error}");
        }
    }

    #[test]
    fn altered_messages_are_not_ours() {
        for payload in [Payload::Binary, Payload::Text, Payload::Json] {
            let mut pattern = Pattern::new(payload, 256).unwrap();
            let whole = pattern.stamp(&STAMP).to_vec();
            let text = payload != Payload::Binary;
            for at in (0..whole.len()).filter(|at| payload != Payload::Binary || !(4..32).contains(at)) {
                let mut altered = whole.clone();
                altered[at] ^= 0x40;
                assert_eq!(pattern.read(text, &altered), None, "byte {at} of {payload}");
            }
            for message in [&whole[..255], &[]] {
                assert_eq!(pattern.read(text, message), None, "{payload}");
            }
            assert_eq!(pattern.read(!text, &whole), None, "the other kind");
        }
    }

    #[test]
    fn payloads_have_names() {
        for payload in [Payload::Binary, Payload::Text, Payload::Json] {
            assert_eq!(payload.to_string().parse(), Ok(payload));
        }
        assert_eq!("xml".parse::<Payload>(), Err("expected binary, text or json".to_owned()));
    }
}
