//! The protocol of one connection after its handshake: what it sends becomes publications, pongs and
//! ends. It never writes to the socket itself, so nothing here waits for a client to read.

use std::rc::Rc;

use bytes::Bytes;
use fanfare_broker::Relay;
use fanfare_hub::{End, Key, Socket};
use fanfare_protocol::{Channel, ConnectionId, Kind, Publication};
use fanfare_websocket::Limits;

use crate::admission::limits::Permit;
use crate::publish::{MayPublish, Unpublished, publish_unconfirmed};
use crate::session::backpressure::{is_pressed, wait_for_room};
use crate::session::inbound::{Inbound, Read};
use crate::session::rate::Bucket;
use crate::worker::Worker;

/// Where a connection publishes, and what it may do.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its channel.
    pub channel: Channel,
    /// Whether it gets what it publishes.
    pub echo: bool,
    /// The largest message that it may send, in bytes.
    pub message_limit: usize,
    /// The most fragments of one message.
    pub fragments: u32,
    /// Nobody else is in its channel, so its publications need no broker.
    pub alone: bool,
    /// What it may publish there.
    pub may_publish: MayPublish,
}

/// One connection's state, from its first byte to its last.
pub struct Session {
    inbound: Inbound,
    outbound: Outbound,
    /// Something was published since the socket was last dry.
    published: bool,
    _permit: Permit,
    /// Counted as long as the task lives that this is in.
    _alive: Rc<()>,
}

/// What becomes of its messages.
struct Outbound {
    channel: Channel,
    /// The connection, if it is not to get what it publishes.
    exclude: Option<ConnectionId>,
    /// Nobody else is in its channel, so its publications need no broker.
    alone: bool,
    may_publish: MayPublish,
    /// Boxed because most connections have none.
    bucket: Option<Box<Bucket>>,
}

impl Session {
    /// The session of a connection that has been opened.
    pub fn new(worker: Rc<Worker>, key: Key, id: ConnectionId, terms: Terms, permit: Permit) -> Self {
        let Terms { channel, echo, message_limit, fragments, alone, may_publish } = terms;
        let exclude = (!echo).then_some(id);
        let bucket = Bucket::new(&worker.instance.config);
        let limits = Limits { message: message_limit, fragments };
        let alive = worker.alive.clone();
        Self {
            inbound: Inbound::new(worker, key, id, limits),
            outbound: Outbound { channel, exclude, alone, may_publish, bucket },
            published: false,
            _permit: permit,
            _alive: alive,
        }
    }

    /// Takes in what came with the handshake, before anything is read.
    pub fn hear(&mut self, early: &[u8]) {
        let Self { inbound, outbound, published, .. } = self;
        let worker = inbound.worker.clone();
        inbound.take_in(&mut early.to_vec(), |kind, payload| {
            *published = true;
            outbound.publish(&worker, kind, payload)
        });
    }

    /// Reads until the peer has gone or was made to.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice: 200 bytes a connection"
    )]
    pub fn run(mut self, socket: Rc<Socket>) -> impl Future<Output = ()> {
        async move {
            // All of it, and borrowed: what an async block does not name is dropped before it runs, and what is moved
            // inside of it is kept twice.
            let Self { inbound, outbound, published, .. } = &mut self;
            let (worker, key) = (inbound.worker.clone(), inbound.key);
            while !inbound.is_over() && socket.readable().await.is_ok() {
                // Asked just before reading, or all who were silent till now could come in at the same time.
                if *published || is_pressed(&worker) {
                    // Boxed, or every idle connection would keep the room for it.
                    Box::pin(wait_for_room(&worker, key)).await;
                }
                let read = inbound.read(&socket, |kind, payload| {
                    *published = true;
                    outbound.publish(&worker, kind, payload)
                });
                match read {
                    Read::Ended => break,
                    Read::Dry => *published = false,
                    Read::Some => {}
                }
                inbound.give_way().await;
            }
            worker.shard.remove(key);
            Box::pin(worker.shard.close(socket)).await;
        }
    }
}

impl Outbound {
    fn publish(&mut self, worker: &Worker, kind: Kind, payload: &[u8]) -> Option<End> {
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take()) {
            return Some(End::RateLimited);
        }
        let Some(rules) = self.may_publish else { return Some(End::NotPermitted) };
        let publication =
            Publication { exclude: self.exclude, ..Publication::new(kind, Bytes::copy_from_slice(payload)) };
        let instance = &worker.instance;
        if self.alone {
            instance.relay.deliver(&self.channel, publication);
            return None;
        }
        match publish_unconfirmed(instance, rules, &self.channel, publication) {
            Ok(()) => worker.shard.stats().publications.add(1),
            Err(Unpublished::TooLarge { .. }) => return Some(End::TooBig),
            Err(_) => return Some(End::WrongFormat),
        }
        None
    }
}
