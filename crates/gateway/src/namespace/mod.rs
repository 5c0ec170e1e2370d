//! What holds for a channel: what its namespace's options mean for those who want something of it. Which namespaces
//! there are and with which options, the configuration says ([`crate::config::namespaces`]), and it never changes;
//! nothing here asks who a client is but `rights`.

mod features;
mod rights;

use fanfare_broker::Retention;
use fanfare_hub::WhenSlow;
use fanfare_protocol::Channel;

pub use crate::config::namespaces::{Namespace, Namespaces, UnknownNamespace};
pub use crate::config::options::{May, MaySubscribe, Offer, Options, SlowConsumers};

pub use self::features::Features;
pub use self::rights::{Denial, may_publish, may_read_history, may_read_presence, may_subscribe};

impl Options {
    /// What is kept of a channel's publications, if anything.
    pub fn retention(&self) -> Option<Retention> {
        let size = usize::try_from(self.history_size?.get()).unwrap_or(usize::MAX);
        Some(Retention::new(size, self.history_ttl))
    }

    /// Whether a channel may have this name for clients of the Centrifuge protocol: ASCII, unless a pattern says what
    /// else.
    pub fn admits(&self, channel: &Channel) -> bool {
        match &self.name_pattern {
            None => channel.as_str().is_ascii(),
            Some(_) => self.admits_raw(channel),
        }
    }

    /// Whether a channel may have this name for the raw endpoints: any, unless there is a pattern.
    pub fn admits_raw(&self, channel: &Channel) -> bool {
        self.name_pattern.as_ref().is_none_or(|pattern| pattern.matches(channel.as_str()))
    }
}

impl From<SlowConsumers> for WhenSlow {
    fn from(option: SlowConsumers) -> Self {
        match option {
            SlowConsumers::Close => Self::Close,
            SlowConsumers::DropOldest => Self::DropOldest,
            SlowConsumers::KeepLatest => Self::KeepLatest,
        }
    }
}

#[cfg(test)]
mod tests;
