//! The body of an answer that does not end, taken apart as it comes: chunks (RFC 9112 section 7.1), and in them events
//! (HTML Living Standard, section 9.2), lines, or messages that say their own length. It keeps only what is incomplete.
//! A line ends with LF or CRLF here, never with CR alone, which no gateway writes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanfare_protocol::centrifuge::Format;
use memchr::{memchr, memrchr};
use serde::Deserialize;

use crate::client::connection::End;
use crate::client::transport::Transport;

/// What may be incomplete at a time; the runs here send much less.
const MOST: usize = 16 << 20;

/// More than any server needs for its head.
const HEAD: usize = 16 << 10;

/// A body, as far as it has come.
#[derive(Debug)]
pub(crate) struct Body {
    units: Units,
    chunk: Chunk,
    /// The beginning of what is incomplete.
    rest: Vec<u8>,
}

/// What its chunks hold together. Where a chunk begins means nothing: somebody on the way may have changed that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Units {
    Events,
    Lines,
    Lengths,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// Another digit of a size, or its end; `None` before the first.
    Size(Option<usize>),
    /// What may stand behind the size.
    Extension(usize),
    /// The LF of the size's line.
    Line(usize),
    Data(usize),
    /// The CR behind the data, and then its LF.
    Behind,
    BehindCr,
    /// Nothing: the last chunk has come.
    Over,
}

/// How long the head of the answer is, behind which a body begins that does not end; nothing while it is not whole.
///
/// # Errors
///
/// What is no HTTP, another status than 200, or a body that ends.
pub(crate) fn begins_after(answer: &[u8]) -> Result<Option<usize>, End> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut lines);
    let unconnected = |problem: String| Err(End::Unconnected(problem));
    match head.parse(answer) {
        Err(error) => unconnected(format!("the answer is not HTTP: {error}")),
        Ok(httparse::Status::Partial) if answer.len() > HEAD => {
            unconnected(format!("the answer's head is longer than {HEAD} bytes"))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => match head.code.unwrap_or_default() {
            200 if head.headers.iter().any(is_chunked) => Ok(Some(length)),
            200 => unconnected("the answer does not come in chunks".to_owned()),
            status => Err(End::Refused(status)),
        },
    }
}

fn is_chunked(line: &httparse::Header<'_>) -> bool {
    line.name.eq_ignore_ascii_case("transfer-encoding") && line.value.eq_ignore_ascii_case(b"chunked")
}

impl Body {
    /// Of an answer over this transport, whose pushes are in `format` if it is a session's.
    pub(crate) fn new(transport: Transport, format: Option<Format>) -> Self {
        let units = match (transport, format) {
            (Transport::HttpStream, Some(Format::Protobuf)) => Units::Lengths,
            (Transport::HttpStream, _) => Units::Lines,
            (Transport::Sse | Transport::WebSocket, _) => Units::Events,
        };
        Self { units, chunk: Chunk::Size(None), rest: Vec::new() }
    }

    /// Takes what came, and calls `on` with what each WebSocket frame would hold, and whether that is text.
    ///
    /// # Errors
    ///
    /// What is no such body, the end of one, and what `on` returns.
    pub(crate) fn take(
        &mut self,
        bytes: &mut [u8],
        on: &mut impl FnMut(bool, &[u8]) -> Result<(), End>,
    ) -> Result<(), End> {
        let length = self.unchunk(bytes)?;
        let bytes = &bytes[..length];
        if self.rest.is_empty() {
            let used = self.units.take(bytes, on)?;
            if used < bytes.len() {
                self.rest = bytes[used..].to_vec();
            }
        } else {
            self.rest.extend_from_slice(bytes);
            let used = self.units.take(&self.rest, on)?;
            if used == self.rest.len() {
                self.rest = Vec::new();
            } else {
                self.rest.drain(..used);
            }
        }
        if self.rest.len() > MOST {
            return Err(offence("a message that does not end"));
        }
        match self.chunk {
            Chunk::Over => Err(End::Lost("the server ended the answer".to_owned())),
            _ => Ok(()),
        }
    }

    /// Moves what is in chunks to the front, and returns how much that is.
    fn unchunk(&mut self, bytes: &mut [u8]) -> Result<usize, End> {
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() && self.chunk != Chunk::Over {
            if let Chunk::Data(left) = self.chunk {
                let taken = left.min(bytes.len() - at);
                bytes.copy_within(at..at + taken, kept);
                (kept, at) = (kept + taken, at + taken);
                self.chunk = if taken == left { Chunk::Behind } else { Chunk::Data(left - taken) };
            } else {
                self.chunk = self.chunk.behind(bytes[at]).ok_or_else(|| offence("what is no chunk"))?;
                at += 1;
            }
        }
        Ok(kept)
    }
}

impl Chunk {
    /// What comes after this byte, which is none of a chunk's data.
    fn behind(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)? as usize;
                Self::Size(Some(size.unwrap_or_default().checked_mul(16)?.checked_add(digit)?))
            }
            (Self::Size(Some(size)), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Size(Some(size)) | Self::Extension(size), b'\r') => Self::Line(size),
            (Self::Extension(size), _) => Self::Extension(size),
            // Behind the last one only fields come, which say nothing here.
            (Self::Line(0), b'\n') => Self::Over,
            (Self::Line(size), b'\n') => Self::Data(size),
            (Self::Behind, b'\r') => Self::BehindCr,
            (Self::BehindCr, b'\n') => Self::Size(None),
            _ => return None,
        })
    }
}

impl Units {
    /// Takes all that are whole, and returns how many bytes they are.
    fn take(self, bytes: &[u8], on: &mut impl FnMut(bool, &[u8]) -> Result<(), End>) -> Result<usize, End> {
        match self {
            Self::Events => {
                let mut used = 0;
                while let Some((event, length)) = Event::first(&bytes[used..]) {
                    used += length;
                    event.say(on)?;
                }
                Ok(used)
            }
            // As they lie together in a frame.
            Self::Lines => {
                let Some(end) = memrchr(b'\n', bytes) else { return Ok(0) };
                on(true, &bytes[..end])?;
                Ok(end + 1)
            }
            Self::Lengths => {
                let mut used = 0;
                while let Some(length) =
                    length(&bytes[used..])?.filter(|length| *length <= bytes.len() - used)
                {
                    used += length;
                }
                if used > 0 {
                    on(false, &bytes[..used])?;
                }
                Ok(used)
            }
        }
    }
}

/// Of a message that begins with its length as a varint, both together, if so much is there.
fn length(bytes: &[u8]) -> Result<Option<usize>, End> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(index + 1 + length));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(offence("a message that is too long")) }
}

/// An event, as far as it says anything.
#[derive(Debug, Default)]
struct Event<'e> {
    kind: &'e [u8],
    data: Option<&'e [u8]>,
    /// All of its data, where that is more than a line.
    lines: Option<Vec<u8>>,
}

impl<'e> Event<'e> {
    /// The first one, and how many bytes it is, if it is whole.
    fn first(bytes: &'e [u8]) -> Option<(Self, usize)> {
        let mut event = Self::default();
        let mut at = 0;
        loop {
            let end = at + memchr(b'\n', &bytes[at..])?;
            let line = bytes[at..end].strip_suffix(b"\r").unwrap_or(&bytes[at..end]);
            at = end + 1;
            if line.is_empty() {
                return Some((event, at));
            }
            if let Some(kind) = field(line, b"event:") {
                event.kind = kind;
            } else if let Some(data) = field(line, b"data:") {
                event.add(data);
            }
        }
    }

    fn add(&mut self, line: &'e [u8]) {
        match (self.data, &mut self.lines) {
            (None, _) => self.data = Some(line),
            (Some(first), None) => self.lines = Some([first, b"\n", line].concat()),
            (Some(_), Some(lines)) => {
                lines.push(b'\n');
                lines.extend_from_slice(line);
            }
        }
    }

    /// An event without data is none.
    fn say(self, on: &mut impl FnMut(bool, &[u8]) -> Result<(), End>) -> Result<(), End> {
        let Some(data) = self.lines.as_deref().or(self.data) else { return Ok(()) };
        match self.kind {
            // What tells of a gap is what tells of it in a frame.
            b"" | b"message" | b"gap" => on(true, data),
            b"binary" => on(false, &STANDARD.decode(data).map_err(|_| offence("what is no base64"))?),
            b"close" => Err(match serde_json::from_slice(data) {
                Ok(Close { code, reason }) => End::Closed { code: Some(code), reason },
                Err(_) => offence("a farewell without a code and a reason"),
            }),
            _ => Err(offence("an event of a kind that is not known")),
        }
    }
}

/// Why an answer ends.
#[derive(Deserialize)]
struct Close {
    code: u16,
    reason: String,
}

fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

fn offence(what: &str) -> End {
    End::Offence(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said in a body that comes in pieces of `size` bytes.
    fn said(transport: Transport, format: Option<Format>, bytes: &[u8], size: usize) -> String {
        let mut body = Body::new(transport, format);
        let mut said = String::new();
        let mut ended = None;
        for piece in bytes.chunks(size) {
            let mut hear = |text: bool, payload: &[u8]| {
                said += if text { "text " } else { "bytes " };
                said += &String::from_utf8_lossy(payload).replace('\n', "/");
                said += "; ";
                Ok(())
            };
            if let Err(end) = body.take(&mut piece.to_vec(), &mut hear) {
                ended = Some(end);
                break;
            }
        }
        match ended {
            Some(end) => said + &end.to_string(),
            None if body.rest.is_empty() => said,
            None => said + "more",
        }
    }

    #[test]
    fn what_comes_is_taken_apart_wherever_it_is_cut() {
        use Format::{Json, Protobuf};
        use Transport::{HttpStream, Sse};
        let rows: &[(Transport, Option<Format>, &[u8], &str)] = &[
            (Sse, None, b"2\r\n\r\n\r\n9\r\ndata: a\n\n\r\n", "text a; "),
            (Sse, None, b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n", "text a; text b; "),
            (Sse, None, b"12;x=y\r\ndata: a\n\ndata: b\n\n\r\n", "text a; text b; "),
            (Sse, None, b"004\r\ndata\r\n5\r\n: a\n\n\r\n", "text a; "),
            (Sse, None, b"f\r\n:\n\ndata:  a\r\n\r\n\r\n", "text  a; "),
            (Sse, None, b"18\r\ndata: a\ndata: b\ndata:c\n\n\r\n", "text a/b/c; "),
            (Sse, None, b"21\r\nid: 7:e\nevent: binary\ndata: YQ==\n\r\n1\r\n\n\r\n", "bytes a; "),
            (Sse, None, b"a\r\nid: 7:e\n\n\n\r\n", ""),
            (Sse, None, b"15\r\nevent: gap\ndata: {}\n\n\r\n", "text {}; "),
            (
                Sse,
                None,
                b"39\r\nevent: close\ndata: {\"code\":1012,\"reason\":\"restart\"}    \n\n\r\n0\r\n\r\n",
                "closed 1012 restart",
            ),
            (Sse, None, b"9\r\ndata: a\n\n\r\n0\r\n\r\n", "text a; lost: the server ended the answer"),
            (Sse, None, b"9\r\ndata: a\n\n\r\n8\r\ndata: b\n\r\n", "text a; more"),
            (Sse, Some(Json), b"a\r\ndata: {}\n\n\r\n", "text {}; "),
            (HttpStream, Some(Json), b"3\r\n{}\n\r\n", "text {}; "),
            (HttpStream, Some(Json), b"1\r\n{\r\n2\r\n}\n\r\n2\r\n[]\r\n", "text {}; more"),
            (
                HttpStream,
                Some(Protobuf),
                b"2\r\n\x01a\r\n2\r\n\x02b\r\n1\r\nc\r\n",
                "bytes \u{1}a; bytes \u{2}bc; ",
            ),
            (HttpStream, Some(Protobuf), b"1\r\n\0\r\n1\r\n\x02\r\n", "bytes \0; more"),
            (Sse, None, b"x\r\n", "protocol broken: what is no chunk"),
            (Sse, None, b"\r\n", "protocol broken: what is no chunk"),
            (Sse, None, b"fffffffffffffffff\r\n", "protocol broken: what is no chunk"),
            (Sse, None, b"1\r\naa\r\n", "protocol broken: what is no chunk"),
            (
                Sse,
                None,
                b"16\r\nevent: new\ndata: abc\n\n\r\n",
                "protocol broken: an event of a kind that is not known",
            ),
            (Sse, None, b"19\r\nevent: binary\ndata: ???\n\n\r\n", "protocol broken: what is no base64"),
            (
                HttpStream,
                Some(Protobuf),
                b"4\r\n\xff\xff\xff\xff\r\n",
                "protocol broken: a message that is too long",
            ),
        ];
        for (transport, format, bytes, expected) in rows {
            for size in 1..=bytes.len() {
                let said = said(*transport, *format, bytes, size);
                // In one piece, messages lie together.
                let apart = said.replace("\u{1}a\u{2}bc", "\u{1}a; bytes \u{2}bc");
                assert_eq!(apart, *expected, "{:?} in pieces of {size}", String::from_utf8_lossy(bytes));
            }
        }
    }
}
