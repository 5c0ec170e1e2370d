//! A place in a channel's history. It knows nothing of where the history is kept.

use std::fmt;

/// Names one life of a channel's history: when the history is lost, the next has another, so that an offset of the
/// one is never taken for an offset of the other. At most 15 bytes of visible ASCII; copying costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    length: u8,
    bytes: [u8; Epoch::MAX_BYTES],
}

/// Offset and epoch. Within an epoch the first publication has offset 1 and each next one more, without holes; but
/// where a broker has forgotten how far it had come and goes on in the same epoch, the next is greater than all
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Of the last publication up to here; 0 before the first.
    pub offset: u64,
    /// In which life of the history.
    pub epoch: Epoch,
}

impl Epoch {
    /// The longest, in bytes.
    pub const MAX_BYTES: usize = 15;

    /// No epoch in particular: as a question, it matches any. No history has it.
    pub const ANY: Self = Self { length: 0, bytes: [0; Self::MAX_BYTES] };

    /// Takes an epoch as it is; nothing, if it is too long or is not visible ASCII.
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > Self::MAX_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { length: text.len() as u8, bytes })
    }

    /// What a client says is an epoch. What cannot be one becomes `_`, which no history has.
    pub fn claimed(text: &str) -> Self {
        Self::new(text).unwrap_or(Self { length: 1, bytes: *b"_\0\0\0\0\0\0\0\0\0\0\0\0\0\0" })
    }

    /// Eight letters out of a random number.
    pub fn from_random(mut number: u64) -> Self {
        const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut bytes = [0; Self::MAX_BYTES];
        for byte in &mut bytes[..8] {
            *byte = LETTERS[(number % 52) as usize];
            number /= 52;
        }
        Self { length: 8, bytes }
    }

    /// Its length in one byte, its letters, and zeros: as messages between instances and what Redis keeps have it.
    pub fn padded(&self) -> [u8; Self::MAX_BYTES + 1] {
        let mut padded = [0; Self::MAX_BYTES + 1];
        padded[0] = self.length;
        padded[1..].copy_from_slice(&self.bytes);
        padded
    }

    /// Its letters.
    pub fn as_str(&self) -> &str {
        // Only ever made of ASCII.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// Whether a position that claims `self` can be one of the history whose epoch is `current`.
    pub fn matches(&self, current: &Self) -> bool {
        *self == Self::ANY || self == current
    }
}

impl Position {
    /// Reads what `Display` writes: the offset, and behind a colon the epoch, which may be missing or empty for any.
    /// Nothing, if it begins with no number; what cannot be an epoch is one that no history has.
    pub fn parse(text: &str) -> Option<Self> {
        let (offset, epoch) = text.split_once(':').unwrap_or((text, ""));
        // Rust would take a sign as well.
        let offset = offset.bytes().all(|byte| byte.is_ascii_digit()).then(|| offset.parse().ok())??;
        Some(Self { offset, epoch: Epoch::claimed(epoch) })
    }
}

/// As raw clients are told it: `42:kRtA`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.offset, self.epoch)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_short_word() {
        for (text, expected) in [
            ("", Some(Epoch::ANY)),
            ("kRtA", Epoch::new("kRtA")),
            ("fifteen-letters", Epoch::new("fifteen-letters")),
            ("sixteen--letters", None),
            ("two words", None),
            ("né", None),
        ] {
            let epoch = Epoch::new(text);
            assert_eq!(epoch, expected, "{text}");
            let said = epoch.map_or("_", |_| text);
            assert_eq!(Epoch::claimed(text).as_str(), said);
        }
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let at = |offset, epoch: &str| Some(Position { offset, epoch: Epoch::claimed(epoch) });
        for (text, expected) in [
            ("42:kRtA", at(42, "kRtA")),
            ("0:", at(0, "")),
            ("0", at(0, "")),
            ("18446744073709551615:a:b", at(u64::MAX, "a:b")),
            ("18446744073709551616:a", None),
            ("1:much too long for an epoch", at(1, "_")),
            ("", None),
            (":a", None),
            ("+1:a", None),
            ("-1:a", None),
            (" 1:a", None),
            ("1.0:a", None),
            ("a:1", None),
        ] {
            assert_eq!(Position::parse(text), expected, "{text}");
        }
        let position = Position { offset: 7, epoch: Epoch::from_random(1) };
        assert_eq!(Position::parse(&position.to_string()), Some(position));
    }

    #[test]
    fn random_epochs_differ_and_match_only_themselves() {
        let (one, other) = (Epoch::from_random(1), Epoch::from_random(u64::MAX));
        assert_eq!((one.as_str().len(), other.as_str().len()), (8, 8));
        for (claim, current, matches) in [
            (one, one, true),
            (one, other, false),
            (Epoch::ANY, other, true),
            (Epoch::claimed("_"), one, false),
        ] {
            assert_eq!(claim.matches(&current), matches, "{claim} {current}");
        }
    }
}
