//! What all connections of one thread share: its shard of the hub, one buffer to read into, and who is here. It knows
//! neither handshakes nor sessions, and nobody but its thread reaches it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use fanfare_broker::Broker;
use fanfare_hub::{Inbox, Key, Observer, Settings, Shard};
use fanfare_protocol::{Channel, Control};
use fanfare_websocket::deflate::Inflater;
use http::HeaderValue;

use crate::admission::recoveries::Recoveries;
use crate::instance::Instance;
use crate::memory::Budget;
use crate::registers::{Roster, Sessions};
use crate::relay::HubRelay;

/// One read takes at most so many bytes. Larger would only make a busy publisher less fair to its neighbours.
pub const SCRATCH: usize = 64 << 10;

/// See the module.
pub struct Worker {
    /// Its place among the workers.
    pub number: usize,
    /// What it shares with the other workers.
    pub instance: Arc<Instance>,
    /// Its connections, as the hub has them.
    pub shard: Shard,
    /// What is read goes here, and is decoded in place. Nobody keeps it over an `.await`.
    pub scratch: RefCell<Box<[u8]>>,
    /// What inflates messages, of one connection after the other.
    pub inflater: RefCell<Inflater>,
    /// The sessions that may be wanted by others.
    pub roster: Rc<Roster>,
    /// The instance's id, ready to be put into answers.
    pub instance_id: HeaderValue,
    /// The pace of those who have missed something.
    pub recoveries: Recoveries,
    /// Held by each task of a connection's, so that they can be counted.
    pub alive: Rc<()>,
    draining: Cell<bool>,
}

impl Worker {
    /// The one that reads this inbox; it begins at once to do what comes there. To be called on its thread, within a
    /// `LocalSet`.
    pub fn new(number: usize, inbox: Inbox, instance: Arc<Instance>, instance_id: HeaderValue) -> Rc<Self> {
        let (broker, relay, memory) =
            (instance.broker.clone(), instance.relay.clone(), instance.memory.clone());
        let roster = Rc::new(Roster::new(instance.sessions.clone()));
        let watch = Watch { broker, relay, memory, roster: roster.clone() };
        let (settings, lag) = (settings(&instance), instance.telemetry.lag());
        let alive = Rc::new(());
        let counted = alive.clone();
        // This and the worker's own are no task's.
        let tasks = move || Rc::strong_count(&counted) - 2;
        Rc::new(Self {
            number,
            shard: Shard::start(inbox, settings, lag, watch, tasks),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            inflater: RefCell::default(),
            roster,
            instance_id,
            recoveries: Recoveries::new(instance.config.recovery_rate),
            alive,
            draining: Cell::new(false),
            instance,
        })
    }

    /// Whether handshakes are refused because the instance is being emptied.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// From now on they are.
    pub fn refuse_handshakes(&self) {
        self.draining.set(true);
    }

    /// Those of the whole instance whose clients speak by requests.
    pub fn sessions(&self) -> &Sessions {
        &self.instance.sessions
    }
}

/// Tells the broker of channels that nobody here wants any more, and the budget of what a turn has taken.
struct Watch {
    broker: Arc<dyn Broker>,
    relay: Arc<HubRelay>,
    roster: Rc<Roster>,
    memory: Arc<Budget>,
}

impl Observer for Watch {
    fn released(&self, channel: &Channel) {
        self.relay.forget(channel);
        self.broker.release(channel);
    }

    fn subscribers_changed(&self, channel: &Channel) {
        self.broker.subscribers_changed(channel);
    }

    fn lapsed(&self, key: Key, channel: &Channel) {
        self.roster.lapsed(key, channel);
    }

    fn ended(&self, key: Key) {
        self.roster.ended(key);
    }

    fn control(&self, message: &Arc<Control>) {
        self.roster.control(message);
    }

    fn turned(&self) {
        self.memory.tally();
    }
}

fn settings(instance: &Instance) -> Settings {
    let config = &instance.config;
    Settings {
        weigh_sockets: instance.weighs_sockets,
        ping_interval: config.ping_interval,
        idle_timeout: config.idle_timeout,
        close_timeout: config.close_timeout,
        client_ping_interval: config.client_ping_interval,
        pong_timeout: config.client_pong_timeout,
        stale_timeout: config.handshake_timeout,
    }
}
