//! How a subscription is made out of its plan: it is confirmed, presence is entered, and the history is read. Many
//! are made at the same time, and cost as many round trips as one. What was missed may be megabytes for each, so it
//! is read into room that was waited for: little of each at first, and what turns out to be more by itself, with room
//! for that. Who waits for it has nothing kept for him, for it will be read. Nothing is answered here.

use std::time::Duration;

use fanfare_broker::{History, Query};
use fanfare_protocol::centrifuge::{DisconnectCode, ErrorCode, Publication, Refusal, SubscribeResult};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::plan::Plan;
use super::session::Client;
use super::subscriptions::Presence;
use crate::admission::recoveries::{Guest, Recoveries};
use crate::memory::{FIRST_LOOK, Room, allowance};
use crate::recovery::{self, Outcome};
use crate::session::backpressure::room_to_read;

/// What is read together must fit into an outbox together, also where an answer takes more than what it is made of.
const PART_OF_OUTBOX: usize = 4;

/// So much of what a client has missed is read, about, for an answer that holds it for all of its channels.
const ENOUGH: usize = 1 << 20;

/// The least that is read of each of those, however many they are.
const LEAST: usize = 128;

/// How far one has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// It is confirmed. What was missed has yet to be read, and there is no saying how much that is.
    Unknown,
    /// The same, but it is so many bytes, about.
    Unread(usize),
    /// Where the channel stands and what was missed, if that was asked for.
    Read(Option<History>),
    Refused(Refusal),
}

/// A subscription that is made, and whose publications are held until its answer is on its way.
pub(super) struct Established {
    pub result: SubscribeResult,
    /// The client has everything up to this offset.
    pub after: u64,
}

impl Progress {
    /// Of one that has just been asked for. Nothing is read yet where something may have been missed.
    pub async fn begin(plan: &Plan) -> Self {
        match (confirm(plan).await, plan.since) {
            (Err(refusal), _) => Self::refuse(plan, refusal),
            (Ok(()), Some(_)) => Self::Unknown,
            (Ok(()), None) => Self::look(plan, usize::MAX).await,
        }
    }

    /// The room that it needs to be read.
    pub fn needs(&self) -> Option<usize> {
        match self {
            Self::Unknown => Some(FIRST_LOOK),
            Self::Unread(bytes) => Some(*bytes),
            Self::Read(_) | Self::Refused(_) => None,
        }
    }

    /// Reads up to so many bytes. If there are more, it comes to nothing yet.
    async fn look(plan: &Plan, bytes: usize) -> Self {
        match read(plan, bytes).await {
            // Nothing of it is there, nor will be.
            Ok(Some(history)) if history.too_much && is_lost(plan, &history) => {
                Self::Read(Some(History { bytes: 0, ..history }))
            }
            Ok(Some(history)) if history.too_much => {
                plan.worker.shard.defer(plan.key, &plan.channel);
                Self::Unread(plan.worker.instance.memory.room_after(bytes, history.bytes))
            }
            Ok(history) => Self::Read(history),
            Err(refusal) => Self::refuse(plan, refusal),
        }
    }

    /// There is no memory for what was missed, and it counts as lost.
    pub fn give_up(&mut self, plan: &Plan) {
        plan.is_too_much.set(true);
        *self = Self::Unread(0);
    }

    /// Forgets what was read, if it was: it will be read again.
    fn forget(&mut self, plan: &Plan) {
        if let Self::Read(history) = self {
            plan.worker.shard.defer(plan.key, &plan.channel);
            *self = Self::Unread(history.as_ref().map_or(0, |history| allowance(history.bytes, LEAST)));
        }
    }

    /// What the client is told, once it has been read. Of what fails, nothing is left.
    pub fn conclude(self, plan: &Plan) -> Result<Established, Refusal> {
        let answer = match self {
            Self::Refused(refusal) => return Err(refusal),
            Self::Unknown | Self::Unread(_) => Err(ErrorCode::Internal.into()),
            Self::Read(history) => answer(plan, history.as_ref()),
        };
        answer.inspect_err(|_| undo(plan))
    }

    fn refuse(plan: &Plan, refusal: Refusal) -> Self {
        undo(plan);
        Self::Refused(refusal)
    }
}

/// What the first of those whose answers come one after the other get together, so that they cost one round trip.
#[derive(Debug)]
pub(super) struct Share {
    /// For each of them, in bytes.
    grants: Vec<usize>,
    /// So much is read, and goes into an outbox, together. What is more than that is read again when the client has
    /// taken it.
    most: usize,
}

impl Share {
    /// Of all of which nothing is known, a little each; or of as many of the others as fit, and at least of the first.
    pub fn of<'p>(these: impl Iterator<Item = &'p Progress>, outbox_limit: usize) -> Self {
        let most = (outbox_limit / PART_OF_OUTBOX).min(ENOUGH);
        let mut unread = these.filter(|progress| progress.needs().is_some()).peekable();
        let mut grants = Vec::new();
        if let Some(Progress::Unknown) = unread.peek() {
            let count = unread.take_while(|progress| matches!(progress, Progress::Unknown)).count();
            grants.resize(count, FIRST_LOOK.min(most).min(ENOUGH / count));
            return Self { grants, most };
        }
        let mut left = most;
        while let Some(Progress::Unread(needs)) = unread.next()
            && (grants.is_empty() || *needs <= left)
        {
            left = left.saturating_sub(*needs);
            grants.push(*needs);
        }
        Self { grants, most }
    }

    /// For each of those that have yet to be read, as far as it goes.
    pub fn grants(&self) -> impl Iterator<Item = usize> {
        self.grants.iter().copied()
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> usize {
        self.grants().fold(0, usize::saturating_add)
    }

    /// Reads what these have missed, as many of them at the same time as have a turn before the first answer, each up
    /// to its bytes; it is the first one's turn. What turns out to be more has yet to be read then, and so has what
    /// comes behind it. Gives how many were looked at.
    pub async fn read(
        &self,
        recoveries: &Recoveries,
        guest: Guest,
        mut these: Vec<(&Plan, &mut Progress, usize)>,
    ) -> usize {
        let recovering = recoveries.join(guest);
        let (mut looking, mut count) = (FuturesUnordered::new(), 0);
        let mut looks = these.iter_mut().peekable();
        while let Some((plan, progress, bytes)) = looks.next() {
            count += 1;
            looking.push(async { **progress = Progress::look(plan, *bytes).await });
            // Where many wait for their turns, what was read is answered before this one's next turn has come.
            tokio::select! {
                biased;
                () = recovering.another_turn(), if looks.peek().is_some() => {}
                _ = looking.next() => break,
            }
        }
        while looking.next().await.is_some() {}
        drop((looking, looks));
        // What is more waits for room of its own, and nobody holds any meanwhile: what comes behind it is read again,
        // as many together as their bytes allow.
        let mut together: usize = 0;
        let end = these.iter().position(|(_, progress, _)| match progress {
            Progress::Read(Some(history)) => {
                let is_first = together == 0;
                together = together.saturating_add(history.bytes);
                !is_first && together > self.most
            }
            progress => progress.needs().is_some(),
        });
        for (plan, progress, _) in these.iter_mut().skip(end.unwrap_or(usize::MAX)) {
            progress.forget(plan);
        }
        count
    }
}

impl Client {
    /// Makes all of these, whose answers are one. Of what was missed, no more is read than is enough; the rest counts
    /// as lost.
    pub(super) async fn establish_all(
        &self,
        plans: &[Plan],
    ) -> (Vec<Result<Established, Refusal>>, Option<Room>) {
        let mut made = join_all(plans.iter().map(Progress::begin)).await;
        let unread = |(_, progress): &(&Plan, &mut Progress)| progress.needs().is_some();
        let mut missed: Vec<_> = plans.iter().zip(&mut made).filter(unread).collect();
        let least = (ENOUGH / missed.len().max(1)).clamp(LEAST, FIRST_LOOK);
        missed.iter_mut().for_each(|(_, progress)| **progress = Progress::Unread(least));
        let mut room = None;
        let mut is_first = true;
        while !missed.is_empty() {
            let recovering = self.worker.recoveries.join(Guest::Returning);
            recovering.turn().await;
            for _ in &missed[1..] {
                recovering.another_turn().await;
            }
            // Who waits for room joins for that.
            drop(recovering);
            room = self.room_for(&mut missed).await;
            let looks = missed.iter_mut().map(|(plan, progress)| async {
                let bytes = progress.needs().unwrap_or(0);
                **progress = Progress::look(plan, bytes).await;
            });
            join_all(looks).await;
            missed.retain(|(_, progress)| !matches!(progress, Progress::Refused(_)));
            if missed.iter().all(|(_, progress)| progress.needs().is_none()) {
                break;
            }
            // Nobody waits for more room while he holds some: all is read again, with what it needs.
            let mut before: usize = 0;
            for (plan, progress) in &mut missed {
                let (bytes, needs) = match progress {
                    Progress::Read(Some(history)) => {
                        let times = if is_first { 1 } else { 2 };
                        (history.bytes, allowance(history.bytes, least).saturating_mul(times))
                    }
                    ref other => (other.needs().unwrap_or(0), other.needs().unwrap_or(0)),
                };
                if is_first {
                    plan.is_too_much.set(before > ENOUGH);
                    before = before.saturating_add(bytes);
                }
                progress.forget(plan);
                **progress = Progress::Unread(if plan.is_too_much.get() { 0 } else { needs });
            }
            is_first = false;
            room = None;
        }
        drop(missed);
        let established = plans.iter().zip(made).map(|(plan, progress)| progress.conclude(plan));
        (established.collect(), room)
    }

    /// Room for what was missed in all of these. Where that does not fit, what fits into the room that there always is
    /// gets it, and the rest counts as lost.
    async fn room_for(&self, missed: &mut [(&Plan, &mut Progress)]) -> Option<Room> {
        let needs = missed.iter().filter_map(|(_, progress)| progress.needs());
        let all = needs.fold(0, usize::saturating_add);
        let room = room_to_read(&self.worker, self.key, Guest::Returning, all).await;
        if room.is_some() {
            return room;
        }
        let most = self.worker.instance.memory.at_once();
        let mut left = most;
        for (plan, progress) in missed {
            match left.checked_sub(progress.needs().unwrap_or(0)) {
                Some(rest) => left = rest,
                None => progress.give_up(plan),
            }
        }
        room_to_read(&self.worker, self.key, Guest::Returning, most - left).await
    }
}

/// Takes back what was made.
pub(super) fn undo(plan: &Plan) {
    plan.worker.shard.unsubscribe(plan.key, &plan.channel);
    if plan.presence != Presence::Absent {
        plan.worker.instance.broker.leave(&plan.channel, plan.id, Duration::ZERO);
    }
}

/// From now on the hub holds what is published. Of what will be read it need not, until it is.
async fn confirm(plan: &Plan) -> Result<(), Refusal> {
    let (shard, broker) = (&plan.worker.shard, &plan.worker.instance.broker);
    // Nothing, if the connection is closing: what the command comes to does not matter any more.
    let unconfirmed =
        shard.subscribe(plan.key, &plan.subscription).ok_or(DisconnectCode::ConnectionClosed)?;
    if plan.since.is_some() {
        shard.defer(plan.key, &plan.channel);
    }
    if unconfirmed {
        broker.subscribe(&plan.channel).await;
        shard.confirm(&plan.channel);
    }
    if plan.presence != Presence::Absent {
        // While the bus is away others will see it later.
        let _ = broker.enter(&plan.channel, plan.member.clone()).await;
    }
    Ok(())
}

async fn read(plan: &Plan, bytes: usize) -> Result<Option<History>, Refusal> {
    if !plan.positioned {
        return Ok(None);
    }
    let shard = &plan.worker.shard;
    if plan.since.is_some() && !shard.hold(plan.key, &plan.channel) {
        // A gap has ended it while it waited.
        confirm(plan).await?;
        shard.hold(plan.key, &plan.channel);
    }
    let query = match plan.wanted() {
        None => Query::TOP,
        Some(since) => {
            Query::since(since, plan.worker.instance.config.most_at_a_time()).within(bytes).or_recent()
        }
    };
    let read = plan.worker.instance.broker.history(&plan.channel, query).await;
    let history = read.map_err(|error| {
        tracing::debug!(channel = plan.channel.as_str(), "a subscription fails: {error}");
        ErrorCode::Internal
    })?;
    Ok(Some(history))
}

/// Whether so much was missed that the client does not get it, whatever room there is.
fn is_lost(plan: &Plan, history: &History) -> bool {
    let missed = plan.since.map_or(0, |since| history.top.offset.saturating_sub(since.offset));
    missed > plan.worker.instance.config.most_at_a_time() as u64
}

fn answer(plan: &Plan, history: Option<&History>) -> Result<Established, Refusal> {
    let mut result = SubscribeResult {
        expires: plan.ttl.is_some(),
        ttl: plan.ttl.unwrap_or(0),
        data: plan.grant.data.clone().unwrap_or_default(),
        positioned: plan.positioned,
        recoverable: plan.recoverable,
        delta: plan.delta,
        ..SubscribeResult::default()
    };
    let Some(history) = history else { return Ok(Established { result, after: 0 }) };
    let top = history.top;
    (result.offset, result.epoch) = (top.offset, top.epoch.to_string());
    if let Some(since) = plan.since {
        let outcome = match plan.wanted() {
            Some(_) => recovery::judge(since.offset, history),
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
    Ok(Established { result, after: top.offset })
}

/// What a client has missed, as it gets it.
fn missed(plan: &Plan, publications: &[fanfare_protocol::Publication]) -> Result<Vec<Publication>, Refusal> {
    let filter = plan.subscription.filter.as_deref();
    let wanted = publications
        .iter()
        .filter(|publication| filter.is_none_or(|filter| filter.matches(publication.tags.as_deref())));
    let said: Vec<_> = wanted.map(Publication::from).collect();
    if plan.delta { Ok(plan.encoding.with_deltas(&said)?) } else { Ok(said) }
}
