//! Who is in which channel of one instance, as plain data: it says what there is to tell, and tells nobody. Time is
//! its caller's as well.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use fanfare_protocol::{Channel, ConnectionId, Member, PresenceChange};
use uuid::Uuid;

use crate::{Cursor, MemberCount, Page, Portion};

/// The members of some channels.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: HashMap<Channel, Room>,
    /// Of the last one that was awaited.
    last_awaited: u64,
}

#[derive(Default)]
struct Room {
    /// In an order of its own, so that it can be read in pages.
    members: BTreeMap<ConnectionId, Member>,
    /// How many members each user has here.
    users: HashMap<Arc<str>, u64>,
    /// Users who have left without it being told yet, each with the number of its `Awaited`.
    awaited: HashMap<Arc<str>, u64>,
}

/// What a departure comes to.
#[derive(Debug)]
pub(super) enum Left {
    /// It is not the user's last connection, or was not here.
    Nothing,
    /// The user has left.
    Told(PresenceChange),
    /// The user may be back before `settle`.
    Awaited(Awaited),
}

/// Somebody who may be back.
#[derive(Debug)]
pub(super) struct Awaited {
    number: u64,
    member: Member,
}

impl Rooms {
    /// Tells of it if it is the first of its user, who was not awaited. Anonymous ones are each told of.
    pub fn enter(&mut self, channel: &Channel, member: Member) -> Option<PresenceChange> {
        let room = self.rooms.entry(channel.clone()).or_default();
        let user = member.user.clone();
        match room.members.insert(member.connection, member.clone()) {
            Some(before) if before.user == user => return None,
            // A connection never changes its user; if one did, nobody is counted twice.
            Some(before) => room.uncount(&before.user),
            None => {}
        }
        let connections = room.users.entry(user.clone()).or_default();
        *connections += 1;
        let first = *connections == 1 && room.awaited.remove(&user).is_none();
        (first || member.is_anonymous()).then_some(PresenceChange::Joined(member))
    }

    /// `awaited` says whether its user may come back.
    pub fn leave(&mut self, channel: &Channel, connection: ConnectionId, awaited: bool) -> Left {
        let Some(room) = self.rooms.get_mut(channel) else { return Left::Nothing };
        let Some(member) = room.members.remove(&connection) else { return Left::Nothing };
        room.uncount(&member.user);
        if !member.is_anonymous() && room.users.contains_key(&member.user) {
            return Left::Nothing;
        }
        if !awaited || member.is_anonymous() {
            self.forget_if_empty(channel);
            return Left::Told(PresenceChange::Left(member));
        }
        self.last_awaited += 1;
        room.awaited.insert(member.user.clone(), self.last_awaited);
        Left::Awaited(Awaited { number: self.last_awaited, member })
    }

    /// The time of grace is over.
    pub fn settle(&mut self, channel: &Channel, awaited: Awaited) -> Option<PresenceChange> {
        let room = self.rooms.get_mut(channel)?;
        // Another number is that of a later departure, which has its own time.
        if room.awaited.get(&awaited.member.user) != Some(&awaited.number) {
            return None;
        }
        room.awaited.remove(&awaited.member.user);
        self.forget_if_empty(channel);
        Some(PresenceChange::Left(awaited.member))
    }

    /// At most so many of them, by connection; at least one, if there is room for it, so that pages come to an end.
    pub fn members(&self, channel: &Channel, from: &Cursor, portion: Portion) -> Page<Member> {
        let after = Uuid::parse_str(from.as_str()).map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.rooms.get(channel).map(|room| room.members.range((after, Bound::Unbounded)));
        let mut rest = range.into_iter().flatten().map(|(_, member)| member).peekable();
        let items: Vec<_> = rest.by_ref().take(portion.entries.max(1)).cloned().collect();
        let last = rest.peek().and_then(|_| items.last());
        let next = last.map(|member| Cursor::new(member.connection.to_string()));
        let bytes = items.iter().map(|member| Portion::ENTRY + member.user.len() + member.info.len()).sum();
        Page::within(portion, bytes, from, || Page { items, next, too_much: None })
    }

    /// Connections and users; those who are only awaited do not count.
    pub fn count(&self, channel: &Channel) -> MemberCount {
        self.rooms.get(channel).map_or_else(MemberCount::default, |room| MemberCount {
            clients: room.members.len() as u64,
            users: room.users.len() as u64,
        })
    }

    /// In all channels together.
    pub fn members_of_all(&self) -> u64 {
        self.rooms.values().map(|room| room.members.len() as u64).sum()
    }

    fn forget_if_empty(&mut self, channel: &Channel) {
        if self.rooms.get(channel).is_some_and(|room| room.members.is_empty() && room.awaited.is_empty()) {
            self.rooms.remove(channel);
        }
    }
}

impl Room {
    fn uncount(&mut self, user: &Arc<str>) {
        if let Some(connections) = self.users.get_mut(user) {
            *connections -= 1;
            if *connections == 0 {
                self.users.remove(user);
            }
        }
    }
}
