//! Which workers have subscribers of a channel, and in which formats those want their publications: the one
//! map that all threads read. It does not know connections; those stay with their worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_protocol::Channel;
use papaya::{HashMap, Operation};
use smallvec::SmallVec;

use crate::format::{Format, Formats};

/// A set of workers, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Workers(u64);

impl Workers {
    /// The most workers that an instance can have.
    pub const MAX: usize = u64::BITS as usize;

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The workers' numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let next = (left != 0).then(|| left.trailing_zeros() as usize);
            left &= left.wrapping_sub(1);
            next
        })
    }

    pub(crate) fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn with(self, worker: usize) -> Self {
        Self(self.0 | 1 << worker)
    }

    fn without(self, worker: usize) -> Self {
        Self(self.0 & !(1 << worker))
    }
}

/// Who is to get the publications of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audience {
    /// The workers that have subscribers.
    pub workers: Workers,
    /// The formats that any of those subscribers wants.
    pub formats: Formats,
}

/// Read for every publication, without a lock; written when a worker's first subscriber of a channel in a
/// format comes or its last one goes.
#[derive(Default)]
pub(crate) struct Directory(HashMap<Channel, Entry>);

#[derive(Clone)]
struct Entry {
    /// For each format that is wanted, the workers that want it. Mostly one, so it is no table.
    wanted: SmallVec<[(Format, Workers); 1]>,
    subscribers: Subscribers,
}

/// How many are subscribed to a channel, counted by the rooms of all workers.
pub(crate) type Subscribers = Arc<AtomicU64>;

impl Directory {
    /// Which workers have members of a channel, and in which formats. Nobody, if it has none.
    pub(crate) fn audience(&self, channel: &Channel) -> Audience {
        let mut audience = Audience::default();
        if let Some(entry) = self.0.pin().get(channel) {
            for (format, workers) in &entry.wanted {
                audience.workers.0 |= workers.0;
                audience.formats.insert(*format);
            }
        }
        audience
    }

    /// A worker wants these formats from now on. Gives where it is to count its subscribers, if there are any.
    pub(crate) fn join(&self, channel: &Channel, formats: Formats, worker: usize) -> Option<Subscribers> {
        if formats.is_empty() {
            return None;
        }
        formats.iter().for_each(|format| self.change(channel, format, |workers| workers.with(worker)));
        self.0.pin().get(channel).map(|entry| entry.subscribers.clone())
    }

    /// Members of a channel on all workers.
    pub(crate) fn subscribers(&self, channel: &Channel) -> u64 {
        self.0.pin().get(channel).map_or(0, |entry| entry.subscribers.load(Ordering::Relaxed))
    }

    /// A worker does not want these formats any more. The channel stays listed, even for nobody, until it is tidied
    /// away.
    pub(crate) fn leave(&self, channel: &Channel, formats: Formats, worker: usize) {
        formats.iter().for_each(|format| self.change(channel, format, |workers| workers.without(worker)));
    }

    /// Forgets a channel that nobody wants. Apart from `leave`, because a removed entry leaves a mark in the map that
    /// all others are searched behind: a channel that comes and goes with each of a thousand connections a second
    /// took a third of the CPU time.
    pub(crate) fn tidy(&self, channel: &Channel) {
        self.0.pin().compute(channel.clone(), |entry| match entry {
            Some((_, entry)) if entry.wanted.is_empty() => Operation::Remove,
            _ => Operation::Abort(()),
        });
    }

    /// How many channels somebody wants.
    pub(crate) fn channels(&self) -> usize {
        self.0.pin().values().filter(|entry| !entry.wanted.is_empty()).count()
    }

    fn change(&self, channel: &Channel, format: Format, change: impl Fn(Workers) -> Workers) {
        self.0.pin().compute(channel.clone(), |entry| {
            let before = entry.map_or(&[][..], |(_, entry)| &entry.wanted);
            let workers = before.iter().find(|(other, _)| *other == format).map(|(_, workers)| *workers);
            let changed = change(workers.unwrap_or_default());
            let others = before.iter().copied().filter(|(other, _)| *other != format);
            let wanted: SmallVec<_> =
                others.chain((!changed.is_empty()).then_some((format, changed))).collect();
            if entry.is_none() && wanted.is_empty() {
                return Operation::Abort(());
            }
            let subscribers = entry.map(|(_, entry)| entry.subscribers.clone()).unwrap_or_default();
            Operation::Insert(Entry { wanted, subscribers })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Carrier;

    const DEFLATED: Format = Format::PLAIN.carried_by(Carrier::Deflated);

    #[test]
    fn a_channel_is_listed_while_a_worker_wants_it() {
        let (directory, lobby) = (Directory::default(), Channel::lobby());
        let wanted = |directory: &Directory| {
            let Audience { workers, formats } = directory.audience(&lobby);
            (workers.iter().collect::<Vec<_>>(), formats.iter().collect::<Vec<_>>())
        };
        let [plain, deflated] = [Format::PLAIN, DEFLATED].map(|format| {
            let mut formats = Formats::default();
            formats.insert(format);
            formats
        });
        directory.leave(&lobby, plain, 3);
        assert_eq!(directory.channels(), 0);
        directory.join(&lobby, plain, 63);
        directory.join(&lobby, deflated, 0);
        directory.join(&lobby, plain, 0);
        directory.join(&lobby, plain, 0);
        assert_eq!(wanted(&directory), (vec![0, 63], vec![Format::PLAIN, DEFLATED]));
        directory.leave(&lobby, plain, 0);
        assert_eq!(wanted(&directory), (vec![0, 63], vec![Format::PLAIN, DEFLATED]));
        directory.leave(&lobby, deflated, 0);
        assert_eq!(wanted(&directory), (vec![63], vec![Format::PLAIN]));
        directory.leave(&lobby, plain, 63);
        assert_eq!((wanted(&directory), directory.channels()), ((vec![], vec![]), 0));
        directory.join(&lobby, plain, 1);
        directory.tidy(&lobby);
        assert_eq!((wanted(&directory), directory.channels()), ((vec![1], vec![Format::PLAIN]), 1));
        directory.leave(&lobby, plain, 1);
        assert_eq!(directory.0.len(), 1, "somebody may come back");
        directory.tidy(&lobby);
        assert_eq!(directory.0.len(), 0);
    }
}
