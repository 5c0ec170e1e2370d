//! The members of one channel on this worker, and what they are owed. Members are visited in a round that
//! never stops while there is something to write: what comes while it goes round is taken up on the way, so
//! a visit brings everything that a member has not seen yet. It writes nothing itself.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use fanfare_protocol::Channel;

use crate::directory::Subscribers;
use crate::format::{Format, Formats};
use crate::mailbox::Delivery;
use crate::subscription::{OnGap, Subscription, WhenSlow};
use crate::unmade::Unmade;

/// When so many bytes or publications are kept for a round, what comes waits for its end. A client that keeps up
/// reads between two rounds, so no round may bring as much as an outbox holds, nor take long for one member.
const KEPT_BYTES: usize = 64 << 10;
const KEPT: usize = 1024;

/// One subscription, as its room keeps it. A visit reads these one behind the other, and little else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    /// The connection's place in the worker's slab.
    pub(crate) connection: u32,
    /// Its place among the connection's subscriptions.
    pub(crate) slot: u16,
    pub(crate) format: Format,
    /// Whether it gets what it publishes.
    pub(crate) echo: bool,
    /// Whether its publications are kept for it instead of written, because its position is still being found.
    pub(crate) held: bool,
    /// Whether its next publication must be whole where others are deltas.
    pub(crate) fresh: bool,
    pub(crate) on_gap: OnGap,
    pub(crate) when_slow: WhenSlow,
    /// Whether it is told who comes and goes.
    pub(crate) news: bool,
    /// Whether it wants only some publications; its connection knows which.
    pub(crate) filtered: bool,
    /// It has everything up to this offset already: where it was found, the channel was read further than it had been
    /// delivered here. 0 as soon as something newer has come.
    pub(crate) after: u64,
    /// The number of the first publication that it has not seen.
    seen: u64,
}

impl Membership {
    pub(crate) fn new(connection: u32, slot: u16, subscription: &Subscription) -> Self {
        let Subscription { format, echo, held, on_gap, when_slow, news, .. } = *subscription;
        let filtered = subscription.filter.is_some();
        let fresh = true;
        Self {
            connection,
            slot,
            format,
            echo,
            held,
            fresh,
            on_gap,
            when_slow,
            news,
            filtered,
            after: 0,
            seen: 0,
        }
    }

    /// Whether what is laid for the other serves this one.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.seen == other.seen && self.wants_like(other)
    }

    /// Whether it gets the same of what both have not seen.
    pub(crate) fn wants_like(&self, other: &Self) -> bool {
        self.format == other.format && self.news == other.news
    }

    /// Whether what it gets differs from what others in its format get: begun anew, or dropped in parts.
    pub(crate) fn is_special(&self) -> bool {
        self.when_slow != WhenSlow::Close
            || (self.fresh && self.format.tells_deltas())
            || self.filtered
            || self.after > 0
    }

    /// Whether it has this already, because it was read from the history.
    pub(crate) fn has(&self, delivery: &Delivery) -> bool {
        delivery.offset != 0 && delivery.offset <= self.after
    }
}

/// One channel's members and their round.
pub(crate) struct Room {
    pub(crate) channel: Channel,
    /// Names the room for good: another one may get its place in the slab.
    pub(crate) serial: u32,
    pub(crate) members: Vec<Membership>,
    /// How many members want each format. Mostly one, so it is no table.
    wanted: Vec<(Format, u32)>,
    /// Where its members are counted together with those of other workers.
    subscribers: Option<Subscribers>,
    /// The broker has confirmed the subscription since the first member came.
    pub(crate) confirmed: bool,
    /// Publications that somebody has not seen yet, numbered from `base` on.
    kept: Vec<Delivery>,
    kept_bytes: usize,
    /// Some of those have yet to be made in some format.
    unmade: bool,
    base: u64,
    /// Publications behind those, which wait until there is room for them.
    waiting: VecDeque<Delivery>,
    /// It has its turn among the rooms in which a round is under way.
    pub(crate) in_turn: bool,
    /// The place of the member to be visited next.
    cursor: usize,
    /// How many visits it takes from here until everybody has seen everything.
    owed: usize,
    /// Visits so far, and at which count of them each kept publication has been everywhere: when its lag is
    /// known.
    visits: u64,
    everywhere_at: Vec<u64>,
    measured: usize,
}

impl Room {
    pub(crate) fn new(channel: Channel, serial: u32) -> Self {
        Self {
            channel,
            serial,
            members: Vec::new(),
            wanted: Vec::new(),
            subscribers: None,
            confirmed: false,
            kept: Vec::new(),
            kept_bytes: 0,
            unmade: false,
            base: 0,
            waiting: VecDeque::new(),
            in_turn: false,
            cursor: 0,
            owed: 0,
            visits: 0,
            everywhere_at: Vec::new(),
            measured: 0,
        }
    }

    /// The number of the next publication: what a member that joins now has seen up to.
    fn next(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    /// Takes a member in. Gives its place, and the formats of which it is the first that wants them.
    pub(crate) fn join(&mut self, member: Membership) -> (u32, Formats) {
        // It is owed nothing, but it stands in the way of a round that goes on behind it, from the beginning.
        self.owed += usize::from(self.cursor + self.owed > self.members.len());
        self.members.push(Membership { seen: self.next(), ..member });
        let mut first = Formats::default();
        for format in formats(&member) {
            match self.wanted.iter_mut().find(|(other, _)| *other == format) {
                Some((_, members)) => *members += 1,
                None => {
                    self.wanted.push((format, 1));
                    first.insert(format);
                }
            }
        }
        (self.members.len() as u32 - 1, first)
    }

    /// Its members count here from now on, those who are there included.
    pub(crate) fn count_in(&mut self, subscribers: Option<Subscribers>) {
        match (&self.subscribers, subscribers) {
            (Some(subscribers), _) => subscribers.fetch_add(1, Ordering::Relaxed),
            (None, Some(subscribers)) => {
                self.subscribers.insert(subscribers).fetch_add(self.members.len() as u64, Ordering::Relaxed)
            }
            (None, None) => 0,
        };
    }

    /// How many members want a format such as this.
    pub(crate) fn wanting(&self, such: fn(Format) -> bool) -> u64 {
        let members = self.members.iter().filter(|member| such(member.format));
        members.count() as u64
    }

    /// Whether it keeps as much as it should, so that what comes has to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.kept_bytes > KEPT_BYTES || self.kept.len() >= KEPT
    }

    /// Keeps a publication for everybody.
    pub(crate) fn keep(&mut self, delivery: Delivery) {
        self.kept_bytes += delivery.frames.bytes();
        self.unmade |= delivery.frames.are_unmade();
        self.kept.push(delivery);
        self.owed = self.members.len();
        self.everywhere_at.push(self.visits + self.owed as u64);
    }

    /// Puts a publication behind those that are kept.
    pub(crate) fn put_off(&mut self, delivery: Delivery) {
        self.waiting.push_back(delivery);
    }

    /// The next of those, which is to be kept now.
    pub(crate) fn take_waiting(&mut self) -> Option<Delivery> {
        let next = self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.waiting.shrink_to(0);
        }
        next
    }

    /// Forgets those: there is nobody for whom they could wait. Gives for how many bytes they have counted.
    pub(crate) fn forget_waiting(&mut self) -> usize {
        std::mem::take(&mut self.waiting).iter().map(Delivery::bytes).sum()
    }

    /// Whether any wait.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many visits the round still takes.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// What the next member of the round will get that has yet to be made, if anything.
    pub(crate) fn first_unmade(&self) -> Option<&Unmade> {
        if !self.unmade || self.owed == 0 {
            return None;
        }
        let member = self.members.get(self.cursor)?;
        let unseen = self.unseen(member).iter().filter(|delivery| member.news || !delivery.news);
        // Also what is held for it: it is written later, and all at once.
        unseen.filter(|delivery| !member.has(delivery)).find_map(|delivery| {
            let whole = || delivery.frames.unmade(member.format.whole()).filter(|_| member.fresh);
            delivery.frames.unmade(member.format).or_else(whole)
        })
    }

    /// The next member of the round, as it was, and its place; it will have seen everything.
    pub(crate) fn advance(&mut self) -> Option<(usize, Membership)> {
        self.owed = self.owed.checked_sub(1)?;
        self.visits += 1;
        let (next, place) = (self.next(), self.cursor);
        let member = self.members.get_mut(place)?;
        let before = *member;
        member.seen = next;
        self.cursor += 1;
        if self.cursor == self.members.len() {
            self.cursor = 0;
        }
        Some((place, before))
    }

    /// The member that is to be visited after so many others, if it stands behind them without a turn of the circle.
    pub(crate) fn to_come(&self, visits: usize) -> Option<&Membership> {
        self.members.get(self.cursor + visits)
    }

    /// A member as it was, out of its turn; it will have seen everything.
    pub(crate) fn bring(&mut self, place: u32) -> Membership {
        let next = self.next();
        let member = &mut self.members[place as usize];
        std::mem::replace(member, Membership { seen: next, ..*member })
    }

    /// What this member had not seen. Members that have seen the same get the same.
    pub(crate) fn unseen(&self, member: &Membership) -> &[Delivery] {
        &self.kept[(member.seen.saturating_sub(self.base) as usize).min(self.kept.len())..]
    }

    /// Publications that have been everywhere since this was last asked.
    pub(crate) fn measure(&mut self) -> &[Delivery] {
        let from = self.measured;
        let done = self.everywhere_at[from..].iter().take_while(|at| **at <= self.visits).count();
        self.measured = if self.owed == 0 { self.kept.len() } else { from + done };
        &self.kept[from..self.measured]
    }

    /// Forgets what everybody has seen, at the end of a round. Gives how many bytes that were.
    pub(crate) fn tidy(&mut self) -> usize {
        if self.owed > 0 {
            return 0;
        }
        self.base = self.next();
        self.kept.clear();
        self.kept.shrink_to(64);
        self.everywhere_at.clear();
        self.everywhere_at.shrink_to(64);
        self.measured = 0;
        self.unmade = false;
        std::mem::take(&mut self.kept_bytes)
    }

    /// Takes a member out, which has seen everything, and puts the last one into its place, which must have seen
    /// everything as well: it may get a place that the round has passed. Gives that member, if there is one, and the
    /// formats that nobody wants any more.
    pub(crate) fn leave(&mut self, place: u32) -> (Option<Membership>, Formats) {
        let last = self.members.len() - 1;
        debug_assert!([place as usize, last].iter().all(|place| self.members[*place].seen == self.next()));
        // One place less is to be visited, if the round had not come to the last one yet.
        let to_come = (last + self.members.len() - self.cursor) % self.members.len() < self.owed;
        self.owed -= usize::from(to_come);
        self.visits += u64::from(to_come);
        let left = self.members.swap_remove(place as usize);
        if let Some(subscribers) = &self.subscribers {
            subscribers.fetch_sub(1, Ordering::Relaxed);
        }
        if self.cursor >= self.members.len() {
            self.cursor = 0;
        }
        let mut last = Formats::default();
        for format in formats(&left) {
            if let Some(at) = self.wanted.iter().position(|(other, _)| *other == format) {
                self.wanted[at].1 -= 1;
                if self.wanted[at].1 == 0 {
                    self.wanted.swap_remove(at);
                    last.insert(format);
                }
            }
        }
        (self.members.get(place as usize).copied(), last)
    }
}

/// The formats that a member may get: its own, and where that tells deltas, the whole as well.
fn formats(member: &Membership) -> impl Iterator<Item = Format> {
    let (format, whole) = (member.format, member.format.whole());
    std::iter::once(format).chain((whole != format).then_some(whole))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::{Carrier, Encoding, Frames};

    fn delivery(number: u64) -> Delivery {
        let frame = Bytes::from(number.to_be_bytes().to_vec());
        let frames = Frames::new([(Format::PLAIN, Some(frame))]);
        Delivery { frames, exclude: None, published_at: number, offset: 0, tags: None, news: false }
    }

    fn member(connection: u32, format: Format) -> Membership {
        Membership::new(connection, 0, &Subscription::new(Channel::lobby(), format))
    }

    /// What each member has seen, against what was published since it joined.
    #[test]
    fn everybody_sees_everything_once_and_in_order_whatever_happens_between() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut room = Room::new(Channel::lobby(), 0);
            // For each member: its place, what it has seen, and what had been published when it came.
            let mut members: Vec<(u32, Vec<u64>, u64)> = Vec::new();
            let (mut published, mut measured) = (0, 0);
            let mut go = |room: &mut Room, members: &mut Vec<(u32, Vec<u64>, u64)>, visits: usize| {
                for _ in 0..visits {
                    let Some((_, member)) = room.advance() else { break };
                    let (_, got, _) = &mut members[member.connection as usize];
                    got.extend(room.unseen(&member).iter().map(|delivery| delivery.published_at));
                }
                measured += room.measure().len() as u64;
                room.tidy();
            };
            for _ in 0..200 {
                let open: Vec<usize> = (0..members.len()).filter(|at| members[*at].0 != u32::MAX).collect();
                match random.u8(0..10) {
                    0 | 1 => {
                        let (place, _) = room.join(member(members.len() as u32, Format::PLAIN));
                        members.push((place, Vec::new(), published));
                    }
                    2 if !open.is_empty() => {
                        let leaver = open[random.usize(0..open.len())];
                        let place = members[leaver].0;
                        for place in [place, open.len() as u32 - 1] {
                            let member = room.bring(place);
                            let (_, got, _) = &mut members[member.connection as usize];
                            got.extend(room.unseen(&member).iter().map(|delivery| delivery.published_at));
                        }
                        let owed = room.owed();
                        if let (Some(moved), _) = room.leave(place) {
                            members[moved.connection as usize].0 = place;
                        }
                        members[leaver].0 = u32::MAX;
                        // Coming and going does not keep a round from its end.
                        assert!(room.owed() <= owed.min(open.len() - 1), "seed {seed}");
                        go(&mut room, &mut members, 0);
                        let (_, got, joined) = &members[leaver];
                        assert_eq!(*got, (*joined..published).collect::<Vec<_>>(), "seed {seed}");
                    }
                    3..=5 if !open.is_empty() => {
                        room.keep(delivery(published));
                        published += 1;
                    }
                    _ => go(&mut room, &mut members, random.usize(0..8)),
                }
            }
            let owed = room.owed();
            go(&mut room, &mut members, owed);
            for (place, got, joined) in members.iter().filter(|member| member.0 != u32::MAX) {
                assert_eq!(*got, (*joined..published).collect::<Vec<_>>(), "seed {seed}, place {place}");
            }
            assert_eq!(measured, published, "seed {seed}");
        }
    }

    #[test]
    fn a_format_is_wanted_from_its_first_member_to_its_last() {
        let delta = Format { encoding: Encoding::JsonDelta, carrier: Carrier::Frame };
        let mut room = Room::new(Channel::lobby(), 0);
        let wanted = |formats: Formats| formats.iter().collect::<Vec<_>>();
        let rows = [
            (Format::PLAIN, vec![Format::PLAIN]),
            (delta, vec![delta.whole(), delta]),
            (delta.whole(), vec![]),
            (Format::PLAIN, vec![]),
        ];
        for (place, (format, first)) in rows.into_iter().enumerate() {
            let joined = room.join(member(place as u32, format));
            assert_eq!((joined.0, wanted(joined.1)), (place as u32, first));
        }
        // (the place that is left, who moves there, what nobody wants any more)
        let rows = [
            (0, Some(3), vec![]),
            (1, Some(2), vec![delta]),
            (1, None, vec![delta.whole()]),
            (0, None, vec![Format::PLAIN]),
        ];
        for (place, moved, last) in rows {
            let left = room.leave(place);
            assert_eq!((left.0.map(|moved| moved.connection), wanted(left.1)), (moved, last));
        }
    }
}
