//! The broker of an instance that stands alone: what it publishes is delivered on the publisher's own
//! thread. There is no bus, so there is nothing that could be away; what is remembered goes with the process.

mod allowance;
mod census;
mod glob;
mod kept;
mod rooms;
mod weight;

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, ConnectionId, Control, Member, PresenceChange, Publication};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::sleep;
use uuid::Uuid;

use self::allowance::{Allowance, Excess};
use self::census::Books;
use self::kept::Kept;
use self::rooms::{Left, Rooms};
use crate::{
    AppendOptions, Appended, Away, Broker, BrokerError, Census, ChannelFacts, Claim, Claims, ControlBus,
    Cursor, History, InstanceFacts, MemberCount, Page, Pending, Portion, Presence, PresenceStatus, Query,
    Relay, Retain, Status, Suppressed, Target, Timings, Unsent, part_of,
};

/// Delivers to this instance's relay and to nobody else.
pub struct Memory {
    instance: Uuid,
    channels: Arc<Channels>,
    retain: Retain,
    reads: AtomicU64,
    timings: Timings,
    /// Where those who have left are waited for.
    runtime: Handle,
    claims: Mutex<HashMap<String, HashSet<ConnectionId>>>,
    books: Mutex<Books>,
    /// Held while a control message is handed over: the order of all senders.
    control: Mutex<()>,
}

/// What a timer needs as well.
struct Channels {
    relay: Arc<dyn Relay>,
    /// Held over a delivery: all publishers of a channel, on whatever thread, agree on one order, and so do comings
    /// and goings, and so does what is kept of them. Striped, because channels owe each other none.
    order: Box<[Mutex<Kept>]>,
    /// What may be kept in all.
    allowance: Arc<Allowance>,
    /// Locked after `order`, and not while the relay is called.
    rooms: Box<[Mutex<Rooms>]>,
}

impl Memory {
    /// A broker for the subscribers that `relay` knows; its timers run on `runtime`, and `retain` says
    /// which channels have a history. All histories, and the keys of what was appended once, take about `most` bytes
    /// together: what was published longest ago is forgotten before its time when there would be more.
    pub fn new(relay: Arc<dyn Relay>, retain: Retain, most: usize, instance: Uuid, runtime: &Handle) -> Self {
        let allowance = Arc::new(Allowance::new(most, STRIPES));
        let channels = Channels {
            relay,
            order: (0..STRIPES).map(|part| Mutex::new(Kept::new(allowance.clone(), part))).collect(),
            allowance,
            rooms: (0..STRIPES).map(|_| Mutex::default()).collect(),
        };
        Self {
            instance,
            channels: Arc::new(channels),
            retain,
            reads: AtomicU64::new(0),
            timings: Timings::default(),
            runtime: runtime.clone(),
            claims: Mutex::default(),
            books: Mutex::default(),
            control: Mutex::default(),
        }
    }

    /// The same, and it notes how long questions take.
    pub fn timed(self, timings: Timings) -> Self {
        Self { timings, ..self }
    }

    fn order(&self, channel: &Channel) -> &Mutex<Kept> {
        &self.channels.order[part_of(channel, STRIPES)]
    }

    fn append_now(
        &self,
        channel: &Channel,
        mut publication: Publication,
        options: &AppendOptions,
    ) -> Appended {
        let retention = (self.retain)(channel).filter(|_| !options.skip_history);
        let mut kept = self.order(channel).lock();
        if retention.is_some() || options.idempotency_key.is_some() {
            let now = Instant::now();
            kept.forget(now);
            if let Some(position) = kept.result(channel, options) {
                return Appended { position, suppressed: Some(Suppressed::Repeated) };
            }
            if let (Some(retention), Some(version)) = (retention, &options.version)
                && let Some(top) = kept.suppress(channel, version, retention, now)
            {
                return Appended { position: Some(top), suppressed: Some(Suppressed::Outdated) };
            }
            publication.position =
                retention.map(|retention| kept.append(channel, &publication, retention, now));
            kept.remember(channel, options, publication.position, now);
        }
        let position = publication.position;
        self.channels.relay.deliver(channel, publication);
        drop(kept);
        self.channels.make_room();
        Appended::published(position)
    }
}

impl Channels {
    /// Changes who is in a channel, and tells what there is to tell of it.
    fn change(&self, channel: &Channel, change: impl FnOnce(&mut Rooms) -> Option<PresenceChange>) {
        let stripe = part_of(channel, STRIPES);
        let _order = self.order[stripe].lock();
        let news = change(&mut self.rooms[stripe].lock());
        if let Some(news) = news {
            self.relay.presence(channel, news);
        }
    }

    /// Has as much forgotten as is too much, wherever it is. Each publication pays for what it takes, so this takes
    /// no longer than it took to publish what is given up.
    fn make_room(&self) {
        while let Some(excess) = self.allowance.excess() {
            match excess {
                Excess::History(part) => self.order[part].lock().give_up_history(),
                Excess::Result(part) => self.order[part].lock().give_up_result(),
            }
        }
    }

    fn rooms(&self, channel: &Channel) -> &Mutex<Rooms> {
        &self.rooms[part_of(channel, STRIPES)]
    }
}

impl Broker for Memory {
    fn subscribe<'a>(&'a self, _channel: &'a Channel) -> Pending<'a, ()> {
        Box::pin(ready(()))
    }

    fn release(&self, _channel: &Channel) {}

    fn publish(&self, channel: &Channel, publication: Publication) {
        self.append_now(channel, publication, &AppendOptions::default());
    }

    fn append<'a>(
        &'a self,
        channel: &'a Channel,
        publication: Publication,
        options: AppendOptions,
    ) -> Pending<'a, Result<Appended, BrokerError>> {
        Box::pin(ready(Ok(self.append_now(channel, publication, &options))))
    }

    fn history<'a>(
        &'a self,
        channel: &'a Channel,
        query: Query,
    ) -> Pending<'a, Result<History, BrokerError>> {
        let Some(retention) = (self.retain)(channel) else {
            return Box::pin(ready(Err(BrokerError::NoHistory)));
        };
        self.reads.fetch_add(1, Relaxed);
        let started = Instant::now();
        let mut kept = self.order(channel).lock();
        let now = Instant::now();
        kept.forget(now);
        let history = kept.read(channel, query, retention, now);
        drop(kept);
        self.timings.history.record(started.elapsed());
        Box::pin(ready(Ok(history)))
    }

    fn remove_history<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<(), BrokerError>> {
        if (self.retain)(channel).is_none() {
            return Box::pin(ready(Err(BrokerError::NoHistory)));
        }
        self.order(channel).lock().remove(channel);
        Box::pin(ready(Ok(())))
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(ready(()))
    }

    fn presence_status(&self) -> PresenceStatus {
        let members = self.channels.rooms.iter().map(|rooms| rooms.lock().members_of_all()).sum();
        PresenceStatus { members, ..PresenceStatus::default() }
    }

    /// Asked now and then for as long as the process runs, so that what nobody touches any more is forgotten too.
    fn status(&self) -> Status {
        let now = Instant::now();
        self.channels.order.iter().for_each(|stripe| stripe.lock().forget(now));
        let (publications_given_up, keys_given_up) = self.channels.allowance.given_up();
        Status {
            up: true,
            history_reads: self.reads.load(Relaxed),
            kept_bytes: self.channels.allowance.kept() as u64,
            publications_given_up,
            keys_given_up,
            ..Status::default()
        }
    }
}

impl Presence for Memory {
    fn enter(&self, channel: &Channel, member: Member) -> Pending<'static, Result<(), Away>> {
        self.channels.change(channel, |rooms| rooms.enter(channel, member));
        Box::pin(ready(Ok(())))
    }

    fn leave(&self, channel: &Channel, connection: ConnectionId, grace: Duration) {
        let mut later = None;
        self.channels.change(channel, |rooms| match rooms.leave(channel, connection, !grace.is_zero()) {
            Left::Nothing => None,
            Left::Told(change) => Some(change),
            Left::Awaited(awaited) => {
                later = Some(awaited);
                None
            }
        });
        if let Some(awaited) = later {
            let (channels, channel) = (Arc::downgrade(&self.channels), channel.clone());
            self.runtime.spawn(async move {
                sleep(grace).await;
                if let Some(channels) = Weak::upgrade(&channels) {
                    channels.change(&channel, |rooms| rooms.settle(&channel, awaited));
                }
            });
        }
    }

    fn members<'a>(
        &'a self,
        channel: &'a Channel,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<Member>, Away>> {
        let started = Instant::now();
        let page = self.channels.rooms(channel).lock().members(channel, &from, portion);
        self.timings.presence.record(started.elapsed());
        Box::pin(ready(Ok(page)))
    }

    fn member_count<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<MemberCount, Away>> {
        let started = Instant::now();
        let count = self.channels.rooms(channel).lock().count(channel);
        self.timings.presence.record(started.elapsed());
        Box::pin(ready(Ok(count)))
    }
}

impl Claims for Memory {
    fn claim<'a>(&'a self, user: &'a str, connection: ConnectionId, limit: u32) -> Pending<'a, Claim> {
        let mut claims = self.claims.lock();
        let held = claims.get(user);
        let full = held.map_or(0, HashSet::len) >= limit as usize;
        if full && !held.is_some_and(|held| held.contains(&connection)) {
            return Box::pin(ready(Claim::Full));
        }
        claims.entry(user.to_owned()).or_default().insert(connection);
        Box::pin(ready(Claim::Held))
    }

    fn give_back(&self, user: &str, connection: ConnectionId) {
        let mut claims = self.claims.lock();
        let Some(held) = claims.get_mut(user) else { return };
        held.remove(&connection);
        if held.is_empty() {
            claims.remove(user);
        }
    }
}

impl Census for Memory {
    fn describe(&self, facts: InstanceFacts) {
        self.books.lock().describe(facts);
    }

    fn subscribers_changed(&self, channel: &Channel) {
        // Asked under the lock: what is written last is what was asked last.
        let mut books = self.books.lock();
        let subscribers = self.channels.relay.subscribers(channel);
        books.count(channel, subscribers);
    }

    fn instances(&self) -> Pending<'_, Result<Vec<InstanceFacts>, Away>> {
        Box::pin(ready(Ok(self.books.lock().instances())))
    }

    fn channels<'a>(
        &'a self,
        pattern: Option<&'a str>,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>> {
        Box::pin(ready(Ok(self.books.lock().channels(pattern, &from, portion))))
    }
}

impl ControlBus for Memory {
    fn control(&self, target: Target, message: Control) -> Pending<'static, Result<(), Unsent>> {
        Box::pin(ready(match target {
            Target::Instance(instance) if instance != self.instance => Err(Unsent::Nobody(instance)),
            Target::All | Target::Instance(_) => {
                let _order = self.control.lock();
                self.channels.relay.control(message);
                Ok(())
            }
        }))
    }
}

const STRIPES: usize = 64;

#[cfg(test)]
mod tests;
