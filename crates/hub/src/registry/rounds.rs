//! How publications get from the rooms to the members: rounds, a part of each in turn. The bookkeeping of a
//! round is the room's; here it is written out.

use bytes::Bytes;
use fanfare_protocol::{Channel, now_micros};
use smallvec::SmallVec;

use super::Registry;
use crate::batch;
use crate::connection::{Connection, Sent};
use crate::context::Context;
use crate::mailbox::Delivery;
use crate::outbox::Chunk;
use crate::room::{Membership, Room};
use crate::subscription::WhenSlow;

impl Registry {
    /// Takes up a publication for its room's round.
    pub(crate) fn queue(&mut self, channel: &Channel, delivery: Delivery) {
        let Some(&index) = self.by_channel.get(channel) else { return };
        if self.kept_bytes > self.hub.bounds().kept {
            self.go_round(usize::MAX);
        } else if self.rooms[index as usize].is_full() {
            self.finish_round(index);
        }
        self.kept_bytes += delivery.frames.bytes();
        if self.rooms[index as usize].keep(delivery) {
            self.rounds.push_back(index);
        }
    }

    /// Whether somebody has not seen everything yet.
    pub(crate) fn owes(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Goes on with the rounds by so many visits, a part of each in turn.
    pub(crate) fn go_round(&mut self, visits: usize) {
        let mut left = visits;
        while left > 0
            && let Some(index) = self.rounds.pop_front()
        {
            // The room may have gone since, or its place may have been taken by another.
            let Some(owed) = self.rooms.get(index as usize).map(Room::owed).filter(|owed| *owed > 0) else {
                continue;
            };
            self.visit(index, owed.min(left));
            left -= owed.min(left);
            if self.rooms[index as usize].owed() > 0 {
                self.rounds.push_back(index);
            }
        }
    }

    /// Until everybody in the room has seen everything: before a member leaves, so that it gets what it is
    /// owed and no place changes during a round.
    pub(super) fn finish_round(&mut self, room: u32) {
        let owed = self.rooms[room as usize].owed();
        if owed > 0 {
            self.visit(room, owed);
        }
    }

    /// So many visits of a room's round, each with everything that the member has not seen yet.
    fn visit(&mut self, index: u32, visits: usize) {
        let room = &mut self.rooms[index as usize];
        let (mut written, mut laid, mut unlucky) = (Written::default(), Vec::new(), Vec::new());
        for _ in 0..visits {
            let Some((place, member)) = room.advance() else { break };
            let unseen = room.unseen(&member);
            if unseen.is_empty() {
                continue;
            }
            let connection = &mut self.connections[member.connection as usize];
            let sent = if member.held {
                connection.hold(index, unseen)
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
                    let own = Laid::new(&member, its, context.as_deref_mut());
                    connection.context = context;
                    if unseen.iter().any(|delivery| delivery.offset > member.after) {
                        room.members[place].after = 0;
                    }
                    if own.begun {
                        room.members[place].fresh = false;
                    }
                    written.send(connection, &own, room.serial)
                } else {
                    written.send(connection, Laid::shared(&mut laid, &member, unseen), room.serial)
                }
            };
            if sent != Sent::Whole {
                unlucky.push((member.connection, sent));
            }
        }
        let now = now_micros();
        for delivery in room.measure() {
            self.lag.record(now.saturating_sub(delivery.published_at) as f64 / 1e6);
        }
        self.kept_bytes -= room.tidy();
        self.stats.deliveries.add(written.publications);
        self.stats.messages_out.add(written.frames);
        self.stats.bytes_out.add(written.bytes);
        self.stats.dropped.add(written.dropped);
        for (member, sent) in unlucky {
            self.note(member, sent);
        }
    }
}

/// What one visit after the other comes to.
#[derive(Default)]
struct Written {
    publications: u64,
    frames: u64,
    bytes: u64,
    dropped: u64,
}

impl Written {
    fn send(&mut self, connection: &mut Connection, laid: &Laid, room: u32) -> Sent {
        let mut sent = Sent::Whole;
        self.publications += laid.publications as u64;
        self.frames += laid.frames as u64;
        self.bytes += laid.bytes as u64;
        if laid.member.when_slow == WhenSlow::Close {
            for chunk in &laid.chunks {
                sent = sent.and(|| connection.send(chunk));
            }
            return laid.and_then(sent);
        }
        for bytes in &laid.chunks {
            let chunk = Chunk { bytes: bytes.clone(), publications: 1, droppable: Some(room) };
            if laid.member.when_slow == WhenSlow::KeepLatest
                && let Some(outbox) = &mut connection.outbox
            {
                self.dropped += outbox.drop_all_of(room);
            }
            sent = sent.and(|| connection.send_chunk(&chunk));
            let limit = connection.outbox_room();
            if sent == Sent::Overflowed
                && let Some(outbox) = &mut connection.outbox
            {
                self.dropped += outbox.drop_oldest(limit);
                if !outbox.exceeds(limit) {
                    sent = Sent::Queued;
                }
            }
        }
        laid.and_then(sent)
    }
}

/// What a member has not seen, ready to be written.
pub(super) struct Laid {
    member: Membership,
    pub(super) chunks: Vec<Bytes>,
    pub(super) frames: usize,
    /// Those of them that are publications; the others are news.
    pub(super) publications: usize,
    /// Something is in it to which the next difference is made.
    pub(super) begun: bool,
    pub(super) bytes: usize,
    /// There is more, and it cannot be said.
    pub(super) unsayable: bool,
}

impl Laid {
    /// For this member, in its format. What has no frame in it was published before it came.
    pub(super) fn new<'d>(
        member: &Membership,
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
                    frames.push(frame);
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
        let frames = frames.into_iter();
        let chunks = match context {
            // Each by itself, so that it can be dropped by itself.
            None if member.when_slow != WhenSlow::Close => frames.cloned().collect(),
            None => batch::chunks(frames, member.format.joint()),
            // Deflated, messages cannot share a frame any more.
            Some(context) => {
                batch::chunks(&frames.map(|plain| context.frame(plain)).collect::<Vec<_>>(), None)
            }
        };
        let bytes = chunks.iter().map(Bytes::len).sum();
        Self { member: *member, bytes, chunks, frames: count, publications, begun, unsayable }
    }

    /// What came of writing it, if it went as `sent` says.
    fn and_then(&self, sent: Sent) -> Sent {
        if self.unsayable { sent.and(|| Sent::Unsayable) } else { sent }
    }

    /// Laid once for all who have seen the same and want the same format: in a round, mostly neighbours.
    fn shared<'l>(laid: &'l mut Vec<Self>, member: &Membership, unseen: &[Delivery]) -> &'l Self {
        let place = laid.iter().position(|laid| laid.member.wants_like(member));
        let place = place.unwrap_or(laid.len());
        match laid.get_mut(place) {
            Some(laid) if laid.member.is_like(member) => {}
            Some(laid) => *laid = Self::new(member, unseen, None),
            None => laid.push(Self::new(member, unseen, None)),
        }
        &laid[place]
    }
}
