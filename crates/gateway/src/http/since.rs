//! What a raw client that comes back has missed, from the position that it names. Its subscription is made before, and
//! holds what is published meanwhile; the history is read then, and says from which offset on that is wanted. So
//! nothing is lost and nothing comes twice. What is not kept any more is a gap, and is said to be one.
//!
//! Where more was missed than can wait for a client, it gets a piece, and the next one is read when it has taken that.
//! What is published meanwhile is left out, because it is in the history too, until the rest fits: so nothing grows,
//! and nobody else waits. Here is not decided who may have it.

use std::rc::Rc;

use bytes::Bytes;
use fanfare_broker::{Query, follow};
use fanfare_hub::{End, Key};
use fanfare_protocol::{Channel, Position, Publication};

use super::rejection::Rejection;
use crate::memory::FIRST_LOOK;
use crate::recovery::{Outcome, judge};
use crate::session::backpressure::has_taken_it_all;
use crate::worker::Worker;

/// What is written at a time of what does not fit. The smaller it is, the sooner does a slow client get the next one,
/// and the more often is the history read.
const PIECE: usize = 64 << 10;

/// Where a client says it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Nowhere: it wants to know where it is.
    Now,
    /// There.
    Position(Position),
    /// Somewhere that no history has.
    Unknown,
}

impl Since {
    /// Out of a query.
    pub fn asked(value: &str) -> Result<Self, Rejection> {
        if value.is_empty() {
            return Ok(Self::Now);
        }
        let refuse = || Rejection::Since(value.chars().take(40).collect());
        Position::parse(value).map(Self::Position).ok_or_else(refuse)
    }

    /// Out of a `Last-Event-ID`, which a browser sends of its own accord: what is none of ours is no reason to refuse
    /// it.
    pub fn remembered(value: &[u8]) -> Self {
        let position = std::str::from_utf8(value).ok().and_then(Position::parse);
        position.map_or(Self::Unknown, Self::Position)
    }
}

/// How what was missed is written.
pub trait Words {
    /// A publication.
    fn publication(&self, publication: &Publication) -> Bytes;
    /// Some may have been missed.
    fn gap(&self) -> Bytes;
    /// Where the client is now.
    fn place(&self, position: Position) -> Bytes;
}

/// What is written before what is published from now on.
pub struct CaughtUp {
    pub words: Bytes,
    /// The offset that it reaches; 0 if that is not known. The last of all while there is more to be read: until then
    /// nothing that has an offset is wanted of what is published.
    pub after: u64,
    pub behind: Option<Behind>,
}

/// A client that has not got everything yet.
pub struct Behind {
    channel: Channel,
    words: Box<dyn Words>,
    reach: Reach,
    /// It has got a piece already.
    is_begun: bool,
}

/// How far somebody has come.
#[derive(Clone, Copy)]
struct Reach {
    at: Position,
    /// How many publications are read next.
    limit: usize,
}

/// What was read next.
struct Next {
    words: Bytes,
    /// As of what is caught up.
    after: u64,
    then: Then,
}

/// What comes then.
enum Then {
    More(Reach),
    /// Nothing: everything has been read, or it is known what became of it.
    Done(Option<Outcome>),
}

/// Reads what was missed. While the broker is away that is not known, which is a gap as well: nobody is refused for it.
pub async fn catch_up(
    worker: &Worker,
    channel: &Channel,
    since: Since,
    words: impl Words + 'static,
) -> CaughtUp {
    let instance = &worker.instance;
    let read = match since {
        Since::Position(at) => {
            let reach = Reach { at, limit: worker.instance.config.most_at_a_time() };
            let (channel, words) = (channel.clone(), Box::new(words));
            let behind = Behind { channel, words, reach, is_begun: false };
            let Next { words, after, then } = worker.recoveries.in_turn(behind.read(worker)).await;
            let behind = behind.take_in(worker, &then);
            return CaughtUp { words, after, behind };
        }
        Since::Now | Since::Unknown => instance.broker.history(channel, Query::TOP).await,
    };
    let (mut out, mut after) = (Vec::new(), 0);
    if since == Since::Unknown {
        out.extend_from_slice(&words.gap());
    }
    match read {
        Err(error) => tracing::debug!(channel = channel.as_str(), "what was missed is not known: {error}"),
        Ok(history) => {
            after = history.top.offset;
            if since == Since::Unknown {
                instance.counts.recovery(Outcome::OtherEpoch);
            }
            out.extend_from_slice(&words.place(history.top));
        }
    }
    CaughtUp { words: out.into(), after, behind: None }
}

/// Gives a client the rest of what it has missed, a piece each time when it has taken the one before.
pub async fn go_on(worker: Rc<Worker>, key: Key, mut behind: Behind) {
    let (_alive, shard) = (worker.alive.clone(), &worker.shard);
    loop {
        if !has_taken_it_all(&worker, key).await {
            // Though nothing may have been published meanwhile.
            return shard.end(key, End::SlowConsumer);
        }
        let mut next = worker.recoveries.in_turn(behind.read(&worker)).await;
        if let Then::Done(_) = next.then {
            // That is read again while what is published is kept: only then is it clear where the one ends and the
            // other begins. Keeping it for each piece would make a flood of it. Nobody keeps it while waiting for
            // room to read it again.
            drop(next);
            if !shard.hold(key, &behind.channel) {
                return;
            }
            next = behind.read(&worker).await;
        }
        let Next { words, after, then } = next;
        // It may have gone, or been told to.
        if !shard.release(key, &behind.channel, &words, after, true) {
            return;
        }
        match behind.take_in(&worker, &then) {
            None => return,
            Some(rest) => behind = rest,
        }
    }
}

impl Behind {
    /// Counts what it has come to, or goes on from there.
    fn take_in(self, worker: &Worker, then: &Then) -> Option<Self> {
        match *then {
            Then::More(reach) => Some(Self { reach, is_begun: true, ..self }),
            Then::Done(outcome) => {
                outcome.into_iter().for_each(|outcome| worker.instance.counts.recovery(outcome));
                None
            }
        }
    }

    /// Reads what comes next, which may be all.
    async fn read(&self, worker: &Worker) -> Next {
        let instance = &worker.instance;
        let Self { channel, words, reach: Reach { at, limit }, is_begun } = self;
        let room = instance.config.outbox_limit / 2;
        // What does not fit is not even read, and what is more than a little only where there is memory for it.
        let most = room.min(instance.memory.at_once());
        // Behind a piece comes another one.
        let first = if *is_begun { 2 * PIECE } else { FIRST_LOOK }.min(most);
        let mut held = if first > FIRST_LOOK { instance.memory.room(first).await } else { None };
        let mut query = Query::since(*at, *limit).within(first).or_recent();
        let mut read = instance.broker.history(channel, query).await;
        while let Ok(history) = &read
            && history.too_much
        {
            let needs = instance.memory.room_after(query.bytes, history.bytes);
            query = if needs <= most { query.within(needs) } else { query.within(most).fewer(history) };
            drop(held.take());
            held = instance.memory.room(query.bytes.min(most)).await;
            read = instance.broker.history(channel, query).await;
        }
        let history = match read {
            Ok(history) => history,
            Err(error) => {
                tracing::debug!(channel = channel.as_str(), "what was missed is not known: {error}");
                let after = if *is_begun { at.offset } else { 0 };
                return Next { words: words.gap(), after, then: Then::Done(None) };
            }
        };
        let missed = history.top.offset.checked_sub(at.offset);
        let has_next = history.epoch_matches
            && follow(at.offset, &history.publications)
            && missed >= Some(history.publications.len() as u64);
        let wanted = if has_next { &history.publications[..] } else { &[] };
        let (mut out, mut taken, mut piece) = (Vec::new(), 0, 0);
        for publication in wanted {
            let said = words.publication(publication);
            // The first one goes in any case: no message is larger than an outbox.
            if out.is_empty() || out.len() + said.len() <= PIECE.min(room) {
                (taken, piece) = (taken + 1, out.len() + said.len());
            }
            out.extend_from_slice(&said);
            if out.len() > room {
                break;
            }
        }
        let mut outcome = judge(at.offset, &history);
        let offset = at.offset.saturating_add(taken as u64);
        let is_too_much = !outcome.is_whole() || out.len() > room;
        if taken > 0 && is_too_much && offset < history.top.offset {
            out.truncate(piece);
            // As many as would fit if they were as large, and some more.
            let limit = (taken + taken / 4 + 1).min(worker.instance.config.most_at_a_time());
            let reach = Reach { at: Position { offset, epoch: history.top.epoch }, limit };
            return Next { words: out.into(), after: u64::MAX, then: Then::More(reach) };
        }
        if *is_begun && outcome == Outcome::UpToDate {
            outcome = Outcome::Recovered;
        }
        if !outcome.is_whole() {
            out = words.gap().to_vec();
        }
        out.extend_from_slice(&words.place(history.top));
        Next { words: out.into(), after: history.top.offset, then: Then::Done(Some(outcome)) }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Epoch;

    use super::*;

    #[test]
    fn a_place_is_asked_for_or_remembered() {
        let at = |offset| Since::Position(Position { offset, epoch: Epoch::new("kRtA").unwrap() });
        for (value, asked, remembered) in [
            ("", Some(Since::Now), Since::Unknown),
            ("42:kRtA", Some(at(42)), at(42)),
            ("nonsense", None, Since::Unknown),
            ("-1:kRtA", None, Since::Unknown),
        ] {
            assert_eq!(Since::asked(value).ok(), asked, "{value}");
            assert_eq!(Since::remembered(value.as_bytes()), remembered, "{value}");
        }
        assert_eq!(Since::remembered(b"\xff"), Since::Unknown);
    }
}
