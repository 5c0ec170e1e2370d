//! The requests that come to the relay, and its answer to a handshake.

use std::io::{Read, Write};
use std::net::TcpStream;

use fanfare_websocket::deflate::{Agreed, Policy, negotiate};
use fanfare_websocket::handshake;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

/// The head of a request, and what came behind it.
pub(super) fn read_request(socket: &TcpStream) -> Option<(String, Vec<u8>)> {
    read_head(socket, Vec::new())
}

pub(super) fn read_head(socket: &TcpStream, mut begun: Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = begun.windows(4).position(|four| four == b"\r\n\r\n") {
            let behind = begun.split_off(end + 4);
            return Some((String::from_utf8(begun).ok()?, behind));
        }
        begun.extend_from_slice(&read_some(socket)?);
    }
}

pub(super) fn read_body(socket: &TcpStream, request: &str, mut begun: Vec<u8>) -> Option<Vec<u8>> {
    let length = content_length(request).unwrap_or(0);
    while begun.len() < length {
        begun.extend_from_slice(&read_some(socket)?);
    }
    Some(begun)
}

pub(super) fn content_length(request: &str) -> Option<usize> {
    request.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()
}

pub(super) fn read_some(mut socket: &TcpStream) -> Option<Vec<u8>> {
    let mut scratch = [0; 1024];
    let read = socket.read(&mut scratch).ok().filter(|read| *read > 0)?;
    Some(scratch[..read].to_vec())
}

pub(super) fn answer(
    mut socket: &TcpStream,
    request: &str,
    policy: Option<Policy>,
) -> Option<Option<Agreed>> {
    let headers: HeaderMap = request
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
        })
        .collect();
    let accept = handshake::accept(&Method::GET, Version::HTTP_11, &headers).ok()?;
    let accept = accept.to_str().ok()?;
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
    let agreed = policy.and_then(|policy| negotiate(&headers, &policy).ok()?);
    let extensions =
        agreed.map(|agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n")).unwrap_or_default();
    let answer = format!("{head}\r\nSec-WebSocket-Accept: {accept}\r\n{extensions}\r\n");
    socket.write_all(answer.as_bytes()).ok().map(|()| agreed)
}
