//! Who is in which room: subscribing, releasing what was held, leaving, and what a gap does. Deliveries are the
//! rounds' business.

use bytes::Bytes;
use fanfare_protocol::Channel;

use super::laid::{Laid, Written};
use super::{Key, Registry, find};
use crate::connection::{Seat, Sent, State};
use crate::mailbox::Delivery;
use crate::room::{Membership, Room};
use crate::subscription::{OnGap, Subscription};

impl Registry {
    /// Lets a connection into a room, so that it gets what is published from now on. Whether the broker has yet
    /// to confirm the channel; nothing if the connection is closing, or in this room already.
    pub(crate) fn subscribe(&mut self, key: Key, subscription: &Subscription) -> Option<bool> {
        let connection = find(&mut self.connections, key).filter(|c| c.state != State::Closing)?;
        let slot = u16::try_from(connection.seats.len()).ok()?;
        let room = self.by_channel.get(&subscription.channel).copied();
        if room.is_some_and(|room| connection.seats.iter().any(|seat| seat.room == room)) {
            return None;
        }
        let index = room.unwrap_or_else(|| self.open_room(&subscription.channel));
        let room = &mut self.rooms[index as usize];
        let (place, wanted) = room.join(Membership::new(key.index, slot, subscription));
        let unconfirmed = !room.confirmed;
        room.count_in(self.hub.directory().join(&subscription.channel, wanted, self.worker));
        let connection = &mut self.connections[key.index as usize];
        let weight = subscription.weight(connection.seats.is_empty());
        connection.seats.push(Seat { room: index, index: place, weight });
        connection.kept_beside = connection.kept_beside.saturating_add(weight);
        if let Some(filter) = &subscription.filter {
            connection.set_filter(index, Some(filter.clone()));
        }
        self.news.changed.push(subscription.channel.clone());
        Some(unconfirmed)
    }

    /// Whether a connection is in a room.
    pub(crate) fn is_subscribed(&mut self, key: Key, channel: &Channel) -> bool {
        self.find_seat(key, channel).is_some()
    }

    /// The broker has confirmed the channel.
    pub(crate) fn confirm(&mut self, channel: &Channel) {
        if let Some(&room) = self.by_channel.get(channel) {
            self.rooms[room as usize].confirmed = true;
        }
    }

    /// Stops holding a subscription's publications: first `answer` is written, then what was held and comes
    /// after this offset. `fresh`, if the first of them must be whole. False if the subscription has ended.
    pub(crate) fn release(
        &mut self,
        key: Key,
        channel: &Channel,
        answer: &Bytes,
        after: u64,
        fresh: bool,
    ) -> bool {
        let Some(slot) = self.find_seat(key, channel) else { return false };
        let Seat { room, index: place, .. } = self.connections[key.index as usize].seats[slot];
        self.bring_up_to_date(room, place);
        let its = &mut self.rooms[room as usize];
        let (serial, member) = (its.serial, &mut its.members[place as usize]);
        (member.held, member.fresh, member.after) = (false, fresh, after);
        let connection = &mut self.connections[key.index as usize];
        let mut sent = Sent::Whole;
        if !answer.is_empty() {
            sent = connection.answer(answer);
            self.stats.bytes_out.add(answer.len() as u64);
        }
        let deliveries = connection.take_held(room);
        let mut context = connection.context.take();
        let wanted = |delivery: &&Delivery| {
            !member.has(delivery) && (!member.filtered || connection.wants(room, delivery))
        };
        let laid = Laid::new(member, serial, deliveries.iter().filter(wanted), context.as_deref_mut());
        connection.context = context;
        member.fresh &= !laid.begun;
        if deliveries.iter().any(|delivery| delivery.offset > after) {
            member.after = 0;
        }
        let mut written = Written::default();
        sent = written.send(sent, connection, &laid);
        self.count(&written);
        self.note(key.index, sent);
        true
    }

    /// Keeps a subscription's publications from now on, until it is released again. False if it has ended.
    pub(crate) fn hold(&mut self, key: Key, channel: &Channel) -> bool {
        let Some(slot) = self.find_seat(key, channel) else { return false };
        let Seat { room, index: place, .. } = self.connections[key.index as usize].seats[slot];
        self.bring_up_to_date(room, place);
        let member = &mut self.rooms[room as usize].members[place as usize];
        (member.held, member.after) = (true, 0);
        true
    }

    /// Keeps of a subscription's publications only those without an offset, until it is held again: others will be
    /// read.
    pub(crate) fn defer(&mut self, key: Key, channel: &Channel) {
        let Some(slot) = self.find_seat(key, channel) else { return };
        let Seat { room, index: place, .. } = self.connections[key.index as usize].seats[slot];
        self.bring_up_to_date(room, place);
        let member = &mut self.rooms[room as usize].members[place as usize];
        (member.held, member.after) = (true, u64::MAX);
        let connection = &mut self.connections[key.index as usize];
        let held = connection.take_held(room);
        connection.hold(room, held.iter().filter(|delivery| !member.has(delivery)));
    }

    /// Lets a connection out of a room, after everything that it is owed. Whether it was there.
    pub(crate) fn unsubscribe(&mut self, key: Key, channel: &Channel) -> bool {
        let Some(slot) = self.find_seat(key, channel) else { return false };
        let seat = self.connections[key.index as usize].seats[slot];
        self.bring_up_to_date(seat.room, seat.index);
        let connection = &mut self.connections[key.index as usize];
        connection.take_held(seat.room);
        connection.set_filter(seat.room, None);
        connection.seats.swap_remove(slot);
        connection.kept_beside = connection.kept_beside.saturating_sub(seat.weight);
        if let Some(moved) = connection.seats.get(slot) {
            self.rooms[moved.room as usize].members[moved.index as usize].slot = slot as u16;
        }
        self.leave_room(seat);
        true
    }

    /// Publications may have been missed: tells the members who asked to be told, in its order with the
    /// publications, and lets those go whose position is worth nothing any more.
    pub(crate) fn gap(&mut self, channels: Option<&[Channel]>) {
        let channels = match channels {
            None => self.by_channel.keys().cloned().collect(),
            Some(channels) => channels.to_vec(),
        };
        for channel in &channels {
            let Some(&index) = self.by_channel.get(channel) else { continue };
            self.catch_up(index);
            let mut lapsed = Vec::new();
            for place in 0..self.rooms[index as usize].members.len() {
                let member = self.rooms[index as usize].members[place];
                // What came before the gap may not be what the next delta is made against.
                self.rooms[index as usize].members[place].fresh = true;
                let connection = &mut self.connections[member.connection as usize];
                match member.on_gap {
                    OnGap::Nothing => {}
                    OnGap::Lapse => lapsed.push(Key::new(member.connection, connection.serial)),
                    OnGap::Notice => {
                        let Some(notice) = (self.hub.phrases().gap)(connection.format, channel) else {
                            continue;
                        };
                        let sent = connection.send(&notice);
                        self.stats.messages_out.add(1);
                        self.stats.bytes_out.add(notice.len() as u64);
                        self.note(member.connection, sent);
                    }
                }
            }
            lapsed.into_iter().for_each(|key| self.lapse(key, channel));
        }
    }

    /// Ends a subscription because it cannot be gone on with.
    pub(super) fn lapse(&mut self, key: Key, channel: &Channel) {
        if self.unsubscribe(key, channel) {
            self.news.lapsed.push((key, channel.clone()));
        }
    }

    /// The slot of a connection's place in a channel's room.
    fn find_seat(&mut self, key: Key, channel: &Channel) -> Option<usize> {
        let room = *self.by_channel.get(channel)?;
        find(&mut self.connections, key)?.seats.iter().position(|seat| seat.room == room)
    }

    fn open_room(&mut self, channel: &Channel) -> u32 {
        self.next_room = self.next_room.wrapping_add(1);
        let room = self.rooms.insert(Box::new(Room::new(channel.clone(), self.next_room))) as u32;
        self.by_channel.insert(channel.clone(), room);
        room
    }

    /// Takes a member, which is up to date, out of a room. Another gets its place, for whom the round may have passed
    /// it.
    pub(super) fn leave_room(&mut self, Seat { room, index, .. }: Seat) {
        let last = self.rooms[room as usize].members.len() as u32 - 1;
        self.bring_up_to_date(room, last);
        let (moved, unwanted) = self.rooms[room as usize].leave(index);
        self.settle(room);
        let left = &mut self.rooms[room as usize];
        if let Some(moved) = moved
            && let Some(its) =
                self.connections[moved.connection as usize].seats.get_mut(usize::from(moved.slot))
        {
            its.index = index;
        }
        self.hub.directory().leave(&left.channel, unwanted, self.worker);
        self.news.changed.push(left.channel.clone());
        if left.members.is_empty() {
            let mut room = self.rooms.remove(room as usize);
            self.deal_with(room.forget_waiting());
            let Room { channel, .. } = *room;
            self.by_channel.remove(&channel);
            self.deserted.insert(channel.clone(), self.wheel.now());
            self.news.released.push(channel);
        }
    }
}
