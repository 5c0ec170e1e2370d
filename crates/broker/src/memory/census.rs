//! The one instance's own facts, for whoever asks. Nothing here counts; it keeps what it is told.

use std::collections::BTreeMap;
use std::ops::Bound;

use fanfare_protocol::Channel;

use super::glob;
use crate::{ChannelFacts, Cursor, InstanceFacts, Page, Portion};

/// What was last said.
#[derive(Default)]
pub(super) struct Books {
    facts: Option<InstanceFacts>,
    /// Channels without subscribers are not kept.
    subscribers: BTreeMap<Channel, u64>,
}

impl Books {
    /// Replaces what was said before.
    pub fn describe(&mut self, facts: InstanceFacts) {
        self.facts = Some(facts);
    }

    /// This one, once it has said anything of itself.
    pub fn instances(&self) -> Vec<InstanceFacts> {
        self.facts.iter().cloned().collect()
    }

    /// Replaces the number of subscribers of a channel.
    pub fn count(&mut self, channel: &Channel, subscribers: u64) {
        if subscribers == 0 {
            self.subscribers.remove(channel);
        } else {
            self.subscribers.insert(channel.clone(), subscribers);
        }
    }

    /// Looks at so many channels, whatever the pattern, so that a page costs no more than that.
    pub fn channels(&self, pattern: Option<&str>, from: &Cursor, portion: Portion) -> Page<ChannelFacts> {
        let after = Channel::new(from.as_str()).map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.subscribers.range((after, Bound::Unbounded)).peekable();
        let mut items = Vec::new();
        let mut last = None;
        for (channel, &subscribers) in rest.by_ref().take(portion.entries.max(1)) {
            last = Some(channel);
            if pattern.is_none_or(|pattern| glob::matches(pattern.as_bytes(), channel.as_str().as_bytes())) {
                items.push(ChannelFacts { channel: channel.clone(), subscribers });
            }
        }
        let next = rest.peek().and(last).map(|channel| Cursor::new(channel.as_str()));
        let bytes = items.iter().map(|facts| Portion::ENTRY + facts.channel.as_str().len()).sum();
        Page::within(portion, bytes, from, || Page { items, next, too_much: None })
    }
}
