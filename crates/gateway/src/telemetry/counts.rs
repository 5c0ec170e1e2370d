//! What the sessions of an instance count, by the method and result of commands, by outcome of recoveries, and by the
//! namespaces of the configuration, of which no more than so many have a label of their own.

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_broker::Suppressed;
use fanfare_protocol::centrifuge::{Refusal, Request};

use super::tally::Tally;
use crate::config::Namespaces;
use crate::recovery::Outcome;

/// So many namespaces are counted by themselves; the rest together.
const NAMESPACES: usize = 50;

/// The label of the rest. No namespace can be named so.
const REST: &str = "(other)";

/// See the module.
pub struct Counts {
    commands: [[AtomicU64; Self::RESULTS.len()]; Self::METHODS.len()],
    recoveries: Tally,
    suppressed: Tally,
    namespaces: Vec<InNamespace>,
}

#[derive(Default)]
struct InNamespace {
    label: String,
    publications: AtomicU64,
    subscriptions: AtomicU64,
}

impl Counts {
    /// The values of the label `method`.
    pub const METHODS: [&'static str; 12] = [
        "pong",
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "rpc",
        "send",
        "refresh",
        "sub_refresh",
    ];

    /// The values of the label `result`.
    pub const RESULTS: [&'static str; 3] = ["ok", "error", "disconnect"];

    /// Nothing has happened yet in these namespaces.
    pub fn new(namespaces: &Namespaces) -> Self {
        let labels = namespaces.iter().take(NAMESPACES).map(|namespace| namespace.label().to_owned());
        let rest = (namespaces.iter().count() > NAMESPACES).then(|| REST.to_owned());
        let namespaces = labels.chain(rest).map(|label| InNamespace { label, ..InNamespace::default() });
        Self {
            commands: [const { [const { AtomicU64::new(0) }; Self::RESULTS.len()] }; Self::METHODS.len()],
            recoveries: Tally::of(Outcome::LABELS),
            suppressed: Tally::of(Suppressed::ALL.map(Suppressed::label)),
            namespaces: namespaces.collect(),
        }
    }

    /// A command has had this result.
    pub fn command<T>(&self, method: Method, result: &Result<T, Refusal>) {
        let result = match result {
            Ok(_) => 0,
            Err(Refusal::Error(_)) => 1,
            Err(Refusal::Disconnect(_)) => 2,
        };
        add(&self.commands[method.0][result]);
    }

    /// A subscription wanted what it had missed.
    pub fn recovery(&self, outcome: Outcome) {
        self.recoveries.count(outcome as usize);
    }

    /// Somebody has published in the namespace of this index.
    pub fn publication(&self, namespace: usize) {
        add(&self.namespaces[namespace.min(self.namespaces.len() - 1)].publications);
    }

    /// Something was rightly not published.
    pub fn suppressed(&self, why: Suppressed) {
        self.suppressed.count(why as usize);
    }

    /// A client has been subscribed in the namespace of this index.
    pub fn subscription(&self, namespace: usize) {
        add(&self.namespaces[namespace.min(self.namespaces.len() - 1)].subscriptions);
    }

    /// Commands, by method and result.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        Self::METHODS.into_iter().zip(&self.commands).flat_map(|(method, results)| {
            Self::RESULTS.into_iter().zip(results).map(move |(result, count)| (method, result, read(count)))
        })
    }

    /// Recoveries, by outcome.
    pub fn recoveries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.recoveries.read()
    }

    /// What was rightly not published, by reason.
    pub fn all_suppressed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.suppressed.read()
    }

    /// Publications and subscriptions, by namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.namespaces.iter().map(|of| (&*of.label, read(&of.publications), read(&of.subscriptions)))
    }
}

/// A method's place among the labels.
#[derive(Debug, Clone, Copy)]
pub struct Method(usize);

impl Method {
    /// Of a request.
    pub fn of(request: &Request) -> Self {
        let place = match request {
            Request::Pong => 0,
            Request::Connect(_) => 1,
            Request::Subscribe(_) => 2,
            Request::Unsubscribe(_) => 3,
            Request::Publish(_) => 4,
            Request::Presence(_) => 5,
            Request::PresenceStats(_) => 6,
            Request::History(_) => 7,
            Request::Rpc(_) => 8,
            Request::Send(_) => 9,
            Request::Refresh(_) => 10,
            Request::SubRefresh(_) => 11,
        };
        debug_assert_eq!(Counts::METHODS[place], request.name());
        Self(place)
    }

    /// Of a subscription.
    pub const SUBSCRIBE: Self = Self(2);

    /// Of a publication.
    pub const PUBLISH: Self = Self(4);
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}
