//! The TLS handshake of one connection, and the stream that HTTP is spoken on until the hub takes it over. How long it
//! may take is the worker's to say.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fanfare_hub::{Socket, Tls, Toll};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::reckoning::Reckoning;
use crate::admission::unfinished::Place;
use crate::memory::Budget;

/// What a client that asks in plain HTTP is told.
const PLAIN_HTTP: &str = "this address speaks TLS: connect by wss:// or https://\n";

/// Others have a turn after so many bytes, and after so many records that carry nothing, of which each may change a
/// key.
/// HTTP takes what there is for as long as there is some.
const TURN_BYTES: u32 = 64 << 10;
const TURN_EMPTY: u32 = 64;

/// No client sends so many records that carry nothing before it is a WebSocket or has got its answers.
const MOST_EMPTY: u32 = 256;

/// How a handshake ended.
pub enum Handshake {
    /// Both have agreed.
    Done(TlsStream),
    /// The client went without a word, as a balancer does that only looks whether the port is open.
    Nothing,
    /// The client speaks HTTP: see `refuse_plain_http`.
    PlainHttp(TcpStream),
    /// It came to nothing.
    Failed(io::Error),
}

/// A client that asks in plain HTTP may send so much after it has been told; whoever goes on does not listen.
const MOST_PLAIN: usize = 64 << 10;

/// Shakes hands, with what there is to reckon in the worker's turns for that. While memory has run out nothing is
/// read, and how much is kept of a message of TLS that is not whole is known to the client's place.
pub async fn shake_hands(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    reckoning: &Reckoning,
    memory: &Budget,
    place: &Place,
) -> Handshake {
    match try_to(stream, config, reckoning, memory, place).await {
        Ok(done) => done,
        Err(error) => Handshake::Failed(error),
    }
}

async fn try_to(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    reckoning: &Reckoning,
    memory: &Budget,
    place: &Place,
) -> io::Result<Handshake> {
    let mut first = [0];
    // A peer that is reset before it has said anything has said nothing.
    if stream.peek(&mut first).await.unwrap_or(0) == 0 {
        return Ok(Handshake::Nothing);
    }
    // A handshake begins with 22 (RFC 8446 section 5.1), and every method of HTTP with a capital letter.
    if first[0].is_ascii_uppercase() {
        return Ok(Handshake::PlainHttp(stream));
    }
    let tls = Tls::new(config).map_err(io::Error::other)?;
    let mut stream = TlsStream { stream, tls: Box::new(tls), turn: Toll::default(), empty: 0 };
    loop {
        stream.stream.readable().await?;
        while memory.is_past() {
            place.press(&stream.stream);
            memory.relieved().await;
        }
        let done = reckoning.take_turn(|| stream.tls.shake_hands(&stream.stream)).await?;
        place.holds(0, stream.held());
        memory.tally();
        while !stream.tls.flush(&stream.stream)? {
            stream.stream.writable().await?;
        }
        if done {
            // That was the handshake's.
            stream.tls.take_toll();
            return Ok(Handshake::Done(stream));
        }
    }
}

/// Tells a client that this is not how to ask, and waits until it has gone, or has sent far more than a question: a
/// socket that is closed with unread bytes in it takes the answer back.
pub async fn refuse_plain_http(stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{PLAIN_HTTP}",
        PLAIN_HTTP.len()
    );
    // Small writes into an empty socket; if the client has gone, nobody is left to tell.
    let _ = stream.try_write(answer.as_bytes());
    let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
    let (mut rest, mut read) = ([0; 1024], 0);
    while read < MOST_PLAIN && stream.readable().await.is_ok() {
        match stream.try_read(&mut rest) {
            Ok(0) => return,
            Ok(count) => read += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A stream on which TLS has been agreed upon.
pub struct TlsStream {
    stream: TcpStream,
    tls: Box<Tls>,
    /// What reading took since others had their turn.
    turn: Toll,
    /// How many records have carried nothing.
    empty: u32,
}

impl TlsStream {
    /// The hub's view of it; nothing that has come or is to go is lost.
    pub fn into_socket(self) -> Socket {
        Socket::secure(self.stream, *self.tls)
    }

    /// The connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes that it keeps of what has come.
    pub fn held(&self) -> usize {
        self.tls.held()
    }

    /// Whether what came was no TLS, or an alert, or more of nothing than any client sends.
    pub fn is_broken(&self) -> bool {
        self.tls.is_broken() || self.empty > MOST_EMPTY
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, tls, turn, empty } = &mut *self;
        loop {
            if turn.sealed >= TURN_BYTES || turn.empty >= TURN_EMPTY {
                *turn = Toll::default();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = tls.read(stream, buffer.initialize_unfilled());
            let toll = tls.take_toll();
            turn.sealed += toll.sealed;
            turn.empty += toll.empty;
            *empty = empty.saturating_add(toll.empty);
            if *empty > MOST_EMPTY {
                let says = "TLS records that carry nothing, one after the other";
                return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, says)));
            }
            match read {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => match stream.poll_read_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => {
                        *turn = Toll::default();
                        return Poll::Pending;
                    }
                },
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, tls, .. } = &mut *self;
        loop {
            match tls.write(stream, &[io::IoSlice::new(bytes)]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls, .. } = &mut *self;
        while !tls.flush(stream)? {
            ready!(stream.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls, .. } = &mut *self;
        while !tls.finish(stream)? {
            ready!(stream.poll_write_ready(cx))?;
        }
        Poll::Ready(SockRef::from(&*stream).shutdown(Shutdown::Write))
    }
}
