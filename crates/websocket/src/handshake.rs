//! The server's side of the opening handshake (RFC 6455 §4.2), on the types of the `http` crate.
//!
//! It judges what makes a request a WebSocket handshake, and nothing else: origin, path, limits and credentials are
//! the server's business, and so is the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use sha1::{Digest, Sha1};
use thiserror::Error;

/// Why a request is not a WebSocket handshake that we can answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The method is not GET (RFC 6455 §4.1, requirement 2).
    #[error("a WebSocket handshake is a GET request, not {0}")]
    Method(Method),
    /// Older than HTTP/1.1, or HTTP/2 and later, which begin otherwise (RFC 6455 §4.1, RFC 8441).
    #[error("a WebSocket handshake needs HTTP/1.1, not {0:?}")]
    HttpVersion(Version),
    /// No `Upgrade: websocket` (RFC 6455 §4.2.1, item 3).
    #[error("the header \"Upgrade: websocket\" is missing: this address is for WebSocket clients")]
    Upgrade,
    /// No `Connection: Upgrade` (RFC 6455 §4.2.1, item 4). Proxies that do not know WebSocket remove it.
    #[error("the header \"Connection: Upgrade\" is missing; perhaps a proxy on the way does not pass it on")]
    Connection,
    /// Another version of the protocol, or none. The answer names ours (RFC 6455 §4.4).
    #[error("the header \"Sec-WebSocket-Version\" must be 13, the version of RFC 6455")]
    WebSocketVersion,
    /// No key, several, or not sixteen bytes in base64 (RFC 6455 §4.2.1, item 5).
    #[error("the header \"Sec-WebSocket-Key\" must be there once, with 16 bytes in base64")]
    Key,
    /// `Sec-WebSocket-Extensions` does not follow the grammar of RFC 6455 §9.1. Only who negotiates extensions looks.
    #[error("the header \"Sec-WebSocket-Extensions\" is not a list of extensions with parameters")]
    Extensions,
}

impl HandshakeError {
    /// The status of the answer: 405 with `Allow: GET`, 426 with `Sec-WebSocket-Version: 13`, or 400.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::HttpVersion(_) | Self::Upgrade | Self::Connection | Self::Key | Self::Extensions => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// Judges a request, and returns the value of `Sec-WebSocket-Accept` for the answer 101.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn accept(method: &Method, version: Version, headers: &HeaderMap) -> Result<HeaderValue, HandshakeError> {
    if method != Method::GET {
        return Err(HandshakeError::Method(method.clone()));
    }
    if version != Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion(version));
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(HandshakeError::WebSocketVersion);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?.as_bytes();
    // Decoded to judge it; what is hashed is the text as it was sent.
    let mut bytes = [0; 18];
    if STANDARD.decode_slice(key, &mut bytes) != Ok(16) {
        return Err(HandshakeError::Key);
    }
    Ok(HeaderValue::try_from(accept_value(key)).expect("base64 is ASCII"))
}

/// The answer to a key: base64 of the SHA-1 of the key and a fixed text (RFC 6455 §4.2.2, item 5).
pub(crate) fn accept_value(key: &[u8]) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}

/// Whether a comma-separated list, which may be spread over several lines, has a token in any case of letters.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let is_token = |item: &str| item.trim_ascii().eq_ignore_ascii_case(token);
    let mut lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    // Mostly it stands alone.
    lines.any(|line| is_token(line) || line.split(',').any(is_token))
}

/// The value of a header that must not appear more than once (RFC 6455 §11.3.1, §11.3.5).
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAWFUL: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
        let lines = lines.into_iter();
        lines
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    /// A lawful request with one header's lines replaced.
    fn with(name: &str, values: &[&str]) -> Result<HeaderValue, HandshakeError> {
        let others = LAWFUL.into_iter().filter(|line| line.0 != name);
        accept(
            &Method::GET,
            Version::HTTP_11,
            &headers(others.chain(values.iter().map(|value| (name, *value)))),
        )
    }

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        let accepted = accept(&Method::GET, Version::HTTP_11, &headers(LAWFUL));
        assert_eq!(accepted.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn tokens_are_found_in_any_case_list_and_line() {
        let rows: [(&str, &[&str]); 7] = [
            ("connection", &["keep-alive, Upgrade"]),
            ("connection", &["UPGRADE,keep-alive"]),
            ("connection", &["keep-alive", "\tupgrade "]),
            ("connection", &["keep-alive,, ,upgrade"]),
            ("upgrade", &["WebSocket"]),
            ("upgrade", &["h2c, websocket"]),
            ("upgrade", &["h2c", "websocket"]),
        ];
        for (name, values) in rows {
            assert!(with(name, values).is_ok(), "{name}: {values:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows: [(&str, &[&str], HandshakeError, u16); 17] = [
            ("upgrade", &[], HandshakeError::Upgrade, 400),
            ("upgrade", &["h2c"], HandshakeError::Upgrade, 400),
            ("upgrade", &["web socket"], HandshakeError::Upgrade, 400),
            ("upgrade", &["websockets"], HandshakeError::Upgrade, 400),
            ("connection", &[], HandshakeError::Connection, 400),
            ("connection", &["close"], HandshakeError::Connection, 400),
            ("sec-websocket-version", &[], HandshakeError::WebSocketVersion, 426),
            ("sec-websocket-version", &["8"], HandshakeError::WebSocketVersion, 426),
            ("sec-websocket-version", &["13, 8"], HandshakeError::WebSocketVersion, 426),
            ("sec-websocket-version", &["13", "13"], HandshakeError::WebSocketVersion, 426),
            ("sec-websocket-key", &[], HandshakeError::Key, 400),
            ("sec-websocket-key", &[""], HandshakeError::Key, 400),
            ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ"], HandshakeError::Key, 400),
            ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25j"], HandshakeError::Key, 400),
            ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZSE="], HandshakeError::Key, 400),
            (
                "sec-websocket-key",
                &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="],
                HandshakeError::Key,
                400,
            ),
            (
                "sec-websocket-key",
                &["dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZSBvZiBpdA=="],
                HandshakeError::Key,
                400,
            ),
        ];
        for (name, values, error, status) in rows {
            let rejected = with(name, values).unwrap_err();
            assert_eq!(rejected, error, "{name}: {values:?}");
            assert_eq!(rejected.status(), status, "{name}: {values:?}");
        }
        let rejected = accept(&Method::POST, Version::HTTP_11, &headers(LAWFUL)).unwrap_err();
        assert_eq!((rejected.status().as_u16(), rejected), (405, HandshakeError::Method(Method::POST)));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let rejected = accept(&Method::GET, version, &headers(LAWFUL)).unwrap_err();
            assert_eq!((rejected.status().as_u16(), rejected), (400, HandshakeError::HttpVersion(version)));
        }
    }
}
