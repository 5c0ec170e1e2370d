//! The protocol of one connection after its handshake: what it sends becomes publications, pongs and
//! ends. It never writes to the socket itself, so nothing here waits for a client to read.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fanfare_broker::Relay;
use fanfare_hub::{End, Key, Socket};
use fanfare_protocol::{ConnectionId, Kind, Publication};
use fanfare_websocket::deflate::Agreed;
use fanfare_websocket::{Decoder, Event, Limits, Offence, Opcode, Role, frame};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::admission::Permit;
use crate::http::Terms;
use crate::worker::{SCRATCH, Worker};

/// How often a publisher that waits for room looks whether it was told to go.
const LOOK: Duration = Duration::from_millis(500);

/// One connection's state, from its first byte to its last.
pub struct Session {
    worker: Rc<Worker>,
    key: Key,
    id: ConnectionId,
    terms: Terms,
    decoder: Decoder,
    /// Boxed because most connections have none.
    bucket: Option<Box<Bucket>>,
    /// The peer has broken the protocol or said goodbye: what it still sends is thrown away.
    deaf: bool,
    /// It was a goodbye, so nothing comes after it.
    closed_by_client: bool,
    _permit: Permit,
}

impl Session {
    /// The session of a connection that has been opened.
    pub fn new(
        worker: Rc<Worker>,
        key: Key,
        id: ConnectionId,
        terms: Terms,
        agreed: Option<&Agreed>,
        permit: Permit,
    ) -> Self {
        let decoder = agreed.map(|agreed| Decoder::with_deflate(Role::Server, agreed));
        let bucket = Bucket::new(&worker.instance.config);
        Self {
            worker,
            key,
            id,
            terms,
            decoder: decoder.unwrap_or(const { Decoder::new(Role::Server) }),
            bucket,
            deaf: false,
            closed_by_client: false,
            _permit: permit,
        }
    }

    /// Reads until the peer has gone or was made to. `early` is what came with the handshake.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice: 200 bytes a connection"
    )]
    pub fn run(mut self, socket: Rc<Socket>, early: Bytes) -> impl Future<Output = ()> {
        async move {
            let mut published = self.take_in(&mut early.to_vec());
            // Even an empty remainder would keep the handshake's whole read buffer for the connection's life.
            drop(early);
            let mut rush = 0;
            loop {
                // Both have said goodbye: closing now spares the wait for a peer that waits for this.
                if self.closed_by_client && self.worker.shard.is_written(self.key) {
                    break;
                }
                if socket.readable().await.is_err() {
                    break;
                }
                // Asked just before reading, or all who were silent till now could come in at the same time.
                if published || self.worker.instance.hub.pressed() {
                    // Boxed, or every idle connection would keep the room for it.
                    Box::pin(self.wait_for_room()).await;
                }
                // One buffer serves all connections of the worker: it is borrowed only while bytes are there.
                rush += {
                    let worker = self.worker.clone();
                    let mut scratch = worker.scratch.borrow_mut();
                    match socket.try_read(&mut scratch) {
                        Ok(0) => break,
                        Ok(read) => {
                            published = self.take_in(&mut scratch[..read]);
                            read
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            (published, rush) = (false, 0);
                            continue;
                        }
                        Err(_) => break,
                    }
                };
                // A socket that never runs dry would keep the thread from everybody else. Not after each
                // read: what is published together is written together.
                if rush >= SCRATCH {
                    rush = 0;
                    yield_now().await;
                }
            }
            self.worker.shard.remove(self.key);
        }
    }

    /// Decodes and carries out. True if something was published.
    fn take_in(&mut self, mut bytes: &mut [u8]) -> bool {
        let worker = self.worker.clone();
        let shard = &worker.shard;
        shard.stats().bytes_in.add(bytes.len() as u64);
        let limits = Limits { message: self.terms.message_limit, fragments: self.terms.fragments };
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Server));
        let (mut published, mut pongs, mut end) = (false, BytesMut::new(), None);
        let mut inflater = worker.inflater.borrow_mut();
        while !self.deaf && end.is_none() {
            match decoder.next_inflating(&mut bytes, &limits, &mut inflater) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    shard.heard(self.key);
                    match event {
                        Event::Text(text) => published |= self.publish(Kind::Text, text.as_bytes()),
                        Event::Binary(bytes) => published |= self.publish(Kind::Binary, bytes),
                        // One write for a flood of them.
                        Event::Ping(payload) => pongs.extend_from_slice(&frame(Opcode::Pong, payload)),
                        Event::Pong(_) => {}
                        Event::Close(code, _) => {
                            self.closed_by_client = true;
                            end = Some(End::ClosedByClient(code));
                        }
                    }
                }
                Err(offence) => {
                    tracing::debug!(id = %self.id, "the client broke the protocol: {offence}");
                    end = Some(end_of(&offence));
                }
            }
        }
        self.decoder = decoder;
        if !pongs.is_empty() {
            shard.send(self.key, &pongs.freeze());
        }
        if let Some(end) = end {
            self.end(end);
        }
        published
    }

    fn publish(&mut self, kind: Kind, payload: &[u8]) -> bool {
        self.worker.shard.stats().messages_in.add(1);
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take()) {
            self.end(End::RateLimited);
            return false;
        }
        if self.worker.shard.is_closing(self.key) {
            // Told to go, it may not have heard yet; what it says now comes after its end.
            self.deaf = true;
            return false;
        }
        let publication = Publication {
            exclude: (!self.terms.echo).then_some(self.id),
            ..Publication::new(kind, Bytes::copy_from_slice(payload))
        };
        let instance = &self.worker.instance;
        if self.terms.alone {
            instance.relay.deliver(&self.terms.channel, publication);
        } else {
            self.worker.shard.stats().publications.add(1);
            instance.broker.publish(&self.terms.channel, publication);
        }
        true
    }

    fn end(&mut self, end: End) {
        self.deaf = true;
        self.worker.shard.end(self.key, end);
    }

    /// A publisher reads on when the workers and the bus have room for what it may send, or when it
    /// was told to go: then it must be seen to go.
    async fn wait_for_room(&self) {
        let instance = &self.worker.instance;
        let room = async {
            instance.hub.relieved().await;
            instance.broker.ready().await;
        };
        tokio::pin!(room);
        while timeout(LOOK, &mut room).await.is_err() {
            if self.worker.shard.is_closing(self.key) {
                return;
            }
            // What it has sent meanwhile is not read, so its silence says nothing.
            self.worker.shard.heard(self.key);
        }
    }
}

fn end_of(offence: &Offence) -> End {
    match offence {
        Offence::TooBig { .. } => End::TooBig,
        Offence::InvalidUtf8 => End::InvalidUtf8,
        other => End::ProtocolError(other.close_code()),
    }
}

/// A token bucket: `rate` a second, `burst` at once.
struct Bucket {
    tokens: f32,
    rate: f32,
    burst: f32,
    filled: Instant,
}

impl Bucket {
    fn new(config: &crate::config::Config) -> Option<Box<Self>> {
        let rate = config.message_rate?.get() as f32;
        let burst = config.message_burst.map_or(rate, |burst| burst.get() as f32).max(1.0);
        Some(Box::new(Self { tokens: burst, rate, burst, filled: Instant::now() }))
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let fresh = now.duration_since(self.filled).as_secs_f32() * self.rate;
        self.filled = now;
        self.tokens = (self.tokens + fresh).min(self.burst);
        let enough = self.tokens >= 1.0;
        self.tokens -= f32::from(u8::from(enough));
        enough
    }
}
