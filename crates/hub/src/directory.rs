//! Which workers have subscribers of a channel: the one map that all threads read. It does not know
//! connections; those stay with their worker.

use fanfare_protocol::Channel;
use papaya::{HashMap, Operation};

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

    fn with(self, worker: usize) -> Self {
        Self(self.0 | 1 << worker)
    }

    fn without(self, worker: usize) -> Self {
        Self(self.0 & !(1 << worker))
    }
}

/// Read for every publication, without a lock; written when a worker's first subscriber of a channel
/// comes or its last one goes.
#[derive(Default)]
pub(crate) struct Directory(HashMap<Channel, Workers>);

impl Directory {
    pub(crate) fn workers(&self, channel: &Channel) -> Workers {
        self.0.pin().get(channel).copied().unwrap_or_default()
    }

    pub(crate) fn join(&self, channel: &Channel, worker: usize) {
        self.change(channel, |workers| workers.with(worker));
    }

    pub(crate) fn leave(&self, channel: &Channel, worker: usize) {
        self.change(channel, |workers| workers.without(worker));
    }

    pub(crate) fn channels(&self) -> usize {
        self.0.len()
    }

    fn change(&self, channel: &Channel, change: impl Fn(Workers) -> Workers) {
        self.0.pin().compute(channel.clone(), |entry| {
            let changed = change(entry.map_or(Workers::default(), |(_, workers)| *workers));
            match (entry, changed.is_empty()) {
                (None, true) => Operation::Abort(()),
                (Some(_), true) => Operation::Remove,
                (_, false) => Operation::Insert(changed),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_listed_while_a_worker_wants_it() {
        let (directory, lobby) = (Directory::default(), Channel::lobby());
        let wanted = |directory: &Directory| directory.workers(&lobby).iter().collect::<Vec<_>>();
        directory.leave(&lobby, 3);
        assert_eq!(directory.channels(), 0);
        directory.join(&lobby, 63);
        directory.join(&lobby, 0);
        directory.join(&lobby, 0);
        assert_eq!(wanted(&directory), [0, 63]);
        directory.leave(&lobby, 0);
        assert_eq!(wanted(&directory), [63]);
        directory.leave(&lobby, 63);
        assert_eq!((wanted(&directory), directory.channels()), (vec![], 0));
    }
}
