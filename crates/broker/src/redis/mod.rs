//! The broker that joins any number of instances through Redis: its publish and subscribe for what is said, its keys
//! for what is remembered.
//!
//! A [`Lane`] is one connection for publishing and one for listening; the channels are spread over the lanes. The
//! [`Ledger`] keeps this instance's rows (presence, claims, counts), the [`ControlPublisher`] sends control messages.
//!
//! Who stands on whom: a [`Link`] knows where Redis is and opens what all others speak over, which is [`commands`], to
//! one node or a cluster. A lane's publisher and the control publisher have one of their own each, and so has the
//! ledger (its `Line`), where the order of what is sent matters; what is only asked goes through [`Calls`], all over
//! one. [`SharedReads`] stands before those, for histories, and before it what a lane remembers of them ([`recent`]). A
//! lane's subscriber has the one connection that listens, and gives what comes to the [`Listener`]. Nothing here
//! decides what a publication means to a client.

mod append;
mod backoff;
mod batch;
mod calls;
mod commands;
mod config;
mod control;
mod control_publisher;
mod fault;
mod healer;
mod interest;
mod keys;
mod lane;
mod link;
mod listener;
mod log;
mod log_limit;
mod origins;
mod publisher;
mod questions;
mod reads;
mod recent;
mod rows;
mod script;
mod shared_reads;
mod streams;
mod subscriber;
mod witnesses;

use std::iter::repeat_n;
use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Control, Member, Publication};
use redis::Cmd;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::calls::Calls;
use self::config::is_tls;
use self::control_publisher::ControlPublisher;
use self::fault::Fault;
use self::keys::Keys;
use self::lane::Lane;
use self::link::Link;
use self::listener::Listener;
use self::questions::Questions;
use self::reads::Reading;
use self::rows::{Ledger, Names, reading};
use self::shared_reads::SharedReads;
use crate::{
    AppendOptions, Appended, Away, Broker, BrokerError, Census, ChannelFacts, Claim, Claims, ControlBus,
    Cursor, History, InstanceFacts, MemberCount, Page, Pending, Portion, Presence, PresenceStatus, Query,
    Relay, Retain, Status, Target, Unsent, part_of,
};

pub use self::config::{ConfigError, RedisConfig};

/// The instance's place on the bus. It works on the runtime that it was given until it is dropped.
pub struct Redis {
    lanes: Box<[Arc<Lane>]>,
    retain: Retain,
    calls: Arc<Calls>,
    reads: Arc<SharedReads>,
    ledger: Arc<Ledger>,
    controls: Arc<ControlPublisher>,
    /// Those about presence and instances; reads of histories are counted apart.
    questions: Questions,
    /// Three for each lane, two of the ledger, one of the control publisher.
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
        let reads = Arc::new(SharedReads::new(calls.clone(), config.timings.history.clone()));
        let mut tasks = Vec::new();
        let lanes = repeat_n(relay, config.lanes).enumerate().map(|(number, relay)| {
            let part = (number, config.lanes);
            let lobby = Some(Channel::lobby()).filter(|lobby| part_of(lobby, config.lanes) == number);
            let instance = (number == 0).then_some(config.instance);
            let lane = Arc::new(Lane::new(config, address.clone(), relay, retain.clone(), lobby, instance));
            let listener = Listener::new(lane.clone(), config.payload_limit, part);
            tasks.push(runtime.spawn(subscriber::subscribe(lane.clone(), link.clone(), listener)));
            tasks.push(runtime.spawn(publisher::publish(lane.clone(), link.clone())));
            tasks.push(runtime.spawn(healer::heal(lane.clone(), reads.clone(), config.position_check)));
            lane
        });
        let lanes: Box<[Arc<Lane>]> = lanes.collect();
        let controls = ControlPublisher::new(config.instance, lanes[0].relay.clone());
        tasks.push(runtime.spawn(control_publisher::proclaim(
            controls.clone(),
            lanes[0].clone(),
            link.clone(),
        )));
        let (names, keys) = (Names::new(&config.prefix), Keys::new(&config.prefix, Uuid::nil()));
        let ledger = Ledger::new(names, keys, link, lanes.clone(), config.lease);
        let mut tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        tasks.extend(ledger.start(runtime));
        let questions = Questions::new(config.timings.presence.clone());
        Ok(Self { lanes, retain, calls, reads, ledger, controls, questions, _tasks: tasks })
    }

    fn explain(&self, fault: &Fault) -> BrokerError {
        let said = self.lanes[0].because(fault);
        if fault.is_refusal() { BrokerError::Refused(said) } else { BrokerError::Away(said) }
    }

    fn read<'a, T>(
        &'a self,
        reading: impl Future<Output = Result<T, Fault>> + Send + 'a,
    ) -> Pending<'a, Result<T, Away>> {
        Box::pin(async {
            let read = self.questions.ask(reading).await;
            read.map_err(|fault| Away(self.lanes[0].because(&fault)))
        })
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
            if let Some(history) = lane.recent(channel, query) {
                return Ok(history);
            }
            let read = self.reads.read(Reading::of(&lane.keys, channel, query, retention)).await;
            let history = read.map_err(|fault| self.explain(&fault))?;
            lane.meet(channel, history.top).await;
            lane.remember(channel, query, &history);
            Ok(history)
        })
    }

    fn remove_history<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            (self.retain)(channel).ok_or(BrokerError::NoHistory)?;
            // The publications and not their numbers, which go on where they were.
            let (lane, mut command) = (self.lane(channel), Cmd::new());
            command.arg("DEL").arg(lane.keys.stream(channel));
            let removed = self.calls.call(command).await;
            lane.forget_recent(channel);
            removed.map(drop).map_err(|fault| self.explain(&fault))
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
        self.controls.add_to(&mut status);
        let (reads, failures) = self.questions.counts();
        status.reads += reads;
        status.read_failures += failures;
        status
    }

    fn status(&self) -> Status {
        let mut status = Status { up: true, ..Status::default() };
        self.lanes.iter().for_each(|lane| lane.add_to(&mut status));
        self.reads.add_to(&mut status);
        status
    }
}

impl Presence for Redis {
    fn enter(&self, channel: &Channel, member: Member) -> Pending<'static, Result<(), Away>> {
        self.ledger.enter(channel, member)
    }

    fn leave(&self, channel: &Channel, connection: ConnectionId, grace: Duration) {
        self.ledger.leave(channel, connection, grace);
    }

    fn members<'a>(
        &'a self,
        channel: &'a Channel,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<Member>, Away>> {
        self.read(
            async move { reading::members(&self.calls, self.ledger.names(), channel, &from, portion).await },
        )
    }

    fn member_count<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<MemberCount, Away>> {
        self.read(reading::member_count(&self.calls, self.ledger.names(), channel))
    }
}

impl Claims for Redis {
    fn claim<'a>(&'a self, user: &'a str, connection: ConnectionId, limit: u32) -> Pending<'a, Claim> {
        Box::pin(self.ledger.claim(user, connection, limit))
    }

    fn give_back(&self, user: &str, connection: ConnectionId) {
        self.ledger.give_back(user, connection);
    }
}

impl Census for Redis {
    fn describe(&self, facts: InstanceFacts) {
        self.ledger.describe(facts);
    }

    fn subscribers_changed(&self, channel: &Channel) {
        self.ledger.subscribers_changed(channel);
    }

    fn instances(&self) -> Pending<'_, Result<Vec<InstanceFacts>, Away>> {
        self.read(reading::instances(&self.calls, self.ledger.names()))
    }

    fn channels<'a>(
        &'a self,
        pattern: Option<&'a str>,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>> {
        self.read(async move {
            reading::channels(&self.calls, self.ledger.names(), pattern, &from, portion).await
        })
    }
}

impl ControlBus for Redis {
    fn control(&self, target: Target, message: Control) -> Pending<'static, Result<(), Unsent>> {
        self.controls.send(target, message)
    }
}
