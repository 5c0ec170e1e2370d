//! The broker that joins any number of instances through Redis: its publish and subscribe for what is said, its keys for
//! what is remembered.
//!
//! A [`Lane`] is one connection for publishing and one for listening; the channels are spread over the lanes. The
//! [`Ledger`] keeps this instance's rows (presence, claims, counts), the [`Herald`] sends control messages.

mod append;
mod backoff;
mod batch;
mod calls;
mod commands;
mod config;
mod control;
mod ear;
mod fault;
mod healer;
mod herald;
mod interest;
mod keys;
mod lane;
mod library;
mod link;
mod log;
mod occasionally;
mod origins;
mod publisher;
mod questions;
mod reads;
mod rows;
mod script;
mod shared;
mod streams;
mod subscriber;

use std::iter::repeat_n;
use std::sync::Arc;

use fanfare_protocol::{Channel, Publication};
use redis::Cmd;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::calls::Calls;
use self::config::is_tls;
use self::ear::Ear;
use self::fault::Fault;
use self::herald::Herald;
use self::keys::Keys;
use self::lane::Lane;
use self::library::Library;
use self::link::Link;
use self::questions::Questions;
use self::reads::Reading;
use self::rows::{Ledger, Names};
use crate::{
    AppendOptions, Appended, Broker, BrokerError, History, Pending, PresenceStatus, Query, Relay, Retain,
    Status, part_of,
};

pub use self::config::{ConfigError, RedisConfig};

/// The instance's place on the bus. It works on the runtime that it was given until it is dropped.
pub struct Redis {
    lanes: Box<[Arc<Lane>]>,
    retain: Retain,
    calls: Arc<Calls>,
    library: Arc<Library>,
    ledger: Arc<Ledger>,
    herald: Arc<Herald>,
    /// Those about presence and instances; the library counts its own.
    questions: Questions,
    /// Three for each lane, two of the ledger, one of the herald.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Redis {
    /// Begins to connect and never gives up; that Redis is away is no error. Its tasks run on `runtime`; `retain` says
    /// which channels have a history.
    pub fn start(
        config: &RedisConfig,
        relay: Arc<dyn Relay>,
        retain: Retain,
        runtime: &Handle,
    ) -> Result<Self, ConfigError> {
        let nodes = config.nodes()?;
        let info = nodes[0].clone();
        if is_tls(&info) {
            // An error says that the process has chosen a provider already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let address = info.addr().to_string();
        let is_cluster = config.cluster.is_some();
        let link = Link::new(nodes, is_cluster, config.timeout).map_err(|_| ConfigError::Url)?;
        let calls = Arc::new(Calls::start(link.clone(), link.pool().map_err(|_| ConfigError::Url)?, runtime));
        let library = Arc::new(Library::new(calls.clone(), config.timings.history.clone()));
        let mut tasks = Vec::new();
        let lanes = repeat_n(relay, config.lanes).enumerate().map(|(number, relay)| {
            let part = (number, config.lanes);
            let lobby = Some(Channel::lobby()).filter(|lobby| part_of(lobby, config.lanes) == number);
            let mut lane = Lane::new(config, address.clone(), relay, retain.clone(), lobby);
            lane.instance = (number == 0).then_some(config.instance);
            let lane = Arc::new(lane);
            let ear = Ear::new(lane.clone(), config.payload_limit, part);
            tasks.push(runtime.spawn(subscriber::subscribe(lane.clone(), link.clone(), ear)));
            tasks.push(runtime.spawn(publisher::publish(lane.clone(), link.clone())));
            tasks.push(runtime.spawn(healer::heal(lane.clone(), library.clone(), config.position_check)));
            lane
        });
        let lanes: Box<[Arc<Lane>]> = lanes.collect();
        let herald = Herald::new(config.instance, lanes[0].relay.clone());
        tasks.push(runtime.spawn(herald::proclaim(herald.clone(), lanes[0].clone(), link.clone())));
        let (names, keys) = (Names::new(&config.prefix), Keys::new(&config.prefix, Uuid::nil()));
        let ledger = Ledger::new(names, keys, link, lanes.clone(), config.lease);
        let mut tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        tasks.extend(ledger.start(runtime));
        let questions = Questions::new(config.timings.presence.clone());
        Ok(Self { lanes, retain, calls, library, ledger, herald, questions, _tasks: tasks })
    }

    fn explain(&self, fault: &Fault) -> BrokerError {
        let said = self.lanes[0].because(fault);
        if fault.is_refusal() { BrokerError::Refused(said) } else { BrokerError::Away(said) }
    }

    fn lane(&self, channel: &Channel) -> &Arc<Lane> {
        &self.lanes[part_of(channel, self.lanes.len())]
    }
}

impl Broker for Redis {
    fn subscribe<'a>(&'a self, channel: &'a Channel) -> Pending<'a, ()> {
        self.lane(channel).subscribe(channel)
    }

    fn release(&self, channel: &Channel) {
        self.lane(channel).release(channel);
    }

    fn publish(&self, channel: &Channel, publication: Publication) {
        self.lane(channel).publish(channel, publication);
    }

    fn append<'a>(
        &'a self,
        channel: &'a Channel,
        publication: Publication,
        options: AppendOptions,
    ) -> Pending<'a, Result<Appended, BrokerError>> {
        self.lane(channel).append(channel, publication, options)
    }

    fn history<'a>(
        &'a self,
        channel: &'a Channel,
        query: Query,
    ) -> Pending<'a, Result<History, BrokerError>> {
        Box::pin(async move {
            let retention = (self.retain)(channel).ok_or(BrokerError::NoHistory)?;
            let lane = self.lane(channel);
            let read = self.library.read(Reading::of(&lane.keys, channel, query, retention)).await;
            let history = read.map_err(|fault| self.explain(&fault))?;
            // Before it is answered: what is still on its way out of an older epoch is nothing for whoever asks.
            let (now, relay) = (std::time::Instant::now(), &*lane.relay);
            let moved = lane.order.lock().streams.meet(channel, history.top, now, relay);
            if moved {
                lane.heal.notify_one();
                // Who asks may be subscribed as well, and held what is worth nothing now.
                lane.relay.heard().await;
            }
            Ok(history)
        })
    }

    fn remove_history<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            (self.retain)(channel).ok_or(BrokerError::NoHistory)?;
            // The publications and not their numbers, which go on where they were.
            let mut command = Cmd::new();
            command.arg("DEL").arg(self.lane(channel).keys.stream(channel));
            self.calls.call(command).await.map(drop).map_err(|fault| self.explain(&fault))
        })
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(async {
            for lane in &self.lanes {
                lane.ready().await;
            }
        })
    }

    fn flush(&self) -> Pending<'_, ()> {
        Box::pin(async {
            for lane in &self.lanes {
                lane.flush().await;
            }
        })
    }

    fn resign(&self) -> Pending<'_, ()> {
        Box::pin(self.ledger.resign())
    }

    fn presence_status(&self) -> PresenceStatus {
        let mut status = PresenceStatus::default();
        self.ledger.add_to(&mut status);
        self.herald.add_to(&mut status);
        let (reads, failures) = self.questions.counts();
        status.reads += reads;
        status.read_failures += failures;
        status
    }

    fn status(&self) -> Status {
        let mut status = Status { up: true, ..Status::default() };
        self.lanes.iter().for_each(|lane| lane.add_to(&mut status));
        self.library.add_to(&mut status);
        status
    }
}
