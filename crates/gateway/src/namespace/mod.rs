//! What holds for a channel: which namespace it belongs to, and with which options. The options come from the
//! configuration ([`crate::config::options`]) and never change; nothing here asks who a client is but `rights`.

mod features;
mod rights;

use std::ops::Deref;
use std::sync::Arc;

use fanfare_broker::Retention;
use fanfare_hub::WhenSlow;
use fanfare_protocol::Channel;

pub use crate::config::options::{May, MaySubscribe, Namespaces, Offer, Options, SlowConsumers};

pub use self::features::Features;
pub use self::rights::{Denial, may_publish, may_read_history, may_read_presence, may_subscribe};

/// A namespace and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// As before the `:` of its channels; none for the default's, which have no `:`.
    pub name: Option<Box<str>>,
    /// Its place among [`Namespaces::iter`], for tables that have a row for each.
    pub index: usize,
    /// What holds in it.
    pub options: Options,
    /// Whether the users' own channels are here (`personal_channel`).
    pub personal: bool,
}

impl Namespace {
    /// Its label in metrics. No namespace can be named so.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("(default)")
    }

    /// The name of the user whose own channel it is, if it is one's.
    pub fn owner<'c>(&self, channel: &'c Channel) -> Option<&'c str> {
        channel.personal_user(self.name.as_deref()).filter(|_| self.personal)
    }
}

impl Options {
    /// What is kept of a channel's publications, if anything.
    pub fn retention(&self) -> Option<Retention> {
        let size = usize::try_from(self.history_size?.get()).unwrap_or(usize::MAX);
        Some(Retention::new(size, self.history_ttl))
    }
}

impl Deref for Namespace {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
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

/// No such namespace is configured: error 102 of the client protocol, 404 of the raw endpoints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no namespace {0:?}")]
pub struct UnknownNamespace(pub String);

impl Namespaces {
    /// The namespace of a channel: the one before the first `:` of its name, or the default. Where the file names no
    /// namespace, every name is the default's, a `:` in it or not.
    ///
    /// # Errors
    ///
    /// When other namespaces are configured and this one is not.
    pub fn resolve(&self, channel: &Channel) -> Result<&Arc<Namespace>, UnknownNamespace> {
        let (default, named) = self.all.split_first().expect("the default is always there");
        let Some(name) = channel.namespace().filter(|_| !named.is_empty()) else { return Ok(default) };
        // A handful: to compare them is cheaper than to hash the name.
        let found = named.iter().find(|namespace| namespace.name.as_deref() == Some(name));
        found.ok_or_else(|| UnknownNamespace(name.to_owned()))
    }

    /// The default's options and those of each namespace, in the order of their index.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.all.iter()
    }

    /// Whether the file says anything about channels. Where it does not, all are open to anybody.
    pub fn are_configured(&self) -> bool {
        self.configured
    }
}

impl Options {
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

#[cfg(test)]
mod tests;
