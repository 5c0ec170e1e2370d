//! Subscribing, and the ends of subscriptions (specification, sections 4.1 to 4.3 and 4.8).
//!
//! What makes that nothing is lost and nothing doubled is an order: the hub *holds* the channel's publications for this
//! connection; the broker confirms that all that is published from now on comes; only then is the history read, up to a
//! position; and the hub lets go what comes after that position, behind the answer. Nobody who delivers waits for any of
//! it. If what is held has a gap, the hub has ended the subscription when the answer is ready, and it is made anew.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::Query;
use fanfare_hub::{Encoding as Written, Key, OnGap, Subscription, WhenSlow};
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, Encoding, ErrorCode, Event, FOSSIL, Publication, Push, Refusal, Request,
    SubscribeRequest, SubscribeResult, Unsubscribe, UnsubscribeCode,
};
use fanfare_protocol::{Channel, ConnectionId, Epoch, Filter, Member, Position};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::alarm::has_passed;
use super::commands::{refusal, seconds_left};
use super::counts::Method;
use super::recovery::{self, Outcome};
use super::session::{Client, Stage};
use super::subscriptions::{Presence, Sub};
use crate::identity::Grant;
use crate::namespace::{
    Namespace, Refusal as Refused, SlowConsumers, Wish, may_read_presence, may_subscribe,
};
use crate::recoveries::Room;
use crate::session::{has_taken_it_all, is_pressed, wait_for_room};
use crate::worker::Worker;

/// How often a subscription is begun anew because of a gap, before the client is asked to come again later.
const ATTEMPTS: u32 = 3;

/// How many are made at the same time, of those that have nothing to recover.
const AT_ONCE: usize = 16;

/// So much of what a client has missed is read, about, for an answer that holds it for all of its channels.
const ENOUGH: usize = 1 << 20;

/// Bit 2 of a request's flags: a position that cannot be recovered is an error.
const REJECT_UNRECOVERED: i64 = 2;

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

/// A subscription that a client has asked for and may have.
struct Wished {
    channel: Channel,
    request: Box<SubscribeRequest>,
    grant: Grant,
}

/// A subscription that may be made, and how.
pub(super) struct Plan {
    pub channel: Channel,
    worker: Rc<Worker>,
    key: Key,
    id: ConnectionId,
    encoding: Encoding,
    namespace: Arc<Namespace>,
    grant: Grant,
    ttl: Option<u32>,
    origin: Origin,
    subscription: Subscription,
    presence: Presence,
    member: Member,
    positioned: bool,
    recoverable: bool,
    delta: bool,
    /// From where on the client wants what it has missed.
    since: Option<Position>,
    /// But it cannot have it, since it is given too much already.
    is_too_much: Cell<bool>,
    must_recover: bool,
}

/// A subscription that is made, and whose publications are held until its answer is on its way.
pub(super) struct Established {
    pub result: SubscribeResult,
    /// The client has everything up to this offset.
    pub after: u64,
    /// What has been read of what was missed.
    bytes: usize,
}

impl Plan {
    /// What the session knows of it.
    fn sub(&self, told: bool) -> Sub {
        Sub {
            channel: self.channel.clone(),
            told,
            info: self.grant.info.clone(),
            expiry: self.grant.expiry,
            by_server: self.origin != Origin::Client,
            in_token: self.origin == Origin::Token,
            presence: self.presence,
        }
    }
}

impl Client {
    /// Subscribes as a client asks for it, and with it to what the client asks for right behind it: a client that comes
    /// back with many subscriptions does not wait for the broker once for each. Answers come in the client's order.
    pub(super) async fn subscribe(&mut self, id: u32, request: Request, out: &mut Vec<u8>) {
        let mut asked = vec![(id, self.wish(request, &[]).await)];
        while asked.len() < AT_ONCE
            && asked.last().is_some_and(|(_, last)| !matches!(last, Err(Refusal::Disconnect(_))))
            && let Some(Command { id, request }) =
                self.next_if(|request| matches!(request, Request::Subscribe(_)))
        {
            let wish = match self.is_in_rate() {
                true => self.wish(request, &asked).await,
                false => Err(DisconnectCode::TooManyRequests.into()),
            };
            asked.push((id, wish));
        }
        let plans = asked.iter().map(|(_, wish)| match wish {
            Ok(wish) => self.plan_for(wish),
            Err(refusal) => Err(*refusal),
        });
        let plans: Vec<_> = plans.collect();
        // From here on what the back end wants, and ends, concern them as well.
        plans.iter().flatten().for_each(|plan| self.subs.put(plan.sub(false)));
        let established = plans.iter().map(|plan| async {
            match plan {
                // In its turn: what was missed is held in memory until it is written.
                Ok(plan) if plan.since.is_some() => Ok(None),
                Ok(plan) => establish(plan).await.map(Some),
                Err(refusal) => Err(*refusal),
            }
        });
        let established = join_all(established).await;
        for (((id, wish), plan), established) in asked.into_iter().zip(plans).zip(established) {
            if self.stage == Stage::Over {
                // Told to go by one before it.
                plan.iter().for_each(undo);
                continue;
            }
            let channel = wish.as_ref().ok().map(|wish| wish.channel.clone());
            let result = match (wish, plan, established) {
                (Ok(wish), Ok(plan), Ok(Some(established))) => {
                    self.answer_with(id, &wish, plan, established, out).await
                }
                (Ok(wish), Ok(plan), Ok(None)) => self.recover(id, &wish, plan, out).await,
                (Err(refusal), ..) | (_, Err(refusal), _) | (.., Err(refusal)) => Err(refusal),
            };
            self.worker.instance.counts.command(Method::SUBSCRIBE, &result);
            if let Err(refusal) = result {
                channel.iter().for_each(|channel| self.subs.forget_untold(channel));
                self.refuse(id, refusal, out);
            }
        }
    }

    /// Makes a subscription in which something may have been missed, and answers with it.
    async fn recover(
        &mut self,
        id: u32,
        wish: &Wished,
        plan: Plan,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (worker, key) = (self.worker.clone(), self.key);
        let room = async {
            // What another channel has missed may be as much as an outbox holds; a client that reads gets both.
            has_taken_it_all(&worker, key).await;
            room_to_recover(&worker, key).await
        };
        let _room = self.meanwhile(out, room).await.ok_or(DisconnectCode::ConnectionClosed)?;
        self.is_still_wanted(&plan)?;
        let established = establish(&plan).await?;
        self.answer_with(id, wish, plan, established, out).await
    }

    /// Makes all of these, whose answers are one. Of what was missed, no more is read than is enough; the rest counts as lost.
    pub(super) async fn establish_all(
        &self,
        plans: &[Plan],
    ) -> (Vec<Result<Established, Refusal>>, Option<Room>) {
        let recovers = plans.iter().any(|plan| plan.since.is_some());
        let room = if recovers { Some(room_to_recover(&self.worker, self.key).await) } else { None };
        let (one, held) = (Semaphore::new(1), Cell::new(0));
        let established = plans.iter().map(|plan| async {
            if plan.since.is_none() {
                return establish(plan).await;
            }
            // Never closed.
            let _next = one.acquire().await;
            plan.is_too_much.set(held.get() > ENOUGH);
            let established = establish(plan).await?;
            held.set(held.get() + established.bytes);
            Ok(established)
        });
        (join_all(established).await, room)
    }

    /// What a client asks for, if it may have it beside what it has asked for just before.
    async fn wish(
        &self,
        request: Request,
        before: &[(u32, Result<Wished, Refusal>)],
    ) -> Result<Wished, Refusal> {
        request.check()?;
        let Request::Subscribe(request) = request else { return Err(DisconnectCode::BadRequest.into()) };
        let channel = Channel::new(&request.channel)?;
        let mut others = before.iter().filter_map(|(_, wish)| wish.as_ref().ok());
        // It would stay, and there is nothing to be given up for it: the client asks again later.
        if self.worker.instance.memory.is_full() {
            return Err(ErrorCode::Internal.into());
        }
        if self.subs.get(&channel).is_some() || others.any(|other| other.channel == channel) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        let most = self.worker.instance.config.max_channels;
        let wished = before.iter().filter(|(_, wish)| wish.is_ok()).count();
        if most.is_some_and(|most| self.subs.len() + wished >= most.get() as usize) {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let grant = self.granted(&channel, &request.token).await?;
        Ok(Wished { channel, request, grant })
    }

    fn plan_for(&self, Wished { channel, request, grant }: &Wished) -> Result<Plan, Refusal> {
        self.plan(channel.clone(), request, grant.clone(), Origin::Client)
    }

    /// Answers with a subscription that is made; makes it anew if a gap has ended it meanwhile.
    async fn answer_with(
        &mut self,
        id: u32,
        wish: &Wished,
        mut plan: Plan,
        mut established: Established,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        self.is_still_wanted(&plan)?;
        for _ in 0..ATTEMPTS {
            if self.worker.shard.is_subscribed(self.key, &wish.channel) {
                let Established { result, after, .. } = established;
                if self.encoding().put_answer(out, id, &Answer::Subscribe(result)).is_err() {
                    undo(&plan);
                    return Err(DisconnectCode::InappropriateProtocol.into());
                }
                let answer = self.take_carried(out);
                self.install(&plan, &answer, after);
                return Ok(());
            }
            undo(&plan);
            plan = self.plan_for(wish)?;
            established = establish(&plan).await?;
        }
        undo(&plan);
        Err(ErrorCode::Internal.into())
    }

    /// What is under way may have been taken back by the back end, which has told the client so, or have come to its end.
    fn is_still_wanted(&self, plan: &Plan) -> Result<(), Refusal> {
        match self.subs.get(&plan.channel) {
            Some(sub) if !sub.told => Ok(()),
            // And then the back end has made one.
            Some(_) => Err(ErrorCode::AlreadySubscribed.into()),
            None => {
                undo(plan);
                Err(ErrorCode::Internal.into())
            }
        }
    }

    /// What a token gives the client in a channel, or that it needs none.
    async fn granted(&self, channel: &Channel, token: &str) -> Result<Grant, Refusal> {
        let instance = &self.worker.instance;
        let namespace = instance.config.channels.resolve(channel).map_err(|_| ErrorCode::UnknownChannel)?;
        if !namespace.admits(channel) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut grant = None;
        if !token.is_empty() && instance.identity.has_keys() {
            let checked =
                instance.identity.subscription(token, channel, &self.user, &self.id.to_string()).await;
            grant = Some(checked.map_err(|fault| refusal(fault.on_subscribe()))?);
        }
        may_subscribe(namespace, channel, &self.user, grant.is_some()).map_err(Refused::code)?;
        Ok(grant.unwrap_or_default())
    }

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
        let ttl = seconds_left(grant.expiry, ErrorCode::Expired.into())?;
        let filter = request.tf.clone().map(Filter::parse).transpose()?;
        let features = namespace.features(&grant.overrides);
        let has = |wish: Wish, asked: bool| wish == Wish::Force || (wish == Wish::Allow && asked);
        let recoverable = has(features.recovery, request.recoverable || request.recover);
        let positioned = recoverable || has(features.positioning, request.positioned);
        let may_see = || may_read_presence(&namespace, &channel, &self.user, true).is_ok();
        let news = has(features.join_leave, request.join_leave && may_see());
        // A difference to what was left out is of no use.
        let delta = request.delta == FOSSIL && namespace.delta && filter.is_none() && !self.one_way;
        let mut format = self.format;
        match (delta, format.encoding) {
            (true, Written::Json) => format.encoding = Written::JsonDelta,
            (true, Written::Protobuf) => format.encoding = Written::ProtobufDelta,
            _ => {}
        }
        let presence = match (features.presence, features.join_leave) {
            (false, _) => Presence::Absent,
            (true, Wish::Off) => Presence::Quiet,
            (true, _) => Presence::Told,
        };
        let member = Member::of(self.id, &self.seen(grant.info.as_ref()), presence == Presence::Told);
        let subscription = Subscription {
            held: true,
            on_gap: if positioned { OnGap::Lapse } else { OnGap::Nothing },
            when_slow: match namespace.slow_consumers {
                SlowConsumers::Close => WhenSlow::Close,
                SlowConsumers::DropOldest => WhenSlow::DropOldest,
                SlowConsumers::KeepLatest => WhenSlow::KeepLatest,
            },
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

    /// Takes in a subscription that is made, and lets go what was held of it, behind `answer`. False, and nothing is
    /// written, if a gap has ended it meanwhile.
    pub(super) fn install(&mut self, plan: &Plan, answer: &Bytes, after: u64) -> bool {
        self.worker.instance.counts.subscription(plan.namespace.index);
        self.subs.put(plan.sub(true));
        // The first publication is whole where others are differences: what is read and what is delivered may overlap.
        self.worker.shard.release(self.key, &plan.channel, answer, after, true)
    }

    /// Ends a subscription, if there is one, without a word to the client.
    pub(super) fn drop_subscription(&mut self, channel: &Channel) -> bool {
        let Some(sub) = self.subs.remove(channel) else { return false };
        // Presence first, so that its own leave is no news to it that it still gets.
        self.worker.shard.unsubscribe(self.key, channel);
        if sub.presence != Presence::Absent {
            self.worker.instance.broker.leave(channel, self.id, Duration::ZERO);
        }
        true
    }

    /// Ends a subscription and tells the client why.
    pub(super) fn end_subscription(&mut self, channel: &Channel, why: Unsubscribe, out: &mut Vec<u8>) {
        // What it is owed still comes before the word of its end.
        if self.drop_subscription(channel) {
            let event = Event::Unsubscribe(why);
            self.push(out, &Push { id: 0, channel: channel.as_str().to_owned(), event });
        }
    }

    /// The hub has ended a subscription because of a gap.
    pub(super) fn lapsed(&mut self, channel: &Channel, out: &mut Vec<u8>) {
        // One that is under way is made anew.
        let Some(sub) = self.subs.get(channel).filter(|sub| sub.told) else { return };
        // News of one that was there before.
        if self.worker.shard.is_subscribed(self.key, channel) {
            return;
        }
        if sub.by_server {
            return self.end(DisconnectCode::InsufficientState, out);
        }
        self.end_subscription(channel, UnsubscribeCode::InsufficientState.into(), out);
    }

    /// Ends what was not refreshed in time.
    pub(super) fn end_what_is_over(&mut self, out: &mut Vec<u8>) {
        let grace = self.worker.instance.config.refresh_grace;
        // Asked after each command: one look at the clock must do.
        let is_due = self.first_end().is_some_and(|end| has_passed(end, grace));
        if !is_due || self.stage != Stage::Connected {
            return;
        }
        if self.expiry.is_some_and(|end| has_passed(end, grace)) {
            return self.end(DisconnectCode::Expired, out);
        }
        let over = |sub: &&Sub| sub.expiry.is_some_and(|end| has_passed(end, grace));
        let over: Vec<_> =
            self.subs.iter().filter(over).map(|sub| (sub.channel.clone(), sub.by_server)).collect();
        for (channel, by_server) in over {
            if by_server {
                return self.end(DisconnectCode::SubscriptionExpired, out);
            }
            self.end_subscription(&channel, UnsubscribeCode::Expired.into(), out);
        }
    }
}

/// Resolves when there is room for what a client has missed. What is given counts for that until it is dropped, which is when
/// all waits for the socket: there it is weighed.
async fn room_to_recover(worker: &Worker, key: Key) -> Room {
    worker.instance.memory.tally();
    if is_pressed(worker) {
        wait_for_room(worker, key).await;
    }
    worker.recoveries.room().await
}

/// Makes a subscription, up to the answer. Of one that fails, nothing is left.
pub(super) async fn establish(plan: &Plan) -> Result<Established, Refusal> {
    let established = try_establish(plan).await;
    if established.is_err() {
        undo(plan);
    }
    established
}

/// Takes back what was made.
pub(super) fn undo(plan: &Plan) {
    plan.worker.shard.unsubscribe(plan.key, &plan.channel);
    if plan.presence != Presence::Absent {
        plan.worker.instance.broker.leave(&plan.channel, plan.id, Duration::ZERO);
    }
}

async fn try_establish(plan: &Plan) -> Result<Established, Refusal> {
    let (shard, broker) = (&plan.worker.shard, &plan.worker.instance.broker);
    // Nothing, if the connection is closing: what the command comes to does not matter any more.
    let unconfirmed =
        shard.subscribe(plan.key, &plan.subscription).ok_or(DisconnectCode::ConnectionClosed)?;
    if unconfirmed {
        broker.subscribe(&plan.channel).await;
        shard.confirm(&plan.channel);
    }
    if plan.presence != Presence::Absent {
        // While the bus is away others will see it later.
        let _ = broker.enter(&plan.channel, plan.member.clone()).await;
    }
    let mut result = SubscribeResult {
        expires: plan.ttl.is_some(),
        ttl: plan.ttl.unwrap_or(0),
        data: plan.grant.data.clone().unwrap_or_default(),
        positioned: plan.positioned,
        recoverable: plan.recoverable,
        delta: plan.delta,
        ..SubscribeResult::default()
    };
    if !plan.positioned {
        return Ok(Established { result, after: 0, bytes: 0 });
    }
    let wanted = plan.since.filter(|_| !plan.is_too_much.get());
    let query = match wanted {
        None => Query::TOP,
        Some(since) => Query::since(since, history_limit(&plan.worker)),
    };
    // Asked when it is its turn: an answer that is there already would wait in memory.
    let reading = async { broker.history(&plan.channel, query).await };
    let read = match wanted {
        None => reading.await,
        Some(_) => plan.worker.recoveries.in_turn(reading).await,
    };
    let history = read.map_err(|error| {
        tracing::debug!(channel = plan.channel.as_str(), "a subscription fails: {error}");
        ErrorCode::Internal
    })?;
    let top = history.top;
    (result.offset, result.epoch) = (top.offset, top.epoch.to_string());
    if let Some(since) = plan.since {
        let outcome = match wanted {
            Some(_) => recovery::judge(since.offset, &history),
            None => Outcome::TooFar,
        };
        plan.worker.instance.counts.recovery(outcome);
        if plan.must_recover && !outcome.is_whole() {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        result.was_recovering = true;
        if outcome.is_whole() {
            result.recovered = true;
            result.offset = since.offset;
        }
        if outcome == Outcome::Recovered {
            result.publications = missed(plan, &history.publications)?;
        }
    }
    let bytes = result.publications.iter().map(|publication| publication.data.len()).sum();
    Ok(Established { result, after: top.offset, bytes })
}

/// What the broker keeps of a member, in bytes, about: 1,280 were measured in a channel of its own, from memory.
fn presence_bytes(member: &Member) -> usize {
    const ROW: usize = 1280;
    ROW + member.info.len() + member.user.len()
}

/// What a client has missed, as it gets it.
fn missed(plan: &Plan, publications: &[fanfare_protocol::Publication]) -> Result<Vec<Publication>, Refusal> {
    let filter = plan.subscription.filter.as_deref();
    let wanted = publications
        .iter()
        .filter(|publication| filter.is_none_or(|filter| filter.matches(publication.tags.as_deref())));
    let said: Vec<_> = wanted.map(Publication::from).collect();
    if plan.delta { Ok(plan.encoding.with_differences(&said)?) } else { Ok(said) }
}

/// The most publications that a client gets at a time.
pub(super) fn history_limit(worker: &Worker) -> usize {
    worker.instance.config.history_limit.map_or(usize::MAX, |limit| limit.get() as usize)
}
