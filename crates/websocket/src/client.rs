//! The client's side of the opening handshake (RFC 6455 §4.1), for the load generator.
//!
//! It offers no subprotocol, and no extension but permessage-deflate, and so accepts no other. It does not follow
//! redirections.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::deflate::{Agreed, Offer};
use crate::handshake::accept_value;

/// The bytes of a handshake request that offers no compression. `key` comes from [`new_key`], `host` may have a port.
#[must_use]
pub fn request(host: &str, path_and_query: &str, key: &str) -> Vec<u8> {
    request_offering(host, path_and_query, key, None)
}

/// The bytes of a handshake request, with an offer of permessage-deflate or without.
#[must_use]
pub fn request_offering(host: &str, path_and_query: &str, key: &str, offer: Option<&Offer>) -> Vec<u8> {
    let extensions = offer.map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).unwrap_or_default();
    format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extensions}\r\n"
    )
    .into_bytes()
}

/// A key for one handshake: sixteen random bytes in base64. It need not be secret, only new.
#[must_use]
pub fn new_key() -> String {
    STANDARD.encode(fastrand::u128(..).to_ne_bytes())
}

/// Why a server's answer does not open a WebSocket connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Not an HTTP/1.1 answer.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(#[from] httparse::Error),
    /// An answer without end.
    #[error("the answer's head is longer than {HEAD} bytes")]
    HeadTooLong,
    /// Any status but 101. Of the body there is what had arrived.
    #[error("the server answered {status}{}{body}", if body.is_empty() { "" } else { ": " })]
    Refused {
        /// The answer's status.
        status: u16,
        /// The beginning of the answer's body, with what is not UTF-8 replaced.
        body: String,
    },
    /// The answer's header of this name is missing or wrong, or was not asked for.
    #[error("the answer's header {0} is missing, wrong or was not asked for")]
    Header(&'static str),
}

/// Reads a server's answer to the handshake with `key`, which offered no compression. `Some(n)`: the connection is
/// open, and frames begin after `n` bytes. `None`: more bytes are needed; call it again with all of them.
///
/// # Errors
///
/// When the answer is not the one that RFC 6455 §4.1 demands.
pub fn response(bytes: &[u8], key: &str) -> Result<Option<usize>, ClientError> {
    Ok(response_to(bytes, key, None)?.map(|(length, _)| length))
}

/// Reads a server's answer to the handshake with `key` and with this offer. `Some`: the connection is open, frames
/// begin after so many bytes, and this is what was agreed on, if compression was. `None`: more bytes are needed; call
/// it again with all of them.
///
/// # Errors
///
/// When the answer is not one that RFC 6455 §4.1 and RFC 7692 §7.1 allow.
pub fn response_to(
    bytes: &[u8],
    key: &str,
    offer: Option<&Offer>,
) -> Result<Option<(usize, Option<Agreed>)>, ClientError> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(length) = answer.parse(bytes)? else {
        return if bytes.len() > HEAD { Err(ClientError::HeadTooLong) } else { Ok(None) };
    };
    let status = answer.code.unwrap_or_default();
    if status != 101 {
        let body = &bytes[length..bytes.len().min(length + BODY)];
        return Err(ClientError::Refused {
            status,
            body: String::from_utf8_lossy(body).trim_end().to_owned(),
        });
    }
    let values = |name: &'static str| {
        let lines = answer.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        lines.map(|line| line.value.trim_ascii())
    };
    if !values("upgrade").any(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(ClientError::Header("Upgrade"));
    }
    let mut connection = values("connection").flat_map(|value| value.split(|&byte| byte == b','));
    if !connection.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade")) {
        return Err(ClientError::Header("Connection"));
    }
    if !values("sec-websocket-accept").eq([accept_value(key.as_bytes()).as_bytes()]) {
        return Err(ClientError::Header("Sec-WebSocket-Accept"));
    }
    if values("sec-websocket-protocol").next().is_some() {
        return Err(ClientError::Header("Sec-WebSocket-Protocol"));
    }
    let agreed = match (offer, &values("sec-websocket-extensions").collect::<Vec<_>>()[..]) {
        (_, []) => None,
        (Some(offer), [answer]) => Some(offer.agreed(answer).ok_or(EXTENSIONS)?),
        _ => return Err(EXTENSIONS),
    };
    Ok(Some((length, agreed)))
}

const EXTENSIONS: ClientError = ClientError::Header("Sec-WebSocket-Extensions");

/// More than any server needs, and little to keep.
const HEAD: usize = 16 * 1024;

/// As much of a refusal's body as an error should carry.
const BODY: usize = 512;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const OPEN: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn the_server_accepts_the_request() {
        let key = new_key();
        let bytes = request("127.0.0.1:8080", "/ws/a?echo=false", &key);
        let mut lines = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut lines);
        assert_eq!(parsed.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
        assert_eq!((parsed.method, parsed.path), (Some("GET"), Some("/ws/a?echo=false")));
        let name = |line: &httparse::Header<'_>| line.name.parse::<HeaderName>().unwrap();
        let headers =
            parsed.headers.iter().map(|line| (name(line), HeaderValue::from_bytes(line.value).unwrap()));
        let headers = headers.collect::<HeaderMap>();
        assert_eq!(headers["host"], "127.0.0.1:8080");
        let accepted = crate::handshake::accept(&Method::GET, Version::HTTP_11, &headers).unwrap();
        assert_eq!(accepted, accept_value(key.as_bytes()));
    }

    #[test]
    fn compression_is_agreed_on() {
        let offer = Offer { client_max_window_bits: Some(15), ..Offer::default() };
        let bytes = request_offering("h", "/", KEY, Some(&offer));
        let line = "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        assert!(bytes.ends_with(line.as_bytes()));

        let answer = |lines: &str| {
            let answer = OPEN.replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
            let read = response_to(answer.as_bytes(), KEY, Some(&offer));
            read.map(|read| read.expect("a whole answer").1.map(|agreed| agreed.to_string()))
        };
        let value = "permessage-deflate; server_no_context_takeover; client_max_window_bits=10";
        assert_eq!(answer(&format!("Sec-WebSocket-Extensions: {value}\r\n")), Ok(Some(value.to_owned())));
        assert_eq!(answer(""), Ok(None));
        for wrong in
            ["foo", "permessage-deflate; foo", "", "permessage-deflate\r\nSec-WebSocket-Extensions: foo"]
        {
            assert_eq!(answer(&format!("Sec-WebSocket-Extensions: {wrong}\r\n")), Err(EXTENSIONS), "{wrong}");
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces_and_be_followed_by_frames() {
        for cut in 0..OPEN.len() {
            assert_eq!(response(&OPEN.as_bytes()[..cut], KEY), Ok(None), "{cut} bytes");
        }
        assert_eq!(response(OPEN.as_bytes(), KEY), Ok(Some(OPEN.len())));
        assert_eq!(response(format!("{OPEN}\x01").as_bytes(), KEY), Ok(Some(OPEN.len())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |from: &str, to: &str, expected| {
            let answer = OPEN.replace(from, to);
            assert_ne!(answer, OPEN);
            assert_eq!(response(answer.as_bytes(), KEY), Err(expected), "{answer}");
        };
        check("HTTP/1.1", "SSH-2.0", ClientError::NotHttp(httparse::Error::Version));
        check("WebSocket", "h2c", ClientError::Header("Upgrade"));
        check("Upgrade\r\n", "close\r\n", ClientError::Header("Connection"));
        check("s3pP", "S3pP", ClientError::Header("Sec-WebSocket-Accept"));
        check(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Protocol: x\r\n\r\n",
            ClientError::Header("Sec-WebSocket-Protocol"),
        );
        check(
            "\r\n\r\n",
            "\r\nsec-websocket-extensions: x\r\n\r\n",
            ClientError::Header("Sec-WebSocket-Extensions"),
        );

        let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\r\nthe instance is full\n";
        let refused = response(busy.as_bytes(), KEY).unwrap_err();
        assert_eq!(refused.to_string(), "the server answered 503: the instance is full");
        assert_eq!(
            response(b"HTTP/1.1 404 \r\n\r\n", KEY).unwrap_err().to_string(),
            "the server answered 404"
        );

        let endless = format!("HTTP/1.1 101 x\r\na: {}", "b".repeat(HEAD));
        assert_eq!(response(endless.as_bytes(), KEY), Err(ClientError::HeadTooLong));
    }
}
