//! One publication to every instance.
//!
//! A [`Broker`] takes what this instance's clients publish and hands what anybody published to the
//! instance's [`Relay`]. It knows no sockets: who is interested is asked of the relay, by channel.
//!
//! [`Memory`] serves one instance by itself; [`Redis`] joins any number of them.

mod census;
mod claims;
mod control;
mod history;
mod memory;
mod paging;
mod presence;
mod redis;
mod stream;

use std::future::{Future, ready};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;

pub use self::census::{Census, ChannelFacts, InstanceFacts};
pub use self::claims::{Claim, Claims};
pub use self::control::{ControlBus, Target, Unsent};
pub use self::history::{
    AppendOptions, Appended, BrokerError, History, Query, Retain, Retention, Suppressed, Version, follow,
};
pub use self::memory::Memory;
pub use self::paging::{Cursor, Page, Portion};
pub use self::presence::{MemberCount, Presence};
pub use self::redis::{ConfigError, Redis, RedisConfig};

use fanfare_protocol::{Channel, Control, Position, PresenceChange, Publication};
use metrics::Histogram;

/// What an instance does with what the broker hands it. Called from the broker's own thread or, for the
/// memory broker, from the publisher's; it must not block and must not call back into the broker.
pub trait Relay: Send + Sync + 'static {
    /// A publication for whoever of this instance is subscribed. Calls for one channel come in the
    /// channel's order. Where the channel has a history, their offsets are one more each time, within an epoch and
    /// from the moment that a subscription has resolved; only a `gap` may come between. (What foreign publishers
    /// say has no position and stands outside of this. And where the memory broker has forgotten how far a quiet
    /// channel had come, the next offset is greater than all before, and nothing is missing.)
    fn deliver(&self, channel: &Channel, publication: Publication);

    /// Publications of these channels may have been missed. Where a channel has a history, the broker has tried to
    /// make good what was missed before it says so: they are in no history any more.
    fn gap(&self, gap: Gap);

    /// Resolves when all subscribers of this instance have been given what was said before.
    fn heard(&self) -> Pending<'_, ()> {
        Box::pin(async {})
    }

    /// Whether anybody of this instance is subscribed now.
    fn wanted(&self, channel: &Channel) -> bool;

    /// Somebody came or went, in the channel's order.
    fn presence(&self, _channel: &Channel, _change: PresenceChange) {}

    /// Something that an instance, perhaps this one, wants of this one, in the sender's order.
    fn control(&self, _message: Control) {}

    /// How many of this instance are subscribed now, for the census.
    fn subscribers(&self, channel: &Channel) -> u64 {
        u64::from(self.wanted(channel))
    }
}

/// A boxed future, as a trait object's method must return.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries publications to every instance, and what else they share. Interest is level-triggered: the relay's
/// `wanted` is the truth, `subscribe` and `release` only say that it changed.
pub trait Broker: Presence + Claims + Census + ControlBus + Send + Sync + 'static {
    /// Resolves when every publication made from now on will reach the relay. While the broker is away it
    /// resolves at once: local publications arrive, and what others publish is announced as a gap later.
    /// The interest is registered by the call itself, so a `release` must follow even if the future is dropped.
    fn subscribe<'a>(&'a self, channel: &'a Channel) -> Pending<'a, ()>;

    /// Nobody may be interested any more. The broker lets a while pass, asks `wanted`, and unsubscribes.
    fn release(&self, channel: &Channel);

    /// Publishes, without waiting. Publications of one thread to one channel keep their order. Where the channel has
    /// a history, it is appended to that; while the broker is away, that waits, and so does the delivery here.
    fn publish(&self, channel: &Channel, publication: Publication);

    /// Publishes, and resolves when the broker has it, with what came of it. While the
    /// broker is away, it is an error at once, and nothing is published. The call itself puts it into the order of
    /// this thread's publications, but it may not be published if the future is dropped.
    fn append<'a>(
        &'a self,
        channel: &'a Channel,
        publication: Publication,
        options: AppendOptions,
    ) -> Pending<'a, Result<Appended, BrokerError>>;

    /// Reads a channel's history, in one call to where it is kept.
    fn history<'a>(&'a self, channel: &'a Channel, query: Query)
    -> Pending<'a, Result<History, BrokerError>>;

    /// Forgets the publications of a channel's history; its numbering goes on.
    fn remove_history<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<(), BrokerError>>;

    /// Where a channel's history stands.
    fn position<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<Position, BrokerError>> {
        let read = self.history(channel, Query::TOP);
        Box::pin(async { Ok(read.await?.top) })
    }

    /// Resolves when there is room for more; publishers wait for it between reads, so a slow bus slows
    /// its publishers and fills no memory. It does not wait for a broker that is away.
    fn ready(&self) -> Pending<'_, ()>;

    /// Resolves when everything published so far is at the bus, or when the broker is away: what an
    /// instance that is about to end waits for, within a deadline of its own.
    fn flush(&self) -> Pending<'_, ()> {
        Box::pin(ready(()))
    }

    /// The instance is about to end: writes what is left to write, and leaves the rest of what it has said about
    /// itself to the others to clear away, at once instead of after its lease. Who was in a channel and may be back
    /// is still waited for. Nothing may be said afterwards.
    fn resign(&self) -> Pending<'_, ()> {
        Box::pin(ready(()))
    }

    /// What it does now, and how often things have happened: cached, never asked over the network.
    fn status(&self) -> Status;

    /// The same of presence, claims, census and control.
    fn presence_status(&self) -> PresenceStatus;
}

/// Publications that may have been missed: announced to whoever asked to be told, never passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where; nothing stands for every channel of the instance.
    pub channels: Option<Vec<Channel>>,
    /// Why.
    pub cause: GapCause,
}

/// Why publications may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The connection on which the bus is heard broke.
    Disconnected,
    /// That connection is open, but the canary did not come back through it.
    Deaf,
    /// An instance could not publish for longer than its spool lasted, or was refused.
    Overflow,
    /// What was missed is not in the channel's history any more, or the history has begun anew.
    Forgotten,
}

impl GapCause {
    /// Every cause, for those who count by it.
    pub const ALL: [Self; 4] = [Self::Disconnected, Self::Deaf, Self::Overflow, Self::Forgotten];

    /// The value of the metric label `cause`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Deaf => "deaf",
            Self::Overflow => "overflow",
            Self::Forgotten => "forgotten",
        }
    }
}

/// A broker's state and counts, since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Publications go out and come in. Always so for the memory broker.
    pub up: bool,
    /// Why not, for a person who reads `/readyz`; never a secret.
    pub down_because: Option<String>,
    /// Channels to which the instance is subscribed at the bus.
    pub subscriptions: u64,
    /// Times that a broken connection to the bus was replaced.
    pub reconnects: u64,
    /// Messages on the bus that claimed to be an envelope and could not be read.
    pub unknown_envelopes: u64,
    /// Publications that came a second time and were not relayed again.
    pub duplicates: u64,
    /// Bytes of publications that wait for the bus.
    pub spool_bytes: u64,
    /// Publications that others will never see, because the spool was full.
    pub spool_dropped: u64,
    /// Publications that the bus did not bring and that were delivered out of their channel's history.
    pub healed_publications: u64,
    /// Times that a hole in a channel was made good out of its history.
    pub heals_whole: u64,
    /// Times that it could not be made good, or not wholly, which was announced as a gap.
    pub heals_with_gap: u64,
    /// Reads of a history, whoever asked.
    pub history_reads: u64,
    /// Of these, those that failed.
    pub history_failures: u64,
    /// Bytes that histories and idempotency keys take here; 0, where they are kept elsewhere.
    pub kept_bytes: u64,
    /// Publications of histories that were forgotten here before their time, because all were too much.
    pub publications_given_up: u64,
    /// The same of idempotency keys.
    pub keys_given_up: u64,
}

/// What there is of presence and the like, since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PresenceStatus {
    /// Members of all channels that are connections of this instance; through Redis, with those who may be back.
    pub members: u64,
    /// Questions about presence, instances and channels, whoever asked.
    pub reads: u64,
    /// Of these, those that failed.
    pub read_failures: u64,
    /// Times that this instance's lease was lost, and its rows were written again.
    pub leases_lost: u64,
    /// Leases of other instances that this one ended, because they were not renewed.
    pub leases_ended: u64,
    /// Rows that this instance removed after leases had ended, whoever ended them.
    pub rows_cleared: u64,
    /// Control messages that others were sent.
    pub controls_sent: u64,
    /// Control messages that others will not get.
    pub controls_unsent: u64,
}

/// Where it is noted how long each question took, in seconds, answered or not. By default it is not.
#[derive(Clone)]
pub struct Timings {
    /// Reads of a history.
    pub history: Histogram,
    /// Questions about presence, instances and channels.
    pub presence: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        Self { history: Histogram::noop(), presence: Histogram::noop() }
    }
}

/// The bus cannot be asked; the words say why, for a person, and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// Which of `parts` a channel belongs to; the same for as long as the process runs.
fn part_of(channel: &Channel, parts: usize) -> usize {
    if parts == 1 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    channel.hash(&mut hasher);
    (hasher.finish() % parts as u64) as usize
}
