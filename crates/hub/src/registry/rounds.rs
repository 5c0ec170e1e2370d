//! How publications get from the rooms to the members: rounds, a part of each in turn. The bookkeeping of a
//! round is the room's; here it is written out.

use bytes::Bytes;
use fanfare_protocol::{Channel, now_micros};

use super::Registry;
use crate::batch;
use crate::connection::Sent;
use crate::mailbox::Delivery;
use crate::room::Room;

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
        self.kept_bytes += delivery.frame.len();
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
                let connection = &mut self.connections[member as usize];
                if connection.notices {
                    let sent = connection.send(&frame);
                    self.stats.messages_out.add(1);
                    self.stats.bytes_out.add(frame.len() as u64);
                    self.note(member, sent);
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
        let next = room.next();
        let (mut delivered, mut written) = (0, 0);
        // Neighbours have mostly seen the same.
        let mut laid: Option<(u64, Vec<Bytes>, usize)> = None;
        let mut unlucky = Vec::new();
        for _ in 0..visits {
            let Some(member) = room.advance() else { break };
            let connection = &mut self.connections[member as usize];
            let seen = std::mem::replace(&mut connection.seen, next);
            let unseen = room.since(seen);
            if unseen.is_empty() {
                continue;
            }
            let mut sent = Sent::Whole;
            let id = Some(connection.id);
            if !connection.echo && unseen.iter().any(|delivery| delivery.exclude == id) {
                let others: Vec<_> = unseen.iter().filter(|other| other.exclude != id).cloned().collect();
                for chunk in batch::chunks(&others) {
                    sent = sent.and(|| connection.send(&chunk));
                    written += chunk.len();
                }
                delivered += others.len();
            } else {
                if laid.as_ref().is_none_or(|(from, ..)| *from != seen) {
                    let chunks = batch::chunks(unseen);
                    let bytes = chunks.iter().map(Bytes::len).sum();
                    laid = Some((seen, chunks, bytes));
                }
                let (_, chunks, bytes) = laid.as_ref().expect("it was laid just now");
                for chunk in chunks {
                    sent = sent.and(|| connection.send(chunk));
                }
                delivered += unseen.len();
                written += bytes;
            }
            if sent != Sent::Whole {
                unlucky.push((member, sent));
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
