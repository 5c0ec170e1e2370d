//! Lines of a request's head end in CR LF. RFC 9112 section 2.2 allows a server to take a bare LF for an end, and
//! hyper does; an intermediary that does not then sees one header where we see the end of a request, and another
//! behind it. So a bare LF is handed on as NUL, which no head may hold, and hyper answers 400; and likewise what ends
//! a length that no body has.
//!
//! It looks at heads only: not at bodies, whose length their head says, and not at anything behind a head that asks
//! for an upgrade or announces chunks. Behind those no request is ever answered (see `http::judge`).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream on which requests arrive.
pub struct Heads<S> {
    stream: S,
    scan: Scan,
    news: Rc<Cell<bool>>,
}

/// How far the reader of a head is.
#[derive(Debug, Default)]
struct Scan {
    /// Nothing more is looked at.
    done: bool,
    /// Bytes of a body that are still to pass.
    body: u64,
    /// A line of the head has come, so that an empty one is its end.
    begun: bool,
    /// The first bytes of the line, in lower case, to tell its name.
    name: [u8; NAME],
    line: usize,
    last: u8,
    header: Header,
    /// What the head says of its body.
    length: u64,
    last_head: bool,
}

/// As long as the longest name that matters, `transfer-encoding`.
const NAME: usize = 17;

/// Which line of a head this is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Header {
    #[default]
    Unknown,
    Length,
    Other,
}

impl<S> Heads<S> {
    /// Requests are yet to come. `news` is set whenever some bytes have: a request without any came together with the
    /// one before.
    pub fn new(stream: S, news: Rc<Cell<bool>>) -> Self {
        Self { stream, scan: Scan::default(), news }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl Scan {
    fn look(&mut self, mut bytes: &mut [u8]) {
        while !self.done && !bytes.is_empty() {
            if self.body > 0 {
                let passed = bytes.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
                self.body -= passed as u64;
                bytes = &mut bytes[passed..];
                continue;
            }
            let (line, rest) = bytes.split_at_mut(memchr(b'\n', bytes).unwrap_or(bytes.len()));
            self.read(line);
            let Some((end, rest)) = rest.split_first_mut() else { return };
            self.end_line(end);
            bytes = rest;
        }
    }

    /// More of a line, or all of it, without what ends it.
    fn read(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        self.last = *last;
        let value = if self.header == Header::Unknown { self.read_name(piece) } else { piece };
        if self.header == Header::Length {
            for digit in value.iter().filter(|byte| byte.is_ascii_digit()) {
                self.length = self.length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            }
        }
        self.line += value.len();
    }

    /// More of a line whose name is not over yet. Gives what comes behind the name.
    fn read_name<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let colon = memchr(b':', piece);
        let (name, value) = piece.split_at(colon.unwrap_or(piece.len()));
        let places = self.name.get_mut(self.line..).unwrap_or_default();
        places.iter_mut().zip(name).for_each(|(place, byte)| *place = byte.to_ascii_lowercase());
        self.line += name.len();
        if colon.is_some() {
            self.header = Header::Other;
            match &self.name[..self.line.min(NAME)] {
                b"content-length" => (self.header, self.length) = (Header::Length, 0),
                b"transfer-encoding" | b"upgrade" if self.line <= NAME => self.last_head = true,
                _ => {}
            }
        }
        value
    }

    fn end_line(&mut self, end: &mut u8) {
        // The longest lengths would be answered as if the head itself were too long.
        let too_long = self.header == Header::Length && self.length >= u64::MAX - 1;
        if self.last != b'\r' || too_long {
            *end = 0;
            self.done = true;
        } else if self.line == 1 {
            self.end_head();
        } else {
            self.begun = true;
            (self.line, self.header) = (0, Header::Unknown);
        }
        self.last = *end;
    }

    /// An empty line: before a request it means nothing.
    fn end_head(&mut self) {
        if self.begun {
            self.done = self.last_head;
            self.body = self.length;
        }
        (self.line, self.begun, self.length, self.header) = (0, false, 0, Header::Unknown);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let come = &mut into.filled_mut()[before..];
        if !come.is_empty() {
            self.news.set(true);
        }
        self.scan.look(come);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_line_feed_is_no_end_of_a_line() {
        // What comes, and what is handed on.
        let rows = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("GET / HTTP/1.1\n", "GET / HTTP/1.1\0"),
            ("GET / HTTP/1.1\r\nX: 1\nY: 2\r\n\r\n", "GET / HTTP/1.1\r\nX: 1\0Y: 2\r\n\r\n"),
            ("GET / HTTP/1.1\r\nX: 1\r\n\n", "GET / HTTP/1.1\r\nX: 1\r\n\0"),
            ("\nGET / HTTP/1.1\r\n", "\0GET / HTTP/1.1\r\n"),
            ("\r\n\r\nGET / HTTP/1.1\r\nX: 1\n", "\r\n\r\nGET / HTTP/1.1\r\nX: 1\0"),
            // The next request on the same connection.
            ("GET / HTTP/1.1\r\n\r\nGET /\n", "GET / HTTP/1.1\r\n\r\nGET /\0"),
            // A body is anything; what is behind it is a head again.
            (
                "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\nGET /\n",
                "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\nGET /\0",
            ),
            (
                "POST / HTTP/1.1\r\nX: content-length: 5\r\n\r\n\n",
                "POST / HTTP/1.1\r\nX: content-length: 5\r\n\r\n\0",
            ),
            (
                "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET /\n",
                "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET /\0",
            ),
            // Frames, and chunks.
            (
                "GET / HTTP/1.1\r\nUPGRADE: websocket\r\n\r\n\n\n",
                "GET / HTTP/1.1\r\nUPGRADE: websocket\r\n\r\n\n\n",
            ),
            ("GET / HTTP/1.1\r\nX-Upgrade: 1\r\n\r\n\n\n", "GET / HTTP/1.1\r\nX-Upgrade: 1\r\n\r\n\0\n"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\n",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encodings: chunked\r\n\r\n\n",
                "POST / HTTP/1.1\r\nTransfer-Encodings: chunked\r\n\r\n\0",
            ),
        ];
        for (comes, expected) in rows {
            for size in [1, 2, 7, comes.len()] {
                let mut scan = Scan::default();
                let mut handed_on = comes.as_bytes().to_vec();
                handed_on.chunks_mut(size).for_each(|piece| scan.look(piece));
                assert_eq!(String::from_utf8_lossy(&handed_on), expected, "{comes:?} by {size}");
            }
        }
    }
}
