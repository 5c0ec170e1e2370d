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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Publication};
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::RedisConfig;
use super::append::{Append, Outcome};
use super::control::Lost;
use super::fault::Fault;
use super::interest::{Interest, Subscribed};
use super::keys::Keys;
use super::log::{Log, Message};
use super::occasionally::Occasionally;
use super::streams::Streams;
use crate::{AppendOptions, BrokerError, Gap, GapCause, Pending, Relay, Retain, Status};

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
    /// There may be room for more publications.
    room: Notify,
    /// Held while a publication is delivered that may also be delivered otherwise: the order of deliveries.
    pub order: Mutex<Order>,
    bus: Mutex<Bus>,
    /// Redis takes only keys of one slot in one call, as the nodes of a cluster do.
    pub one_slot: AtomicBool,
    spool_bytes: usize,
    timeout: Duration,
    pub reconnects: AtomicU64,
    pub duplicates: AtomicU64,
    pub unknown: AtomicU64,
    pub junk: Occasionally,
    pub refusals: Occasionally,
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
    /// The publisher's task sleeps and must be woken.
    idle: bool,
}

struct Canary {
    sequence: u64,
    /// The bus said that it had it; from then on it should come back.
    acknowledged: Option<Instant>,
}

impl Lane {
    pub fn new(
        config: &RedisConfig,
        address: String,
        relay: Arc<dyn Relay>,
        retain: Retain,
        pinned: Option<Channel>,
    ) -> Self {
        let origin = Uuid::new_v4();
        let bus = Bus {
            up: false,
            publisher: Err(Fault::Starting),
            subscriber: Err(Fault::Starting),
            log: Log::default(),
            canary: None,
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
            room: Notify::new(),
            order: Mutex::new(Order::default()),
            bus: Mutex::new(bus),
            one_slot: AtomicBool::new(false),
            spool_bytes: config.spool_bytes,
            timeout: config.timeout,
            reconnects: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            junk: Occasionally::new(),
            refusals: Occasionally::new(),
            address,
            instance: None,
        }
    }

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

    pub fn subscribe(self: &Arc<Self>, channel: &Channel) -> Pending<'static, ()> {
        let subscribed = self.interest.lock().subscribe(channel);
        let confirmed = match subscribed {
            Subscribed::Already => None,
            Subscribed::Soon(confirmed) => {
                self.change.notify_one();
                Some(confirmed)
            }
        };
        let kept = (self.retain)(channel).is_some();
        if confirmed.is_none() && !kept {
            return Box::pin(std::future::ready(()));
        }
        let (lane, channel) = (self.clone(), channel.clone());
        Box::pin(async move {
            // An error says that the lane has ended, and then nobody needs to know.
            if let Some(confirmed) = confirmed {
                confirmed.await.unwrap_or_default();
            }
            let established = kept.then(|| lane.order.lock().streams.established(&channel));
            if let Some(established) = established.flatten() {
                established.await.unwrap_or_default();
            }
        })
    }

    pub fn release(&self, channel: &Channel) {
        let mut interest = self.interest.lock();
        let idle = interest.first_release().is_none();
        interest.release(channel, Instant::now());
        drop(interest);
        if idle {
            self.change.notify_one();
        }
    }

    /// Forgets the released channels that nobody wants after all; gives back those that the bus must be told of.
    pub fn leave_released(&self) -> Vec<Channel> {
        let Some(until) = Instant::now().checked_sub(LINGER) else { return Vec::new() };
        let mut released = self.interest.lock().take_released(until);
        // Asked without a lock: the relay has locks of its own.
        released.retain(|(_, channel)| !self.relay.wanted(channel));
        let mut interest = self.interest.lock();
        let mut left = Vec::new();
        released.retain(|(at, channel)| {
            let leave = interest.leave(*at, channel);
            left.extend(leave.map(|_| channel.clone()));
            leave == Some(true)
        });
        drop(interest);
        let mut order = self.order.lock();
        left.iter().for_each(|channel| order.streams.forget(channel));
        released.into_iter().map(|(_, channel)| channel).collect()
    }

    /// These are about to be subscribed.
    pub fn expect(&self, channels: &[Channel]) {
        let now = Instant::now();
        for channel in channels.iter().filter(|channel| (self.retain)(channel).is_some()) {
            self.order.lock().streams.expect(channel, now);
        }
    }

    /// These are subscribed; of these, `promised` were taken for subscribed before. Gives back those that have no
    /// history, out of which what they missed could be read.
    pub fn subscribed(&self, channels: &[Channel], promised: Vec<Channel>, cause: GapCause) -> Vec<Channel> {
        let (kept, plain): (Vec<_>, Vec<_>) =
            promised.into_iter().partition(|channel| (self.retain)(channel).is_some());
        let mut order = self.order.lock();
        kept.iter().for_each(|channel| order.streams.subscribed(channel, Some(cause)));
        channels.iter().for_each(|channel| order.streams.subscribed(channel, None));
        drop(order);
        self.heal.notify_one();
        plain
    }

    /// When the next released channel will have lingered long enough.
    pub fn next_leave(&self) -> Option<Instant> {
        Some(self.interest.lock().first_release()? + LINGER)
    }

    /// Resolves when less than `READY_BYTES` and `READY_COUNT` wait, or when the lane is down.
    pub async fn ready(&self) {
        self.until(|bus| {
            !bus.up || (bus.log.waiting_bytes() < READY_BYTES && bus.log.waiting() < READY_COUNT)
        })
        .await;
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

    pub fn because(&self, fault: &Fault) -> String {
        format!("Redis at {} {fault}", self.address)
    }

    // What the publisher's task tells and asks.

    pub fn publisher_open(&self) {
        let mut bus = self.bus.lock();
        bus.publisher = Ok(());
        self.release_canary(&mut bus);
    }

    pub fn publisher_lost(&self, fault: &Fault) {
        self.go_down(|bus| {
            bus.publisher = Err(fault.clone());
            bus.log.send_again();
        });
    }

    /// Once a second: sends a canary out. If one is late, another follows, which is proof as well when it comes back;
    /// if one still waits to be sent, there is no use in another.
    pub fn tick(&self) {
        let mut bus = self.bus.lock();
        let seen_off = bus.log.seen_off();
        match &bus.canary {
            Some(canary) if canary.acknowledged.is_some() => {
                bus.log.push(Message::Canary);
                self.wake(&mut bus);
            }
            Some(canary) if canary.sequence > seen_off => {}
            // None, or a full spool has dropped it.
            _ => self.release_canary(&mut bus),
        }
    }

    /// What to send next, in order; nothing while the subscriber is not there, so that the others, who lost Redis
    /// when we did, have a moment to return as well, and we never miss what we publish. `take` must be quick.
    pub fn send(&self, count: usize, bytes: usize, take: impl FnMut(u64, Message)) -> Option<Lost> {
        let mut bus = self.bus.lock();
        bus.idle = bus.subscriber.is_err() || bus.log.waiting() == 0;
        if bus.idle {
            return None;
        }
        bus.log.send(count, bytes, take);
        bus.log.take_lost()
    }

    /// Up to here, messages have been sent at least once.
    pub fn ever_sent(&self) -> u64 {
        self.bus.lock().log.ever_sent()
    }

    /// Redis would not take it, and nobody waits for an answer: everybody misses it.
    pub fn refused(&self, channel: &Channel) {
        self.bus.lock().log.lose(channel);
        self.overflow(vec![channel.clone()]);
    }

    pub fn not_announced(&self, lost: Lost) {
        self.bus.lock().log.put_back_lost(lost);
    }

    pub fn acknowledged(&self, sequence: u64) {
        let heard = self.order.lock().heard;
        let mut bus = self.bus.lock();
        bus.log.acknowledge(sequence);
        bus.log.trim(heard);
        if let Some(canary) = &mut bus.canary
            && canary.sequence <= sequence
        {
            canary.acknowledged.get_or_insert_with(Instant::now);
        }
        drop(bus);
        self.room.notify_waiters();
    }

    // What the subscriber's task tells and asks.

    /// Whatever was promised is subscribed.
    pub fn subscriber_open(&self) {
        let mut bus = self.bus.lock();
        bus.subscriber = Ok(());
        self.release_canary(&mut bus);
    }

    pub fn subscriber_lost(&self, fault: &Fault) {
        self.go_down(|bus| bus.subscriber = Err(fault.clone()));
        self.interest.lock().away();
        self.order.lock().streams.lost(fault.gap_cause());
    }

    /// The last number given out.
    pub fn last(&self) -> u64 {
        self.bus.lock().log.last()
    }

    /// Our own messages are delivered up to `heard`; `back` is the highest number that came back just now. The
    /// canary's, or a later one, proves that the bus brings what it is given.
    pub fn heard(&self, heard: u64, back: Option<u64>) {
        let mut bus = self.bus.lock();
        bus.log.trim(heard);
        if bus.canary.as_ref().is_none_or(|canary| back < Some(canary.sequence)) {
            return;
        }
        bus.canary = None;
        if bus.up || bus.publisher.is_err() || bus.subscriber.is_err() {
            return;
        }
        bus.up = true;
        drop(bus);
        tracing::info!(redis = self.address, "the broker is up");
    }

    /// How long the canary should have been back.
    pub fn canary_overdue(&self) -> Option<Duration> {
        Some(self.bus.lock().canary.as_ref()?.acknowledged?.elapsed())
    }

    /// What another lane lost is a gap here, in the channels of this lane.
    pub fn announce(&self, lost: &Lost, ours: impl Fn(&Channel) -> bool) {
        let channels: Vec<_> = match lost.channels() {
            Some(channels) => channels.iter().filter(|channel| ours(channel)).cloned().collect(),
            None => self.interest.lock().promised(),
        };
        if !channels.is_empty() {
            self.relay.gap(Gap { channels: Some(channels), cause: GapCause::Overflow });
        }
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

/// How long a subscription outlives its last subscriber: a page that reloads finds it there.
const LINGER: Duration = Duration::from_secs(1);
const READY_BYTES: usize = 4 << 20;
const READY_COUNT: u64 = 10_000;

#[cfg(test)]
mod tests;
