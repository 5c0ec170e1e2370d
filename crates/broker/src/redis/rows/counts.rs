//! How many subscribers each channel of this instance has, as Redis knows it, and which may have changed since. It asks
//! nobody; whoever writes does.

use std::collections::{HashMap, HashSet};

use fanfare_protocol::Channel;

/// See the module.
#[derive(Default)]
pub(super) struct Counts {
    /// Without those that have none.
    written: HashMap<Channel, u64>,
    changed: HashSet<Channel>,
}

impl Counts {
    /// There may be more or fewer now.
    pub fn changed(&mut self, channel: &Channel) {
        if !self.changed.contains(channel) {
            self.changed.insert(channel.clone());
        }
    }

    /// Takes up to `most` channels of which it must be asked how many subscribers they have.
    pub fn take(&mut self, most: usize) -> Vec<Channel> {
        if self.changed.len() <= most {
            return std::mem::take(&mut self.changed).into_iter().collect();
        }
        let taken: Vec<_> = self.changed.iter().take(most).cloned().collect();
        taken.iter().for_each(|channel| {
            self.changed.remove(channel);
        });
        taken
    }

    /// Whether Redis would learn something new.
    pub fn is_news(&self, channel: &Channel, subscribers: u64) -> bool {
        self.written.get(channel).copied().unwrap_or_default() != subscribers
    }

    /// Redis has been told this number.
    pub fn wrote(&mut self, channel: Channel, subscribers: u64) {
        if subscribers == 0 {
            self.written.remove(&channel);
        } else {
            self.written.insert(channel, subscribers);
        }
    }

    /// It is not known what Redis has of these.
    pub fn in_doubt(&mut self, channels: impl Iterator<Item = Channel>) {
        for channel in channels {
            // Any number but the right one makes it be written.
            self.written.insert(channel.clone(), u64::MAX);
            self.changed.insert(channel);
        }
    }

    /// A new lease: everything is written again.
    pub fn renew(&mut self) {
        self.changed.extend(self.written.drain().map(|(channel, _)| channel));
    }
}
