//! What waits to be written, in order, out of which anything can be taken again: while Redis is away, whoever comes and
//! goes must leave nothing here. It does not know what is written, nor whether something waits twice.

use std::collections::BTreeMap;

/// Where something waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// See the module.
pub(super) struct Queue<T> {
    waiting: BTreeMap<u64, T>,
    next: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0 }
    }
}

impl<T> Queue<T> {
    /// Puts it behind all others. The ticket takes it out again.
    pub fn push(&mut self, item: T) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.insert(ticket.0, item);
        ticket
    }

    /// Takes what has waited longest.
    pub fn pop(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, item)| item)
    }

    /// Takes out what waits with this ticket, if it still does.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket.0);
    }

    /// What waits, in its order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
