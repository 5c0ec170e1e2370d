//! How publications get from the rooms to the members: rounds, a part of each in turn. The bookkeeping of a
//! round is the room's; here it is written out.

use fanfare_protocol::control::Unsubscribe;
use fanfare_protocol::{Channel, Control, now_micros};
use slab::Slab;

use super::ahead::look_ahead;
use super::laid::{Laid, Written};
use super::{Key, Registry, find};
use crate::connection::{Connection, Sent};
use crate::mailbox::Delivery;
use crate::room::{Membership, Room};
use crate::unmade::Found;

/// How many members are visited, and how many bytes are written to them, before readers get their turn: a millisecond
/// at most.
const VISITS: usize = 256;
const WRITTEN: usize = 256 << 10;

/// To deflate a byte is as much work as to write so many.
pub const DEFLATING: usize = 4;

/// The most of it for one room while others wait for theirs.
const SHARE: usize = 4;

impl Registry {
    /// Takes up a publication for its room's round, or puts it off until the round has room for it.
    pub(crate) fn queue(&mut self, channel: &Channel, delivery: Delivery) {
        let Some(&index) = self.by_channel.get(channel) else {
            self.deal_with(delivery.bytes());
            return;
        };
        if self.rooms[index as usize].has_waiting() || self.is_full(index) {
            self.rooms[index as usize].put_off(delivery);
        } else {
            self.keep(index, delivery);
        }
        self.take_turn(index);
    }

    /// Whether somebody has not seen everything yet.
    pub(crate) fn owes(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Goes on with the rounds for as long as one turn of the worker may take, a part of each in turn: a room in which
    /// much is said delays the others by its part, however much waits for it.
    pub(crate) fn go_round(&mut self) {
        let mut left = Effort { visits: VISITS, bytes: WRITTEN };
        while left.visits > 0
            && left.bytes > 0
            && let Some((index, serial)) = self.rounds.pop_front()
        {
            // The room may have gone since, or its place may have been taken by another.
            let Some(room) = self.rooms.get_mut(index as usize).filter(|room| room.serial == serial) else {
                continue;
            };
            room.in_turn = false;
            self.take_up(index);
            let share = if self.rounds.is_empty() { 1 } else { SHARE };
            let part =
                Effort { visits: left.visits.min(VISITS / share), bytes: left.bytes.min(WRITTEN / share) };
            let (spent, waits) = self.visit(index, part);
            left.visits = left.visits.saturating_sub(spent.visits);
            left.bytes = left.bytes.saturating_sub(spent.bytes);
            if !waits {
                self.take_turn(index);
            }
        }
    }

    /// What another worker was at has been made, so the room's round may go on.
    pub(crate) fn go_on(&mut self, channel: &Channel) {
        if let Some(&index) = self.by_channel.get(channel) {
            self.take_turn(index);
        }
    }

    /// Puts a room behind the others whose turn will come, if there is something to be done in it.
    fn take_turn(&mut self, index: u32) {
        let room = &mut self.rooms[index as usize];
        if (room.owed() > 0 || room.has_waiting()) && !std::mem::replace(&mut room.in_turn, true) {
            self.rounds.push_back((index, room.serial));
        }
    }

    /// Takes up what has waited, as much as there is room for.
    fn take_up(&mut self, index: u32) {
        while !self.is_full(index)
            && let Some(delivery) = self.rooms[index as usize].take_waiting()
        {
            self.keep(index, delivery);
        }
    }

    /// Whether a room has to finish its round before more is kept for it. Not one that keeps nothing, or it would wait
    /// for others.
    fn is_full(&self, index: u32) -> bool {
        let room = &self.rooms[index as usize];
        room.owed() > 0 && (room.is_full() || self.kept_bytes > self.hub.bounds().kept)
    }

    fn keep(&mut self, index: u32, delivery: Delivery) {
        self.deal_with(delivery.bytes());
        self.kept_bytes += delivery.frames.bytes();
        self.rooms[index as usize].keep(delivery);
    }

    /// What the back end wants comes behind what was published before: whoever is let go may be owed that.
    pub(crate) fn catch_up_with(&mut self, message: &Control) {
        match message {
            Control::Unsubscribe(Unsubscribe { channel: Some(channel), .. }) => {
                if let Some(&room) = self.by_channel.get(channel) {
                    self.catch_up(room);
                }
            }
            Control::Unsubscribe(_) | Control::Disconnect(_) => {
                let waiting = self.rooms.iter().filter(|(_, room)| room.has_waiting());
                let waiting: Vec<_> = waiting.map(|(room, _)| room as u32).collect();
                waiting.into_iter().for_each(|room| self.catch_up(room));
            }
            Control::Subscribe(_) | Control::Refresh(_) | Control::Uplink(_) => {}
        }
    }

    /// The same for a connection that is ended from outside.
    pub(crate) fn catch_up_for(&mut self, key: Key) {
        let seats = find(&mut self.connections, key).map(|connection| connection.seats.clone());
        seats.into_iter().flatten().for_each(|seat| self.catch_up(seat.room));
    }

    /// Until everybody in the room has seen everything that waits for it.
    pub(super) fn catch_up(&mut self, room: u32) {
        self.finish_round(room);
        while self.rooms[room as usize].has_waiting() {
            self.take_up(room);
            self.finish_round(room);
        }
    }

    /// Until everybody in the room has seen everything that is kept, be it much.
    fn finish_round(&mut self, index: u32) {
        let room = &mut self.rooms[index as usize];
        let mut part = Part::default();
        while let Some((place, member)) = room.advance() {
            part.serve(index, room, place, &member, &mut self.connections);
        }
        self.account(index, part);
    }

    /// A part of a room's round: visits, each with everything that is kept and the member has not seen yet. Gives what
    /// it took, and whether the rest waits until another worker has made something.
    fn visit(&mut self, index: u32, most: Effort) -> (Effort, bool) {
        let room = &mut self.rooms[index as usize];
        let (mut part, mut waits) = (Part::default(), false);
        let mut visits = 0;
        while visits < most.visits && part.bytes() < most.bytes {
            match room.first_unmade().map(|unmade| unmade.find(self.worker)) {
                // A large one takes all that there is of a turn, so there is one turn for each format.
                Some(Found::MadeNow(work, workers)) => {
                    part.work += work;
                    self.hub.tell_made(workers, &room.channel);
                    continue;
                }
                Some(Found::BeingMade) => {
                    waits = true;
                    break;
                }
                Some(Found::Made) => continue,
                None => {}
            }
            let Some((place, member)) = room.advance() else { break };
            visits += 1;
            look_ahead(room, &self.connections);
            part.serve(index, room, place, &member, &mut self.connections);
        }
        let bytes = self.account(index, part);
        (Effort { visits, bytes }, waits)
    }

    /// Brings a member everything that is kept and it has not seen yet, before its turn: before it leaves or gets
    /// another place, and before anything else is said to it.
    pub(super) fn bring_up_to_date(&mut self, index: u32, place: u32) {
        let room = &mut self.rooms[index as usize];
        let mut part = Part::default();
        let member = room.bring(place);
        part.serve(index, room, place as usize, &member, &mut self.connections);
        self.account(index, part);
    }

    /// Counts what a part of a round came to, and ends the round if it was the last. Gives the bytes that were
    /// written, or could have been.
    fn account(&mut self, index: u32, part: Part) -> usize {
        self.settle(index);
        self.count(&part.written);
        let bytes = part.bytes();
        for (member, sent) in part.unlucky {
            self.note(member, sent);
        }
        bytes
    }

    /// Measures what has been everywhere, and forgets it at the end of a round.
    pub(super) fn settle(&mut self, index: u32) {
        let room = &mut self.rooms[index as usize];
        let now = now_micros();
        for delivery in room.measure() {
            self.lag.record(now.saturating_sub(delivery.published_at) as f64 / 1e6);
        }
        self.kept_bytes -= room.tidy();
    }

    pub(super) fn count(&self, written: &Written) {
        self.stats.deliveries.add(written.publications);
        self.stats.messages_out.add(written.frames);
        self.stats.bytes_out.add(written.bytes);
    }
}

/// What comes of a part of a round.
#[derive(Default)]
struct Part {
    written: Written,
    /// What was made for it, as bytes.
    work: usize,
    laid: Vec<Laid>,
    /// Those to whom not all of it could be written.
    unlucky: Vec<(u32, Sent)>,
}

impl Part {
    /// What it has taken so far.
    fn bytes(&self) -> usize {
        self.written.bytes as usize + self.work
    }

    /// Brings `member`, as it was before, what it had not seen.
    fn serve(
        &mut self,
        index: u32,
        room: &mut Room,
        place: usize,
        member: &Membership,
        connections: &mut Slab<Connection>,
    ) {
        let unseen = room.unseen(member);
        if unseen.is_empty() {
            return;
        }
        let connection = &mut connections[member.connection as usize];
        let sent = if member.held {
            connection.hold(index, unseen.iter().filter(|delivery| !member.has(delivery)))
        } else {
            let id = Some(connection.id);
            let is_left_out = !member.echo && unseen.iter().any(|delivery| delivery.exclude == id);
            if is_left_out || connection.context.is_some() || member.is_special() {
                let mut context = connection.context.take();
                let its = unseen.iter().filter(|delivery| {
                    (member.echo || delivery.exclude != id)
                        && !member.has(delivery)
                        && (!member.filtered || connection.wants(index, delivery))
                });
                let own = Laid::new(member, room.serial, its, context.as_deref_mut());
                connection.context = context;
                if unseen.iter().any(|delivery| delivery.offset > member.after) {
                    room.members[place].after = 0;
                }
                if own.begun {
                    room.members[place].fresh = false;
                }
                self.work += own.work;
                self.written.send(Sent::Whole, connection, &own)
            } else {
                let its = Laid::shared(&mut self.laid, member, room.serial, unseen);
                self.written.send(Sent::Whole, connection, its)
            }
        };
        if sent != Sent::Whole {
            self.unlucky.push((member.connection, sent));
        }
    }
}

/// What a part of a round takes.
#[derive(Clone, Copy)]
struct Effort {
    visits: usize,
    bytes: usize,
}
