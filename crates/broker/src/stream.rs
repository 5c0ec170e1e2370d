//! One channel's numbered publications on their way to the relay: which may go, which wait, and what must be read out
//! of the history first. It does no I/O and has no clock, so that it can be tested against a reference.
//!
//! The rule is one: what goes to the relay is always the next offset of the epoch, or a gap goes before it. What
//! arrives too early is held; what is missing is read. What was held too much of is dropped, for the history has it.

use std::collections::VecDeque;

use fanfare_protocol::{Envelope, Epoch, Position, Publication};
use uuid::Uuid;

use crate::{GapCause, History};

/// What has been handed on, what is held, what is being read.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Everything up to here is with the relay. Nothing, before it is known where the channel stands.
    at: Option<Position>,
    /// Whose publication the bus has brought last, and where it stood.
    witness: Option<(Position, Author)>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Arrivals so far.
    arrivals: u64,
    /// The last arrival that was not held, because too much was.
    dropped: Option<(u64, Position)>,
    need: Need,
    /// The read that is under way.
    reading: Option<Reading>,
    /// Somebody took the channel for subscribed before it was known where it stood.
    promised: Option<GapCause>,
    /// A check has found a difference, which may be a publication that is still on its way.
    suspected: bool,
    /// A hole is being made good; whether wholly, so far.
    healing: Option<bool>,
    /// Redis will not say where the channel stands: wherever the next publication does.
    adrift: bool,
}

#[derive(Debug)]
struct Held {
    arrival: u64,
    position: Position,
    author: Author,
    publication: Publication,
}

/// The origin of a publication and its number there, which no other publication has.
pub(crate) type Author = (Uuid, u64);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// What had arrived when the read was asked for; the history had it by then.
    arrivals: u64,
    ask: Ask,
    need: Need,
    /// In which epoch somebody else has found the channel meanwhile. An answer out of another one may be older.
    met: Option<Epoch>,
}

/// What is to be read next; the greater includes the less.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    #[default]
    Nothing,
    /// Compare, and if there is a difference, compare again.
    Check,
    /// Where the channel stands, after the bus was away or when there is none yet.
    Verify,
    /// What is missing.
    Entries,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Publications after this position; nothing, where it is not known yet.
    pub since: Option<Position>,
    /// An offset that was reached in that epoch: if the history has not come so far, it has begun anew.
    pub reached: u64,
    /// Who has published what stands at `since`, if that is known: if it is another, offsets were given out twice.
    pub author: Option<Author>,
    /// Only where the channel stands.
    pub top_only: bool,
}

/// What goes to the relay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Deliver(Publication),
    Gap(GapCause),
}

/// What has come of arrivals and reads.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heals {
    /// Publications out of the history.
    pub publications: u64,
    /// Holes that were made good.
    pub whole: u64,
    /// Holes that were not, or not wholly.
    pub with_gap: u64,
    /// Publications that had been delivered before.
    pub duplicates: u64,
}

impl Stream {
    /// The bus brings the channel from now on: where does it stand? `promised`, if somebody has taken it for subscribed
    /// before: then, if it is not known how far it got, that is a gap.
    pub fn subscribed(&mut self, promised: Option<GapCause>) {
        if self.at.is_none() {
            self.promised = self.promised.or(promised);
        }
        self.need = self.need.max(Need::Verify);
    }

    /// The bus is away, or does not say where the channel stands. Who waits for that waits no longer.
    pub fn lost(&mut self, cause: GapCause) {
        if self.at.is_none() {
            self.promised.get_or_insert(cause);
        }
    }

    /// Somebody else has read where the channel stands. In another epoch, all that comes of this one is lost. Whether
    /// it is.
    pub fn meet(&mut self, top: Position, step: &mut impl FnMut(Step)) -> bool {
        self.reading.iter_mut().for_each(|reading| reading.met = Some(top.epoch));
        let moves = self.at.is_some_and(|at| at.epoch != top.epoch);
        if moves {
            self.move_to(top, |held| held.position.epoch == top.epoch, step);
        }
        moves
    }

    /// Nothing has come for a while: does it still stand where it should?
    pub fn check(&mut self) {
        if self.at.is_some() {
            self.need = self.need.max(Need::Check);
        }
    }

    /// Whether nobody has to wait until it is known where the channel stands: it is, or nobody will say.
    pub fn is_established(&self) -> bool {
        self.at.is_some() || self.adrift
    }

    /// The position of what was delivered last.
    pub fn position(&self) -> Option<Position> {
        self.at
    }

    /// The same, with who has published it, if the bus has brought it.
    pub fn known(&self) -> Option<(Position, Option<Author>)> {
        let at = self.at?;
        Some((at, self.witness.filter(|(of, _)| *of == at).map(|(_, author)| author)))
    }

    /// The epoch of what is delivered.
    pub fn epoch(&self) -> Option<Epoch> {
        self.at.map(|at| at.epoch)
    }

    /// Whether a check has found a difference and is to be made once more.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// Whether there is something to read.
    pub fn wants(&self) -> bool {
        self.reading.is_none() && self.need > Need::Nothing
    }

    /// What to read next, if anything; until it is answered, there is nothing more.
    pub fn ask(&mut self) -> Option<Ask> {
        if !self.wants() {
            return None;
        }
        let need = std::mem::take(&mut self.need);
        let epoch = self.at.map(|at| at.epoch);
        let heard =
            self.held.iter().map(|held| held.position).chain(self.dropped.map(|(_, at)| at)).chain(self.at);
        let reached =
            heard.filter(|position| Some(position.epoch) == epoch).map(|position| position.offset).max();
        let ask = Ask {
            since: self.at,
            reached: reached.unwrap_or(0),
            author: self.known().and_then(|(_, author)| author),
            top_only: need < Need::Entries || self.at.is_none(),
        };
        self.reading = Some(Reading { arrivals: self.arrivals, ask, need, met: None });
        Some(ask)
    }

    /// The bus has brought a publication. No more than `room` bytes are held.
    pub fn hear(
        &mut self,
        position: Position,
        envelope: Envelope,
        room: usize,
        heals: &mut Heals,
        step: &mut impl FnMut(Step),
    ) {
        self.arrivals += 1;
        if self.at.is_none() && std::mem::take(&mut self.adrift) {
            self.at = Some(Position { offset: position.offset.saturating_sub(1), ..position });
        }
        match &mut self.at {
            Some(at) if covers(at, position) => heals.duplicates += 1,
            Some(at) if follows(at, position) => {
                *at = position;
                self.witness = Some((position, (envelope.origin, envelope.sequence)));
                self.suspected = false;
                step(Step::Deliver(envelope.publication));
                self.drain(None, step);
            }
            _ => self.hold(position, envelope, room),
        }
    }

    fn hold(&mut self, position: Position, envelope: Envelope, room: usize) {
        let Envelope { origin, sequence, publication } = envelope;
        let bytes = publication.size() + ENTRY;
        if self.held_bytes + bytes <= room || self.held.is_empty() {
            self.held_bytes += bytes;
            let author = (origin, sequence);
            self.held.push_back(Held { arrival: self.arrivals, position, author, publication });
        } else {
            self.dropped = Some((self.arrivals, position));
        }
        // A read that is under way may bring what is missing; its answer will tell.
        if self.at.is_some() && self.reading.is_none() {
            self.need = Need::Entries;
        }
    }

    /// The answer to what was asked.
    pub fn answer(&mut self, history: History, heals: &mut Heals, step: &mut impl FnMut(Step)) {
        let top = history.top;
        if self.reading.and_then(|reading| reading.met).is_some_and(|met| met != top.epoch) {
            return self.failed();
        }
        let Some(reading) = self.reading.take() else { return };
        match self.at {
            None => {
                self.at = Some(top);
                self.promised.take().into_iter().for_each(|cause| step(Step::Gap(cause)));
            }
            Some(at) if reading.ask.top_only => self.compare(at, top, reading, step),
            Some(at) if at.epoch != top.epoch => self.begin_anew(top, reading, step),
            Some(_) => self.take_entries(history, heals, step),
        }
        self.drain(Some((reading, top)), step);
        if self.need == Need::Nothing
            && let Some(whole) = self.healing.take()
        {
            *(if whole { &mut heals.whole } else { &mut heals.with_gap }) += 1;
        }
    }

    fn compare(&mut self, at: Position, top: Position, reading: Reading, step: &mut impl FnMut(Step)) {
        if covers(&at, top) {
            self.suspected = false;
        } else if reading.need == Need::Check && !self.suspected {
            self.suspected = true;
        } else if at.epoch != top.epoch {
            self.begin_anew(top, reading, step);
        } else {
            self.suspected = false;
            self.need = Need::Entries;
        }
    }

    /// The history has a new epoch: whatever there was of the old one that had not come is lost.
    fn begin_anew(&mut self, top: Position, reading: Reading, step: &mut impl FnMut(Step)) {
        let newer = |held: &Held| held.position.epoch == top.epoch || held.arrival > reading.arrivals;
        self.move_to(top, newer, step);
    }

    /// To the beginning of `top`'s epoch; what is held and not to be kept goes.
    fn move_to(&mut self, top: Position, keep: impl Fn(&Held) -> bool, step: &mut impl FnMut(Step)) {
        self.at = Some(Position { offset: 0, epoch: top.epoch });
        self.suspected = false;
        self.held.retain(keep);
        self.held_bytes = self.held.iter().map(|held| held.publication.size() + ENTRY).sum();
        if top.offset > 0 {
            self.need = Need::Entries;
        }
        self.miss(step);
    }

    fn miss(&mut self, step: &mut impl FnMut(Step)) {
        self.healing = Some(false);
        step(Step::Gap(GapCause::Forgotten));
    }

    /// It could not be read; it is to be asked again.
    pub fn failed(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.need = self.need.max(reading.need);
        }
    }

    /// It will never be read, for Redis refuses: what is missing is lost, and what is held is all there is.
    pub fn refused(&mut self, heals: &mut Heals, step: &mut impl FnMut(Step)) {
        self.reading = None;
        self.need = Need::Nothing;
        let held = std::mem::take(&mut self.held);
        (self.held_bytes, self.dropped, self.adrift) = (0, None, self.at.is_none());
        if self.at.is_some() || self.promised.is_some() {
            (heals.with_gap, self.healing) = (heals.with_gap + 1, None);
            step(Step::Gap(self.promised.take().unwrap_or(GapCause::Forgotten)));
        }
        for held in held {
            self.at = Some(held.position);
            step(Step::Deliver(held.publication));
        }
    }

    /// Delivers what was read. What is in no history any more is announced in its place.
    fn take_entries(&mut self, history: History, heals: &mut Heals, step: &mut impl FnMut(Step)) {
        let Some(mut at) = self.at else { return };
        let mut came = false;
        for publication in history.publications {
            let Some(position) = publication.position else { continue };
            came = true;
            // The bus may have brought it meanwhile.
            if position.epoch != at.epoch || covers(&at, position) {
                continue;
            }
            if !follows(&at, position) {
                self.miss(step);
            }
            at = position;
            heals.publications += 1;
            self.healing.get_or_insert(true);
            step(Step::Deliver(publication));
        }
        if at.offset < history.top.offset {
            if came {
                // There are more than one read brings.
                self.need = Need::Entries;
            } else {
                self.miss(step);
                at = history.top;
            }
        }
        self.at = Some(at);
    }

    /// Delivers what is held and is next. `read` is what was read just now, and where the history stood: whatever had
    /// arrived before that and is not in it, is in no history any more.
    fn drain(&mut self, read: Option<(Reading, Position)>, step: &mut impl FnMut(Step)) {
        let Some(mut at) = self.at else { return };
        let seen = |arrival: u64, at: &Position| {
            read.is_some_and(|(reading, top)| arrival <= reading.arrivals && covers(at, top))
        };
        let (mut missed, mut more) = (false, false);
        while let Some(first) = self.held.front() {
            let (next, old) = (follows(&at, first.position), covers(&at, first.position));
            if !next && !old && !seen(first.arrival, &at) {
                more = true;
                break;
            }
            let Some(held) = self.held.pop_front() else { break };
            self.held_bytes -= held.publication.size() + ENTRY;
            if next {
                at = held.position;
                self.witness = Some((at, held.author));
                step(Step::Deliver(held.publication));
            }
            missed |= !next && !old;
        }
        if let Some((arrival, position)) = self.dropped {
            let known = covers(&at, position) || seen(arrival, &at);
            self.dropped = self.dropped.filter(|_| !known);
            more |= !known;
        }
        self.at = Some(at);
        if more && self.reading.is_none() {
            self.need = Need::Entries;
        }
        if missed {
            self.miss(step);
        }
    }
}

/// Whether `position` comes right after `at`.
fn follows(at: &Position, position: Position) -> bool {
    at.epoch == position.epoch && at.offset.checked_add(1) == Some(position.offset)
}

/// Whether whoever has everything up to `at` has this.
fn covers(at: &Position, position: Position) -> bool {
    at.epoch == position.epoch && position.offset <= at.offset
}

/// What a held publication takes beside what it says, about.
const ENTRY: usize = 200;

#[cfg(test)]
mod tests;
