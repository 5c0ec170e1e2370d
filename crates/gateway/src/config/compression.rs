//! How messages are compressed: the level, and whose messages may refer to earlier ones. What is agreed with a
//! client is the handshake's business.

use fanfare_websocket::deflate::{Level, Policy};

use super::value::{Hint, Kind, Value, string};

impl Value for Level {
    const KIND: Kind = Kind::Integer;
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, Hint> {
        let levels = "the levels are 1 to 9";
        text.parse().ok().and_then(Self::new).ok_or_else(|| Some(levels.to_owned()))
    }

    fn read(raw: &super::value::Raw) -> Result<Self, String> {
        raw.integer().and_then(Self::parse).map_err(|hint| Self::refuse(raw, hint))
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.get().to_string())
    }
}

/// Whose messages may refer to earlier ones, if a client wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Nobody's: what is published is deflated once for all receivers, and a connection keeps nothing.
    None,
    /// The client's: each may cost a window of up to 32 KiB.
    Client,
    /// Ours: each connection is compressed for by itself, with a third of a MiB.
    Server,
    /// Both.
    Both,
}

impl Takeover {
    /// What is agreed to.
    pub fn policy(self) -> Policy {
        Policy {
            server_context_takeover: matches!(self, Self::Server | Self::Both),
            client_context_takeover: matches!(self, Self::Client | Self::Both),
            ..Policy::default()
        }
    }
}

impl Value for Takeover {
    const KIND: Kind = Kind::Choice(&["none", "client", "server", "both"]);
    const EXPECTED: &'static str = r#""none", "client", "server" or "both""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        match text {
            "none" => Ok(Self::None),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            "both" => Ok(Self::Both),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(match self {
            Self::None => "none",
            Self::Client => "client",
            Self::Server => "server",
            Self::Both => "both",
        }))
    }
}
