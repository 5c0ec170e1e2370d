//! The members that this instance has, and what Redis has of them: plain data. The keeper asks what is to be written
//! and says what became of it; everybody else only says what should be so. What is written twice does no harm, and so
//! whatever is in doubt is written again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_protocol::{Channel, ConnectionId, Member};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::names::Place;
use super::queue::{Queue, Ticket};
use crate::Away;

/// Told when a member is where everybody can see it.
pub(super) type Entered = oneshot::Sender<Result<(), Away>>;

/// The members of the instance's own connections, by channel.
#[derive(Default)]
pub(super) struct Roster {
    rooms: HashMap<Channel, Room>,
    /// What is to be written, each once.
    queue: Queue<(Channel, ConnectionId)>,
    /// When somebody's time of grace is over.
    graces: BinaryHeap<Reverse<(Instant, Channel, ConnectionId)>>,
    /// Rooms that nobody is in any more, but that the lease's places name.
    left: Vec<Channel>,
}

#[derive(Default)]
struct Room {
    seats: HashMap<ConnectionId, Seat>,
    /// The lease among whose places it is.
    noted: Option<Uuid>,
}

struct Seat {
    member: Member,
    wish: Wish,
    row: Row,
    /// Redis has had the row, so that everybody has been told, or had been before.
    told: bool,
    /// How often the wish has changed; an answer to an older one is not the last word.
    changes: u32,
    queued: Option<Ticket>,
    waiters: Vec<Entered>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    In,
    Out { grace: Duration },
}

/// What Redis has of a member, by lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Never,
    /// Perhaps something, under this lease or an earlier one.
    Unknown(Uuid),
    Here(Uuid),
    Leaving(Uuid, Instant),
}

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub channel: Channel,
    pub member: Member,
    pub what: What,
    /// The lease under which it was written before.
    pub previous: Option<Uuid>,
    pub told: bool,
    changes: u32,
}

/// What is to be done with a member's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Enter,
    Leave { grace: Duration },
    Settle,
}

impl Roster {
    /// The member is to be in the channel, as it is given here; the waiter is told when everybody can see it.
    pub fn enter(&mut self, channel: &Channel, member: Member, waiter: Option<Entered>) {
        let room = self.rooms.entry(channel.clone()).or_default();
        let connection = member.connection;
        let seat = room.seats.entry(connection).or_insert_with(|| Seat {
            member: member.clone(),
            wish: Wish::In,
            row: Row::Never,
            told: false,
            changes: 0,
            queued: None,
            waiters: Vec::new(),
        });
        let same = seat.wish == Wish::In && seat.member == member && matches!(seat.row, Row::Here(_));
        seat.waiters.extend(waiter);
        if same && seat.queued.is_none() {
            // Redis has it, or the next renewal finds that it has not: either way the keeper's word is soon there.
            self.queue_seat(channel, connection);
            return;
        }
        if let Row::Here(lease) = seat.row
            && seat.member != member
        {
            seat.row = Row::Unknown(lease);
        }
        seat.member = member;
        seat.wish = Wish::In;
        seat.changes = seat.changes.wrapping_add(1);
        self.queue_seat(channel, connection);
    }

    /// It is to be there no longer; others are told after `grace`, unless its user is back by then.
    pub fn leave(&mut self, channel: &Channel, connection: ConnectionId, grace: Duration) {
        let Some(seat) = self.seat(channel, connection) else { return };
        if seat.row == Row::Never {
            // Redis has nothing of it. While Redis is away nobody takes anything, and names could be made up without
            // end.
            self.remove(channel, connection);
        } else if seat.wish == Wish::In {
            seat.wish = Wish::Out { grace };
            seat.changes = seat.changes.wrapping_add(1);
            self.queue_seat(channel, connection);
        }
    }

    /// In all channels together, and with those who may be back.
    pub fn members(&self) -> u64 {
        self.rooms.values().map(|room| room.seats.len() as u64).sum()
    }

    /// Whether anything is to be written now.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.left.is_empty()
    }

    /// When somebody's time of grace is over next.
    pub fn next_grace(&self) -> Option<Instant> {
        self.graces.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes up to `most` things that are to be written under `lease`.
    pub fn take(&mut self, most: usize, lease: Uuid, now: Instant) -> Vec<Change> {
        while let Some(Reverse((at, ..))) = self.graces.peek()
            && *at <= now
            && let Some(Reverse((_, channel, connection))) = self.graces.pop()
        {
            self.queue_seat(&channel, connection);
        }
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some((channel, connection)) = self.queue.pop()
        {
            changes.extend(self.take_one(channel, connection, lease, now));
        }
        changes
    }

    fn take_one(
        &mut self,
        channel: Channel,
        connection: ConnectionId,
        lease: Uuid,
        now: Instant,
    ) -> Option<Change> {
        let seat = self.seat(&channel, connection)?;
        seat.queued = None;
        let previous = match seat.row {
            Row::Never => None,
            Row::Unknown(lease) | Row::Here(lease) | Row::Leaving(lease, _) => Some(lease),
        };
        let what = match (seat.wish, seat.row) {
            (Wish::In, Row::Here(under)) if under == lease => {
                seat.entered(&Ok(()));
                return None;
            }
            (Wish::In, _) => What::Enter,
            (Wish::Out { .. }, Row::Never) => {
                self.remove(&channel, connection);
                return None;
            }
            (Wish::Out { .. }, Row::Leaving(under, until)) if under == lease => {
                if until > now {
                    return None;
                }
                What::Settle
            }
            (Wish::Out { .. }, Row::Leaving(_, until)) => {
                What::Leave { grace: until.saturating_duration_since(now) }
            }
            (Wish::Out { grace }, Row::Unknown(_) | Row::Here(_)) => What::Leave { grace },
        };
        // From now on it may be there.
        if seat.row == Row::Never {
            seat.row = Row::Unknown(lease);
        }
        let (member, told, changes) = (seat.member.clone(), seat.told, seat.changes);
        Some(Change { channel, member, what, previous, told, changes })
    }

    /// What came of a change under `lease`: 0, or the milliseconds until a grace is over.
    pub fn answered(&mut self, change: &Change, answer: i64, lease: Uuid, now: Instant) {
        let (channel, connection) = (&change.channel, change.member.connection);
        let Some(seat) = self.seat(channel, connection) else { return };
        let current = seat.changes == change.changes;
        match (change.what, u64::try_from(answer).unwrap_or(0)) {
            (What::Enter, _) => {
                seat.row = Row::Here(lease);
                seat.told = true;
                if current {
                    seat.entered(&Ok(()));
                } else if seat.member != change.member {
                    seat.row = Row::Unknown(lease);
                }
            }
            (What::Leave { .. } | What::Settle, 0) => {
                seat.row = Row::Never;
                seat.told = false;
                if current {
                    self.remove(channel, connection);
                }
            }
            (What::Leave { .. } | What::Settle, millis) => {
                let until = now + Duration::from_millis(millis);
                seat.row = Row::Leaving(lease, until);
                self.graces.push(Reverse((until, channel.clone(), connection)));
            }
        }
    }

    /// Redis would not write it, and would not the next time.
    pub fn refused(&mut self, change: &Change, why: &Away) {
        if let Some(seat) = self.seat(&change.channel, change.member.connection) {
            seat.entered(&Err(why.clone()));
            if seat.changes == change.changes && seat.wish != Wish::In {
                self.remove(&change.channel, change.member.connection);
            }
        }
    }

    /// It is not known what became of these; they are written again, when there is a connection again.
    pub fn in_doubt(&mut self, changes: &[Change], lease: Uuid) {
        for change in changes {
            let Some(seat) = self.seat(&change.channel, change.member.connection) else { continue };
            match change.what {
                What::Enter => seat.row = Row::Unknown(lease),
                // If it was done, it was told; then the row that is missing next time must not be told again.
                What::Leave { .. } => (seat.row, seat.told) = (Row::Unknown(lease), false),
                What::Settle => seat.told = false,
            }
            self.queue_seat(&change.channel, change.member.connection);
        }
    }

    /// The lease was lost before these were written.
    pub fn put_back(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.queue_seat(&change.channel, change.member.connection));
    }

    /// A new lease: everything is written again.
    pub fn renew(&mut self) {
        for (channel, room) in &mut self.rooms {
            room.noted = None;
            for (connection, seat) in &mut room.seats {
                if seat.queued.is_none() {
                    seat.queued = Some(self.queue.push((channel.clone(), *connection)));
                }
            }
        }
        self.left.clear();
    }

    /// Nobody waits for a bus that is away.
    pub fn away(&mut self, away: &Away) {
        for (channel, connection) in self.queue.iter() {
            let seat = self.rooms.get_mut(channel).and_then(|room| room.seats.get_mut(connection));
            if let Some(seat) = seat {
                seat.entered(&Err(away.clone()));
            }
        }
    }

    /// Which of the rooms of these changes are not among the lease's places.
    pub fn unnoted(&self, changes: &[Change], lease: Uuid) -> Vec<Place> {
        let mut channels: Vec<_> = changes
            .iter()
            .filter(|change| self.rooms.get(&change.channel).is_some_and(|room| room.noted != Some(lease)))
            .map(|change| &change.channel)
            .collect();
        channels.sort_unstable();
        channels.dedup();
        channels.into_iter().cloned().map(Place::Channel).collect()
    }

    /// Redis does not know that the lease may write here: it must be noted again, which says what has become of it.
    pub fn forgotten(&mut self, channel: &Channel) {
        if let Some(room) = self.rooms.get_mut(channel) {
            room.noted = None;
        }
    }

    /// The channel is among the places of `lease` now.
    pub fn noted(&mut self, channel: &Channel, lease: Uuid) {
        if let Some(room) = self.rooms.get_mut(channel) {
            room.noted = Some(lease);
        }
    }

    /// Rooms that need be among the places no longer.
    pub fn take_left(&mut self) -> Vec<Channel> {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|channel| !self.rooms.contains_key(channel));
        left
    }

    /// The rooms of the lease, each with the number of rows that Redis should have there.
    pub fn expected(&self, lease: Uuid) -> Vec<(Channel, usize)> {
        let noted = self.rooms.iter().filter(|(_, room)| room.noted == Some(lease));
        noted.map(|(channel, room)| (channel.clone(), room.rows(lease))).collect()
    }

    /// Redis has rows of exactly these connections; what is otherwise is put right.
    pub fn audited(&mut self, channel: &Channel, found: &HashSet<ConnectionId>, lease: Uuid) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        let mut wrong: Vec<_> = Vec::new();
        for (connection, seat) in &mut room.seats {
            let expected = matches!(seat.row, Row::Here(under) | Row::Leaving(under, _) if under == lease);
            if expected && !found.contains(connection) {
                seat.row = Row::Unknown(lease);
                wrong.push(*connection);
            }
        }
        for &connection in found {
            room.seats.entry(connection).or_insert_with(|| {
                wrong.push(connection);
                // What was late on its way; the row itself says who it is.
                let member = Member { connection, user: "".into(), info: Bytes::new() };
                Seat {
                    member,
                    wish: Wish::Out { grace: Duration::ZERO },
                    row: Row::Unknown(lease),
                    told: false,
                    changes: 0,
                    queued: None,
                    waiters: Vec::new(),
                }
            });
        }
        wrong.into_iter().for_each(|connection| self.queue_seat(channel, connection));
    }

    fn seat(&mut self, channel: &Channel, connection: ConnectionId) -> Option<&mut Seat> {
        self.rooms.get_mut(channel)?.seats.get_mut(&connection)
    }

    fn queue_seat(&mut self, channel: &Channel, connection: ConnectionId) {
        let seat = self.rooms.get_mut(channel).and_then(|room| room.seats.get_mut(&connection));
        if let Some(seat) = seat
            && seat.queued.is_none()
        {
            seat.queued = Some(self.queue.push((channel.clone(), connection)));
        }
    }

    fn remove(&mut self, channel: &Channel, connection: ConnectionId) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        if let Some(mut seat) = room.seats.remove(&connection) {
            seat.entered(&Ok(()));
            seat.queued.into_iter().for_each(|ticket| self.queue.withdraw(ticket));
        }
        if room.seats.is_empty() {
            let noted = self.rooms.remove(channel).and_then(|room| room.noted);
            self.left.extend(noted.map(|_| channel.clone()));
        }
    }
}

impl Room {
    fn rows(&self, lease: Uuid) -> usize {
        let has =
            |seat: &&Seat| matches!(seat.row, Row::Here(under) | Row::Leaving(under, _) if under == lease);
        self.seats.values().filter(has).count()
    }
}

impl Seat {
    /// Whoever waited may have gone.
    fn entered(&mut self, result: &Result<(), Away>) {
        self.waiters.drain(..).for_each(|waiter| drop(waiter.send(result.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_has_never_had_leaves_nothing_behind() {
        let mut roster = Roster::default();
        let member =
            |id: u128| Member { connection: Uuid::from_u128(id), user: "".into(), info: Bytes::new() };
        let channel = |number: u128| Channel::new(&format!("c{number}")).unwrap();
        let stays = channel(0);
        roster.enter(&stays, member(1), None);
        // Nothing is taken: Redis is away. As commands come, many enter before the first of them leaves.
        for round in 0..200 {
            let channels = (1..=16).map(|number| channel(16 * round + number));
            channels.clone().for_each(|channel| roster.enter(&channel, member(1), None));
            channels.for_each(|channel| roster.leave(&channel, member(1).connection, Duration::from_secs(5)));
            assert_eq!((roster.members(), roster.rooms.len()), (1, 1));
            assert_eq!(roster.queue.iter().count(), 1);
        }
        let lease = Uuid::from_u128(7);
        let now = Instant::now();
        // Whoever comes again is written, and whoever was written is taken back.
        roster.enter(&channel(1), member(1), None);
        let taken = roster.take(1000, lease, now);
        let taken: Vec<_> = taken.iter().map(|change| (change.channel.clone(), change.what)).collect();
        assert_eq!(taken, [(stays.clone(), What::Enter), (channel(1), What::Enter)]);
        roster.leave(&stays, member(1).connection, Duration::ZERO);
        let taken = roster.take(1000, lease, now);
        assert_eq!(taken.len(), 1);
        assert_eq!((&taken[0].channel, taken[0].what), (&stays, What::Leave { grace: Duration::ZERO }));
    }
}
