//! What a client's WebSocket sends, whatever is spoken on it: bytes become messages, and what RFC 6455 wants of a
//! server is done. What a message means is for the session to say.

use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::rc::Rc;

use bytes::BytesMut;
use fanfare_hub::{End, Key, Socket};
use fanfare_protocol::{ConnectionId, Kind, now_micros};
use fanfare_websocket::{CloseCode, Event, Limits, Offence, Opcode, frame};

use crate::relay::work;
use crate::session::pace::{Pace, Taken};
use crate::worker::Worker;

/// The reading side of one connection.
pub struct Inbound {
    pub worker: Rc<Worker>,
    pub key: Key,
    pub id: ConnectionId,
    limits: Limits,
    controls: Controls,
    pace: Pace,
    /// The peer has broken the protocol or said goodbye: what it still sends is thrown away.
    deaf: bool,
    /// It was a goodbye, so nothing comes after it.
    closed_by_client: bool,
    /// And one for good: a page that is left may be on its way back.
    for_good: bool,
}

/// What came of one look at the socket.
pub enum Read {
    /// Some, whose messages have been handed over.
    Some,
    /// Nothing is there now.
    Dry,
    /// Nothing will come any more.
    Ended,
}

impl Inbound {
    /// Of a connection that has been opened.
    pub fn new(worker: Rc<Worker>, key: Key, id: ConnectionId, limits: Limits) -> Self {
        let controls = Controls::default();
        Self {
            worker,
            key,
            id,
            limits,
            controls,
            pace: Pace::new(),
            deaf: false,
            closed_by_client: false,
            for_good: false,
        }
    }

    /// Whether both have said goodbye: closing now spares the wait for a peer that waits for this.
    pub fn is_over(&self) -> bool {
        self.closed_by_client && self.worker.shard.is_written(self.key)
    }

    /// Whether the client has said goodbye, and does not merely leave a page.
    pub fn said_goodbye(&self) -> bool {
        self.for_good
    }

    /// Reads once. `take` gets each message, and may end the connection.
    pub fn read(&mut self, socket: &Socket, take: impl FnMut(Kind, &[u8]) -> Option<End>) -> Read {
        let worker = self.worker.clone();
        // One buffer serves all connections of the worker: it is borrowed only while bytes are there.
        let mut scratch = worker.scratch.borrow_mut();
        let read = socket.try_read(&mut scratch[..self.pace.most()]);
        let toll = socket.take_toll();
        if toll.empty > 0 && !self.controls.take(toll.empty, control_rate(&worker), this_second()) {
            self.end(End::RateLimited);
        }
        match read {
            Ok(0) => Read::Ended,
            Ok(read) => {
                let taken = self.take_in(&mut scratch[..read], take);
                self.pace.took(read, &taken, toll);
                Read::Some
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.deaf |= worker.shard.is_closing(self.key);
                self.pace.took(0, &Taken::default(), toll);
                Read::Some
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.pace.dry();
                Read::Dry
            }
            Err(_) => Read::Ended,
        }
    }

    /// Gives others their turn, if it has been read for long.
    pub fn give_way(&mut self) -> impl Future<Output = ()> {
        // Not an async fn, which would be kept around the other in every idle connection.
        self.pace.give_way(self.deaf)
    }

    /// Decodes what has come. `take` gets each message, and may end the connection.
    pub fn take_in(
        &mut self,
        mut bytes: &mut [u8],
        mut take: impl FnMut(Kind, &[u8]) -> Option<End>,
    ) -> Taken {
        let worker = self.worker.clone();
        let shard = &worker.shard;
        shard.stats().bytes_in.add(bytes.len() as u64);
        let Some(mut decoder) = shard.take_decoder(self.key) else {
            // It was ended for want of memory, and what it had begun to say is gone.
            self.deaf = true;
            return Taken::default();
        };
        let (mut pongs, mut end, mut taken) = (BytesMut::new(), None, Taken::default());
        let control_rate = control_rate(&worker);
        // What came before was not this one's doing.
        work::take();
        let mut inflater = worker.inflater.borrow_mut();
        while !self.deaf && end.is_none() {
            match decoder.next_inflating(&mut bytes, &self.limits, &mut inflater) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    shard.heard(self.key);
                    taken.frames += 1;
                    let mut message = |kind, payload: &[u8]| {
                        taken.bytes += payload.len();
                        shard.stats().messages_in.add(1);
                        take(kind, payload)
                    };
                    match event {
                        Event::Text(text) => end = message(Kind::Text, text.as_bytes()),
                        Event::Binary(bytes) => end = message(Kind::Binary, bytes),
                        Event::Ping(_) | Event::Pong(_)
                            if !self.controls.take(1, control_rate, this_second()) =>
                        {
                            end = Some(End::RateLimited);
                        }
                        // One write for all of them.
                        Event::Ping(payload) => pongs.extend_from_slice(&frame(Opcode::Pong, payload)),
                        Event::Pong(_) => {}
                        Event::Close(code, _) => {
                            self.closed_by_client = true;
                            self.for_good = code != Some(CloseCode::GOING_AWAY);
                            end = Some(End::ClosedByClient(code));
                        }
                    }
                }
                Err(offence) => {
                    tracing::debug!(id = %self.id, "the client broke the protocol: {offence}");
                    end = Some(end_of(&offence));
                }
            }
            if shard.is_closing(self.key) {
                // Told to go, it may not have heard yet; what it says now comes after its end.
                self.deaf = true;
            }
        }
        taken.work = work::take();
        shard.return_decoder(self.key, decoder);
        if !pongs.is_empty() {
            shard.send(self.key, &pongs.freeze());
        }
        if let Some(end) = end {
            self.end(end);
        }
        worker.instance.memory.tally();
        taken
    }

    /// Ends the connection, unless it has ended, and hears nothing of it any more.
    pub fn end(&mut self, end: End) {
        self.deaf = true;
        self.worker.shard.end(self.key, end);
    }
}

/// How many pings, pongs and records that carry nothing a connection may send in a second.
fn control_rate(worker: &Worker) -> u32 {
    worker.instance.config.control_rate.map_or(u32::MAX, NonZeroU32::get)
}

/// Pings and pongs, and what TLS has of that kind, since the beginning of a second. It is in every connection, so it
/// is no bucket: two bursts may stand at the two sides of a second's end.
#[derive(Default)]
struct Controls {
    second: u32,
    count: u32,
}

impl Controls {
    fn take(&mut self, more: u32, most: u32, second: u32) -> bool {
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        self.count = self.count.saturating_add(more);
        self.count <= most
    }
}

fn this_second() -> u32 {
    (now_micros() / 1_000_000) as u32
}

fn end_of(offence: &Offence) -> End {
    match offence {
        Offence::TooBig { .. } => End::TooBig,
        Offence::InvalidUtf8 => End::InvalidUtf8,
        other => End::ProtocolError(other.close_code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever pings a little for ever is never cut for it.
    #[test]
    fn each_second_has_its_own_controls() {
        let mut controls = Controls::default();
        for second in [7, 8, 9, 11] {
            let taken = [1, 2, 1, 1].map(|more| controls.take(more, 4, second));
            assert_eq!(taken, [true, true, true, false], "second {second}");
        }
    }
}
