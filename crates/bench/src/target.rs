//! Where a run connects to: a `ws://` or `wss://` address, resolved once. It makes no connection.

use std::net::{SocketAddr, ToSocketAddrs};

use fanfare_websocket::deflate::Offer;
use http::Uri;
use rustls::pki_types::ServerName;

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
}

/// What TLS has to know of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secure {
    pub(crate) name: ServerName<'static>,
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
    /// The path that is used where the URL names none.
    pub const DEFAULT_PATH: &'static str = "/ws/bench";

    /// Parses and resolves `url`.
    pub fn resolve(url: &str) -> Result<Self, TargetError> {
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
            "/" => Self::DEFAULT_PATH.to_owned(),
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
        Ok(Self { address, host: authority.as_str().to_owned(), path, offer: None, secure })
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
            };
            assert_eq!(Target::resolve(url), Ok(expected), "{url}");
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
