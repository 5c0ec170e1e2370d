//! How the HTTP API tells of errors. What an error is, is the API's business.

use super::value::{Hint, Kind, Value, string};

/// Where an error of the HTTP API stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorMode {
    /// In the body, with status 200.
    Response,
    /// In the status, and the body is the error.
    Transport,
}

impl ErrorMode {
    /// The mode of this name, as in the file and in a request's header.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "response" => Some(Self::Response),
            "transport" => Some(Self::Transport),
            _ => None,
        }
    }
}

impl Value for ErrorMode {
    const KIND: Kind = Kind::Choice(&["response", "transport"]);
    const EXPECTED: &'static str = r#""response" or "transport""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        Self::named(text).ok_or(None)
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(match self {
            Self::Response => "response",
            Self::Transport => "transport",
        }))
    }
}
