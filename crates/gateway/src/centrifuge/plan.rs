//! What becomes of a client's wishes in a channel: of what it asks for, what its namespace and its token let it have.
//! Nothing is subscribed here.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::{Encoding as Written, Key, OnGap, Subscription};
use fanfare_protocol::centrifuge::{Encoding, ErrorCode, FOSSIL, Refusal, SubscribeRequest};
use fanfare_protocol::{Channel, ConnectionId, Epoch, Filter, Member, Position};

use super::commands::seconds_left;
use super::session::Client;
use super::subscriptions::{Presence, Sub};
use crate::identity::Grant;
use crate::namespace::{Namespace, Offer, may_read_presence};
use crate::worker::Worker;

/// Bit 2 of a request's flags: a position that cannot be recovered is an error.
const REJECT_UNRECOVERED: i64 = 2;

/// All filters of one connection take no more together. A few clients could keep others out with what they hold, and
/// would hold it for as long as they like; so it is not much more than what they may be subscribed to takes.
pub(super) const FILTERS: usize = 256 << 10;

/// Who has made a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The client asked for it.
    Client,
    /// The server did, because the connection's token says so.
    Token,
    /// The server did, for another reason.
    Server,
}

/// A subscription that may be made, and how.
pub(super) struct Plan {
    pub channel: Channel,
    pub worker: Rc<Worker>,
    pub key: Key,
    pub id: ConnectionId,
    pub encoding: Encoding,
    pub namespace: Arc<Namespace>,
    pub grant: Grant,
    /// Seconds until it has to be refreshed, as the client is told; none if it does not end.
    pub ttl: Option<u32>,
    pub origin: Origin,
    pub subscription: Subscription,
    pub presence: Presence,
    pub member: Member,
    /// Whether the client is told where the channel stands, and of a gap in it.
    pub positioned: bool,
    /// Whether the client may come back to where it was.
    pub recoverable: bool,
    /// Whether publications may be deltas to the one before.
    pub delta: bool,
    /// From where on the client wants what it has missed.
    pub since: Option<Position>,
    /// But it cannot have it, since it is given too much already.
    pub is_too_much: Cell<bool>,
    /// Whether it is refused if what was missed cannot be had.
    pub must_recover: bool,
}

impl Plan {
    /// From where on what was missed is read.
    pub fn wanted(&self) -> Option<Position> {
        self.since.filter(|_| !self.is_too_much.get())
    }

    /// Bytes that its filter takes.
    pub fn filter(&self) -> u32 {
        let filter = self.subscription.filter.as_ref().map_or(0, |filter| filter.bytes());
        u32::try_from(filter).unwrap_or(u32::MAX)
    }

    /// What the session knows of it.
    pub fn sub(&self, told: bool) -> Sub {
        Sub {
            channel: self.channel.clone(),
            told,
            info: self.grant.info.clone(),
            expiry: self.grant.expiry,
            by_server: self.origin != Origin::Client,
            in_token: self.origin == Origin::Token,
            presence: self.presence,
            filter: self.filter(),
        }
    }
}

impl Client {
    /// What becomes of a client's wishes in a channel that is open to it.
    pub(super) fn plan(
        &self,
        channel: Channel,
        request: &SubscribeRequest,
        grant: Grant,
        origin: Origin,
    ) -> Result<Plan, Refusal> {
        let namespaces = &self.worker.instance.config.channels;
        let namespace = namespaces.resolve(&channel).map_err(|_| ErrorCode::UnknownChannel)?.clone();
        let ttl = seconds_left(grant.expiry, ErrorCode::TokenExpired.into())?;
        let filter = request.tf.clone().map(Filter::parse).transpose()?;
        let features = namespace.features(&grant.overrides);
        let has = |offer: Offer, asked: bool| offer == Offer::Force || (offer == Offer::Allow && asked);
        let recoverable = has(features.recovery, request.recoverable || request.recover);
        let positioned = recoverable || has(features.positioning, request.positioned);
        let may_see = || may_read_presence(&namespace, &channel, &self.user, true).is_ok();
        let news = has(features.join_leave, request.join_leave && may_see());
        // A delta to what was left out is of no use.
        let delta = request.delta == FOSSIL && namespace.delta && filter.is_none() && !self.one_way;
        let mut format = self.format;
        match (delta, format.encoding) {
            (true, Written::Json) => format.encoding = Written::JsonDelta,
            (true, Written::Protobuf) => format.encoding = Written::ProtobufDelta,
            _ => {}
        }
        let presence = match (features.presence, features.join_leave) {
            (false, _) => Presence::Absent,
            (true, Offer::Off) => Presence::Quiet,
            (true, _) => Presence::Told,
        };
        let member = self.member(grant.info.as_ref(), presence);
        let subscription = Subscription {
            held: true,
            on_gap: if positioned { OnGap::Lapse } else { OnGap::Nothing },
            when_slow: namespace.slow_consumers.into(),
            news,
            filter: filter.map(Rc::new),
            beside: grant.info.as_ref().map_or(0, Bytes::len)
                + if presence == Presence::Absent { 0 } else { presence_bytes(&member) },
            ..Subscription::new(channel.clone(), format)
        };
        let since = (recoverable && request.recover)
            .then(|| Position { offset: request.offset, epoch: Epoch::claimed(&request.epoch) });
        Ok(Plan {
            worker: self.worker.clone(),
            key: self.key,
            id: self.id,
            encoding: self.encoding(),
            member,
            must_recover: request.flag & REJECT_UNRECOVERED != 0,
            channel,
            namespace,
            grant,
            ttl,
            origin,
            subscription,
            presence,
            positioned,
            recoverable,
            delta,
            since,
            is_too_much: Cell::new(false),
        })
    }
}

/// What the broker keeps of a member, in bytes, about: 1,280 were measured in a channel of its own, from memory.
fn presence_bytes(member: &Member) -> usize {
    const ROW: usize = 1280;
    ROW + member.info.len() + member.user.len()
}
