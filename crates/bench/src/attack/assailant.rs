//! A socket with no manners, for one thread that waits: it writes any bytes, and reads frames and HTTP answers apart
//! with code of its own. It does nothing unasked, not even answer a ping.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use super::way::{Way, alert, waits};
use super::{Answer, Field, PATIENCE};

/// How often a wait looks whether the attack was called off.
const LOOK: Duration = Duration::from_millis(100);

/// The most that is kept of what the server says.
const HEARD: usize = 64 << 10;

/// The most that is written at once. Whoever writes a megabyte keeps the processor until the kernel has taken it, and
/// is not made to give way there: on the server's own machine that is not the server's doing.
const PIECE: usize = 16 << 10;

/// One TCP connection.
#[derive(Debug)]
pub struct Assailant {
    way: Way,
    heard: Vec<u8>,
    ended: bool,
    /// What TLS said of its end.
    alert: Option<u8>,
}

/// A frame of the server's.
pub(super) struct Frame {
    /// The low four bits of its first byte (RFC 6455, section 5.2).
    pub(super) opcode: u8,
    /// Not masked: a server does not.
    pub(super) payload: Vec<u8>,
}

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;
/// The bit of a frame that is the last of its message.
pub(super) const FIN: u8 = 0x80;

impl Assailant {
    /// To the target, over TLS where it wants that. Nothing has been said over HTTP yet.
    pub(super) fn connect(field: &Field) -> io::Result<Self> {
        let stream = patiently(TcpStream::connect(field.target.address)?)?;
        Ok(Self::over(Way::over(stream, field)?))
    }

    /// Without TLS, whatever is spoken there.
    pub(super) fn connect_plain(field: &Field) -> io::Result<Self> {
        Ok(Self::over(Way::Plain(patiently(TcpStream::connect(field.target.address)?)?)))
    }

    /// With a receive buffer so small that the server soon finds the socket full.
    pub(super) fn connect_narrow(field: &Field) -> io::Result<Self> {
        let address = field.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&address.into())?;
        Ok(Self::over(Way::over(patiently(socket.into())?, field)?))
    }

    fn over(way: Way) -> Self {
        Self { way, heard: Vec::new(), ended: false, alert: None }
    }

    /// Joins a channel; an error if the server does not let it in.
    pub(super) fn join(field: &Field, channel: &str) -> io::Result<Self> {
        Self::connect(field)?.joined(field, channel)
    }

    /// The same on a connection that is there.
    pub(super) fn joined(mut self, field: &Field, channel: &str) -> io::Result<Self> {
        self.write(field, handshake(field, channel, "").as_bytes());
        match self.answers(field) {
            Answer::Http(statuses) if statuses == [101] => Ok(self),
            other => Err(io::Error::other(format!("a handshake was answered with {other}"))),
        }
    }

    /// Writes all of it, or as much as the server takes before it ends the connection or the attack is called off;
    /// whether that was all.
    pub(super) fn write(&mut self, field: &Field, mut bytes: &[u8]) -> bool {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() && !field.is_over() && Instant::now() < end {
            match self.way.write(&bytes[..bytes.len().min(PIECE)]) {
                Ok(0) => return false,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if waits(&error) => {}
                Err(_) => return false,
            }
        }
        bytes.is_empty()
    }

    /// What the server closes the connection with.
    pub(super) fn closed(&mut self, field: &Field) -> Answer {
        loop {
            match self.frame(field) {
                Ok(Some(Frame { opcode: CLOSE, payload })) => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return match self.frame(field) {
                        Ok(Some(_)) => Answer::Nonsense("a frame after the close frame".to_owned()),
                        _ => Answer::Close(code),
                    };
                }
                Ok(Some(_)) => {}
                Ok(None) if self.ended => return self.alert.map_or(Answer::Cut, Answer::Alert),
                Ok(None) => return Answer::Silence,
                Err(nonsense) => return Answer::Nonsense(nonsense),
            }
        }
    }

    /// Says goodbye as it should be said, and waits for the answer.
    pub(super) fn leave(&mut self, field: &Field) -> Answer {
        self.write(field, &frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
        self.closed(field)
    }

    /// The next frame; nothing when the connection has ended, nothing came in time, or the attack was called off.
    pub(super) fn frame(&mut self, field: &Field) -> Result<Option<Frame>, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if !self.hear(field, end) {
                return Ok(None);
            }
        }
    }

    /// The statuses of all HTTP answers until the end or a 101. What comes after a 101 is left for [`Self::frame`].
    pub(super) fn answers(&mut self, field: &Field) -> Answer {
        let mut statuses = Vec::new();
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some((status, length)) = response(&self.heard) {
                self.heard.drain(..length);
                statuses.push(status);
                if status == 101 {
                    return Answer::Http(statuses);
                }
            }
            if !self.hear(field, end) {
                let rest = String::from_utf8_lossy(&self.heard[..self.heard.len().min(40)]);
                return match (statuses.is_empty(), self.heard.is_empty()) {
                    (_, false) => Answer::Nonsense(format!("{statuses:?} and then {rest:?}")),
                    (true, _) if self.ended => Answer::Cut,
                    (true, _) => Answer::Silence,
                    (false, _) if !self.ended => Answer::Nonsense(format!("{statuses:?} and no end")),
                    (false, _) => Answer::Http(statuses),
                };
            }
        }
    }

    /// What TLS, on a connection without it, is refused with: an alert in the open, or nothing.
    pub(super) fn alerted(&mut self, field: &Field) -> Answer {
        let end = Instant::now() + PATIENCE;
        while self.hear(field, end) {}
        match *self.heard.as_slice() {
            // RFC 8446, sections 5.1 and 6: type, version, length; how bad, and what.
            [.., 21, 3, _, 0, 2, 2, what] => Answer::Alert(what),
            [] if self.ended => Answer::Cut,
            [] => Answer::Silence,
            ref other => Answer::Nonsense(format!("{:02x?}", &other[..other.len().min(20)])),
        }
    }

    /// Writes under TLS, where records belong.
    pub(super) fn write_beneath(&mut self, field: &Field, mut bytes: &[u8]) {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() && !field.is_over() && Instant::now() < end {
            match self.way.tcp().write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if waits(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// The same connection, whose bytes under TLS are written by hand from now on.
    pub(super) fn beneath(self) -> Self {
        match self.way {
            Way::Plain(_) => self,
            Way::Tls(stream) => Self { way: Way::Plain(stream.sock), ..self },
        }
    }

    /// Does something to its side of TLS, if it speaks that.
    pub(super) fn with_tls(
        &mut self,
        act: impl FnOnce(&mut ClientConnection) -> io::Result<()>,
    ) -> io::Result<()> {
        match &mut self.way {
            Way::Plain(_) => Ok(()),
            Way::Tls(stream) => act(&mut stream.conn),
        }
    }

    /// Sends what its side of TLS has still to say, or as much of it as the server takes.
    pub(super) fn write_out(&mut self, field: &Field) {
        let Way::Tls(stream) = &mut self.way else { return };
        let end = Instant::now() + PATIENCE;
        while stream.conn.wants_write() && !field.is_over() && Instant::now() < end {
            match stream.conn.write_tls(&mut stream.sock) {
                Ok(1..) => {}
                Err(error) if waits(&error) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Reads at most so many bytes, if they are there, and forgets them.
    pub(super) fn sip(&mut self, most: usize) {
        let mut bytes = vec![0; most];
        // Whatever is wrong will be found when the answer is asked for.
        let _ = self.way.read(&mut bytes).map(|read| self.heard.extend_from_slice(&bytes[..read]));
    }

    /// Reads what there is; false at the end, after `end`, and when the attack is called off.
    fn hear(&mut self, field: &Field, end: Instant) -> bool {
        let mut bytes = [0; 16 << 10];
        while !self.ended && !field.is_over() && Instant::now() < end {
            match self.way.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    self.heard.extend_from_slice(&bytes[..read]);
                    return true;
                }
                Err(error) if waits(&error) => {}
                Err(error) => {
                    self.ended = true;
                    self.alert = alert(&error);
                }
            }
        }
        false
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, String> {
        let [first, second, ..] = *self.heard.as_slice() else { return Ok(None) };
        if second & 0x80 != 0 || first & FIN == 0 {
            return Err(format!("a frame that begins with {first:#04x} {second:#04x}"));
        }
        let rest = &self.heard[2..];
        let (start, length) = match (second, rest.first_chunk::<2>(), rest.first_chunk::<8>()) {
            (126, Some(length), _) => (4, usize::from(u16::from_be_bytes(*length))),
            (127, _, Some(length)) => (10, u64::from_be_bytes(*length) as usize),
            (126.., ..) => return Ok(None),
            (length, ..) => (2, usize::from(length)),
        };
        if length > HEARD * 1024 {
            return Err(format!("a frame of {length} bytes"));
        }
        let Some(payload) = self.heard.get(start..start + length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.heard.drain(..start + length);
        Ok(Some(Frame { opcode: first & 0x0F, payload }))
    }

    /// From now on nothing that the server sends arrives, and nothing is acknowledged, as from a machine that was
    /// switched off: a packet filter that takes nothing stands before the socket.
    pub(super) fn vanish(&self) -> io::Result<()> {
        /// `BPF_RET | BPF_K`: return a constant, here 0 bytes of the packet.
        const RETURN: u16 = 0x06;
        SockRef::from(self.way.tcp()).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])
    }

    /// Ends it with a RST.
    pub(super) fn reset(self) -> io::Result<()> {
        SockRef::from(self.way.tcp()).set_linger(Some(Duration::ZERO))
    }

    /// Says that no more is written.
    pub(super) fn finish(&self) {
        // An error means that the server was faster.
        let _ = self.way.tcp().shutdown(Shutdown::Write);
    }

    /// Whether the server has ended it by now. What it said before is forgotten.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.way.tcp().set_nonblocking(true).is_err() {
            return true;
        }
        let mut bytes = [0; 4096];
        while !self.ended {
            match self.way.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if waits(&error) => break,
                Ok(0) | Err(_) => self.ended = true,
            }
        }
        self.ended || self.way.tcp().set_nonblocking(false).is_err()
    }
}

fn patiently(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    Ok(stream)
}

/// A handshake for a channel as it stands in the path, with more header lines.
pub(super) fn handshake(field: &Field, channel: &str, lines: &str) -> String {
    format!(
        "GET /ws/{channel} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n",
        field.target.host
    )
}

/// A client's frame: the first byte as given, the length in its shortest form, masked.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = header(first, payload.len() as u64, 0x80);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The same without a mask.
pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, 0);
    bytes.extend_from_slice(payload);
    bytes
}

fn header(first: u8, length: u64, masked: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, masked | length as u8],
        126..65_536 => [&[first, masked | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, masked | 127][..], &length.to_be_bytes()].concat(),
    }
}

/// The status of a whole answer, and how many bytes it has; nothing if more are needed.
fn response(bytes: &[u8]) -> Option<(u16, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1)?.get(..3)?.parse().ok()?;
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:") == Some("chunked") {
        let body = bytes[end..].windows(5).position(|five| five == b"0\r\n\r\n")?;
        return Some((status, end + body + 5));
    }
    let length = match value("content-length:") {
        Some(length) if status >= 200 => length.parse().ok()?,
        _ => 0,
    };
    (bytes.len() >= end + length).then_some((status, end + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let rows: [(&str, Option<(u16, usize)>); 6] = [
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r\n", Some((200, 19))),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno", None),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!HTTP", Some((404, 48))),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some((200, 59))),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", Some((100, 25))),
        ];
        for (bytes, expected) in rows {
            assert_eq!(response(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn lengths_take_the_fewest_bytes() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(unmasked(FIN | TEXT, &vec![0; length]).len(), header + length);
            assert_eq!(frame(FIN | TEXT, &vec![0; length]).len(), header + 4 + length);
        }
    }
}
