//! The protocol of one connection after its handshake: what it sends becomes publications, pongs and
//! ends. It never writes to the socket itself, so nothing here waits for a client to read.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::Relay;
use fanfare_hub::{End, Key, Socket};
use fanfare_protocol::{Channel, ConnectionId, Kind, Publication};
use fanfare_websocket::Limits;
use tokio::time::{Instant, sleep, timeout};

use crate::admission::Permit;
use crate::http::{MayPublish, Terms};
use crate::inbound::{Inbound, Read};
use crate::publish::{Unpublished, publish_unconfirmed};
use crate::worker::Worker;

/// How often a publisher that waits for room looks whether it was told to go.
const LOOK: Duration = Duration::from_millis(500);

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

/// Whether there is so much under way that nobody should read more.
pub fn is_pressed(worker: &Worker) -> bool {
    worker.instance.hub.pressed() || worker.instance.memory.is_past()
}

/// How long a client may take for what waits for its socket before it gets more of what it has asked for: a piece of 64 KiB
/// comes at 6 KiB/s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until nothing waits for a client's socket any more. False if it takes longer than it may: it is slow.
pub async fn has_taken_it_all(worker: &Worker, key: Key) -> bool {
    timeout(PATIENCE, worker.shard.written(key)).await.is_ok()
}

/// A publisher reads on when the workers and the bus have room for what it may send, or when it was told to
/// go: then it must be seen to go.
pub async fn wait_for_room(worker: &Worker, key: Key) {
    let instance = &worker.instance;
    let room = async {
        loop {
            instance.memory.relieved().await;
            instance.hub.relieved().await;
            instance.broker.ready().await;
            // All who wait are woken together, and the first of them may have taken what room there was.
            if !is_pressed(worker) {
                return;
            }
        }
    };
    tokio::pin!(room);
    while !worker.shard.is_closing(key) {
        // Whoever is ended for want of memory must let go of its socket before others are ended, too.
        tokio::select! {
            () = &mut room => return,
            () = worker.shard.shed() => {}
            () = sleep(LOOK) => {}
        }
        // What it has sent meanwhile is not read, so its silence says nothing.
        worker.shard.excuse(key);
    }
}

/// A token bucket: `rate` a second, `burst` at once.
pub struct Bucket {
    tokens: f32,
    rate: f32,
    burst: f32,
    filled: Instant,
}

impl Bucket {
    pub fn new(config: &crate::config::Config) -> Option<Box<Self>> {
        let rate = config.message_rate?.get() as f32;
        let burst = config.message_burst.map_or(rate, |burst| burst.get() as f32).max(1.0);
        Some(Box::new(Self { tokens: burst, rate, burst, filled: Instant::now() }))
    }

    pub fn take(&mut self) -> bool {
        let now = Instant::now();
        let fresh = now.duration_since(self.filled).as_secs_f32() * self.rate;
        self.filled = now;
        self.tokens = (self.tokens + fresh).min(self.burst);
        let enough = self.tokens >= 1.0;
        self.tokens -= f32::from(u8::from(enough));
        enough
    }
}
