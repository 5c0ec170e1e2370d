//! Durations and sizes: numbers with a unit. Neither has a default unit for the other: `6` is no duration, because the
//! reader of a file cannot know whether seconds or milliseconds were meant. Fractions are not read; the next smaller
//! unit is.

use std::time::Duration;

use super::value::{Hint, Kind, Raw, Value, string};

/// Largest first, the order in which the parts of one duration are written.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Binary units first: of two that divide a size, the first is the one to print.
const SIZES: [(&str, usize); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Value for Duration {
    const KIND: Kind = Kind::Duration;
    const EXPECTED: &'static str = r#"a duration such as "250ms", "6s" or "1m30s""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        if is_number(text) {
            return if text == "0" { Ok(Self::ZERO) } else { unitless(text) };
        }
        let (mut rest, mut total, mut smallest) = (text, 0_u64, u64::MAX);
        while !rest.is_empty() {
            let (number, unit, tail) = part(rest);
            let (_, millis) = *TIMES.iter().find(|(name, _)| *name == unit).ok_or(None)?;
            if millis >= smallest {
                return Err(Some("each unit once, the largest first".into()));
            }
            let number: u64 = number.parse().map_err(|_| None)?;
            total = number.checked_mul(millis).and_then(|part| total.checked_add(part)).ok_or(None)?;
            (rest, smallest) = (tail, millis);
        }
        if text.is_empty() { Err(None) } else { Ok(Self::from_millis(total)) }
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        match raw {
            Raw::Integer(number) => unitless(number),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        // "90s" and "60s" read better than "1m30s" and "1m"; "300s" does not read better than "5m", nor "60m" than
        // "1h".
        let exact = |unit: u64, from: u64| millis % unit == 0 && millis >= from * unit;
        Some(string(&match () {
            () if millis == 0 => "0s".to_owned(),
            () if exact(3_600_000, 1) => format!("{}h", millis / 3_600_000),
            () if exact(60_000, 2) => format!("{}m", millis / 60_000),
            () if exact(1_000, 1) => format!("{}s", millis / 1_000),
            () => format!("{millis}ms"),
        }))
    }

    fn within(&self, low: &Self, high: &Self) -> bool {
        (low..=high).contains(&self)
    }
}

fn unitless(number: &str) -> Result<Duration, Hint> {
    Err(Some(format!("a duration names its unit: \"{number}s\" or \"{number}ms\"")))
}

/// A size in bytes. Every plain `usize` in the configuration is one; counts are of other types.
impl Value for usize {
    const KIND: Kind = Kind::Size;
    const EXPECTED: &'static str = r#"a size such as 65536, "64KiB" or "1MiB""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        let (number, unit, rest) = part(text);
        let number: Self = number.parse().map_err(|_| None)?;
        if !rest.is_empty() {
            return Err(None);
        }
        if unit.is_empty() {
            return Ok(number);
        }
        let known = SIZES.iter().find(|(name, _)| *name == unit);
        let near = || SIZES.iter().find(|(name, _)| name[..1].eq_ignore_ascii_case(&unit[..1]));
        let (_, bytes) = *known.ok_or_else(|| near().map(|(name, _)| format!("write \"{number}{name}\"")))?;
        number.checked_mul(bytes).ok_or(None)
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        match raw {
            Raw::Integer(number) => Self::parse(number),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        let (name, bytes) = *SIZES
            .iter()
            .find(|(_, bytes)| *self >= *bytes && self.is_multiple_of(*bytes))
            .unwrap_or(&("B", 1));
        Some(if bytes == 1 { self.to_string() } else { string(&format!("{}{name}", self / bytes)) })
    }

    fn within(&self, low: &Self, high: &Self) -> bool {
        (low..=high).contains(&self)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits that a text begins with, the letters after them, and the rest.
fn part(text: &str) -> (&str, &str, &str) {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
    (number, unit, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis, written) in [
            ("250ms", 250, "250ms"),
            ("6s", 6_000, "6s"),
            ("1m30s", 90_000, "90s"),
            ("60s", 60_000, "60s"),
            ("2m", 120_000, "2m"),
            ("60m", 3_600_000, "1h"),
            ("90m", 5_400_000, "90m"),
            ("2h", 7_200_000, "2h"),
            ("1d", 86_400_000, "24h"),
            ("1h1ms", 3_600_001, "3600001ms"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ] {
            let duration = Duration::parse(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_toml(), Some(format!("\"{written}\"")), "{text}");
        }
        for text in [
            "",
            "6",
            "s",
            "6 s",
            "-6s",
            "1.5s",
            "6sec",
            "30s1m",
            "1s1s",
            "6s ",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(Duration::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, written) in [
            ("65536", 65_536, "\"64KiB\""),
            ("64KiB", 65_536, "\"64KiB\""),
            ("1MiB", 1 << 20, "\"1MiB\""),
            ("1MB", 1_000_000, "\"1MB\""),
            ("3kB", 3_000, "\"3KB\""),
            ("7B", 7, "7"),
            ("0", 0, "0"),
            ("1GiB", 1 << 30, "\"1GiB\""),
        ] {
            let size = usize::parse(text).expect(text);
            assert_eq!(size, bytes, "{text}");
            assert_eq!(size.to_toml().as_deref(), Some(written), "{text}");
        }
        for text in [
            "",
            "KiB",
            "64 KiB",
            "-1",
            "1.5MiB",
            "64kib",
            "64K",
            "1MiBB",
            "99999999999999999999",
            "99999999999999999GiB",
        ] {
            assert!(usize::parse(text).is_err(), "{text:?}");
        }
    }
}
