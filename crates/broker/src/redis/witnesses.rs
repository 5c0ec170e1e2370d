//! How far channels have come of which this instance knows and that it may not be subscribed to: it has published what
//! was the last, or was subscribed a moment ago. When Redis may be another one than before, it looks whether that is so
//! still. It is plain data, and no list of all channels: what was lost with a master is what its replica had not got
//! yet, which is not old.

use std::collections::HashMap;
use std::mem::take;
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Position};

use crate::stream::Author;

/// What was surely there, and who has published it, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub at: Position,
    pub author: Option<Author>,
}

/// What is known of channels, for half a minute at least, and a minute at most.
#[derive(Default)]
pub(super) struct Witnesses {
    young: HashMap<Channel, Known>,
    old: HashMap<Channel, Known>,
    turns: Option<Instant>,
    /// To be looked at.
    due: Vec<(Channel, Known)>,
}

impl Witnesses {
    /// This is known now.
    pub fn note(&mut self, channel: &Channel, known: Known, now: Instant) {
        if self.young.len() >= MOST || self.turns.is_none_or(|turns| now >= turns) {
            self.old = take(&mut self.young);
            self.turns = Some(now + LIFE);
        }
        match self.young.get_mut(channel) {
            Some(before) if before.at.epoch == known.at.epoch && before.at.offset >= known.at.offset => {}
            Some(before) => *before = known,
            None => drop(self.young.insert(channel.clone(), known)),
        }
    }

    /// Redis may be another one: all of it is to be looked at.
    pub fn doubt(&mut self) {
        // What is younger is further.
        let old = self.old.iter().filter(|(channel, _)| !self.young.contains_key(*channel));
        self.due = self.young.iter().chain(old).map(|(channel, known)| (channel.clone(), *known)).collect();
    }

    /// What is to be looked at next, so many at most.
    pub fn take_due(&mut self, most: usize) -> Vec<(Channel, Known)> {
        self.due.split_off(self.due.len() - self.due.len().min(most))
    }

    /// It could not be looked at.
    pub fn put_back(&mut self, channel: Channel, known: Known) {
        self.due.push((channel, known));
    }
}

/// How far a replica may be behind, in time and, where much is published, in channels.
const LIFE: Duration = Duration::from_secs(30);
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use fanfare_protocol::Epoch;

    use super::*;

    #[test]
    fn the_furthest_is_known_for_a_while() {
        let start = Instant::now();
        let channel = |name: &str| Channel::new(name).expect("a name");
        let known = |epoch: u64, offset| {
            let at = Position { offset, epoch: Epoch::from_random(epoch) };
            Known { at, author: None }
        };
        let mut witnesses = Witnesses::default();
        let due = |witnesses: &mut Witnesses| {
            witnesses.doubt();
            let mut due = witnesses.take_due(usize::MAX);
            due.sort_by(|one, other| one.0.cmp(&other.0));
            due
        };
        for (name, epoch, offset, after) in
            [("a", 1, 2, 0), ("a", 1, 1, 0), ("b", 1, 9, 0), ("b", 2, 1, 1), ("a", 1, 3, 31)]
        {
            witnesses.note(&channel(name), known(epoch, offset), start + Duration::from_secs(after));
        }
        assert_eq!(due(&mut witnesses), [(channel("a"), known(1, 3)), (channel("b"), known(2, 1))]);
        witnesses.doubt();
        assert_eq!((witnesses.take_due(1).len(), witnesses.take_due(9).len()), (1, 1));
        let later = start + Duration::from_secs(62);
        witnesses.note(&channel("c"), known(1, 1), later);
        assert_eq!(due(&mut witnesses), [(channel("a"), known(1, 3)), (channel("c"), known(1, 1))]);
        for number in 0..=MOST {
            witnesses.note(&channel(&number.to_string()), known(1, 1), later);
        }
        assert!(due(&mut witnesses).len() <= 2 * MOST);
    }
}
