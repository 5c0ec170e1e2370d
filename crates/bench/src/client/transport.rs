//! What carries what subscribers of a run hear: WebSocket's frames, or the body of an answer that does not end. How
//! such a body is asked for is here; how it is read is in `body`. Whoever publishes is a WebSocket client always.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Serialize};

use crate::client::speech::Protocol;
use crate::client::target::Target;

/// What carries what subscribers hear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Frames.
    #[default]
    #[serde(rename = "websocket")]
    WebSocket,
    /// Server-sent events: of a channel, or of a session of the client protocol.
    Sse,
    /// A session of the client protocol in the body of an answer.
    HttpStream,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Sse, Self::HttpStream];

    /// Whether a protocol can be spoken over it.
    pub(crate) fn carries(self, protocol: Protocol) -> bool {
        match self {
            Self::WebSocket => true,
            // Events are text.
            Self::Sse => protocol != Protocol::CentrifugeProtobuf,
            Self::HttpStream => protocol != Protocol::Raw,
        }
    }

    /// The path at which listeners ask for it, where WebSocket clients of the protocol use `path`; nothing where the
    /// one does not tell the other.
    pub(crate) fn path(self, path: &str, protocol: Protocol) -> Option<String> {
        let (beginning, own) = match (self, protocol) {
            (Self::WebSocket, _) => return Some(path.to_owned()),
            (_, Protocol::Raw) => ("/ws", "/sse"),
            (Self::Sse, _) => ("/connection/websocket", "/connection/sse"),
            (Self::HttpStream, _) => ("/connection/websocket", "/connection/http_stream"),
        };
        // Queries say how frames are to be.
        let path = path.split('?').next().unwrap_or_default();
        let rest = path.strip_prefix(beginning)?;
        let is_channel = protocol == Protocol::Raw && rest.starts_with('/');
        (rest.is_empty() || is_channel).then(|| format!("{own}{rest}"))
    }

    /// The request by which it is asked for. A session's first commands are in it: of events as a browser's
    /// `EventSource` says them.
    pub(crate) fn request(self, target: &Target, commands: &[u8]) -> Vec<u8> {
        let Target { host, path, .. } = target;
        match self {
            Self::HttpStream => post(target, path, commands),
            Self::WebSocket | Self::Sse => {
                let first = if commands.is_empty() { "" } else { "?cf_connect=" };
                let commands = percent_encode(commands, NON_ALPHANUMERIC);
                format!(
                    "GET {path}{first}{commands} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"
                )
                .into_bytes()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::HttpStream => "http-stream",
        }
    }
}

/// A request to a path of this instance, with what is spoken to it in the body.
pub(crate) fn post(target: &Target, path: &str, body: &[u8]) -> Vec<u8> {
    let kind = match target.protocol() {
        Protocol::CentrifugeProtobuf => "application/octet-stream",
        Protocol::Raw | Protocol::CentrifugeJson => "application/json",
    };
    let (host, length) = (&target.host, body.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|transport| transport.name() == name);
        named.ok_or_else(|| "expected websocket, sse or http-stream".to_owned())
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_names() {
        for transport in Transport::ALL {
            assert_eq!(transport.to_string().parse(), Ok(transport));
            assert_eq!(serde_json::to_string(&transport).unwrap(), format!("\"{transport}\""));
        }
        assert_eq!("ws".parse::<Transport>(), Err("expected websocket, sse or http-stream".to_owned()));
    }

    #[test]
    fn a_session_begins_in_its_request() {
        let target = |protocol, transport| {
            let target = Target::speaking("ws://127.0.0.1:1/", protocol, "c").unwrap();
            target.over(transport).unwrap().listening(true)
        };
        let rows = [
            (
                target(Protocol::Raw, Transport::Sse),
                "",
                "GET /sse/bench HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: text/event-stream\r\n\r\n",
            ),
            (
                target(Protocol::CentrifugeJson, Transport::Sse),
                "{}\n",
                "GET /connection/sse?cf_connect=%7B%7D%0A HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\
                 Accept: text/event-stream\r\n\r\n",
            ),
            (
                target(Protocol::CentrifugeProtobuf, Transport::HttpStream),
                "\u{1}a",
                "POST /connection/http_stream HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n\u{1}a",
            ),
        ];
        for (target, commands, expected) in rows {
            let request = target.transport.request(&target, commands.as_bytes());
            assert_eq!(String::from_utf8(request).unwrap(), expected);
        }
    }
}
