//! The connections that this instance has claimed for its users, and what Redis has of them: plain data, used as the
//! roster is.

use std::collections::HashMap;

use fanfare_protocol::ConnectionId;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::names::Place;
use super::queue::{Queue, Ticket};
use crate::Away;

/// Told what came of a claim.
pub(super) type Claimed = oneshot::Sender<Answer>;

/// What came of a claim, as far as Redis knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Held,
    Full(Holders),
    /// It was given back before anything came of it.
    GivenBack,
    Unproven(Away),
}

/// Who has the places of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holders {
    /// How many this instance has.
    pub here: u64,
    /// How many others have, by their leases.
    pub elsewhere: Vec<(Uuid, u64)>,
}

/// The claims of the instance's own connections, by user.
#[derive(Default)]
pub(super) struct Book {
    users: HashMap<String, User>,
    queue: Queue<(String, ConnectionId)>,
    left: Vec<String>,
}

#[derive(Default)]
struct User {
    claims: HashMap<ConnectionId, Entry>,
    noted: Option<Uuid>,
}

struct Entry {
    /// The connection wants its place; otherwise it is to be given back.
    wanted: bool,
    /// Nothing, once the place is the connection's: then it is kept, whatever the others have.
    limit: Option<u32>,
    row: Row,
    changes: u32,
    queued: Option<Ticket>,
    waiters: Vec<Claimed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Never,
    Unknown,
    Here(Uuid),
}

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub user: String,
    pub connection: ConnectionId,
    pub what: What,
    changes: u32,
}

/// What is to be done with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Claim { limit: Option<u32> },
    GiveBack,
}

impl Book {
    /// A connection wants one of its user's places, of which there are `limit`; the waiter is told what comes of it.
    pub fn claim(&mut self, user: &str, connection: ConnectionId, limit: u32, waiter: Claimed) {
        let entry = self.wanted(user, connection, Some(limit));
        entry.waiters.push(waiter);
        self.queue_entry(user, connection);
    }

    /// The place is the connection's without asking anybody.
    pub fn take_place(&mut self, user: &str, connection: ConnectionId) {
        self.wanted(user, connection, None).limit = None;
        self.queue_entry(user, connection);
    }

    /// The connection wants its place no longer.
    pub fn give_back(&mut self, user: &str, connection: ConnectionId) {
        let Some(entry) = self.entry(user, connection) else { return };
        if entry.row == Row::Never {
            return self.remove(user, connection);
        }
        entry.wanted = false;
        entry.changes = entry.changes.wrapping_add(1);
        self.queue_entry(user, connection);
    }

    /// Whether there is nothing to be written.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.left.is_empty()
    }

    /// Takes up to `most` changes to be written under `lease`. Each is followed by `answered`, `refused` or `in_doubt`.
    pub fn take(&mut self, most: usize, lease: Uuid) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some((user, connection)) = self.queue.pop()
        {
            changes.extend(self.take_one(user, connection, lease));
        }
        changes
    }

    fn take_one(&mut self, user: String, connection: ConnectionId, lease: Uuid) -> Option<Change> {
        let entry = self.entry(&user, connection)?;
        entry.queued = None;
        let what = match (entry.wanted, entry.row) {
            (true, Row::Here(under)) if under == lease => {
                entry.answer(&Answer::Held);
                return None;
            }
            (true, _) => What::Claim { limit: entry.limit },
            (false, Row::Never) => {
                self.remove(&user, connection);
                return None;
            }
            (false, _) => What::GiveBack,
        };
        if entry.row == Row::Never {
            entry.row = Row::Unknown;
        }
        let changes = entry.changes;
        Some(Change { user, connection, what, changes })
    }

    /// What came of a change under `lease`; for a claim for which there was no room, by whom that is taken.
    pub fn answered(&mut self, change: &Change, taken: Option<Vec<(Uuid, u64)>>, lease: Uuid) {
        let Some(entry) = self.entry(&change.user, change.connection) else { return };
        let current = entry.changes == change.changes;
        match (change.what, taken) {
            (What::Claim { .. }, None) => {
                entry.row = Row::Here(lease);
                entry.limit = None;
                entry.answer(&Answer::Held);
            }
            (What::Claim { .. }, Some(taken)) => {
                entry.row = Row::Never;
                entry.answer(&Answer::Full(Holders::seen_by(lease, taken)));
                if current {
                    self.remove(&change.user, change.connection);
                }
            }
            (What::GiveBack, _) => {
                entry.row = Row::Never;
                if current {
                    self.remove(&change.user, change.connection);
                }
            }
        }
    }

    /// Redis would not write it, and would not the next time.
    pub fn refused(&mut self, change: &Change, why: &Away) {
        let Some(entry) = self.entry(&change.user, change.connection) else { return };
        entry.answer(&Answer::Unproven(why.clone()));
        if entry.changes == change.changes && !entry.wanted {
            self.remove(&change.user, change.connection);
        }
    }

    /// It is not known whether Redis has done these: they are written again.
    pub fn in_doubt(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(entry) = self.entry(&change.user, change.connection) {
                entry.row = Row::Unknown;
            }
            self.queue_entry(&change.user, change.connection);
        }
    }

    /// Under a new lease: everything is written again.
    pub fn renew(&mut self) {
        for (name, user) in &mut self.users {
            user.noted = None;
            for (connection, entry) in &mut user.claims {
                if entry.queued.is_none() {
                    entry.queued = Some(self.queue.push((name.clone(), *connection)));
                }
            }
        }
        self.left.clear();
    }

    /// Nobody waits for a bus that is away: whoever does gets the place.
    pub fn away(&mut self, away: &Away) {
        for (user, connection) in self.queue.iter() {
            let Some(user) = self.users.get_mut(user) else { continue };
            let Some(entry) = user.claims.get_mut(connection) else { continue };
            if !entry.waiters.is_empty() {
                entry.limit = None;
                entry.answer(&Answer::Unproven(away.clone()));
            }
        }
    }

    /// The users of these changes that are not yet among the places of `lease`, each once.
    pub fn unnoted(&self, changes: &[Change], lease: Uuid) -> Vec<Place> {
        let mut users: Vec<_> = changes
            .iter()
            .filter(|change| self.users.get(&change.user).is_some_and(|user| user.noted != Some(lease)))
            .map(|change| &change.user)
            .collect();
        users.sort_unstable();
        users.dedup();
        users.into_iter().cloned().map(Place::User).collect()
    }

    /// Redis does not know that the lease may write here.
    pub fn forgotten(&mut self, user: &str) {
        if let Some(user) = self.users.get_mut(user) {
            user.noted = None;
        }
    }

    /// The user is among the places of `lease` now.
    pub fn noted(&mut self, user: &str, lease: Uuid) {
        if let Some(user) = self.users.get_mut(user) {
            user.noted = Some(lease);
        }
    }

    /// Takes the users of whom nobody is here any more, but whom the lease's places name.
    pub fn take_left(&mut self) -> Vec<String> {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|user| !self.users.contains_key(user));
        left
    }

    fn wanted(&mut self, user: &str, connection: ConnectionId, limit: Option<u32>) -> &mut Entry {
        let user = self.users.entry(user.to_owned()).or_default();
        let entry = user.claims.entry(connection).or_insert_with(|| Entry {
            wanted: true,
            limit,
            row: Row::Never,
            changes: 0,
            queued: None,
            waiters: Vec::new(),
        });
        if !entry.wanted {
            entry.wanted = true;
            entry.limit = limit;
            entry.changes = entry.changes.wrapping_add(1);
        }
        entry
    }

    fn entry(&mut self, user: &str, connection: ConnectionId) -> Option<&mut Entry> {
        self.users.get_mut(user)?.claims.get_mut(&connection)
    }

    fn queue_entry(&mut self, user: &str, connection: ConnectionId) {
        let entry = self.users.get_mut(user).and_then(|user| user.claims.get_mut(&connection));
        if let Some(entry) = entry
            && entry.queued.is_none()
        {
            entry.queued = Some(self.queue.push((user.to_owned(), connection)));
        }
    }

    fn remove(&mut self, name: &str, connection: ConnectionId) {
        let Some(user) = self.users.get_mut(name) else { return };
        if let Some(mut entry) = user.claims.remove(&connection) {
            entry.answer(&Answer::GivenBack);
            entry.queued.into_iter().for_each(|ticket| self.queue.withdraw(ticket));
        }
        if user.claims.is_empty() {
            let noted = self.users.remove(name).and_then(|user| user.noted);
            self.left.extend(noted.map(|_| name.to_owned()));
        }
    }
}

impl Holders {
    fn seen_by(lease: Uuid, taken: Vec<(Uuid, u64)>) -> Self {
        let (here, elsewhere): (Vec<_>, _) = taken.into_iter().partition(|(other, _)| *other == lease);
        Self { here: here.into_iter().map(|(_, places)| places).sum(), elsewhere }
    }

    /// How many places are those of living instances, as far as that is known.
    pub fn living(&self, is_alive: impl Fn(Uuid) -> bool) -> u64 {
        let elsewhere = self.elsewhere.iter().filter(|(lease, _)| is_alive(*lease));
        self.here + elsewhere.map(|(_, places)| places).sum::<u64>()
    }
}

impl Entry {
    /// Whoever waited may have gone.
    fn answer(&mut self, answer: &Answer) {
        self.waiters.drain(..).for_each(|waiter| drop(waiter.send(answer.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_before_it_was_written_leaves_nothing() {
        let mut book = Book::default();
        for user in 0..1000 {
            let (user, connection) = (format!("u{user}"), ConnectionId::new_v4());
            let (claimed, mut waits) = oneshot::channel();
            book.claim(&user, connection, 1, claimed);
            book.take_place(&user, connection);
            book.give_back(&user, connection);
            book.give_back(&user, connection);
            assert_eq!(waits.try_recv(), Ok(Answer::GivenBack), "whoever waited is told");
            assert!(book.is_idle() && book.users.is_empty(), "{user} waits for Redis");
        }
    }
}
