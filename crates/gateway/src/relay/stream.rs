//! What is written into the body of an HTTP response that does not end: chunks (RFC 9112 section 7.1), each of which
//! is a whole line, or a whole server-sent event (HTML Living Standard, section 9.2). Whose body it is, is not known
//! here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use fanfare_hub::Encoding;
use fanfare_protocol::{Channel, Position};
use fanfare_websocket::{CloseCode, Opcode};
use serde_json::json;

use super::phrases::gap_notice;
use super::wording::Message;

/// The end of a body.
const END: &[u8] = b"0\r\n\r\n";

/// One chunk of these bytes.
fn chunk(bytes: &[u8]) -> Bytes {
    chunk_of(bytes.len(), [bytes])
}

/// One chunk of so many bytes, which come in pieces: what is large is copied once.
fn chunk_of<'a>(length: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::with_capacity(length + 20);
    out.put_slice(format!("{length:x}\r\n").as_bytes());
    pieces.into_iter().for_each(|piece| out.put_slice(piece));
    out.put_slice(b"\r\n");
    out.freeze()
}

/// A message as a line, or in Protobuf as what says its own length.
pub fn line(encoding: Encoding, message: &Message) -> Bytes {
    lines(encoding, &message.bytes)
}

/// Messages of the client protocol that lie together, as lines; one chunk for all of them.
pub fn lines(encoding: Encoding, messages: &[u8]) -> Bytes {
    match encoding {
        Encoding::Protobuf | Encoding::ProtobufDelta => chunk(messages),
        _ => chunk_of(messages.len() + 1, [messages, b"\n"]),
    }
}

/// The same as events, one for each.
pub fn events(messages: &[u8]) -> Bytes {
    const BEFORE: &[u8] = b"data: ";
    const BEHIND: &[u8] = b"\n\n";
    let lines = || messages.split(|byte| *byte == b'\n');
    let length = lines().map(|line| BEFORE.len() + line.len() + BEHIND.len()).sum();
    chunk_of(length, lines().flat_map(|line| [BEFORE, line, BEHIND]))
}

/// An empty line, which is nothing to whoever reads events, and shows that they have begun.
pub fn overture() -> Bytes {
    chunk(b"\r\n")
}

/// This chunk, and then the end of the body.
pub fn ended_by(chunk: &Bytes) -> Bytes {
    [&chunk[..], END].concat().into()
}

/// A message as an event. A publication that is told as it is has its position for an id, by which a browser asks for
/// what comes after it; a binary one is in base64, and its event is called `binary`.
pub fn event(encoding: Encoding, message: &Message) -> Bytes {
    if encoding != Encoding::Raw {
        return events(&message.bytes);
    }
    let mut out = Vec::with_capacity(message.bytes.len() + 64);
    if let Some(position) = message.position {
        put_id(&mut out, position);
    }
    match std::str::from_utf8(&message.bytes) {
        Ok(text) if message.opcode == Opcode::Text => put_data(&mut out, text),
        _ => {
            out.extend_from_slice(b"event: binary\n");
            put_data(&mut out, &STANDARD.encode(&message.bytes));
        }
    }
    out.push(b'\n');
    chunk(&out)
}

/// No event, but from now on a client that comes back asks for what comes after this.
pub fn place_event(position: Position) -> Bytes {
    let mut out = Vec::new();
    put_id(&mut out, position);
    out.push(b'\n');
    chunk(&out)
}

/// Publications may have been missed.
pub fn gap_event(channel: &Channel) -> Bytes {
    chunk(format!("event: gap\ndata: {}\n\n", gap_notice(channel)).as_bytes())
}

/// The connection ends, and why.
pub fn close_event(code: CloseCode, reason: &str) -> Bytes {
    let why = json!({ "code": code.get(), "reason": reason });
    ended_by(&chunk(format!("event: close\ndata: {why}\n\n").as_bytes()))
}

/// Nothing, so that everybody on the way sees that the connection lives.
pub fn comment() -> Bytes {
    chunk(b":\n\n")
}

fn put_id(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(format!("id: {position}\n").as_bytes());
}

/// Each line by itself. All three ends of a line are one to a browser, which gives back LF.
fn put_data(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.find(['\r', '\n']);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { return };
        rest = match rest[end..].strip_prefix("\r\n") {
            Some(rest) => rest,
            None => &rest[end + 1..],
        };
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use fanfare_protocol::Epoch;

    use super::*;

    fn body(chunk: &Bytes) -> String {
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        let (size, rest) = text.split_once("\r\n").unwrap();
        let body = rest.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16), Ok(body.len()));
        body.to_owned()
    }

    #[test]
    fn a_publication_is_one_event() {
        let at = Some(Position { offset: 42, epoch: Epoch::new("kRtA").unwrap() });
        use Opcode::{Binary, Text};
        for (encoding, opcode, said, position, expected) in [
            (Encoding::Raw, Text, "hello", None, "data: hello\n\n"),
            (Encoding::Raw, Text, "hello", at, "id: 42:kRtA\ndata: hello\n\n"),
            (Encoding::Raw, Text, "", None, "data: \n\n"),
            (
                Encoding::Raw,
                Text,
                " a\nb\r\nc\rd\n\n",
                None,
                "data:  a\ndata: b\ndata: c\ndata: d\ndata: \ndata: \n\n",
            ),
            (Encoding::Raw, Text, "data: id: 7", None, "data: data: id: 7\n\n"),
            (Encoding::Raw, Binary, "\u{0}a", at, "id: 42:kRtA\nevent: binary\ndata: AGE=\n\n"),
            (Encoding::Raw, Binary, "", None, "event: binary\ndata: \n\n"),
            (Encoding::Json, Text, "{}", at, "data: {}\n\n"),
        ] {
            let message = Message { opcode, bytes: Cow::Borrowed(said.as_bytes()), position };
            assert_eq!(body(&event(encoding, &message)), expected, "{said:?}");
        }
        let message = Message { opcode: Text, bytes: Cow::Borrowed(b"{}"), position: None };
        assert_eq!(body(&line(Encoding::Json, &message)), "{}\n");
        assert_eq!(body(&line(Encoding::Protobuf, &message)), "{}");
    }

    #[test]
    fn what_is_no_publication_is_told_apart() {
        let channel = Channel::new("news").unwrap();
        assert_eq!(body(&comment()), ":\n\n");
        assert_eq!(
            body(&gap_event(&channel)),
            "event: gap\ndata: {\"fanfare\":\"gap\",\"channel\":\"news\"}\n\n"
        );
        let position = Position { offset: 1, epoch: Epoch::new("kRtA").unwrap() };
        assert_eq!(body(&place_event(position)), "id: 1:kRtA\n\n");
        let last = close_event(CloseCode::SERVICE_RESTART, "service restart");
        let last = last.strip_suffix(END).unwrap();
        let last = body(&Bytes::copy_from_slice(last));
        assert_eq!(last, "event: close\ndata: {\"code\":1012,\"reason\":\"service restart\"}\n\n");
    }
}
