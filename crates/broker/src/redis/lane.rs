//! One publisher's and one subscriber's connection, and what they share: the heart of the Redis broker. It does
//! no I/O; the two tasks beside it do.
//!
//! While the lane is up, a publication of ours reaches our own relay by its echo, so that all instances see one
//! order. While it is down, the relay gets it at once, and the others get it later. Between the two nothing is lost
//! and nothing comes twice, because every message has a number: what had no echo yet when the lane went down is
//! delivered then, and an echo that comes after all is known by its number.
//!
//! What Redis itself must decide on (an `Append`) goes another way: it is delivered here only when the bus brings it,
//! or when the healer has read it.

mod subscriptions;
mod tasks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Position, Publication};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::RedisConfig;
use super::append::{Append, Outcome};
use super::fault::Fault;
use super::interest::Interest;
use super::keys::Keys;
use super::log::{Log, Message};
use super::log_limit::LogLimit;
use super::recent::Recent;
use super::streams::Streams;
use super::witnesses::Witnesses;
use crate::{AppendOptions, BrokerError, Gap, GapCause, History, Pending, Query, Relay, Retain, Status};

/// Shared by the publishing threads, the publisher's task and the subscriber's. Where both are held, `order` is
/// taken before `bus`; neither is held over an `.await`, nor `bus` while the relay is called.
pub(super) struct Lane {
    pub origin: Uuid,
    /// Of what is never delivered here but by the bus: the numbers are the same, but echoes are not ours to await.
    pub append_origin: Uuid,
    pub keys: Keys,
    pub relay: Arc<dyn Relay>,
    pub retain: Retain,
    pub interest: Mutex<Interest>,
    /// The publisher's task has something to send.
    pub work: Notify,
    /// The subscriber's task has something to subscribe to or to leave.
    pub change: Notify,
    /// The healer's task has something to read.
    pub heal: Notify,
    /// The connection that listens leads to another server than the one that publishes.
    elsewhere: watch::Sender<bool>,
    /// There may be room for more publications.
    room: Notify,
    /// Held while a publication is delivered that may also be delivered otherwise: the order of deliveries.
    pub order: Mutex<Order>,
    bus: Mutex<Bus>,
    recent: Mutex<Recent>,
    pub witnesses: Mutex<Witnesses>,
    /// Redis takes only keys of one slot in one call, as the nodes of a cluster do.
    pub one_slot: AtomicBool,
    spool_bytes: usize,
    timeout: Duration,
    pub reconnects: AtomicU64,
    pub duplicates: AtomicU64,
    pub unknown: AtomicU64,
    pub junk: LogLimit,
    pub refusals: LogLimit,
    /// Where Redis is, without secrets.
    pub address: String,
    /// The instance, if it is this lane that hears what others want of it.
    pub instance: Option<Uuid>,
}

/// How far our own publications have been delivered here.
#[derive(Default)]
pub(super) struct Order {
    /// Up to here, by echo or at once.
    pub heard: u64,
    /// Up to here, echoes have come.
    pub echoed: u64,
    /// The channels that have a history.
    pub streams: Streams,
}

struct Bus {
    /// Publications are delivered by their echo.
    up: bool,
    publisher: Result<(), Fault>,
    subscriber: Result<(), Fault>,
    log: Log,
    /// On its way: proof, once it is back, that the bus brings what it is given.
    canary: Option<Canary>,
    /// What has a greater number is published while everything is subscribed.
    subscribed_at: u64,
    /// The connection that listens has followed this one that publishes, and need not do so again.
    followed: bool,
    /// The publisher's task sleeps and must be woken.
    idle: bool,
}

struct Canary {
    sequence: u64,
    /// The bus said that it had it; from then on it should come back.
    acknowledged: Option<Instant>,
}

impl Lane {
    /// One that publishes to Redis at `address` and hears of it what is `pinned`, whoever wants it, and what other
    /// instances want of `instance`.
    pub fn new(
        config: &RedisConfig,
        address: String,
        relay: Arc<dyn Relay>,
        retain: Retain,
        pinned: Option<Channel>,
        instance: Option<Uuid>,
    ) -> Self {
        let origin = Uuid::new_v4();
        let bus = Bus {
            up: false,
            publisher: Err(Fault::Starting),
            subscriber: Err(Fault::Starting),
            log: Log::default(),
            canary: None,
            subscribed_at: 0,
            followed: false,
            idle: false,
        };
        Self {
            origin,
            append_origin: Uuid::new_v4(),
            keys: Keys::new(&config.prefix, origin),
            relay,
            retain,
            interest: Mutex::new(Interest::new(pinned)),
            work: Notify::new(),
            change: Notify::new(),
            heal: Notify::new(),
            elsewhere: watch::Sender::new(false),
            room: Notify::new(),
            order: Mutex::new(Order::default()),
            bus: Mutex::new(bus),
            recent: Mutex::default(),
            witnesses: Mutex::default(),
            one_slot: AtomicBool::new(false),
            spool_bytes: config.spool_bytes,
            timeout: config.timeout,
            reconnects: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            junk: LogLimit::new(),
            refusals: LogLimit::new(),
            address,
            instance,
        }
    }

    /// Publishes in the order of the calls, for nobody who waits. Down, it is delivered here at once and kept for the
    /// others.
    pub fn publish(&self, channel: &Channel, publication: Publication) {
        if let Some(retention) = (self.retain)(channel) {
            let append = Append::unconfirmed(channel, publication, retention);
            let mut bus = self.bus.lock();
            bus.log.push(Message::Append(Arc::new(append)));
            self.wake(&mut bus);
            let missed = if bus.up { Vec::new() } else { bus.log.shed(self.spool_bytes) };
            drop(bus);
            return self.overflow(missed);
        }
        let message = Message::Publication(channel.clone(), publication);
        let mut bus = self.bus.lock();
        if bus.up {
            bus.log.push(message);
            self.wake(&mut bus);
            return;
        }
        drop(bus);
        self.publish_in_order(message);
    }

    /// The way of a publication while the lane was down a moment ago: behind whatever is being delivered.
    fn publish_in_order(&self, message: Message) {
        let mut order = self.order.lock();
        let mut bus = self.bus.lock();
        let sequence = bus.log.push(message.clone());
        self.wake(&mut bus);
        if bus.up {
            return;
        }
        let missed = bus.log.shed(self.spool_bytes);
        drop(bus);
        order.heard = sequence;
        if let Message::Publication(channel, publication) = message {
            self.relay.deliver(&channel, publication);
        }
        drop(order);
        self.overflow(missed);
    }

    /// The spool held no more: what nobody has got, nobody will.
    fn overflow(&self, missed: Vec<Channel>) {
        if !missed.is_empty() {
            self.relay.gap(Gap { channels: Some(missed), cause: GapCause::Overflow });
        }
    }

    /// In the order of this thread's publications. The future gives up within the deadline of a pipeline.
    pub fn append(
        self: &Arc<Self>,
        channel: &Channel,
        publication: Publication,
        options: AppendOptions,
    ) -> Pending<'static, Outcome> {
        let retention = (self.retain)(channel);
        let (append, outcome) = Append::confirmed(channel, publication, retention, options);
        let mut bus = self.bus.lock();
        if !bus.up {
            let because = self.down_because(&bus);
            return Box::pin(std::future::ready(Err(BrokerError::Away(because))));
        }
        let sequence = bus.log.push(Message::Append(Arc::new(append)));
        self.wake(&mut bus);
        drop(bus);
        let lane = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(lane.timeout, outcome).await {
                Ok(Ok(outcome)) => outcome,
                // Dropped unsent, or nobody knows; with the receiver gone it will not be sent any more.
                _ => Err(lane.gave_up(sequence)),
            }
        })
    }

    fn gave_up(&self, sequence: u64) -> BrokerError {
        let bus = self.bus.lock();
        let because =
            if bus.up { self.because(&Fault::TimedOut(self.timeout)) } else { self.down_because(&bus) };
        if bus.log.was_sent(sequence) { BrokerError::Unknown(because) } else { BrokerError::Away(because) }
    }

    /// Resolves when less than `READY_BYTES` and `READY_COUNT` wait, or when the lane is down.
    pub async fn ready(&self) {
        self.until(|bus| {
            !bus.up || (bus.log.waiting_bytes() < READY_BYTES && bus.log.waiting() < READY_COUNT)
        })
        .await;
    }

    /// Somebody has read where a channel stands, and goes on when what is still on its way out of an older epoch, which
    /// is nothing for whoever asks, has come.
    pub async fn meet(&self, channel: &Channel, top: Position) {
        let moved = self.order.lock().streams.meet(channel, top, Instant::now(), &*self.relay);
        if moved {
            self.heal.notify_one();
            // Whoever asks may be subscribed as well, and held what is worth nothing now.
            self.relay.heard().await;
        }
    }

    /// What was read a moment ago, if it will do, and nothing has come since.
    pub fn recent(&self, channel: &Channel, query: Query) -> Option<History> {
        if !query.recent {
            return None;
        }
        let top = self.order.lock().streams.position(channel)?;
        self.recent.lock().answer(channel, query, top, Instant::now())
    }

    /// This was read just now.
    pub fn remember(&self, channel: &Channel, query: Query, history: &History) {
        if query.recent {
            self.recent.lock().remember(channel, query, history, Instant::now());
        }
    }

    /// What was read of a channel is not its history any more.
    pub fn forget_recent(&self, channel: &Channel) {
        self.recent.lock().forget(channel);
    }

    /// Resolves when all that was published up to now is at the bus, or when the lane is down.
    pub async fn flush(&self) {
        let last = self.bus.lock().log.last();
        self.until(|bus| !bus.up || bus.log.seen_off() >= last).await;
    }

    async fn until(&self, there: impl Fn(&Bus) -> bool) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if there(&self.bus.lock()) {
                return;
            }
            room.await;
        }
    }

    /// Adds this lane's state to `status`.
    pub fn add_to(&self, status: &mut Status) {
        let bus = self.bus.lock();
        status.up &= bus.up;
        if !bus.up && status.down_because.is_none() {
            status.down_because = Some(self.down_because(&bus));
        }
        status.spool_bytes += bus.log.waiting_bytes() as u64;
        status.spool_dropped += bus.log.dropped();
        drop(bus);
        self.order.lock().streams.add_to(status);
        status.subscriptions += self.interest.lock().confirmed();
        status.reconnects += self.reconnects.load(Relaxed);
        status.unknown_envelopes += self.unknown.load(Relaxed);
        status.duplicates += self.duplicates.load(Relaxed);
    }

    fn down_because(&self, bus: &Bus) -> String {
        let fault = bus.subscriber.as_ref().err().or(bus.publisher.as_ref().err());
        self.because(fault.unwrap_or(&Fault::Unproven))
    }

    /// A fault as it is told to people.
    pub fn because(&self, fault: &Fault) -> String {
        format!("Redis at {} {fault}", self.address)
    }

    /// Delivers here whatever has had no echo, in order, before anything that is published from now on.
    fn go_down(&self, change: impl FnOnce(&mut Bus)) {
        let mut order = self.order.lock();
        let mut bus = self.bus.lock();
        change(&mut bus);
        bus.canary = None;
        let was_up = std::mem::replace(&mut bus.up, false);
        let unheard: Vec<(Channel, Publication)> = bus
            .log
            .after(order.heard)
            .map(|(channel, publication)| (channel.clone(), publication.clone()))
            .collect();
        order.heard = bus.log.last();
        bus.log.trim(order.heard);
        let missed = bus.log.shed(self.spool_bytes);
        let fault = bus.subscriber.clone().err().or(bus.publisher.clone().err());
        drop(bus);
        for (channel, publication) in unheard {
            self.relay.deliver(&channel, publication);
        }
        drop(order);
        self.overflow(missed);
        self.room.notify_waiters();
        if let (true, Some(fault)) = (was_up, fault) {
            tracing::warn!(because = self.because(&fault), "the broker is down");
        }
    }

    fn release_canary(&self, bus: &mut Bus) {
        if bus.publisher.is_ok() && bus.subscriber.is_ok() {
            let sequence = bus.log.push(Message::Canary);
            bus.canary = Some(Canary { sequence, acknowledged: None });
            self.wake(bus);
        }
    }

    fn wake(&self, bus: &mut Bus) {
        if bus.subscriber.is_ok() && std::mem::take(&mut bus.idle) {
            self.work.notify_one();
        }
    }
}

const READY_BYTES: usize = 4 << 20;
const READY_COUNT: u64 = 10_000;

#[cfg(test)]
mod tests;
