//! A WebSocket client with no manners: it writes any bytes, reads when it is told to, and shows every frame.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::tls::{Stream, TlsStream};
use super::{DEADLINE, Response};

/// A frame from the server (RFC 6455 section 5.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// The reserved bits are in it as well: they are zero unless compression was agreed on.
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    /// Set in a compressed message's opcode (RFC 7692 section 6).
    pub const DEFLATED: u8 = 0x40;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;

    /// Code and reason, if this is a close frame.
    pub fn close(&self) -> Option<(u16, String)> {
        let code = self.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        let reason = self.payload.get(2..).unwrap_or_default();
        (self.opcode == Self::CLOSE).then(|| (code, String::from_utf8_lossy(reason).into()))
    }
}

/// One TCP connection.
pub struct Socket {
    stream: Stream,
    read: Vec<u8>,
}

impl Socket {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// Connects with a small receive buffer, so that the server soon finds the socket full.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::over(socket.connect(address).await.unwrap())
    }

    /// On a stream that is there already.
    pub fn over(stream: impl Into<Stream>) -> Self {
        Self { stream: stream.into(), read: Vec::new() }
    }

    /// What TLS says of the connection.
    pub fn tls(&self) -> &TlsStream {
        let Stream::Tls(stream) = &self.stream else { panic!("the connection is plain") };
        stream
    }

    /// The connection underneath, whatever is spoken on it.
    pub fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }

    /// Joins a channel at once.
    pub async fn join(address: SocketAddr, channel: &str) -> Self {
        let mut socket = Self::connect(address).await;
        assert_eq!(socket.upgrade(channel, &[]).await.status, 101);
        socket
    }

    /// Asks to join `channel` (as it stands in the path); gives the answer.
    pub async fn upgrade(&mut self, channel: &str, headers: &[(&str, &str)]) -> Response {
        self.upgrade_at(&format!("/ws/{channel}"), headers).await
    }

    /// The same at another path.
    pub async fn upgrade_at(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.try_upgrade_at(path, headers).await.expect("an answer comes before the end")
    }

    /// The same, where the instance may be gone at any moment.
    pub async fn try_upgrade_at(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        let mut text = format!(
            "GET {path} HTTP/1.1\r\nHost: fanfare.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (key, value) in headers {
            text += &format!("{key}: {value}\r\n");
        }
        text += "\r\n";
        self.write(text.as_bytes()).await?;
        self.try_response().await
    }

    /// Reads the head of an HTTP response.
    pub async fn response(&mut self) -> Response {
        self.try_response().await.expect("an answer comes before the end")
    }

    async fn try_response(&mut self) -> io::Result<Response> {
        timeout(DEADLINE, async {
            loop {
                if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head: Vec<u8> = self.read.drain(..end + 4).collect();
                    return Ok(Response::from_head(std::str::from_utf8(&head[..end]).unwrap()));
                }
                self.fill().await?;
            }
        })
        .await
        .expect("an answer comes in time")
    }

    /// Reads past so many bytes, such as an answer's body.
    pub async fn skip(&mut self, count: usize) {
        while self.read.len() < count {
            timeout(DEADLINE, self.fill())
                .await
                .expect("they come in time")
                .expect("they come before the end");
        }
        self.read.drain(..count);
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends one whole, masked frame.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.write(&frame(0x80 | opcode, payload, true)).await
    }

    /// The next frame; `None` when the connection has ended, by FIN or RST.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(DEADLINE, self.next_or_end()).await.expect("a frame or the end comes in time")
    }

    /// As `next`, however long it takes.
    pub async fn next_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            self.fill().await.ok()?;
        }
    }

    /// The next frame that is no ping.
    pub async fn next_but_pings(&mut self) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(Frame { opcode: Frame::PING, .. }) => {}
                other => return other,
            }
        }
    }

    /// Waits for the close frame, leaving all else aside; 1006 is an end without one.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Some(frame) => {
                    if let Some(close) = frame.close() {
                        return close;
                    }
                }
                None => return (1006, String::new()),
            }
        }
    }

    /// Waits until the other side has ended the connection; gives how long it took.
    pub async fn ended(&mut self) -> Duration {
        let start = tokio::time::Instant::now();
        let ending = async { while self.fill().await.is_ok() {} };
        timeout(DEADLINE, ending).await.expect("the connection ends in time");
        start.elapsed()
    }

    /// Waits until the other side has ended the connection in order: by FIN, behind TLS' own farewell.
    pub async fn ended_in_order(&mut self) -> io::Result<()> {
        let ending = async {
            while self.stream.read(&mut [0; 4096]).await? > 0 {}
            Ok(())
        };
        timeout(DEADLINE, ending).await.expect("the connection ends in time")
    }

    /// Whether the other side has ended it by now; what it said before is left aside.
    pub async fn has_ended(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.tcp().try_read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Writes under TLS, where records belong.
    pub async fn write_beneath(&self, bytes: &[u8]) {
        let stream = self.stream.tcp();
        stream.writable().await.unwrap();
        assert_eq!(stream.try_write(bytes).unwrap(), bytes.len());
    }

    /// Ends it with a RST.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Says that no more is written; what comes can still be read.
    pub async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.read.extend_from_slice(&chunk[..length]);
                Ok(())
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let [first, second, ..] = *self.read.as_slice() else { return None };
        assert_eq!(second & 0x80, 0, "a server never masks");
        assert_eq!(first & 0x80, 0x80, "the gateway never fragments");
        let (start, length) = match second & 0x7F {
            126 => (4, usize::from(u16::from_be_bytes(*self.read.get(2..)?.first_chunk()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(*self.read.get(2..)?.first_chunk()?)).unwrap()),
            length => (2, usize::from(length)),
        };
        let payload = self.read.get(start..start + length)?.to_vec();
        self.read.drain(..start + length);
        Some(Frame { opcode: first & 0x7F, payload })
    }
}

/// The bytes of a client's frame: first byte as given, length in its shortest form, a fixed mask or none.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut bytes = vec![first];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => bytes.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if !masked {
        bytes.extend_from_slice(payload);
        return bytes;
    }
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
