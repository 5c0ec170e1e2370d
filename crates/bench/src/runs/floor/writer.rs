//! The part that writes: accept, answer the handshakes, then nothing but one frame, or chunk, to every socket when a
//! message is due. Whatever it did beyond that would raise the floor, so it reads nothing and queues nothing; a socket
//! that does not take a frame at once ends it.

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::{BufMut, BytesMut};
use fanfare_websocket::{Opcode, handshake, put_frame};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use serde::{Deserialize, Serialize};

use crate::audit::stamp::{Pattern, Payload, Stamp};
use crate::client::sys;
use crate::error::BenchError;
use crate::runs::schedule::Schedule;

/// What a writer needs to know from the start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WriterSettings {
    /// What its messages' stamps carry.
    pub(super) run: u64,
    /// Bytes of each message, its stamp included.
    pub(super) size: usize,
    pub(super) payload: Payload,
    /// Whether a message is a chunk of an HTTP body, as an event, instead of a frame.
    pub(super) chunked: bool,
    /// How many receivers it waits for before it writes.
    pub(super) subscribers: usize,
}

/// A number of messages to write.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Messages a second; each is written to every receiver.
    pub(super) rate: f64,
    /// How many messages.
    pub(super) count: u64,
    /// The first one's number.
    pub(super) first: u64,
    /// What the moments of writing are drawn from.
    pub(super) seed: u64,
}

/// Accepts its receivers, then carries out orders until `input` ends.
pub(super) fn write(
    settings: &WriterSettings,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), BenchError> {
    sys::raise_open_files()?;
    let mut pattern = Pattern::new(settings.payload, settings.size)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(output, &format!("listening ws://{}/", listener.local_addr()?))?;
    let mut sockets = Vec::with_capacity(settings.subscribers);
    for _ in 0..settings.subscribers {
        let (mut socket, _) = listener.accept()?;
        answer(&mut socket, settings.chunked)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    say(output, "accepted")?;
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let order: Order =
            serde_json::from_str(&line).map_err(|error| BenchError::Floor(format!("{error}: {line}")))?;
        carry_out(&order, settings, &mut pattern, &sockets)?;
        say(output, "written")?;
        line.clear();
    }
    Ok(())
}

fn carry_out(
    order: &Order,
    &WriterSettings { run, chunked, .. }: &WriterSettings,
    pattern: &mut Pattern,
    sockets: &[TcpStream],
) -> Result<(), BenchError> {
    let opcode = if pattern.is_text() { Opcode::Text } else { Opcode::Binary };
    let schedule = Schedule::new(sys::monotonic(), order.rate, order.seed);
    let mut frame = BytesMut::new();
    for (sequence, intended) in (order.first..order.first + order.count).zip(schedule) {
        frame.clear();
        let message = pattern.stamp(&Stamp { run, publisher: 0, sequence, intended });
        if chunked {
            put_event(&mut frame, message);
        } else {
            put_frame(&mut frame, opcode, message);
        }
        sys::sleep_until(intended);
        for mut socket in sockets {
            if socket.write(&frame)? != frame.len() {
                return Err(BenchError::Floor("a socket took a part of a frame".to_owned()));
            }
        }
    }
    Ok(())
}

/// What stands around the text of an event.
pub(super) const AROUND: usize = "data: \n\n".len();

fn put_event(chunk: &mut BytesMut, text: &[u8]) {
    chunk.put_slice(format!("{:x}\r\ndata: ", text.len() + AROUND).as_bytes());
    chunk.put_slice(text);
    chunk.put_slice(b"\n\n\r\n");
}

/// Answers one handshake, or request for events.
fn answer(socket: &mut TcpStream, chunked: bool) -> Result<(), BenchError> {
    let mut request = Vec::new();
    let mut scratch = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let read = socket.read(&mut scratch)?;
        if read == 0 || request.len() > 16 * 1024 {
            return Err(BenchError::Floor("a receiver did not send a handshake".to_owned()));
        }
        request.extend_from_slice(&scratch[..read]);
    }
    if chunked {
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")?;
        socket.write_all(b"Transfer-Encoding: chunked\r\n\r\n")?;
        return Ok(());
    }
    let headers: HeaderMap = String::from_utf8_lossy(&request)
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, value.trim().parse::<HeaderValue>().ok()?))
        })
        .collect();
    let accept = handshake::accept(&Method::GET, Version::HTTP_11, &headers)
        .map_err(|error| BenchError::Floor(error.to_string()))?;
    socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")?;
    socket.write_all(b"Sec-WebSocket-Accept: ")?;
    socket.write_all(accept.as_bytes())?;
    socket.write_all(b"\r\n\r\n")?;
    Ok(())
}

fn say(output: &mut dyn Write, line: &str) -> Result<(), BenchError> {
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
