//! Where a run connects to: a `ws://` or `wss://` address, resolved once, and what carries what is heard there. It
//! makes no connection.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use fanfare_websocket::deflate::Offer;
use http::Uri;
use rustls::pki_types::ServerName;

use crate::client::speech::{Protocol, Speech};
use crate::client::transport::Transport;
use crate::error::BenchError;

/// One server's address, and the channel that a run uses there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(crate) address: SocketAddr,
    /// As the `Host` header has it.
    pub(crate) host: String,
    /// Path and query, beginning with `/`.
    pub(crate) path: String,
    /// What the handshake offers. A server that declines an offer is not what a run was to measure.
    pub(crate) offer: Option<Offer>,
    /// For `wss://`.
    pub(crate) secure: Option<Secure>,
    /// Where the client protocol is spoken, how; otherwise payloads are.
    pub(crate) speech: Option<Arc<Speech>>,
    /// What carries what listeners hear. The path is that of WebSocket clients until somebody listens.
    pub(crate) transport: Transport,
}

/// What TLS has to know of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secure {
    /// What its certificate must be for, and what it is asked for (SNI).
    pub(crate) name: ServerName<'static>,
    /// Whoever it is for and whoever has signed it.
    pub(crate) any_certificate: bool,
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL.
    #[error("`{0}` is not a URL; expected ws://HOST:PORT/PATH or wss://…")]
    NotUrl(String),
    /// It is a URL of something else.
    #[error("`{0}` does not begin with ws:// or wss://, and nothing else is spoken here")]
    Scheme(String),
    /// It is not what a transport carries.
    #[error("{transport} does not carry {protocol}; expected {}", expected(*transport))]
    Carried {
        /// The transport.
        transport: Transport,
        /// What was to be spoken.
        protocol: Protocol,
    },
    /// Where its listeners would find it is not known.
    #[error("the path of `{url}` does not say where {transport} is; expected none, or {expected}")]
    Path {
        /// Host and path as they were given.
        url: String,
        /// The transport.
        transport: Transport,
        /// A path that says it.
        expected: &'static str,
    },
    /// Its host has no address.
    #[error("the host of `{url}` has no address: {error}")]
    Unresolved {
        /// As it was given.
        url: String,
        /// What the resolver said.
        error: String,
    },
}

impl Target {
    /// Parses and resolves `url`, whose path is a channel, `/ws/bench` where it names none.
    pub fn resolve(url: &str) -> Result<Self, TargetError> {
        Self::speaking(url, Protocol::Raw, "")
    }

    /// The same for any protocol. `channel` is for those whose path does not name it.
    pub fn speaking(url: &str, protocol: Protocol, channel: &str) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|_| TargetError::NotUrl(url.to_owned()))?;
        let port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            _ => return Err(TargetError::Scheme(url.to_owned())),
        };
        let authority = uri.authority().ok_or_else(|| TargetError::NotUrl(url.to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let unresolved = |error: String| TargetError::Unresolved { url: url.to_owned(), error };
        let address = (host, authority.port_u16().unwrap_or(port))
            .to_socket_addrs()
            .map_err(|error| unresolved(error.to_string()))?
            .next()
            .ok_or_else(|| unresolved("it resolves to nothing".to_owned()))?;
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "/" => protocol.default_path().to_owned(),
            path => path.to_owned(),
        };
        let secure = match uri.scheme_str() {
            Some("wss") => {
                let name = ServerName::try_from(host.to_owned());
                let name = name.map_err(|_| TargetError::NotUrl(url.to_owned()))?;
                Some(Secure { name, any_certificate: false })
            }
            _ => None,
        };
        let speech = protocol
            .format()
            .map(|format| Arc::new(Speech { format, channel: channel.into(), listens: false, text: true }));
        let (host, transport) = (authority.as_str().to_owned(), Transport::WebSocket);
        let target = Self { address, host, path, offer: None, secure, speech, transport };
        Ok(if protocol == Protocol::CentrifugeProtobuf { target.with("format=protobuf") } else { target })
    }

    /// The same, where this carries what listeners hear.
    ///
    /// # Errors
    ///
    /// What it does not carry, or a path that does not say where it is.
    pub fn over(self, transport: Transport) -> Result<Self, TargetError> {
        let protocol = self.protocol();
        if !transport.carries(protocol) {
            return Err(TargetError::Carried { transport, protocol });
        }
        if transport.path(&self.path, protocol).is_none() {
            let url = format!("{}{}", self.host, self.path);
            let expected = if protocol == Protocol::Raw { "/ws/{channel}" } else { "/connection/websocket" };
            return Err(TargetError::Path { url, transport, expected });
        }
        Ok(Self { transport, ..self })
    }

    /// What is spoken there.
    pub(crate) fn protocol(&self) -> Protocol {
        let format = self.speech.as_ref().map(|speech| speech.format);
        Protocol::ALL.into_iter().find(|protocol| protocol.format() == format).unwrap_or_default()
    }

    /// The same, for somebody who listens, to payloads that are text or are not. Raw ones are told of gaps.
    pub(crate) fn listening(&self, text: bool) -> Self {
        let path = self.transport.path(&self.path, self.protocol());
        let there = Self { path: path.unwrap_or_else(|| self.path.clone()), ..self.clone() };
        match &self.speech {
            None if self.transport == Transport::WebSocket => there.with("notices=true"),
            None => there,
            Some(speech) => {
                let speech = Speech { listens: true, text, ..Speech::clone(speech) };
                Self { speech: Some(Arc::new(speech)), ..there }
            }
        }
    }

    /// The same, for somebody who joins as everybody does.
    pub(crate) fn joining(&self) -> Self {
        let is_plain = self.speech.is_none() && self.transport == Transport::WebSocket;
        if is_plain { self.clone() } else { self.listening(true) }
    }

    /// The same, for a publisher, which is a WebSocket client, and does not hear itself.
    pub(crate) fn publishing(&self) -> Self {
        let there = Self { transport: Transport::WebSocket, ..self.clone() };
        if self.speech.is_some() { there } else { there.with("echo=false") }
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// The same, whatever certificate is shown there.
    #[must_use]
    pub fn with_any_certificate(mut self) -> Self {
        if let Some(secure) = &mut self.secure {
            secure.any_certificate = true;
        }
        self
    }

    /// The same, with a query parameter more.
    pub(crate) fn with(&self, parameter: &str) -> Self {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        Self { path: format!("{}{joint}{parameter}", self.path), ..self.clone() }
    }

    /// The same, where permessage-deflate has to be agreed on, if so wanted. It is offered as browsers do, so
    /// that the server decides on context takeover.
    pub(crate) fn compressing(self, wanted: bool) -> Self {
        let offer = Offer { client_max_window_bits: Some(15), ..Offer::default() };
        Self { offer: wanted.then_some(offer), ..self }
    }
}

/// Refuses targets that are spoken to in different ways, and compression where there are no frames.
pub(crate) fn agree(targets: &[Target], compression: bool) -> Result<(), BenchError> {
    let setting = |problem: &str| Err(BenchError::Setting(problem.to_owned()));
    let way = |target: &Target| (target.protocol(), target.transport);
    if targets.windows(2).any(|two| way(&two[0]) != way(&two[1])) {
        return setting("all URLs of a run have to be spoken to in one protocol, over one transport");
    }
    if compression && targets.iter().any(|target| target.transport != Transport::WebSocket) {
        return setting("permessage-deflate is WebSocket's: compression needs --transport websocket");
    }
    Ok(())
}

fn expected(transport: Transport) -> &'static str {
    match transport {
        Transport::WebSocket => "raw, centrifuge-json or centrifuge-protobuf",
        Transport::Sse => "raw or centrifuge-json",
        Transport::HttpStream => "centrifuge-json or centrifuge-protobuf",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_resolved() {
        let rows = [
            ("ws://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080", "/ws/bench", None),
            ("ws://127.0.0.1:8080/", "127.0.0.1:8080", "127.0.0.1:8080", "/ws/bench", None),
            ("ws://127.0.0.1/ws/a%20b", "127.0.0.1:80", "127.0.0.1", "/ws/a%20b", None),
            ("ws://[::1]:81/ws?echo=false", "[::1]:81", "[::1]:81", "/ws?echo=false", None),
            ("ws://127.0.0.1:443/", "127.0.0.1:443", "127.0.0.1:443", "/ws/bench", None),
            ("wss://127.0.0.1/", "127.0.0.1:443", "127.0.0.1", "/ws/bench", Some("127.0.0.1")),
            ("wss://[::1]:8443/ws/a", "[::1]:8443", "[::1]:8443", "/ws/a", Some("::1")),
        ];
        for (url, address, host, path, name) in rows {
            let name = name.map(|name| ServerName::try_from(name).unwrap());
            let expected = Target {
                address: address.parse().unwrap(),
                host: host.to_owned(),
                path: path.to_owned(),
                offer: None,
                secure: name.map(|name| Secure { name, any_certificate: false }),
                speech: None,
                transport: Transport::WebSocket,
            };
            assert_eq!(Target::resolve(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn the_client_protocol_has_a_path_of_its_own() {
        let rows = [
            (Protocol::Raw, "", "/ws/bench", "/ws/bench?echo=false", "/ws/bench?notices=true"),
            (
                Protocol::CentrifugeJson,
                "/",
                "/connection/websocket",
                "/connection/websocket",
                "/connection/websocket",
            ),
            (
                Protocol::CentrifugeProtobuf,
                "/c?x=1",
                "/c?x=1&format=protobuf",
                "/c?x=1&format=protobuf",
                "/c?x=1&format=protobuf",
            ),
        ];
        for (protocol, path, expected, publishing, listening) in rows {
            let target = Target::speaking(&format!("ws://127.0.0.1:1{path}"), protocol, "news").unwrap();
            assert_eq!((target.path.as_str(), target.protocol()), (expected, protocol));
            assert_eq!(target.publishing().path, publishing);
            assert_eq!(target.listening(false).path, listening);
            let listens = target.listening(false).speech.map(|speech| (speech.listens, speech.text));
            assert_eq!(listens, protocol.format().map(|_| (true, false)));
        }
    }

    #[test]
    fn listeners_go_where_their_transport_is() {
        use Protocol::{CentrifugeJson, CentrifugeProtobuf, Raw};
        use Transport::{HttpStream, Sse, WebSocket};
        let rows = [
            (Raw, WebSocket, "/ws/a", Ok("/ws/a?notices=true")),
            (Raw, Sse, "", Ok("/sse/bench")),
            (Raw, Sse, "/ws", Ok("/sse")),
            (Raw, Sse, "/ws/a%20b?echo=false", Ok("/sse/a%20b")),
            (
                Raw,
                Sse,
                "/wsa",
                Err(
                    "the path of `127.0.0.1:1/wsa` does not say where sse is; expected none, or /ws/{channel}",
                ),
            ),
            (
                Raw,
                HttpStream,
                "",
                Err("http-stream does not carry raw; expected centrifuge-json or centrifuge-protobuf"),
            ),
            (CentrifugeJson, WebSocket, "/c", Ok("/c")),
            (CentrifugeJson, Sse, "", Ok("/connection/sse")),
            (CentrifugeJson, HttpStream, "/connection/websocket", Ok("/connection/http_stream")),
            (CentrifugeProtobuf, HttpStream, "", Ok("/connection/http_stream")),
            (
                CentrifugeProtobuf,
                Sse,
                "",
                Err("sse does not carry centrifuge-protobuf; expected raw or centrifuge-json"),
            ),
            (
                CentrifugeJson,
                Sse,
                "/c",
                Err("the path of `127.0.0.1:1/c` does not say where sse is; expected none, or \
                     /connection/websocket"),
            ),
        ];
        for (protocol, transport, path, expected) in rows {
            let target = Target::speaking(&format!("ws://127.0.0.1:1{path}"), protocol, "news").unwrap();
            let publishing = target.publishing();
            let found = target.over(transport).map_err(|error| error.to_string());
            let listening = found.clone().map(|target| target.listening(true).path);
            assert_eq!(listening, expected.map(str::to_owned).map_err(str::to_owned), "{transport} {path}");
            assert!(found.is_err() || found.unwrap().publishing() == publishing, "{transport} {path}");
        }
    }

    #[test]
    fn other_addresses_are_named() {
        let rows = [
            (
                "http://127.0.0.1/",
                "`http://127.0.0.1/` does not begin with ws:// or wss://, and nothing else is spoken here",
            ),
            (
                "127.0.0.1:80",
                "`127.0.0.1:80` does not begin with ws:// or wss://, and nothing else is spoken here",
            ),
            ("a b", "`a b` is not a URL; expected ws://HOST:PORT/PATH or wss://…"),
        ];
        for (url, expected) in rows {
            assert_eq!(Target::resolve(url).unwrap_err().to_string(), expected);
        }
        let error = Target::resolve("ws://nobody.invalid:1/").unwrap_err();
        assert!(matches!(error, TargetError::Unresolved { .. }), "{error}");
    }

    #[test]
    fn parameters_are_appended() {
        let target = Target::resolve("ws://127.0.0.1:1/ws/a").unwrap().with("echo=false");
        assert_eq!(target.path, "/ws/a?echo=false");
        assert_eq!(target.with("notices=true").path, "/ws/a?echo=false&notices=true");
    }
}
