//! How much is logged, and in which form. The subscriber itself is set up by whoever serves.

use std::fmt;

use tracing_subscriber::EnvFilter;

use super::value::{Hint, Kind, Value, string};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Value for LogFormat {
    const KIND: Kind = Kind::Choice(&["text", "json"]);
    const EXPECTED: &'static str = r#""text" or "json""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

/// Which lines are logged: a level, or levels for parts of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// The filter that it stands for.
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse(&self.0).expect("it was parsed when the configuration was read")
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for LogLevel {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str =
        r#""off", "error", "warn", "info", "debug", "trace" or a filter such as "info,fanfare_broker=debug""#;

    /// Stricter than the filter's own parser, to which a misspelt level is the name of a module to trace.
    fn parse(text: &str) -> Result<Self, Hint> {
        let known = |part: &str| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            LEVELS.contains(&level.to_ascii_lowercase().as_str())
        };
        if text.split(',').all(known) && EnvFilter::builder().parse(text).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(None)
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_module() {
        for text in
            ["info", "debug", "off", "INFO", "info,fanfare_broker=debug", "warn,fanfare::worker=trace"]
        {
            LogLevel::parse(text).expect(text).filter();
        }
        for text in ["", "inof", "verbose", "info,", "info,fanfare", "info,fanfare=loud", "3"] {
            assert!(LogLevel::parse(text).is_err(), "{text:?}");
        }
    }
}
