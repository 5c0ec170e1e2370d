//! Subscribing, and the ends of subscriptions.
//!
//! What makes that nothing is lost and nothing doubled is an order: the hub *holds* the channel's publications for this
//! connection; the broker confirms that all that is published from now on comes; only then is the history read, up to a
//! position; and the hub lets go what comes after that position, behind the answer. Nobody who delivers waits for any
//! of it. If what is held has a gap, the hub has ended the subscription when the answer is ready, and it is made anew.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::Channel;
use fanfare_protocol::centrifuge::{
    Answer, Command, DisconnectCode, ErrorCode, Event, Push, Refusal, Request, SubscribeRequest, Unsubscribe,
    UnsubscribeCode,
};
use futures_util::future::join_all;

use super::alarm::has_passed;
use super::commands::refusal;
use super::making::{Established, Progress, Share, undo};
use super::plan::{FILTERS, Origin, Plan};
use super::session::{Client, Stage};
use super::subscriptions::{Presence, Sub};
use crate::identity::Grant;
use crate::memory::Room;
use crate::namespace::{Denial, may_subscribe};
use crate::session::backpressure::room_to_read;
use crate::telemetry::Method;

/// How often a subscription is begun anew because of a gap, before the client is asked to come again later.
const ATTEMPTS: u32 = 3;

/// How many are made at the same time: what a client has asked for when it comes back, as a rule. They cost as many
/// round trips to Redis as one, and an SDK waits 5 s for all of them.
const AT_ONCE: usize = 128;

/// A subscription that somebody has asked for and the client may have.
pub(super) struct Wished {
    pub channel: Channel,
    pub request: Box<SubscribeRequest>,
    pub grant: Grant,
    pub origin: Origin,
}

/// Who has asked for a subscription, and is told what comes of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// The client, with the command that has this id.
    Client(u32),
    /// Who calls the HTTP API. It waits for no answer; the client is told.
    BackEnd,
}

/// Subscriptions on the way to their answers, in the order of those.
pub(super) type Makings = VecDeque<(Asker, Result<Making, Refusal>)>;

/// A subscription on the way to its answer.
pub(super) struct Making {
    wish: Wished,
    plan: Plan,
    progress: Progress,
    attempt: u32,
}

impl Making {
    /// As far as that goes without room for what was missed.
    pub async fn begin(wish: Wished, plan: Plan, attempt: u32) -> Self {
        let progress = Progress::begin(&plan).await;
        Self { wish, plan, progress, attempt }
    }

    fn is_unread(&self) -> bool {
        self.progress.needs().is_some()
    }

    /// Whether a gap has ended it meanwhile.
    fn has_lapsed(&self) -> bool {
        let Plan { worker, key, channel, .. } = &self.plan;
        !matches!(self.progress, Progress::Refused(_)) && !worker.shard.is_subscribed(*key, channel)
    }
}

impl Client {
    /// Subscribes as a client asks for it, and with it to what the client asks for right behind it: a client that comes
    /// back with many subscriptions does not wait for the broker once for each. Answers come in the client's order.
    pub(super) async fn subscribe(&mut self, id: u32, request: Request, out: &mut Vec<u8>) {
        let mut asked = vec![(id, self.wish(request).await)];
        while asked.last().is_some_and(|(_, last)| !matches!(last, Err(Refusal::Disconnect(_))))
            && let Some(Command { id, request }) = self.next_beside(&asked)
        {
            let wish = match self.is_in_rate() {
                true => self.wish(request).await,
                false => Err(DisconnectCode::TooManyRequests.into()),
            };
            asked.push((id, wish));
        }
        let mut filters = self.subs.filters();
        let plans = asked.iter().map(|(_, wish)| match wish {
            Ok(wish) => {
                let plan = self.plan_for(wish)?;
                let with_it = filters + plan.filter() as usize;
                if with_it > FILTERS {
                    return Err(ErrorCode::LimitExceeded.into());
                }
                filters = with_it;
                Ok(plan)
            }
            Err(refusal) => Err(*refusal),
        });
        let plans: Vec<_> = plans.collect();
        // From here on what the back end wants, and ends, concern them as well.
        plans.iter().flatten().for_each(|plan| self.subs.put(plan.sub(false)));
        // They may have to wait for Redis.
        let weight = u32::try_from(asked.len() * size_of::<Making>()).unwrap_or(u32::MAX);
        self.worker.shard.weigh_beside(self.key, 0, weight);
        let begun = asked.into_iter().zip(plans).map(async |((id, wish), plan)| match (wish, plan) {
            (Ok(wish), Ok(plan)) => (Asker::Client(id), Ok(Making::begin(wish, plan, 1).await)),
            (Err(refusal), _) | (_, Err(refusal)) => (Asker::Client(id), Err(refusal)),
        });
        let makings = join_all(begun).await;
        self.make(makings.into(), out).await;
        self.worker.shard.weigh_beside(self.key, weight, 0);
    }

    /// Makes what has been begun, and tells the client of one after the other: as many as can be are read together,
    /// and the next when the client has taken those.
    pub(super) async fn make(&mut self, mut makings: Makings, out: &mut Vec<u8>) {
        // Of what was missed that has been read.
        let mut room = None;
        while let Some((_, next)) = makings.front() {
            if self.stage != Stage::Over && next.as_ref().is_ok_and(Making::is_unread) {
                // Who waits for room holds none.
                drop(room.take());
                let made = makings.iter_mut().filter_map(|(_, next)| next.as_mut().ok());
                room = self.read_missed(made.collect(), out).await;
                continue;
            }
            let Some((asker, next)) = makings.pop_front() else { break };
            if self.stage == Stage::Over {
                // Told to go by one before it.
                next.iter().for_each(|made| undo(&made.plan));
                continue;
            }
            let channel = next.as_ref().ok().map(|made| made.wish.channel.clone());
            let result = match next.and_then(|made| self.is_still_wanted(&made.plan).map(|()| made)) {
                Ok(made) if made.has_lapsed() => match self.begin_anew(made).await {
                    Ok(made) => {
                        makings.push_front((asker, Ok(made)));
                        continue;
                    }
                    Err(refusal) => Err(refusal),
                },
                Ok(made) => self.answer_with(asker, made, out),
                Err(refusal) => Err(refusal),
            };
            if let (Err(_), Some(channel)) = (&result, &channel) {
                self.subs.forget_untold(channel);
            }
            match asker {
                Asker::Client(id) => {
                    self.worker.instance.counts.command(Method::SUBSCRIBE, &result);
                    let _ = result.map_err(|refusal| self.refuse(id, refusal, out));
                }
                Asker::BackEnd => {
                    let channel = channel.as_ref().map(Channel::as_str);
                    let _ = result.map_err(
                        |refusal| tracing::debug!(id = %self.id, channel, ?refusal, "not subscribed by control"),
                    );
                }
            }
        }
    }

    /// Reads what the first of these have missed, as many of them as can be read together. The room for it is to be
    /// held until they are answered. Nothing, if the client was told to go, or what was missed does not fit.
    async fn read_missed(&mut self, made: Vec<&mut Making>, out: &mut Vec<u8>) -> Option<Room> {
        let worker = self.worker.clone();
        let share = Share::of(made.iter().map(|made| &made.progress), worker.instance.config.outbox_limit);
        let guest = self.stay.guest();
        self.flush(out);
        // Nobody has room while waiting for a turn: there is little of it, and all workers wait for that.
        worker.recoveries.join(guest).turn().await;
        // What another channel has missed may be as much as an outbox holds; a client that reads gets both.
        let room = self.meanwhile(out, room_to_read(&worker, self.key, guest, share.bytes())).await?;
        // Much may have come between.
        let mut still = Vec::new();
        let unread = made.into_iter().filter(|made| made.is_unread());
        for (Making { plan, progress, .. }, bytes) in unread.zip(share.grants()) {
            if room.is_none() {
                progress.give_up(plan);
            }
            match self.is_still_wanted(plan) {
                Ok(()) => still.push((&*plan, progress, bytes)),
                Err(refusal) => *progress = Progress::Refused(refusal),
            }
        }
        let read = share.read(&worker.recoveries, guest, still).await;
        self.stay.recovers(read);
        room
    }

    /// Makes one anew that a gap has ended before it was answered.
    async fn begin_anew(&self, made: Making) -> Result<Making, Refusal> {
        undo(&made.plan);
        if made.attempt == ATTEMPTS {
            return Err(ErrorCode::Internal.into());
        }
        let plan = self.plan_for(&made.wish)?;
        Ok(Making::begin(made.wish, plan, made.attempt + 1).await)
    }

    /// The next command, if it asks for a subscription that can be made beside these. One for which it matters
    /// whether they come to something, because it is in one of their channels or there is room for no more, comes
    /// when that is known.
    fn next_beside(&mut self, asked: &[(u32, Result<Wished, Refusal>)]) -> Option<Command> {
        let wished = || asked.iter().filter_map(|(_, wish)| wish.as_ref().ok());
        let is_full = self.is_full_with(wished().count());
        let is_another = |name: &str| wished().all(|wished| wished.channel.as_str() != name);
        let is_beside =
            |request: &Request| matches!(request, Request::Subscribe(next) if is_another(&next.channel));
        if asked.len() < AT_ONCE && !is_full { self.next_if(is_beside) } else { None }
    }

    /// Whether it may be subscribed to no more than what it is and so many others.
    fn is_full_with(&self, others: usize) -> bool {
        let most = self.worker.instance.config.max_channels;
        most.is_some_and(|most| self.subs.len() + others >= most.get() as usize)
    }

    /// What a client asks for, if it may have it.
    async fn wish(&self, request: Request) -> Result<Wished, Refusal> {
        request.check()?;
        let Request::Subscribe(request) = request else { return Err(DisconnectCode::BadRequest.into()) };
        let channel = Channel::new(&request.channel)?;
        // It would stay, and there is nothing to be given up for it: the client asks again later.
        if self.worker.instance.memory.is_full() {
            return Err(ErrorCode::Internal.into());
        }
        if self.subs.get(&channel).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.is_full_with(0) {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let grant = self.granted(&channel, &request.token).await?;
        Ok(Wished { channel, request, grant, origin: Origin::Client })
    }

    /// What is to be made for this wish, or why it may not be.
    pub(super) fn plan_for(&self, wished: &Wished) -> Result<Plan, Refusal> {
        self.plan(wished.channel.clone(), &wished.request, wished.grant.clone(), wished.origin)
    }

    /// Answers with a subscription that is made, and lets go what was held of it.
    fn answer_with(&mut self, asker: Asker, made: Making, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Making { plan, progress, .. } = made;
        let Established { result, after } = progress.conclude(&plan)?;
        match asker {
            Asker::Client(id) => {
                if self.encoding().put_answer(out, id, &Answer::Subscribe(result)).is_err() {
                    undo(&plan);
                    return Err(DisconnectCode::InappropriateProtocol.into());
                }
            }
            Asker::BackEnd => self.tell_of(plan.channel.as_str(), result, out),
        }
        let answer = self.take_carried(out);
        self.install(&plan, &answer, after);
        Ok(())
    }

    /// What is under way may have been taken back by the back end, which has told the client so, or have come to its
    /// end.
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
        let namespace = self.namespace(channel)?;
        let mut grant = None;
        if !token.is_empty() && instance.identity.has_keys() {
            let checked =
                instance.identity.subscription(token, channel, &self.user, &self.id.to_string()).await;
            grant = Some(checked.map_err(|fault| refusal(fault.on_subscribe()))?);
        }
        may_subscribe(namespace, channel, &self.user, grant.is_some()).map_err(Denial::code)?;
        Ok(grant.unwrap_or_default())
    }

    /// Takes in a subscription that is made, and lets go what was held of it, behind `answer`. False, and nothing is
    /// written, if a gap has ended it meanwhile.
    pub(super) fn install(&mut self, plan: &Plan, answer: &Bytes, after: u64) -> bool {
        self.worker.instance.counts.subscription(plan.namespace.index);
        self.subs.put(plan.sub(true));
        // What is shown of the client may have changed while it was under way.
        if plan.presence != Presence::Absent
            && self.member(plan.grant.info.as_ref(), plan.presence) != plan.member
        {
            self.show_in(&plan.channel);
        }
        // The first publication is whole where others are deltas: what is read and what is delivered may overlap.
        self.worker.shard.release(self.key, &plan.channel, answer, after, true)
    }

    /// Ends a subscription, if there is one, without a word to the client.
    pub(super) fn drop_subscription(&mut self, channel: &Channel) -> bool {
        let Some(sub) = self.subs.remove(channel) else { return false };
        // The hub first: its own leave is news that it is not to get any more.
        self.worker.shard.unsubscribe(self.key, channel);
        if sub.presence != Presence::Absent {
            self.worker.instance.broker.leave(channel, self.id, Duration::ZERO);
        }
        true
    }

    /// Ends a subscription and tells the client why.
    pub(super) fn end_subscription(&mut self, channel: &Channel, why: Unsubscribe, out: &mut Vec<u8>) {
        let knows = self.subs.get(channel).is_some_and(|sub| sub.told || !sub.by_server);
        // What it is owed still comes before the word of its end.
        if self.drop_subscription(channel) && knows {
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
