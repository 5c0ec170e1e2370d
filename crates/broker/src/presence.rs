//! Who is in which channel, over all instances. What the news are told to is the [`Relay`](crate::Relay).
//!
//! The instance's own word is the truth about its own connections: `enter` and `leave` never fail, they take effect
//! here at once and at the bus as soon as it can be reached.

use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Member};

use crate::{Away, Cursor, Page, Pending, Portion};

/// Presence in channels.
///
/// **Members** are connections: each is there from `enter` to `leave`, or until its instance's lease has ended.
///
/// **News** ([`PresenceChange`](fanfare_protocol::PresenceChange)) are about users. A user has joined with the first of
/// its connections in the channel, on whatever instance, and has left when the last of them is gone and none has
/// come within the grace time. So a user who comes back through another instance, also from one that was killed,
/// causes no news. An anonymous connection is a user of its own, without grace. Each change is told once, in one order
/// with the channel's publications, to every instance that is subscribed.
pub trait Presence {
    /// Takes a member in, or changes what is told about it. Registered by the call itself, also if the future is
    /// dropped; it resolves when every instance can see it, or says that the bus is away: then that will be so later.
    fn enter(&self, channel: &Channel, member: Member) -> Pending<'static, Result<(), Away>>;

    /// Lets a member go; nothing happens if it is not there. If it was its user's last, that is told after `grace`,
    /// unless the user is back by then: no grace for who unsubscribes, some for who lost its connection. Whatever the
    /// connection's instance has published before is at the bus before that is told.
    fn leave(&self, channel: &Channel, connection: ConnectionId, grace: Duration);

    /// A page of the members, in no order. Who is there throughout comes in at least one page,
    /// and perhaps in two.
    fn members<'a>(
        &'a self,
        channel: &'a Channel,
        from: Cursor,
        portion: Portion,
    ) -> Pending<'a, Result<Page<Member>, Away>>;

    /// How many there are, counted without reading them.
    fn member_count<'a>(&'a self, channel: &'a Channel) -> Pending<'a, Result<MemberCount, Away>>;
}

/// How many are in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberCount {
    /// Connections.
    pub clients: u64,
    /// Users, all anonymous ones together being one.
    pub users: u64,
}
