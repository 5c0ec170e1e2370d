//! How publications get from the rooms to the members: rounds, a part of each in turn. The bookkeeping of a
//! round is the room's; here it is written out.

use bytes::Bytes;
use fanfare_protocol::{Channel, now_micros};

use super::Registry;
use crate::batch;
use crate::connection::{Connection, Sent};
use crate::context::Context;
use crate::mailbox::Delivery;
use crate::room::{Membership, Room};

/// When all rooms together keep so many bytes, all rounds are finished before more is taken up: the
/// mailbox, which holds publishers back, does not count what has left it.
const KEPT_BYTES: usize = 8 << 20;

impl Registry {
    /// Takes up a publication for its room's round.
    pub(crate) fn queue(&mut self, channel: &Channel, delivery: Delivery) {
        let Some(&index) = self.by_channel.get(channel) else { return };
        if self.kept_bytes > KEPT_BYTES {
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

    /// Tells the members who asked for it of a gap, in its order with the publications.
    pub(crate) fn gap(&mut self, channels: Option<&[Channel]>, notice: fn(&Channel) -> Bytes) {
        let rooms: Vec<u32> = match channels {
            None => self.by_channel.values().copied().collect(),
            Some(channels) => channels.iter().filter_map(|c| self.by_channel.get(c).copied()).collect(),
        };
        for index in rooms {
            self.finish_round(index);
            let frame = notice(&self.rooms[index as usize].channel);
            for place in 0..self.rooms[index as usize].members.len() {
                let member = self.rooms[index as usize].members[place];
                if member.notices {
                    let sent = self.connections[member.connection as usize].send(&frame);
                    self.stats.messages_out.add(1);
                    self.stats.bytes_out.add(frame.len() as u64);
                    self.note(member.connection, sent);
                }
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
        let (mut delivered, mut written) = (0, 0);
        let mut laid = Vec::new();
        let mut unlucky = Vec::new();
        for _ in 0..visits {
            let Some(member) = room.advance() else { break };
            let unseen = room.unseen(&member);
            if unseen.is_empty() {
                continue;
            }
            let connection = &mut self.connections[member.connection as usize];
            let mut sent = Sent::Whole;
            let mut send = |connection: &mut Connection, laid: &Laid| {
                for chunk in &laid.chunks {
                    sent = sent.and(|| connection.send(chunk));
                }
                delivered += laid.frames;
                written += laid.bytes;
            };
            let id = Some(connection.id);
            if !member.echo && unseen.iter().any(|delivery| delivery.exclude == id) {
                let others = unseen.iter().filter(|delivery| delivery.exclude != id);
                let own = Laid::new(&member, others, connection.context.as_deref_mut());
                send(connection, &own);
            } else if connection.context.is_some() {
                let own = Laid::new(&member, unseen, connection.context.as_deref_mut());
                send(connection, &own);
            } else {
                send(connection, Laid::shared(&mut laid, &member, unseen));
            }
            if sent != Sent::Whole {
                unlucky.push((member.connection, sent));
            }
        }
        let now = now_micros();
        for delivery in room.measure() {
            self.lag.record(now.saturating_sub(delivery.published_at) as f64 / 1e6);
        }
        self.kept_bytes -= room.tidy();
        self.stats.deliveries.add(delivered as u64);
        self.stats.messages_out.add(delivered as u64);
        self.stats.bytes_out.add(written as u64);
        for (member, sent) in unlucky {
            self.note(member, sent);
        }
    }
}

/// What a member has not seen, ready to be written.
struct Laid {
    member: Membership,
    chunks: Vec<Bytes>,
    frames: usize,
    bytes: usize,
}

impl Laid {
    /// For this member, in its format. What has no frame in it was published before it came.
    fn new<'d>(
        member: &Membership,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
        context: Option<&mut Context>,
    ) -> Self {
        let mut count = 0;
        let frames = deliveries
            .into_iter()
            .filter_map(|delivery| delivery.frames.of(member.format))
            .inspect(|_| count += 1);
        let chunks = match context {
            None => batch::chunks(frames),
            Some(context) => batch::chunks(&frames.map(|plain| context.frame(plain)).collect::<Vec<_>>()),
        };
        Self { member: *member, bytes: chunks.iter().map(Bytes::len).sum(), chunks, frames: count }
    }

    /// Laid once for all who have seen the same and want the same format: in a round, mostly neighbours.
    fn shared<'l>(laid: &'l mut Vec<Self>, member: &Membership, unseen: &[Delivery]) -> &'l Self {
        let place = laid.iter().position(|laid| laid.member.format == member.format);
        let place = place.unwrap_or(laid.len());
        match laid.get_mut(place) {
            Some(laid) if laid.member.has_seen_as_much_as(member) => {}
            Some(laid) => *laid = Self::new(member, unseen, None),
            None => laid.push(Self::new(member, unseen, None)),
        }
        &laid[place]
    }
}
