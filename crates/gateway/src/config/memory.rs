//! How much memory an instance may take, and how much of it the histories of channels. What they take, and what
//! happens near a limit, is not known here.

use super::value::{Hint, Kind, Raw, Value, string};

/// The most memory of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What its cgroup allows, less a reserve; without one, none.
    Auto,
    /// No limit of ours.
    None,
    /// So many bytes.
    Bytes(usize),
}

impl SizeOrWord for MemoryLimit {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("none", Self::None)];
    /// Less than this an instance takes before anybody has come.
    const LEAST: usize = 32 << 20;
    const WANTED: &'static str = r#"a size of at least "32MiB", "auto" or "none""#;
    const ZERO: &'static str = "for no limit, write \"none\"";

    fn of(bytes: usize) -> Self {
        Self::Bytes(bytes)
    }

    fn bytes(self) -> Option<usize> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// The most memory of all histories of an instance that keeps them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryMemory {
    /// A quarter of the instance's limit; without one, 256 MiB.
    Auto,
    /// So many bytes.
    Bytes(usize),
}

/// Without a limit to take a part of.
const USUAL_HISTORY: usize = 256 << 20;

impl HistoryMemory {
    /// So many bytes, of an instance that may take `limit`: never more than half of it.
    pub fn within(self, limit: Option<usize>) -> usize {
        match (self, limit) {
            (Self::Auto, None) => USUAL_HISTORY,
            (Self::Auto, Some(limit)) => limit / 4,
            (Self::Bytes(bytes), limit) => bytes.min(limit.map_or(usize::MAX, |limit| limit / 2)),
        }
    }
}

impl SizeOrWord for HistoryMemory {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto)];
    /// Less than this is no history.
    const LEAST: usize = 1 << 20;
    const WANTED: &'static str = r#"a size of at least "1MiB", or "auto""#;
    const ZERO: &'static str = "to keep no history, leave out `history_size`";

    fn of(bytes: usize) -> Self {
        Self::Bytes(bytes)
    }

    fn bytes(self) -> Option<usize> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// A size, or a word in its place.
trait SizeOrWord: Copy + PartialEq + 'static {
    /// The words, with what they stand for.
    const WORDS: &'static [(&'static str, Self)];
    /// The smallest size, in bytes.
    const LEAST: usize;
    /// What is expected, for a message.
    const WANTED: &'static str;
    /// What to write instead of 0.
    const ZERO: &'static str;

    fn of(bytes: usize) -> Self;

    /// Of a size, how large it is.
    fn bytes(self) -> Option<usize>;
}

impl<T: SizeOrWord> Value for T {
    const KIND: Kind = Kind::Size;
    const EXPECTED: &'static str = T::WANTED;

    fn parse(text: &str) -> Result<Self, Hint> {
        if let Some((_, meant)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*meant);
        }
        match usize::parse(text)? {
            0 => Err(Some(T::ZERO.into())),
            bytes if bytes < T::LEAST => Err(None),
            bytes => Ok(T::of(bytes)),
        }
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        match raw {
            Raw::Integer(number) => Self::parse(number),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        match self.bytes() {
            Some(bytes) => bytes.to_toml(),
            None => T::WORDS.iter().find(|(_, meant)| meant == self).map(|(word, _)| string(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        let rows = [
            ("auto", Some(MemoryLimit::Auto), "\"auto\""),
            ("none", Some(MemoryLimit::None), "\"none\""),
            ("32MiB", Some(MemoryLimit::Bytes(32 << 20)), "\"32MiB\""),
            ("1073741824", Some(MemoryLimit::Bytes(1 << 30)), "\"1GiB\""),
            ("33554431", None, ""),
            ("0", None, ""),
            ("64M", None, ""),
            ("", None, ""),
        ];
        for (text, expected, written) in rows {
            let parsed = MemoryLimit::parse(text).ok();
            assert_eq!(parsed, expected, "{text:?}");
            if let Some(limit) = parsed {
                assert_eq!(limit.to_toml().as_deref(), Some(written), "{text:?}");
            }
        }
    }

    #[test]
    fn histories_have_a_part_of_the_memory() {
        let rows = [
            ("auto", Some(HistoryMemory::Auto), "\"auto\""),
            ("1MiB", Some(HistoryMemory::Bytes(1 << 20)), "\"1MiB\""),
            ("1048575", None, ""),
            ("0", None, ""),
            ("none", None, ""),
            ("", None, ""),
        ];
        for (text, expected, written) in rows {
            let parsed = HistoryMemory::parse(text).ok();
            assert_eq!(parsed, expected, "{text:?}");
            if let Some(memory) = parsed {
                assert_eq!(memory.to_toml().as_deref(), Some(written), "{text:?}");
            }
        }
        for (configured, limit, expected) in [
            (HistoryMemory::Auto, None, 256 << 20),
            (HistoryMemory::Auto, Some(96 << 20), 24 << 20),
            (HistoryMemory::Bytes(8 << 30), None, 8 << 30),
            (HistoryMemory::Bytes(40 << 20), Some(96 << 20), 40 << 20),
            (HistoryMemory::Bytes(80 << 20), Some(96 << 20), 48 << 20),
        ] {
            assert_eq!(configured.within(limit), expected, "{configured:?} {limit:?}");
        }
    }
}
