//! Reads what the bus brings and hands it over: publications to the relay, canaries and what other instances say to the
//! lane. It is quick, for Redis cuts off whoever does not keep up with it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Bundle, Channel, Control, Envelope, Opened};
use futures_util::{FutureExt, Stream, StreamExt};
use redis::Msg;
use tokio::time::Instant;

use super::control::{Lost, Said};
use super::fault::Fault;
use super::keys::Key;
use super::lane::{Lane, Order};
use super::origins::Origins;
use crate::part_of;

/// The listening half of a lane's subscriber; it outlives the connections, for what it remembers of the others.
pub(super) struct Listener {
    lane: Arc<Lane>,
    origins: Origins,
    last_heard: LastHeard,
    payload_limit: usize,
    /// This lane's number, and how many there are.
    part: (usize, usize),
}

/// When the last message came, of whatever kind.
#[derive(Clone)]
pub(super) struct LastHeard {
    start: Instant,
    millis: Arc<AtomicU64>,
}

/// What a number of messages left to be done when they had been read.
struct Heard {
    now: std::time::Instant,
    /// The last number that the lane had given out before they were read.
    last: u64,
    /// The highest number of ours that came back.
    back: Option<u64>,
    lost: Vec<Lost>,
    /// Something must be read out of a history.
    read: bool,
}

impl Listener {
    /// Listens for a lane, which has this number among so many (`part`). Payloads of more than `payload_limit` bytes
    /// are passed over.
    pub fn new(lane: Arc<Lane>, payload_limit: usize, part: (usize, usize)) -> Self {
        let last_heard = LastHeard { start: Instant::now(), millis: Arc::default() };
        Self { lane, origins: Origins::new(), last_heard, payload_limit, part }
    }

    /// When it has heard something last, also of what it hears later.
    pub fn last_heard(&self) -> LastHeard {
        self.last_heard.clone()
    }

    /// Listens until the stream ends.
    pub async fn listen(&mut self, stream: impl Stream<Item = Msg>) -> Fault {
        let mut stream = pin!(stream);
        let mut messages = Vec::with_capacity(CHUNK);
        while let Some(message) = stream.next().await {
            messages.push(message);
            while messages.len() < CHUNK
                && let Some(Some(message)) = stream.next().now_or_never()
            {
                messages.push(message);
            }
            let full = messages.len() == CHUNK;
            self.hear(messages.drain(..));
            if full {
                tokio::task::yield_now().await;
            }
        }
        Fault::Closed
    }

    fn hear(&mut self, messages: impl Iterator<Item = Msg>) {
        let lane = self.lane.clone();
        self.last_heard.now();
        let mut heard = Heard {
            now: std::time::Instant::now(),
            last: lane.last(),
            back: None,
            lost: Vec::new(),
            read: false,
        };
        let mut order = lane.order.lock();
        for message in messages {
            if self.hear_one(&message, &mut order, &mut heard).is_none() {
                lane.unknown.fetch_add(1, Relaxed);
                if let Some(times) = lane.junk.happened(heard.now) {
                    tracing::warn!(times, "a message on the bus cannot be read and is dropped");
                }
            }
        }
        let up_to = order.heard;
        drop(order);
        if heard.read {
            lane.heal.notify_one();
        }
        lane.heard(up_to, heard.back);
        for lost in heard.lost {
            lane.announce(&lost, |channel| part_of(channel, self.part.1) == self.part.0);
        }
    }

    /// Nothing, if it is nothing that an instance or a foreign publisher of this version would have sent.
    fn hear_one(&mut self, message: &Msg, order: &mut Order, heard: &mut Heard) -> Option<()> {
        let payload = message.get_payload_bytes();
        match self.lane.keys.read(message.get_channel_name())? {
            Key::Control | Key::Instance => match (Said::read(payload)?, self.lane.instance) {
                (Said::Lost(origin, lost), _) => {
                    if origin != self.lane.origin {
                        heard.lost.push(lost);
                    }
                }
                // Another lane hears it as well. What it said itself, the instance did not have to hear.
                (Said::Control(..), None) => {}
                (Said::Control(instance, _), Some(itself)) if instance == itself => {}
                (Said::Control(_, message), Some(_)) => {
                    self.lane.relay.control(Control::read(&message).ok()?);
                }
            },
            Key::Canary => {
                let Ok(Opened::Envelope(canary)) = Opened::read(Bytes::copy_from_slice(payload)) else {
                    return None;
                };
                if canary.origin != self.lane.origin || canary.sequence > heard.last {
                    return None;
                }
                order.heard = order.heard.max(canary.sequence);
                heard.back = heard.back.max(Some(canary.sequence));
            }
            // It is not even copied: others may publish here what no instance would.
            Key::Channel(_) if payload.len() > self.payload_limit.saturating_add(TOGETHER) => return None,
            Key::Channel(channel) => {
                let opened = Opened::read(Bytes::copy_from_slice(payload)).ok()?;
                // What was published together need not be that small together.
                if payload.len() > self.payload_limit && !matches!(opened, Opened::Bundle(_)) {
                    return None;
                }
                match opened {
                    Opened::Bundle(bundle) => return self.hear_bundle(&channel, bundle, order, heard),
                    Opened::Foreign(publication) => self.lane.relay.deliver(&channel, publication),
                    Opened::Presence(change) => self.lane.relay.presence(&channel, change),
                    Opened::Envelope(envelope) if envelope.publication.position.is_some() => {
                        heard.read |= order.hear_numbered(&self.lane, &channel, envelope, heard.now);
                    }
                    Opened::Envelope(envelope) if envelope.origin.is_nil() => {
                        self.lane.relay.deliver(&channel, envelope.publication);
                    }
                    Opened::Envelope(envelope) if envelope.origin == self.lane.origin => {
                        return self.hear_own(&channel, envelope, order, heard);
                    }
                    Opened::Envelope(envelope) => {
                        if self.origins.advance(envelope.origin, envelope.sequence, heard.now) {
                            self.lane.relay.deliver(&channel, envelope.publication);
                        } else {
                            self.lane.duplicates.fetch_add(1, Relaxed);
                        }
                    }
                }
            }
        }
        Some(())
    }

    fn hear_bundle(
        &self,
        channel: &Channel,
        bundle: Bundle,
        order: &mut Order,
        heard: &mut Heard,
    ) -> Option<()> {
        let mut whole = Some(());
        for envelope in bundle.envelopes() {
            match envelope.ok().filter(|one| one.publication.payload.len() <= self.payload_limit) {
                Some(envelope) => {
                    heard.read |= order.hear_numbered(&self.lane, channel, envelope, heard.now);
                }
                None => whole = None,
            }
        }
        whole
    }

    fn hear_own(
        &self,
        channel: &Channel,
        ours: Envelope,
        order: &mut Order,
        heard: &mut Heard,
    ) -> Option<()> {
        if ours.sequence > heard.last {
            return None;
        }
        heard.back = heard.back.max(Some(ours.sequence));
        if ours.sequence <= order.echoed {
            self.lane.duplicates.fetch_add(1, Relaxed);
            return Some(());
        }
        order.echoed = ours.sequence;
        // If not, it was delivered at once, while the lane was down.
        if ours.sequence > order.heard {
            order.heard = ours.sequence;
            self.lane.relay.deliver(channel, ours.publication);
        }
        Some(())
    }
}

impl Order {
    /// True if something must be read.
    fn hear_numbered(
        &mut self,
        lane: &Lane,
        channel: &Channel,
        envelope: Envelope,
        now: std::time::Instant,
    ) -> bool {
        if (lane.retain)(channel).is_some() {
            return self.streams.hear(channel, envelope, now, &*lane.relay);
        }
        // Another instance thinks that the channel has a history.
        lane.relay.deliver(channel, envelope.publication);
        false
    }
}

impl LastHeard {
    fn now(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    /// Whether nothing at all has come since then, or what was awaited since then is overdue beyond any queue.
    pub fn is_deaf(&self, since: Instant) -> bool {
        let last = self.start + Duration::from_millis(self.millis.load(Relaxed));
        last <= since || since.elapsed() > BEYOND_ANY_QUEUE
    }
}

/// Read in one go, under one lock.
const CHUNK: usize = 256;
/// What is published together has no more bytes, unless one of it has; that is 16 KiB now.
const TOGETHER: usize = 1 << 20;
const BEYOND_ANY_QUEUE: Duration = Duration::from_secs(10);
