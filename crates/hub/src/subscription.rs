//! A connection's interest in a channel, as it is asked for. What becomes of it is its room's business.

use std::rc::Rc;

use fanfare_protocol::{Channel, Filter};

use crate::format::Format;

/// What a connection wants of a channel.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The channel.
    pub channel: Channel,
    /// How publications are written.
    pub format: Format,
    /// Whether the connection gets what it publishes itself.
    pub echo: bool,
    /// What a gap means to it.
    pub on_gap: OnGap,
    /// What happens when its connection does not read.
    pub when_slow: WhenSlow,
    /// Whether it is told who comes and goes.
    pub news: bool,
    /// Which publications it wants, if not all.
    pub filter: Option<Rc<Filter>>,
    /// Whether publications are kept until `Shard::release` says from which on they are wanted.
    pub held: bool,
}

/// What happens when publications may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing: it wants what there is.
    Nothing,
    /// It is told, in its place among the publications.
    Notice,
    /// It ends: its position is worth nothing any more.
    Lapse,
}

/// What happens to publications for a connection that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenSlow {
    /// They wait, and at its limit the connection is closed.
    Close,
    /// At the connection's limit, the oldest that wait are dropped.
    DropOldest,
    /// Only the latest waits.
    KeepLatest,
}

impl Subscription {
    /// All publications from now on, its own included, and no word of gaps.
    pub fn new(channel: Channel, format: Format) -> Self {
        let (on_gap, when_slow) = (OnGap::Nothing, WhenSlow::Close);
        Self { channel, format, echo: true, on_gap, when_slow, news: false, filter: None, held: false }
    }
}
