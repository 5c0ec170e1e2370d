//! One connection in the registry: its state, and how a frame gets to its socket or its outbox. It does
//! not know its neighbours, and never waits.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_protocol::ConnectionId;
use fanfare_websocket::close_frame;

use crate::context::Context;
use crate::end::End;
use crate::outbox::Outbox;
use crate::socket::Socket;

/// One client's socket and what is known of it.
pub(crate) struct Connection {
    pub(crate) serial: u32,
    /// Its room, and its place among the room's members; meaningless once it is closing.
    pub(crate) room: u32,
    pub(crate) place: u32,
    pub(crate) state: State,
    /// Whether an outbox has a task that waits for the socket.
    pub(crate) flushing: bool,
    pub(crate) outbox_limit: usize,
    /// Nothing until the handshake is answered: what is published before that waits in the outbox.
    pub(crate) socket: Option<Rc<Socket>>,
    pub(crate) outbox: Option<Box<Outbox>>,
    /// Its publications are compressed for it alone.
    pub(crate) context: Option<Box<Context>>,
    /// The tick of the last frame read.
    pub(crate) heard: u64,
    /// The tick of the next ping, or once it is closing, of the cut.
    pub(crate) due: u64,
    pub(crate) id: ConnectionId,
    pub(crate) opened: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In its room, the handshake not yet answered.
    Joining,
    Open,
    /// Out of its room and told why; it waits for its outbox and for the peer to go.
    Closing,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    Queued,
    Overflowed,
    Broken,
}

impl Sent {
    /// Goes on while the connection can still take frames.
    pub(crate) fn and(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Whole | Self::Queued => next(),
            Self::Overflowed | Self::Broken => self,
        }
    }
}

impl Connection {
    /// Writes what the socket takes at once; the rest waits in the outbox.
    pub(crate) fn send(&mut self, bytes: &Bytes) -> Sent {
        let mut written = 0;
        if self.outbox.is_none()
            && let Some(socket) = &self.socket
        {
            match socket.try_write(bytes) {
                Ok(all) if all == bytes.len() => return Sent::Whole,
                Ok(part) => written = part,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Sent::Broken,
            }
        }
        let outbox = self.outbox.get_or_insert_default();
        outbox.push(bytes.clone(), written);
        if outbox.exceeds(self.outbox_limit) { Sent::Overflowed } else { Sent::Queued }
    }

    /// The last frame, or the cut where there is nobody to tell. What a slow consumer has not begun to
    /// take is thrown away before it; for all others it comes behind what they were owed.
    pub(crate) fn say_goodbye(&mut self, end: End) -> Sent {
        let Some((code, reason)) = end.close() else {
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
        self.outbox_limit = usize::MAX;
        let sent = self.send(&close_frame(code, reason));
        match (sent, end, &self.socket) {
            // The peer has said all that it will: its reader closes the socket now.
            (Sent::Whole, End::ClosedByClient(_), _) => {}
            (Sent::Whole, _, Some(socket)) => socket.finish_writing(),
            (Sent::Broken, ..) => {
                self.cut();
                return Sent::Whole;
            }
            _ => {}
        }
        sent
    }

    /// Ends both directions now; the reader wakes and frees its place.
    pub(crate) fn cut(&mut self) {
        self.outbox = None;
        if let Some(socket) = &self.socket {
            socket.cut();
        }
    }

    /// One line for its end, at a level that fits the reason.
    pub(crate) fn report(&self, end: End) {
        let (id, reason) = (self.id, end.label());
        let seconds = self.opened.elapsed().as_secs_f64();
        if end.is_notable() {
            tracing::info!(%id, reason, seconds, "connection ended");
        } else {
            tracing::debug!(%id, reason, seconds, "connection ended");
        }
    }
}
