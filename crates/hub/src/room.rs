//! The members of one channel on this worker, and what they are owed. Members are visited in a round that
//! never stops while there is something to write: what comes while it goes round is taken up on the way, so
//! a visit brings everything that a member has not seen yet. It writes nothing itself.

use fanfare_protocol::Channel;

use crate::format::Format;
use crate::mailbox::Delivery;

/// When so many bytes or publications are kept for a round, it is finished before more is taken up.
const KEPT_BYTES: usize = 256 << 10;
const KEPT: usize = 1024;

/// One connection's place in a room. A visit reads these one behind the other, and little else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    /// The connection's place in the worker's slab.
    pub(crate) connection: u32,
    pub(crate) format: Format,
    /// Whether it gets what it publishes.
    pub(crate) echo: bool,
    /// Whether it is told of gaps.
    pub(crate) notices: bool,
    /// The number of the first publication that it has not seen.
    seen: u64,
}

impl Membership {
    pub(crate) fn new(connection: u32, format: Format, echo: bool, notices: bool) -> Self {
        Self { connection, format, echo, notices, seen: 0 }
    }

    pub(crate) fn has_seen_as_much_as(&self, other: &Self) -> bool {
        self.seen == other.seen
    }
}

/// One channel's members and their round.
pub(crate) struct Room {
    pub(crate) channel: Channel,
    pub(crate) members: Vec<Membership>,
    /// How many members want each format.
    wanted: [u32; Format::ALL.len()],
    /// The broker has confirmed the subscription since the first member came.
    pub(crate) confirmed: bool,
    /// Publications that somebody has not seen yet, numbered from `base` on.
    kept: Vec<Delivery>,
    kept_bytes: usize,
    base: u64,
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
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            members: Vec::new(),
            wanted: Default::default(),
            confirmed: false,
            kept: Vec::new(),
            kept_bytes: 0,
            base: 0,
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

    /// Takes a member in. Gives its place, and whether it is the first that wants its format.
    pub(crate) fn join(&mut self, member: Membership) -> (u32, bool) {
        self.members.push(Membership { seen: self.next(), ..member });
        // It is owed nothing, but it stands in the way of the round.
        self.owed += usize::from(self.owed > 0);
        let wanted = &mut self.wanted[member.format.index()];
        *wanted += 1;
        (self.members.len() as u32 - 1, *wanted == 1)
    }

    /// How many members want a format such as this.
    pub(crate) fn wanting(&self, such: fn(Format) -> bool) -> u64 {
        let wanted = Format::ALL.into_iter().zip(self.wanted).filter(|(format, _)| such(*format));
        wanted.map(|(_, members)| u64::from(members)).sum()
    }

    /// Whether it keeps as much as it should, so that the round must end before more is kept.
    pub(crate) fn is_full(&self) -> bool {
        self.kept_bytes > KEPT_BYTES || self.kept.len() >= KEPT
    }

    /// Keeps a publication for everybody. True if a round begins with it.
    pub(crate) fn keep(&mut self, delivery: Delivery) -> bool {
        let begins = self.owed == 0;
        self.kept_bytes += delivery.frames.bytes();
        self.kept.push(delivery);
        self.owed = self.members.len();
        self.everywhere_at.push(self.visits + self.owed as u64);
        begins
    }

    /// How many visits the round still takes.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// The next member of the round, as it was; it will have seen everything.
    pub(crate) fn advance(&mut self) -> Option<Membership> {
        self.owed = self.owed.checked_sub(1)?;
        self.visits += 1;
        let next = self.next();
        let member = self.members.get_mut(self.cursor)?;
        let before = *member;
        member.seen = next;
        self.cursor += 1;
        if self.cursor == self.members.len() {
            self.cursor = 0;
        }
        Some(before)
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
        std::mem::take(&mut self.kept_bytes)
    }

    /// Takes a member out, between two rounds. Gives the connection that has taken its place, if any, and the
    /// format that nobody wants any more.
    pub(crate) fn leave(&mut self, place: u32) -> (Option<u32>, Option<Format>) {
        debug_assert!(self.owed == 0, "a member leaves when everybody has seen everything");
        let Membership { format, .. } = self.members.swap_remove(place as usize);
        if self.cursor >= self.members.len() {
            self.cursor = 0;
        }
        let wanted = &mut self.wanted[format.index()];
        *wanted -= 1;
        let unwanted = (*wanted == 0).then_some(format);
        (self.members.get(place as usize).map(|moved| moved.connection), unwanted)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::Frames;

    fn delivery(number: u64) -> Delivery {
        let frame = Bytes::from(number.to_be_bytes().to_vec());
        Delivery { frames: Frames::new([(Format::Plain, frame)]), exclude: None, published_at: number }
    }

    /// What each member has seen, against what was published since it joined.
    #[test]
    fn everybody_sees_everything_once_and_in_order_whatever_happens_between() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut room = Room::new(Channel::lobby());
            // For each member: its place, what it has seen, and what had been published when it came.
            let mut members: Vec<(u32, Vec<u64>, u64)> = Vec::new();
            let (mut published, mut measured) = (0, 0);
            let mut go = |room: &mut Room, members: &mut Vec<(u32, Vec<u64>, u64)>, visits: usize| {
                for _ in 0..visits {
                    let Some(member) = room.advance() else { break };
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
                        let (place, _) =
                            room.join(Membership::new(members.len() as u32, Format::Plain, true, false));
                        members.push((place, Vec::new(), published));
                    }
                    2 if !open.is_empty() => {
                        let leaver = open[random.usize(0..open.len())];
                        let owed = room.owed();
                        go(&mut room, &mut members, owed);
                        let place = members[leaver].0;
                        if let (Some(moved), _) = room.leave(place) {
                            members[moved as usize].0 = place;
                        }
                        members[leaver].0 = u32::MAX;
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
        let mut room = Room::new(Channel::lobby());
        let mut join = |connection, format| room.join(Membership::new(connection, format, true, false));
        assert_eq!(join(0, Format::Plain), (0, true));
        assert_eq!(join(1, Format::Deflated), (1, true));
        assert_eq!(join(2, Format::Plain), (2, false));
        assert_eq!(room.leave(0), (Some(2), None));
        assert_eq!(room.leave(1), (None, Some(Format::Deflated)));
        assert_eq!(room.leave(0), (None, Some(Format::Plain)));
    }
}
