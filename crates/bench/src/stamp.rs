//! What every message of a run carries, so that whoever receives it can tell which it is and when it should
//! have been sent. It does not say whether it should have come: that is the auditor's part.

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

/// How messages of a run look: their size, their kind, and what fills them behind the stamp.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: bool,
    /// A whole message; only the stamp at its beginning differs from message to message.
    body: Vec<u8>,
}

const MAGIC: [u8; 4] = *b"fan1";
const BYTES: usize = 32;

impl Pattern {
    /// The smallest binary message.
    pub const SMALLEST_BINARY: usize = BYTES;
    /// The smallest text message: the same stamp in hexadecimal.
    pub const SMALLEST_TEXT: usize = BYTES * 2;

    /// Messages of `size` bytes, or the smallest size if that is too small.
    pub fn new(size: usize, text: bool) -> Result<Self, usize> {
        let smallest = if text { Self::SMALLEST_TEXT } else { Self::SMALLEST_BINARY };
        if size < smallest {
            return Err(smallest);
        }
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789 ".iter().copied();
        Ok(Self { text, body: letters.cycle().take(size).collect() })
    }

    /// Whether messages are text.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// The message that bears the stamp.
    pub fn stamp(&mut self, stamp: &Stamp) -> &[u8] {
        let bytes = stamp.to_bytes();
        if self.text {
            for (pair, byte) in self.body.chunks_exact_mut(2).zip(bytes) {
                pair[0] = HEX[usize::from(byte >> 4)];
                pair[1] = HEX[usize::from(byte & 15)];
            }
        } else {
            self.body[..BYTES].copy_from_slice(&bytes);
        }
        &self.body
    }

    /// The stamp of a message that came, if it is of this kind and size and nothing in it was altered.
    pub fn read(&self, text: bool, message: &[u8]) -> Option<Stamp> {
        if text != self.text || message.len() != self.body.len() {
            return None;
        }
        let stamped = if text { Self::SMALLEST_TEXT } else { Self::SMALLEST_BINARY };
        let (stamp, filling) = message.split_at(stamped);
        if filling != &self.body[stamped..] {
            return None;
        }
        let mut bytes = [0; BYTES];
        if text {
            for (byte, pair) in bytes.iter_mut().zip(stamp.chunks_exact(2)) {
                *byte = digit(pair[0])? << 4 | digit(pair[1])?;
            }
        } else {
            bytes.copy_from_slice(stamp);
        }
        Stamp::from_bytes(&bytes)
    }
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
        for (size, text) in [(32, false), (33, false), (128, false), (64, true), (65, true), (70_000, true)] {
            let mut writer = Pattern::new(size, text).unwrap();
            let reader = writer.clone();
            let message = writer.stamp(&STAMP).to_vec();
            assert_eq!(message.len(), size);
            assert!(!text || std::str::from_utf8(&message).is_ok());
            assert_eq!(reader.read(text, &message), Some(STAMP), "{size} {text}");
        }
    }

    #[test]
    fn sizes_below_the_stamp_are_refused() {
        assert_eq!(Pattern::new(31, false).err(), Some(32));
        assert_eq!(Pattern::new(63, true).err(), Some(64));
    }

    #[test]
    fn altered_messages_are_not_ours() {
        for text in [false, true] {
            let mut pattern = Pattern::new(128, text).unwrap();
            let whole = pattern.stamp(&STAMP).to_vec();
            let altered = |at: usize| {
                let mut message = whole.clone();
                message[at] = b'!';
                message
            };
            let rows = [altered(0), altered(127), altered(70), whole[..127].to_vec(), Vec::new()];
            for message in rows {
                assert_eq!(pattern.read(text, &message), None, "{message:?}");
            }
            assert_eq!(pattern.read(!text, &whole), None, "the other kind");
        }
    }
}
