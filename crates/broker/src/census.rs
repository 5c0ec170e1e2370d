//! What there is over all instances: the instances themselves, and the channels with their subscribers. Each instance
//! writes about itself; whoever asks reads what is written and asks no instance.

use std::time::Duration;

use fanfare_protocol::Channel;
use uuid::Uuid;

use crate::{Away, Cursor, Page, Pending, Portion};

/// Facts about the cluster.
pub trait Census {
    /// Says how this instance is, now; others see it within seconds, until the instance's lease has ended. To be called
    /// every few seconds.
    fn describe(&self, facts: InstanceFacts);

    /// The number of subscribers that this instance has of a channel is another one than before; the relay is asked for
    /// it (`Relay::subscribers`), now and in a while, however often this is called.
    fn subscribers_changed(&self, channel: &Channel);

    /// Every instance that is alive and has described itself, in the order of their ids.
    fn instances(&self) -> Pending<'_, Result<Vec<InstanceFacts>, Away>>;

    /// A page of the channels that have subscribers, in no order. `pattern` is a glob as Redis
    /// has them: `*`, `?`, `[a-z]`, `\` before a character that is meant as such. A channel that has
    /// subscribers throughout comes in at least one page, and perhaps in two.
    fn channels<'a>(
        &'a self,
        pattern: Option<&'a str>,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<ChannelFacts>, Away>>;
}

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceFacts {
    /// The instance's id.
    pub id: Uuid,
    /// What people call it: its host, usually.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// Open connections.
    pub connections: u64,
    /// Different users among them.
    pub users: u64,
    /// Subscriptions of all connections.
    pub subscriptions: u64,
    /// Channels that have subscribers here.
    pub channels: u64,
    /// Since it started.
    pub uptime: Duration,
    /// The part of one core that it used lately: 1.0 is a whole core.
    pub cpu: f64,
    /// Bytes of memory that are resident.
    pub resident_bytes: u64,
}

/// How a channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelFacts {
    /// Which.
    pub channel: Channel,
    /// Connections that are subscribed, on all instances.
    pub subscribers: u64,
}
