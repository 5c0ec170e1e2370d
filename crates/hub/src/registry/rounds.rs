//! How publications get from the rooms to the members: rounds, a part of each in turn. The bookkeeping of a
//! round is the room's; here it is written out.

use bytes::Bytes;
use fanfare_protocol::control::Unsubscribe;
use fanfare_protocol::{Channel, Control, now_micros};
use slab::Slab;
use smallvec::SmallVec;

use super::{Key, Registry, find};
use crate::batch;
use crate::connection::{Connection, Sent};
use crate::context::Context;
use crate::mailbox::Delivery;
use crate::outbox::Chunk;
use crate::room::{Membership, Room};
use crate::subscription::WhenSlow;

/// How many members are visited, and how many bytes are written to them, before readers get their turn: a millisecond
/// at most.
const VISITS: usize = 256;
const WRITTEN: usize = 256 << 10;

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
            let spent = self.visit(index, part);
            left.visits = left.visits.saturating_sub(spent.visits);
            left.bytes = left.bytes.saturating_sub(spent.bytes);
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
        let places = find(&mut self.connections, key).map(|connection| connection.places.clone());
        places.into_iter().flatten().for_each(|place| self.catch_up(place.room));
    }

    /// Until everybody in the room has seen everything that waits for it.
    pub(super) fn catch_up(&mut self, room: u32) {
        self.finish_round(room);
        while self.rooms[room as usize].has_waiting() {
            self.take_up(room);
            self.finish_round(room);
        }
    }

    /// Until everybody in the room has seen everything that is kept.
    fn finish_round(&mut self, room: u32) {
        self.visit(room, Effort { visits: usize::MAX, bytes: usize::MAX });
    }

    /// A part of a room's round: visits, each with everything that is kept and the member has not seen yet. Gives what
    /// it took.
    fn visit(&mut self, index: u32, most: Effort) -> Effort {
        let room = &mut self.rooms[index as usize];
        let mut part = Part::default();
        let mut visits = 0;
        while visits < most.visits
            && (part.written.bytes as usize) < most.bytes
            && let Some((place, member)) = room.advance()
        {
            visits += 1;
            part.serve(index, room, place, &member, &mut self.connections);
        }
        let bytes = self.account(index, part);
        Effort { visits, bytes }
    }

    /// Brings a member everything that is kept and it has not seen yet, before its turn: before it leaves or gets another
    /// place, and before anything else is said to it.
    pub(super) fn bring_up_to_date(&mut self, index: u32, place: u32) {
        let room = &mut self.rooms[index as usize];
        let mut part = Part::default();
        let member = room.bring(place);
        part.serve(index, room, place as usize, &member, &mut self.connections);
        self.account(index, part);
    }

    /// Counts what a part of a round came to, and ends the round if it was the last. Gives the bytes that were written.
    fn account(&mut self, index: u32, part: Part) -> usize {
        self.settle(index);
        self.count(&part.written);
        for (member, sent) in part.unlucky {
            self.note(member, sent);
        }
        part.written.bytes as usize
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
    laid: Vec<Laid>,
    /// Those to whom not all of it could be written.
    unlucky: Vec<(u32, Sent)>,
}

impl Part {
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

/// What one visit after the other comes to.
#[derive(Default)]
pub(super) struct Written {
    publications: u64,
    frames: u64,
    bytes: u64,
}

impl Written {
    /// Writes this behind what came before it.
    pub(super) fn send(&mut self, before: Sent, connection: &mut Connection, laid: &Laid) -> Sent {
        let mut sent = before;
        self.publications += laid.publications as u64;
        self.frames += laid.frames as u64;
        self.bytes += laid.bytes as u64;
        for chunk in &laid.chunks {
            if laid.member.when_slow == WhenSlow::KeepLatest
                && let Some(room) = chunk.droppable
                && let Some(outbox) = &mut connection.outbox
            {
                outbox.drop_all_of(room);
            }
            sent = sent.and(|| connection.send_as(&chunk.bytes, |bytes| Chunk { bytes, ..*chunk }));
        }
        laid.and_then(sent)
    }
}

/// What a member has not seen, ready to be written.
pub(super) struct Laid {
    member: Membership,
    chunks: Vec<Chunk>,
    frames: usize,
    /// Those of them that are publications; the others are news.
    publications: usize,
    /// Something is in it to which the next difference is made.
    pub(super) begun: bool,
    bytes: usize,
    /// There is more, and it cannot be said.
    unsayable: bool,
}

impl Laid {
    /// For this member of a room, in its format. What has no frame in it was published before it came.
    pub(super) fn new<'d>(
        member: &Membership,
        room: u32,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
        context: Option<&mut Context>,
    ) -> Self {
        let (mut frames, mut publications) = (SmallVec::<[_; 16]>::new(), 0);
        let (mut begun, mut unsayable) = (false, false);
        let mut format = if member.fresh { member.format.whole() } else { member.format };
        for delivery in deliveries.into_iter().filter(|delivery| member.news || !delivery.news) {
            match delivery.frames.of(format) {
                None => {}
                Some(None) => {
                    unsayable = true;
                    break;
                }
                Some(Some(frame)) => {
                    frames.push((frame, delivery.news));
                    publications += usize::from(!delivery.news);
                    // Until its position is reached, what comes without a number is not what others' differences are to.
                    if !delivery.news && (member.after == 0 || delivery.offset > member.after) {
                        begun = true;
                        format = member.format;
                    }
                }
            }
        }
        let count = frames.len();
        let droppable = member.when_slow != WhenSlow::Close;
        let plain = frames.iter().map(|(frame, _)| *frame);
        let chunks = match context {
            // Each by itself, so that it can be dropped by itself; who comes and goes is not. A context would refer to
            // what was dropped, so it is left out of this, which RFC 7692 allows for any message.
            _ if droppable => {
                let chunk = |(frame, news): &(&Bytes, bool)| Chunk {
                    bytes: Bytes::clone(frame),
                    droppable: (!news).then_some(room),
                };
                frames.iter().map(chunk).collect()
            }
            None => whole(batch::chunks(plain, member.format.joint())),
            // Deflated, messages cannot share a frame any more.
            Some(context) => {
                whole(batch::chunks(&plain.map(|plain| context.frame(plain)).collect::<Vec<_>>(), None))
            }
        };
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        Self { member: *member, bytes, chunks, frames: count, publications, begun, unsayable }
    }

    /// What came of writing it, if it went as `sent` says.
    fn and_then(&self, sent: Sent) -> Sent {
        if self.unsayable { sent.and(|| Sent::Unsayable) } else { sent }
    }

    /// Laid once for all who have seen the same and want the same format: in a round, mostly neighbours.
    fn shared<'l>(laid: &'l mut Vec<Self>, member: &Membership, room: u32, unseen: &[Delivery]) -> &'l Self {
        let place = laid.iter().position(|laid| laid.member.wants_like(member));
        let place = place.unwrap_or(laid.len());
        match laid.get_mut(place) {
            Some(laid) if laid.member.is_like(member) => {}
            Some(laid) => *laid = Self::new(member, room, unseen, None),
            None => laid.push(Self::new(member, room, unseen, None)),
        }
        &laid[place]
    }
}

/// Chunks of which every one must be written.
fn whole(chunks: Vec<Bytes>) -> Vec<Chunk> {
    chunks.into_iter().map(Chunk::of).collect()
}
