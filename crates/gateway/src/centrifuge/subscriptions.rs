//! What one connection is subscribed to, as its session knows it. What the hub and the broker know of it is theirs; who
//! changes one changes the others (`subscribe.rs`).

use bytes::Bytes;
use fanfare_protocol::Channel;

use crate::expiry::Expiry;

/// One subscription.
#[derive(Debug)]
pub struct Sub {
    pub channel: Channel,
    /// The client has been told that it is subscribed. Until then it may be taken back all the same.
    pub told: bool,
    /// What others are shown of the subscriber here.
    pub info: Option<Bytes>,
    /// When it has to be refreshed.
    pub expiry: Option<Expiry>,
    /// The server has made it, not the client; it cannot be asked to subscribe again.
    pub by_server: bool,
    /// The connection's token names it.
    pub in_token: bool,
    /// It counts as presence, and others are told so.
    pub presence: Presence,
    /// Bytes that its filter takes.
    pub filter: u32,
}

/// How a subscription counts as presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not at all.
    Absent,
    /// It can be looked up.
    Quiet,
    /// And others are told.
    Told,
}

/// All of a connection. Most have one or a few, so they are no table.
#[derive(Debug, Default)]
pub struct Subs(Vec<Sub>);

impl Subs {
    /// The one in this channel, told of to the client or still under way.
    pub fn get(&self, channel: &Channel) -> Option<&Sub> {
        self.0.iter().find(|sub| sub.channel == *channel)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, channel: &Channel) -> Option<&mut Sub> {
        self.0.iter_mut().find(|sub| sub.channel == *channel)
    }

    /// Takes it in; in the place of what there was of it before.
    pub fn put(&mut self, sub: Sub) {
        if let Some(before) = self.get_mut(&sub.channel) {
            *before = sub;
            return;
        }
        if self.0.len() < 4 {
            self.0.reserve_exact(1);
        }
        self.0.push(sub);
    }

    /// Takes out the one in this channel.
    pub fn remove(&mut self, channel: &Channel) -> Option<Sub> {
        let place = self.0.iter().position(|sub| sub.channel == *channel)?;
        Some(self.0.swap_remove(place))
    }

    /// Forgets one that came to nothing.
    pub fn forget_untold(&mut self, channel: &Channel) {
        self.0.retain(|sub| sub.told || sub.channel != *channel);
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Sub> {
        self.0.iter()
    }

    /// How many there are, those under way included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes that all filters take.
    pub fn filters(&self) -> usize {
        self.0.iter().map(|sub| sub.filter as usize).sum()
    }

    /// Takes out all of them.
    pub fn take(&mut self) -> Vec<Sub> {
        std::mem::take(&mut self.0)
    }
}
