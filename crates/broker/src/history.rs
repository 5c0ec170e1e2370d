//! What callers say and hear about the history of channels. Where it is kept is the brokers' business.

use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::{Channel, Epoch, Position, Publication};

/// Whether a channel has a history, and how much of one. Asked for each publication and subscription, so it must be
/// quick, and its answer for a channel must stay the same.
pub type Retain = Arc<dyn Fn(&Channel) -> Option<Retention> + Send + Sync>;

/// For how long a channel's history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retention {
    /// Publications; the oldest go first. At least 1.
    pub size: usize,
    /// After the last publication all go.
    pub ttl: Duration,
    /// After the last use even the numbering is forgotten: the channel begins a new epoch. Long after `ttl`, so that a
    /// client that comes back late is told how much it missed.
    pub meta_ttl: Duration,
}

impl Retention {
    /// A history of so many publications and such a life, with a numbering that lasts thirty days.
    pub fn new(size: usize, ttl: Duration) -> Self {
        Self { size: size.max(1), ttl, meta_ttl: (ttl * 10).max(Duration::from_secs(30 * 24 * 3600)) }
    }
}

/// How to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendOptions {
    /// Whoever appends with the same key again, gets the result of the first time, and nothing is published.
    pub idempotency_key: Option<String>,
    /// For how long the key is remembered.
    pub idempotency_ttl: Duration,
    /// Neither kept nor numbered, although the channel has a history: it stands outside of that.
    pub skip_history: bool,
    /// Which version of something this is. If the channel's history has come so far already, nothing is published, and
    /// the result is where the history stands. Means nothing where nothing is kept.
    pub version: Option<Version>,
}

/// How new what is published is, by its publisher's own count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Greater is newer.
    pub number: u64,
    /// Numbers of different epochs say nothing about each other; the empty one goes with any.
    pub epoch: String,
}

impl Default for AppendOptions {
    fn default() -> Self {
        Self {
            idempotency_key: None,
            idempotency_ttl: Duration::from_secs(300),
            skip_history: false,
            version: None,
        }
    }
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where it is in the channel's history, or where what was published instead of it is; nothing where nothing is
    /// kept.
    pub position: Option<Position>,
    /// Why it was not published itself.
    pub suppressed: Option<Suppressed>,
}

impl Appended {
    /// One that was published.
    pub(crate) fn published(position: Option<Position>) -> Self {
        Self { position, suppressed: None }
    }
}

/// Why something was rightly not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suppressed {
    /// Something was published under the same key before.
    Repeated,
    /// Something as new or newer was published before.
    Outdated,
}

impl Suppressed {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::Repeated, Self::Outdated];

    /// The name by which it is counted.
    pub fn label(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::Outdated => "outdated",
        }
    }
}

impl AppendOptions {
    /// Append once under this key, within five minutes.
    pub fn once(key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), ..Self::default() }
    }
}

/// What to read of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Query {
    /// Forward: only what is newer, the oldest of it first. Reverse: only what is older, the newest of it first.
    /// Nothing: everything there is. An empty epoch (`Epoch::ANY`) matches any.
    pub since: Option<Position>,
    /// No more than so many publications; 0 for the top alone.
    pub limit: usize,
    /// The newest first.
    pub reverse: bool,
    /// All of it, or if that is more than so many bytes, nothing: whoever asks has room for so much. `usize::MAX` for
    /// any number.
    pub bytes: usize,
    /// What was read a moment ago will do, where nothing has come since: whoever asks hears what is published.
    pub recent: bool,
}

impl Query {
    /// The top alone.
    pub const TOP: Self = Self { since: None, limit: 0, reverse: false, bytes: usize::MAX, recent: false };

    /// Everything there is, the oldest first.
    pub const ALL: Self = Self { since: None, limit: usize::MAX, ..Self::TOP };

    /// What is newer than `since`, the oldest first.
    pub fn since(since: Position, limit: usize) -> Self {
        Self { since: Some(since), limit, ..Self::TOP }
    }

    /// The same, if it is not more than so many bytes.
    pub fn within(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// The same for somebody who is subscribed already, and so misses nothing that came since: the answer may be a
    /// second old.
    pub fn or_recent(self) -> Self {
        Self { recent: true, ..self }
    }

    /// Fewer of the same, where `history` says that all of them are too many bytes: as many as may fit, and at last
    /// one, whatever that takes.
    pub fn fewer(self, history: &History) -> Self {
        let since = self.since.map_or(0, |since| since.offset);
        let all =
            self.limit.min(usize::try_from(history.top.offset.saturating_sub(since)).unwrap_or(usize::MAX));
        let fit = all as f64 * self.bytes as f64 / history.bytes.max(1) as f64;
        // However wrong the estimate is, it ends.
        let limit = (fit as usize).min(all / 2).max(1);
        Self { limit, bytes: if limit == 1 { usize::MAX } else { self.bytes }, ..self }
    }
}

/// What was read, and where the history stood at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// In the order that was asked for; none if the epoch was another, or if they were more than was asked for.
    pub publications: Vec<Publication>,
    /// What they take of the memory, about, and if they are too much, what they would. That may be an estimate.
    pub bytes: usize,
    /// They are more bytes than was asked for, so none is given.
    pub too_much: bool,
    /// The position of the newest publication, whether or not it is still kept.
    pub top: Position,
    /// False, if `since` named an epoch that is not the history's.
    pub epoch_matches: bool,
}

/// Whether these come behind `offset`, each one by one: what is missing in the middle, or at the beginning, is missing
/// as well.
pub fn follow(offset: u64, publications: &[Publication]) -> bool {
    let offsets = publications.iter().map(|publication| publication.position.map_or(0, |at| at.offset));
    offsets.zip(1..).all(|(found, nth)| offset.checked_add(nth) == Some(found))
}

/// Why the broker did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It is away, and nothing was done. To be tried again later. Never holds a secret.
    #[error("{0}; nothing was done")]
    Away(String),
    /// It went away before it answered. To be tried again with the same idempotency key.
    #[error("{0}; whether it was published is not known")]
    Unknown(String),
    /// It is there and refused: its memory or disk is full, or a right is missing. Nothing was done.
    #[error("{0}; nothing was done")]
    Refused(String),
    /// The channel keeps no history.
    #[error("the channel keeps no history")]
    NoHistory,
}

impl BrokerError {
    /// Whether the same may succeed later without anybody's doing.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Unknown(_))
    }
}

/// A new life of a history.
pub(crate) fn new_epoch() -> Epoch {
    Epoch::from_random(fastrand::u64(..))
}
