//! How much memory an instance may take. What it takes, and what happens near the limit, is not known here.

use super::value::{Hint, Kind, Raw, Value, string};

/// Less than this an instance takes before anybody has come.
const LEAST: usize = 32 << 20;

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

impl Value for MemoryLimit {
    const KIND: Kind = Kind::Size;
    const EXPECTED: &'static str = r#"a size of at least "32MiB", "auto" or "none""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => match usize::parse(text)? {
                0 => Err(Some("for no limit, write \"none\"".into())),
                bytes if bytes < LEAST => Err(None),
                bytes => Ok(Self::Bytes(bytes)),
            },
        }
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        match raw {
            Raw::Integer(number) => Self::parse(number),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        match self {
            Self::Auto => Some(string("auto")),
            Self::None => Some(string("none")),
            Self::Bytes(bytes) => bytes.to_toml(),
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
}
