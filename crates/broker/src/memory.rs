//! The broker of an instance that stands alone: what it publishes is delivered on the publisher's own
//! thread. There is no bus, so there is nothing that could be away.

mod census;
mod glob;
mod rooms;

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Control, Member, PresenceChange, Publication};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::sleep;
use uuid::Uuid;

use self::census::Books;
use self::rooms::{Left, Rooms};
use crate::{
    Away, Broker, Census, ChannelFacts, Claim, Claims, ControlBus, Cursor, InstanceFacts, MemberCount, Page,
    Pending, Presence, Relay, Status, Target, Unsent, part_of,
};

/// Delivers to this instance's relay and to nobody else.
pub struct Memory {
    instance: Uuid,
    channels: Arc<Channels>,
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
    /// and goings. Striped, because channels owe each other none.
    order: Box<[Mutex<()>]>,
    /// Locked after `order`, and not while the relay is called.
    rooms: Box<[Mutex<Rooms>]>,
}

impl Memory {
    /// A broker for the subscribers that `relay` knows; its timers run on `runtime`.
    pub fn new(relay: Arc<dyn Relay>, instance: Uuid, runtime: &Handle) -> Self {
        let channels = Channels {
            relay,
            order: (0..STRIPES).map(|_| Mutex::default()).collect(),
            rooms: (0..STRIPES).map(|_| Mutex::default()).collect(),
        };
        Self {
            instance,
            channels: Arc::new(channels),
            runtime: runtime.clone(),
            claims: Mutex::default(),
            books: Mutex::default(),
            control: Mutex::default(),
        }
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
        let _order = self.channels.order[part_of(channel, STRIPES)].lock();
        self.channels.relay.deliver(channel, publication);
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(ready(()))
    }

    fn status(&self) -> Status {
        Status { up: true, ..Status::default() }
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
        limit: usize,
    ) -> Pending<'a, Result<Page<Member>, Away>> {
        let page = self.channels.rooms(channel).lock().members(channel, &from, limit);
        Box::pin(ready(Ok(page)))
    }

    fn member_count<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<MemberCount, Away>> {
        let count = self.channels.rooms(channel).lock().count(channel);
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
        limit: usize,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>> {
        Box::pin(ready(Ok(self.books.lock().channels(pattern, &from, limit))))
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
