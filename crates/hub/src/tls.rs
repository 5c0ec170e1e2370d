//! TLS on one connection, the server's side: what the client sealed is opened, and what it gets is sealed, many frames
//! in one record. It never waits, and while nothing is on its way it holds keys and no buffer. Which certificate is
//! shown, and how long a handshake may take, is decided by whoever made it.
//!
//! It stands on rustls' interface without buffers: the other one keeps at least 4 KiB for each connection that has ever
//! read something, more than all else that an idle one needs. What is under way goes through one buffer a thread.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use tokio::net::TcpStream;

/// What fits into one record (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;

/// So much is sealed for one `write`: a batch of the hub's is 32 KiB.
const SEALED_AT_ONCE: usize = 3 * RECORD;

/// So much of a handshake is looked at between two turns of others, and so much is read at least, however little room
/// the reader has.
const READ_AT_LEAST: usize = 4 << 10;

/// What may be taken in without anything in it for the reader, before it is asked whether others should have their
/// turn. A record in two pieces is less; changing a key costs what opening half a kilobyte does.
const FRUITLESS_BYTES: usize = 2 * RECORD;
const FRUITLESS_RECORDS: u32 = 64;

/// What every record begins with: its type, a version, and the length of the rest (RFC 8446 section 5.1).
const HEADER: usize = 5;

/// For three sealed records, or for one that is half there and all that can be read behind it. It is also the most that
/// a client can make us keep of a handshake message that it never ends.
const SCRATCH: usize = 64 << 10;

thread_local! {
    /// Nothing in it outlives a call; so a worker needs one, however many connections it has.
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        sealed: vec![0; SCRATCH].into_boxed_slice(),
        together: Vec::with_capacity(SEALED_AT_ONCE),
    });
}

struct Buffers {
    sealed: Box<[u8]>,
    together: Vec<u8>,
}

/// One connection's keys, and the few bytes that cannot go on yet.
pub struct Tls {
    rustls: UnbufferedServerConnection,
    /// A record, or a handshake message, of which the rest has not come. rustls keeps positions in it.
    begun: Vec<u8>,
    /// Opened, and more than the reader had room for.
    opened: Vec<u8>,
    /// Sealed, and not taken by the kernel from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
    /// The client has said that it sends no more, and the socket may not say it again.
    ended: bool,
    state: State,
    /// Where in what has come, `begun` first, the first record begins that is not counted yet.
    counted: u32,
    toll: Toll,
}

/// What reading took of work that cannot be seen in what was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Toll {
    /// Bytes as they came, sealed; 0 where they come as they are.
    pub sealed: u32,
    /// Whole records.
    pub records: u32,
    /// Those of them that carried nothing for the reader: they change keys, warn, or are empty.
    pub empty: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// We have said that we send no more. What comes is thrown away as it is: of a client that was told to go nothing
    /// is of interest but its end, and rustls, which has said its last word, must not find anything to complain of.
    Finished,
    /// The client has broken TLS, or its keys are used up. Nothing can be read or written any more.
    Broken,
}

impl Tls {
    /// The server's side of a new connection.
    ///
    /// # Errors
    ///
    /// If the configuration cannot serve anybody; never because of the client.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            rustls: UnbufferedServerConnection::new(config)?,
            begun: Vec::new(),
            opened: Vec::new(),
            sealed: Vec::new(),
            sent: 0,
            ended: false,
            state: State::Open,
            counted: 0,
            toll: Toll::default(),
        })
    }

    /// Goes on with the handshake by what has come. True once it is done; what the client sent behind it is kept for
    /// `read`. False when more must come, or what `is_flushed` tells of must go, first.
    ///
    /// # Errors
    ///
    /// When the client has ended the connection or cannot be agreed with; it has been told so.
    pub fn shake_hands(&mut self, stream: &TcpStream) -> io::Result<bool> {
        match self.receive(stream, &mut []) {
            Ok(Received::End) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(Received::Plain(_)) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.flush(stream)?;
        Ok(!self.rustls.is_handshaking())
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 at the end, `Interrupted` if there was much and nothing in
    /// it for the reader: others should have their turn before it is called again.
    pub fn read(&mut self, stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        if !self.opened.is_empty() {
            let count = self.opened.len().min(into.len());
            into[..count].copy_from_slice(&self.opened[..count]);
            self.opened.drain(..count);
            if self.opened.is_empty() {
                self.opened = Vec::new();
            }
            return Ok(count);
        }
        let before = self.toll;
        loop {
            match self.receive(stream, into)? {
                Received::End => return Ok(0),
                // Half a record, or one that speaks to rustls.
                Received::Plain(0) => {
                    let bytes = self.toll.sealed.wrapping_sub(before.sealed) as usize;
                    let records = self.toll.records.wrapping_sub(before.records);
                    if bytes >= FRUITLESS_BYTES || records >= FRUITLESS_RECORDS {
                        return Err(ErrorKind::Interrupted.into());
                    }
                }
                Received::Plain(count) => return Ok(count),
            }
        }
    }

    /// What all reading took since this was last asked, the handshake included.
    pub fn take_toll(&mut self) -> Toll {
        std::mem::take(&mut self.toll)
    }

    /// Whether `read` has something that the kernel does not know of.
    pub fn has_news(&self) -> bool {
        self.ended || !self.opened.is_empty()
    }

    /// Whether the client has sent its last.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing can be read or written any more, because the client has broken TLS or ended it with an alert.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Seals and writes what the kernel takes at once, and at most a few records more: they wait here, and while they
    /// do nothing else is taken. `WouldBlock` if nothing was.
    pub fn write(&mut self, stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush(stream)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let total = slices.iter().map(|slice| slice.len()).sum();
        BUFFERS.with_borrow_mut(|Buffers { sealed, together }| {
            let mut taken = 0;
            while taken < total && self.sealed.is_empty() {
                let plain = lay_together(slices, taken, together);
                let length = self.seal(plain, sealed)?;
                taken += plain.len();
                self.send(stream, &sealed[..length])?;
            }
            Ok(taken)
        })
    }

    /// Whether the kernel has taken all that was sealed.
    pub fn is_flushed(&self) -> bool {
        self.sealed.is_empty()
    }

    /// How many sealed bytes wait for the kernel.
    pub fn waiting(&self) -> usize {
        self.sealed.len() - self.sent
    }

    /// Bytes of memory that are kept for this client, but for its keys: what has come and cannot go on yet, and what
    /// waits for the kernel.
    pub fn held(&self) -> usize {
        self.begun.capacity() + self.opened.capacity() + self.sealed.capacity()
    }

    /// Gives up all of that: nothing can be read or written any more.
    pub fn let_go(&mut self) {
        (self.begun, self.opened, self.sealed, self.sent) = (Vec::new(), Vec::new(), Vec::new(), 0);
        self.state = State::Broken;
    }

    /// Writes what waits. Whether all of it has gone.
    pub fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.sent < self.sealed.len() {
            match stream.try_write(&self.sealed[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.sent > 0 {
            (self.sealed, self.sent) = (Vec::new(), 0);
        }
        Ok(true)
    }

    /// Says, once, that nothing more will be written (RFC 8446 section 6.1). Whether it has gone out.
    pub fn finish(&mut self, stream: &TcpStream) -> io::Result<bool> {
        if self.state == State::Open && !self.rustls.is_handshaking() {
            self.state = State::Finished;
            BUFFERS.with_borrow_mut(|Buffers { sealed, .. }| {
                let status = self.rustls.process_tls_records(&mut self.begun);
                if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
                    && let Ok(length) = traffic.queue_close_notify(sealed)
                {
                    self.sealed.extend_from_slice(&sealed[..length]);
                }
            });
            (self.begun, self.counted) = (Vec::new(), 0);
        }
        self.flush(stream)
    }

    /// One read from the socket, opened: into `into` as much as fits, the rest is kept.
    fn receive(&mut self, stream: &TcpStream, into: &mut [u8]) -> io::Result<Received> {
        if self.state == State::Broken {
            return Err(ErrorKind::InvalidData.into());
        }
        if self.ended {
            return Ok(Received::End);
        }
        let result = BUFFERS.with_borrow_mut(|Buffers { sealed: scratch, .. }| {
            let held = self.begun.len();
            if held == scratch.len() {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "a handshake message of more than 64 KiB",
                ));
            }
            // Not more than the reader wants, but for the rest of a record: others wait meanwhile.
            let most = into.len().max(READ_AT_LEAST).max(self.missing());
            let end = scratch.len().min(held + most);
            let read = stream.try_read(&mut scratch[held..end])?;
            if read == 0 {
                self.ended = true;
                return Ok(Received::End);
            }
            self.toll.sealed = self.toll.sealed.wrapping_add(read as u32);
            if self.state == State::Finished {
                return Ok(Received::Plain(0));
            }
            scratch[..held].copy_from_slice(&self.begun);
            let arrived = &mut scratch[..held + read];
            let (records, counted) = count_records(arrived, self.counted as usize);
            let mut plain = Plain { into, filled: 0, rest: &mut self.opened, records: 0 };
            let taken = open(&mut self.rustls, arrived, &mut plain, &mut self.sealed);
            let (filled, fruitful) = (plain.filled, plain.records);
            let Taken { bytes, ended } =
                taken.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.toll.records = self.toll.records.wrapping_add(records);
            self.toll.empty = self.toll.empty.wrapping_add(records.saturating_sub(fruitful));
            self.counted = counted.saturating_sub(bytes) as u32;
            // Of the exact size, or of none at all.
            self.begun = arrived[bytes..].to_vec();
            self.ended = ended;
            Ok(Received::Plain(filled))
        });
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
            self.state = State::Broken;
        }
        if !self.sealed.is_empty() {
            // An alert, or a handshake's answer. If the kernel does not take it, the next write does.
            let _ = self.flush(stream);
        }
        result
    }

    /// How many bytes of the record that has begun to come have not.
    fn missing(&self) -> usize {
        let Some(begun) = self.begun.get(self.counted as usize..) else { return 0 };
        record_length(begun).map_or(0, |length| length.saturating_sub(begun.len()))
    }

    /// Seals `plain` into `sealed`; how many bytes it became.
    fn seal(&mut self, plain: &[u8], sealed: &mut [u8]) -> io::Result<usize> {
        if self.state != State::Open {
            return Err(ErrorKind::BrokenPipe.into());
        }
        // `open` always goes on until rustls has nothing left to say but this.
        let status = self.rustls.process_tls_records(&mut self.begun);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        traffic.encrypt(plain, sealed).map_err(|error| {
            // Of TLS 1.2 a key can be used up; TLS 1.3 has a new one by then.
            self.state = State::Broken;
            io::Error::other(error)
        })
    }

    /// Writes what the kernel takes of these records, and keeps the rest.
    fn send(&mut self, stream: &TcpStream, records: &[u8]) -> io::Result<()> {
        let written = match stream.try_write(records) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.sealed.extend_from_slice(&records[written..]);
        Ok(())
    }
}

/// What came of one read.
enum Received {
    /// So many bytes of the client's; none, where they were TLS' own.
    Plain(usize),
    /// The client sends no more, whether it said so or not: a WebSocket has a farewell of its own.
    End,
}

/// Where opened bytes go.
struct Plain<'a> {
    into: &'a mut [u8],
    filled: usize,
    rest: &'a mut Vec<u8>,
    /// How many records there was something in.
    records: u32,
}

impl Plain<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.records += u32::from(!bytes.is_empty());
        let room = if self.rest.is_empty() { self.into.len() - self.filled } else { 0 };
        let (fits, rest) = bytes.split_at(room.min(bytes.len()));
        self.into[self.filled..][..fits.len()].copy_from_slice(fits);
        self.filled += fits.len();
        self.rest.extend_from_slice(rest);
    }
}

/// How far rustls came.
struct Taken {
    /// So many bytes it is done with; it wants to see the others again, with what follows them.
    bytes: usize,
    ended: bool,
}

/// How many whole records there are from `at` on, and where the next one begins. rustls does not tell.
fn count_records(arrived: &[u8], mut at: usize) -> (u32, usize) {
    let mut records = 0;
    while let Some(length) = arrived.get(at..).and_then(record_length)
        && at + length <= arrived.len()
    {
        records += 1;
        at += length;
    }
    (records, at)
}

/// The length of the record that begins here, its header included; nothing if that has not come whole.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low, ..] = bytes else { return None };
    Some(HEADER + usize::from(u16::from_be_bytes([high, low])))
}

/// Lets rustls take in what has arrived until it has nothing left to say. What it wants to send goes behind `sealed`.
fn open(
    rustls: &mut UnbufferedServerConnection,
    arrived: &mut [u8],
    plain: &mut Plain<'_>,
    sealed: &mut Vec<u8>,
) -> Result<Taken, rustls::Error> {
    let (mut bytes, mut ended) = (0, false);
    loop {
        let UnbufferedStatus { discard, state } = rustls.process_tls_records(&mut arrived[bytes..]);
        let mut passed = discard;
        let at_rest = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    passed += record.discard;
                    plain.put(record.payload);
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, sealed);
                false
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => true,
            Ok(ConnectionState::Closed) => {
                ended = true;
                true
            }
            Ok(_) => return Err(rustls::Error::General("early data was not offered".into())),
            Err(error) => {
                // Asked once more, it gives the alert that tells the client why, if there is one.
                let status = rustls.process_tls_records(&mut arrived[bytes + discard..]);
                if let Ok(ConnectionState::EncodeTlsData(data)) = status.state {
                    encode(data, sealed);
                }
                return Err(error);
            }
        };
        bytes += passed;
        if at_rest {
            return Ok(Taken { bytes, ended });
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, sealed: &mut Vec<u8>) {
    let start = sealed.len();
    while let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut sealed[start..]) {
        sealed.resize(start + needed.required_size, 0);
    }
}

/// The next bytes to be sealed, from `from` on: as they are if they are of one slice, else copied together, so that
/// small frames share a record.
fn lay_together<'a>(slices: &'a [IoSlice<'_>], from: usize, together: &'a mut Vec<u8>) -> &'a [u8] {
    let mut skipped = from;
    let mut left = slices.iter().filter_map(|slice| {
        let skip = skipped.min(slice.len());
        skipped -= skip;
        Some(&slice[skip..]).filter(|rest| !rest.is_empty())
    });
    let first = left.next().unwrap_or_default();
    let first = &first[..first.len().min(SEALED_AT_ONCE)];
    let Some(second) = left.next().filter(|_| first.len() < SEALED_AT_ONCE) else { return first };
    together.clear();
    together.extend_from_slice(first);
    for slice in std::iter::once(second).chain(left) {
        let room = SEALED_AT_ONCE - together.len();
        together.extend_from_slice(&slice[..slice.len().min(room)]);
        if room <= slice.len() {
            break;
        }
    }
    together
}
