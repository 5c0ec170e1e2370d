//! One connection in the registry: its state, and how a frame gets to its socket or its outbox. It does
//! not know its neighbours, and never waits.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_protocol::{ConnectionId, Filter};
use fanfare_websocket::Decoder;
use smallvec::SmallVec;

use crate::context::Context;
use crate::end::End;
use crate::format::Format;
use crate::mailbox::Delivery;
use crate::outbox::{Chunk, Outbox};
use crate::socket::Socket;
use crate::subscription::IN_HUB;

/// The most of a frame that is still written, or of a record that is kept, after its connection was ended for want of
/// memory.
const LAST_REST: usize = 16 << 10;

/// One client's socket and what is known of it.
pub(crate) struct Connection {
    /// Names the connection for good: another one may get its place in the slab.
    pub(crate) serial: u32,
    pub(crate) state: State,
    pub(crate) life: Life,
    /// Answers to pings that were taken for given, and may come yet.
    pub(crate) presumed: u8,
    /// How it is spoken to by ourselves.
    pub(crate) format: Format,
    /// Whether an outbox has a task that waits for the socket.
    pub(crate) flushing: bool,
    /// Its rooms, and its place in each; none once it is closing.
    pub(crate) seats: SmallVec<[Seat; 1]>,
    /// What its subscriptions take of memory, in bytes, here and elsewhere, and what its session has heard and not
    /// handled; of a closing one, what its session still does.
    pub(crate) kept_beside: u32,
    /// The most bytes that may wait for its socket.
    pub(crate) outbox_limit: usize,
    /// Nothing until the handshake is answered: what is published before that waits in the outbox.
    pub(crate) socket: Option<Rc<Socket>>,
    /// Only while the socket is full, or there is none yet.
    pub(crate) outbox: Option<Box<Outbox>>,
    /// What the session reads with. It is kept here because it may hold most of a message, which is freed
    /// with everything else when memory runs out; gone then, and while the session has it.
    pub(crate) decoder: Option<Decoder>,
    /// Its publications are compressed for it alone.
    pub(crate) context: Option<Box<Context>>,
    /// Publications for subscriptions whose position is still being found.
    pub(crate) held: Option<Box<Held>>,
    /// What it wants of the rooms of which it does not want everything.
    pub(crate) filters: Vec<(u32, Rc<Filter>)>,
    /// The tick of the last frame read.
    pub(crate) heard: u64,
    /// The tick of what comes next in its life, or once it is closing, of the cut.
    pub(crate) due: u64,
    pub(crate) id: ConnectionId,
    pub(crate) opened: Instant,
}

/// Where in a room a connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    /// Its place in the worker's slab of rooms.
    pub(crate) room: u32,
    /// Its place among the members.
    pub(crate) index: u32,
    /// What of `Connection::kept_beside` is for this one.
    pub(crate) weight: u32,
}

// An idle connection is a part of what a machine can hold.
const _: () = assert!(size_of::<Connection>() <= 168);

/// Publications that wait for their subscriptions to be released, each with its room.
#[derive(Default)]
pub(crate) struct Held {
    waiting: Vec<(u32, Delivery)>,
    bytes: usize,
}

impl Held {
    pub(crate) fn push(&mut self, room: u32, delivery: Delivery) {
        self.bytes += delivery.bytes();
        self.waiting.push((room, delivery));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The handshake is not answered yet.
    Joining,
    Open,
    /// Out of its rooms and told why; it waits for its outbox and for the peer to go.
    Closing,
}

/// How it is found out whether somebody is still there, and what is due next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Any frame is a sign of life. A ping is due.
    Heard,
    /// It has yet to say who it is. The end of our patience is due.
    Unknown,
    /// It answers pings, and a ping is due.
    Asked,
    /// It has been pinged; the answer is due, unless it is there already.
    Asking {
        /// Whether it is.
        answered: bool,
    },
    /// It cannot say anything, but wants to know that we are there. A ping is due.
    Told,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    Queued,
    Overflowed,
    Broken,
    /// There is something that cannot be said in its format.
    Unsayable,
}

impl Sent {
    /// Goes on while the connection can still take frames.
    pub(crate) fn and(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Whole | Self::Queued => next(),
            Self::Overflowed | Self::Broken | Self::Unsayable => self,
        }
    }
}

impl Connection {
    /// Writes what the socket takes at once; the rest waits in the outbox.
    pub(crate) fn send(&mut self, bytes: &Bytes) -> Sent {
        self.send_as(bytes, Chunk::of)
    }

    /// The same for what the client has asked for. If nothing waits before it, it may be larger than an outbox: whoever
    /// reads can have it, and whoever was cut would come back, ask for the same, and be cut again.
    pub(crate) fn answer(&mut self, bytes: &Bytes) -> Sent {
        let is_alone = self.outbox.as_ref().is_none_or(|outbox| outbox.is_empty());
        match (self.send(bytes), &mut self.outbox) {
            (Sent::Overflowed, Some(outbox)) if is_alone => {
                outbox.allow(bytes.len());
                Sent::Queued
            }
            (sent, _) => sent,
        }
    }

    /// As `send`, for what may become another chunk while it waits. Only what waits holds the frame: all workers share
    /// its count, and to count for each delivery costs as much as to write it.
    pub(crate) fn send_as(&mut self, bytes: &Bytes, chunk: impl FnOnce(Bytes) -> Chunk) -> Sent {
        self.write(bytes, chunk, Socket::try_write)
    }

    fn write(
        &mut self,
        bytes: &Bytes,
        chunk: impl FnOnce(Bytes) -> Chunk,
        write: impl FnOnce(&Socket, &[u8]) -> io::Result<usize>,
    ) -> Sent {
        let mut written = 0;
        if self.outbox.is_none()
            && let Some(socket) = &self.socket
        {
            match write(socket, bytes) {
                Ok(all) if all == bytes.len() && socket.is_flushed() => return Sent::Whole,
                Ok(part) => written = part,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Sent::Broken,
            }
        }
        let limit = self.outbox_room();
        let outbox = self.outbox.get_or_insert_default();
        outbox.push(chunk(bytes.clone()), written);
        // Whatever it was that came on top: what may be dropped goes before the connection does.
        if outbox.keep_to(limit) { Sent::Queued } else { Sent::Overflowed }
    }

    /// The last words, or the cut where there are none. What a slow consumer has not begun to take is thrown
    /// away before them; for all others they come behind what they were owed.
    pub(crate) fn say_goodbye(&mut self, end: End, words: Option<Bytes>) -> Sent {
        let Some(words) = words else {
            if self.socket.as_ref().is_some_and(|socket| socket.has_ended()) && self.outbox.is_none() {
                // It went as TLS has it, and is answered in kind. Nothing waits that a cut would throw away.
                self.decoder = None;
                if let Some(socket) = self.socket.take() {
                    socket.finish_writing();
                }
                return Sent::Whole;
            }
            self.cut();
            return Sent::Whole;
        };
        if end == End::SlowConsumer
            && let Some(outbox) = &mut self.outbox
        {
            outbox.keep_only_begun();
            if outbox.is_empty() {
                self.outbox = None;
            }
        }
        if end == End::MemoryPressure && !self.let_go() {
            self.cut();
            return Sent::Whole;
        }
        self.outbox_limit = usize::MAX;
        let sent = self.write(&words, Chunk::of, Socket::try_write_last);
        match (sent, &self.socket) {
            // Now, and not by closing it: where the client has said more than goodbye, that would be a reset, which
            // throws away what the kernel still holds back for the end of the stream.
            (Sent::Whole, Some(socket)) if socket.finish_writing() => {}
            (Sent::Whole, Some(_)) => {
                self.outbox = Some(Box::default());
                return Sent::Queued;
            }
            (Sent::Broken, ..) => {
                self.cut();
                return Sent::Whole;
            }
            _ => {}
        }
        sent
    }

    /// Whether it wants this of a room.
    pub(crate) fn wants(&self, room: u32, delivery: &Delivery) -> bool {
        let filter = self.filters.iter().find(|(other, _)| *other == room);
        delivery.news || filter.is_none_or(|(_, filter)| filter.matches(delivery.tags.as_deref()))
    }

    /// Remembers, or with nothing forgets, what it wants of a room.
    pub(crate) fn set_filter(&mut self, room: u32, filter: Option<Rc<Filter>>) {
        self.filters.retain(|(other, _)| *other != room);
        self.filters.extend(filter.map(|filter| (room, filter)));
    }

    /// Keeps publications for a subscription whose position is still being found.
    pub(crate) fn hold<'d>(&mut self, room: u32, deliveries: impl Iterator<Item = &'d Delivery>) -> Sent {
        let mut deliveries = deliveries.peekable();
        if deliveries.peek().is_none() {
            return Sent::Whole;
        }
        let held = self.held.get_or_insert_default();
        deliveries.for_each(|delivery| held.push(room, delivery.clone()));
        // Whoever asks for the position does so within a deadline, so this is a flood.
        if held.bytes() > self.outbox_limit { Sent::Overflowed } else { Sent::Whole }
    }

    /// Takes what was held for one room.
    pub(crate) fn take_held(&mut self, room: u32) -> Vec<Delivery> {
        let Some(held) = self.held.take() else { return Vec::new() };
        let mut its = Vec::new();
        for (other, delivery) in held.waiting {
            if other == room {
                its.push(delivery);
            } else {
                self.held.get_or_insert_default().push(other, delivery);
            }
        }
        its
    }

    /// Frees what it has of memory, but for the rest of a frame that has begun to go out, and of a record that has
    /// begun to come. False if that is so much that it cannot be told why it ends.
    fn let_go(&mut self) -> bool {
        self.decoder = None;
        self.context = None;
        if self.socket.as_ref().is_some_and(|socket| socket.held() > LAST_REST) {
            return false;
        }
        let Some(outbox) = self.outbox.take() else { return true };
        let rest = outbox.into_begun(LAST_REST);
        let can_be_told = rest.is_some();
        self.outbox = rest.filter(|rest| !rest.is_empty()).map(Box::new);
        can_be_told
    }

    /// How much its outbox may hold: its limit, less what the socket has sealed and not got rid of.
    pub(crate) fn outbox_room(&self) -> usize {
        self.outbox_limit.saturating_sub(self.socket.as_ref().map_or(0, |socket| socket.waiting()))
    }

    /// How many bytes wait for its socket.
    pub(crate) fn waiting(&self) -> usize {
        let Some(outbox) = &self.outbox else { return 0 };
        outbox.bytes() + self.socket.as_ref().map_or(0, |socket| socket.waiting())
    }

    /// Takes it out of its rooms, as far as it knows of them itself. What its session keeps of them goes when that
    /// does.
    pub(crate) fn take_seats(&mut self) -> SmallVec<[Seat; 1]> {
        let seats = std::mem::take(&mut self.seats);
        let in_hub = u32::try_from(IN_HUB * seats.len()).unwrap_or(u32::MAX);
        self.kept_beside = self.kept_beside.saturating_sub(in_hub);
        seats
    }

    /// Ends both directions now; the reader wakes and frees its place.
    pub(crate) fn cut(&mut self) {
        self.outbox = None;
        self.decoder = None;
        self.kept_beside = 0;
        // Not needed any more, and what is cut once does not count again.
        if let Some(socket) = self.socket.take() {
            socket.cut();
        }
    }

    /// The memory that its end would free, if it shares none of it: what waits to be written, what has come of a
    /// message or of a record, and what its subscriptions take; with `sockets`, also what the kernel holds for it.
    pub(crate) fn weight(&self, sockets: bool) -> usize {
        let outbox = self.outbox.as_ref().map_or(0, |outbox| outbox.weight());
        let decoder = self.decoder.as_ref().map_or(0, Decoder::held_bytes);
        let socket = self.socket.as_ref().filter(|_| sockets).map_or(0, |socket| socket.kernel_bytes());
        let sealed = self.socket.as_ref().map_or(0, |socket| socket.held());
        let held = self.held.as_ref().map_or(0, |held| held.bytes());
        outbox + decoder + held + sealed + socket + self.kept_beside as usize
    }

    /// One line for its end; a `loud` one is seen at the usual level.
    pub(crate) fn report(&self, end: End, loud: bool) {
        let (id, reason) = (self.id, end.label());
        let seconds = || self.opened.elapsed().as_secs_f64();
        if loud {
            tracing::info!(%id, reason, seconds = seconds(), "connection ended");
        } else {
            tracing::debug!(%id, reason, seconds = seconds(), "connection ended");
        }
    }
}
