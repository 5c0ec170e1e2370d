//! What the memory broker remembers: histories of channels and results of appends, each for its time. It is plain
//! data and has no clock of its own. Of a channel to which nothing was published it keeps nothing: anybody can ask for
//! any name, and the numbering of such a channel can be worked out again whenever somebody does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Epoch, Position, Publication};

use crate::{AppendOptions, History, Query, Retention, Version};

/// A part of the channels.
#[derive(Default)]
pub(super) struct Kept {
    streams: HashMap<Channel, Stream>,
    results: HashMap<(Channel, String), Remembered>,
    /// When to look at what: one entry for each stream and each result. It may be too early, for what was used
    /// meanwhile, and never too late.
    due: BTreeSet<(Instant, Due)>,
    beginnings: Beginnings,
}

/// The epochs in which channels begin that nothing was published to. Who is told of one, and comes back, or waits for the
/// first publication, finds it unchanged. When a numbering is forgotten, the next one of that channel has another
/// epoch, and with it a few others that have not begun.
#[derive(Default)]
struct Beginnings {
    /// Its keys are this process's own, so no epoch is told twice, nor guessed.
    random: RandomState,
    /// How many numberings were forgotten, by a part of the channels' hash: at most [`SHARES`] of them.
    forgotten: HashMap<u64, u64>,
}

struct Stream {
    epoch: Epoch,
    /// Of the last publication.
    offset: u64,
    /// The newest that a publisher has given a version.
    version: Option<Version>,
    /// The newest, without holes.
    publications: VecDeque<Publication>,
    /// When the publications go.
    expires: Instant,
    /// When all goes.
    forgotten: Instant,
    /// Its entry in `due`.
    due: Instant,
}

struct Remembered {
    position: Option<Position>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Stream(Channel),
    Result(Channel, String),
}

impl Kept {
    /// Numbers a publication and keeps it.
    pub fn append(
        &mut self,
        channel: &Channel,
        publication: &Publication,
        retention: Retention,
        now: Instant,
    ) -> Position {
        let stream = self.stream(channel, retention, now);
        stream.offset += 1;
        let position = stream.top();
        stream.publications.push_back(Publication { position: Some(position), ..publication.clone() });
        while stream.publications.len() > retention.size {
            stream.publications.pop_front();
        }
        stream.expires = later(now, retention.ttl);
        let (was, next) = (stream.due, stream.expires);
        if next < was {
            stream.due = next;
            self.due.remove(&(was, Due::Stream(channel.clone())));
            self.due.insert((next, Due::Stream(channel.clone())));
        }
        position
    }

    /// Where the history stands, if it has come to this version already; otherwise it has come to it now.
    pub fn suppress(
        &mut self,
        channel: &Channel,
        version: &Version,
        retention: Retention,
        now: Instant,
    ) -> Option<Position> {
        let stream = self.stream(channel, retention, now);
        let reached = stream.version.as_ref().is_some_and(|reached| {
            reached.number >= version.number && (version.epoch.is_empty() || version.epoch == reached.epoch)
        });
        if reached {
            return Some(stream.top());
        }
        stream.version = Some(version.clone());
        None
    }

    /// What `query` asks for, with the top; that keeps a numbering that has begun, and begins none.
    pub fn read(&mut self, channel: &Channel, query: Query, retention: Retention, now: Instant) -> History {
        let Some(stream) = self.streams.get_mut(channel) else {
            let top = Position { offset: 0, epoch: self.beginnings.epoch(channel) };
            let epoch_matches = query.since.is_none_or(|since| since.epoch.matches(&top.epoch));
            return History { publications: Vec::new(), top, epoch_matches };
        };
        stream.forgotten = forgotten(retention, now);
        let top = stream.top();
        let epoch_matches = query.since.is_none_or(|since| since.epoch.matches(&top.epoch));
        let since = query.since.map(|since| since.offset);
        let kept = stream.publications.iter();
        let publications = match (epoch_matches, query.reverse) {
            (false, _) => Vec::new(),
            (true, false) => {
                let newer = top.offset.saturating_sub(since.unwrap_or(0));
                let skip = (kept.len() as u64).saturating_sub(newer);
                kept.skip(skip as usize).take(query.limit).cloned().collect()
            }
            (true, true) => {
                let skip =
                    since.map_or(0, |since| (top.offset + 1).saturating_sub(since)).min(kept.len() as u64);
                kept.rev().skip(skip as usize).take(query.limit).cloned().collect()
            }
        };
        History { publications, top, epoch_matches }
    }

    /// Forgets a channel's publications.
    pub fn remove(&mut self, channel: &Channel) {
        if let Some(stream) = self.streams.get_mut(channel) {
            stream.publications = VecDeque::new();
        }
    }

    /// What came of an append with the same key, if that is remembered.
    pub fn result(&self, channel: &Channel, options: &AppendOptions) -> Option<Option<Position>> {
        let key = options.idempotency_key.clone()?;
        Some(self.results.get(&(channel.clone(), key))?.position)
    }

    /// Remembers what came of an append, if it has a key.
    pub fn remember(
        &mut self,
        channel: &Channel,
        options: &AppendOptions,
        position: Option<Position>,
        now: Instant,
    ) {
        let Some(key) = options.idempotency_key.clone() else { return };
        self.due.insert((later(now, options.idempotency_ttl), Due::Result(channel.clone(), key.clone())));
        self.results.insert((channel.clone(), key), Remembered { position });
    }

    /// Lets go of everything whose time is over.
    pub fn forget(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            match self.due.pop_first() {
                Some((_, Due::Result(channel, key))) => {
                    self.results.remove(&(channel, key));
                }
                Some((_, Due::Stream(channel))) => {
                    let Some(stream) = self.streams.get_mut(&channel) else { continue };
                    if stream.forget(now) {
                        self.streams.remove(&channel);
                        self.beginnings.forget(&channel);
                    } else {
                        self.due.insert((stream.due, Due::Stream(channel)));
                    }
                }
                None => {}
            }
        }
    }

    fn stream(&mut self, channel: &Channel, retention: Retention, now: Instant) -> &mut Stream {
        let forgotten = forgotten(retention, now);
        if !self.streams.contains_key(channel) {
            self.due.insert((forgotten, Due::Stream(channel.clone())));
        }
        let stream = self.streams.entry(channel.clone()).or_insert_with(|| Stream {
            epoch: self.beginnings.epoch(channel),
            offset: 0,
            version: None,
            publications: VecDeque::new(),
            expires: forgotten,
            forgotten,
            due: forgotten,
        });
        stream.forgotten = forgotten;
        stream
    }
}

impl Beginnings {
    fn epoch(&self, channel: &Channel) -> Epoch {
        let times = self.forgotten.get(&self.share(channel)).copied().unwrap_or(0);
        Epoch::from_random(self.random.hash_one((channel, times)))
    }

    fn forget(&mut self, channel: &Channel) {
        *self.forgotten.entry(self.share(channel)).or_default() += 1;
    }

    fn share(&self, channel: &Channel) -> u64 {
        self.random.hash_one(channel) % SHARES
    }
}

impl Stream {
    fn top(&self) -> Position {
        Position { offset: self.offset, epoch: self.epoch }
    }

    /// Forgets what is over. True if that is everything; otherwise it is `due` again.
    fn forget(&mut self, now: Instant) -> bool {
        if self.expires <= now {
            self.publications = VecDeque::new();
        }
        self.due =
            if self.publications.is_empty() { self.forgotten } else { self.expires.min(self.forgotten) };
        self.forgotten <= now
    }
}

fn forgotten(retention: Retention, now: Instant) -> Instant {
    later(now, retention.meta_ttl.max(retention.ttl))
}

/// A time that is beyond the clock never comes.
fn later(now: Instant, pause: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + pause.min(CENTURY)
}

/// So many that hardly ever two channels share one, and so few that it is no matter if all have been used.
const SHARES: u64 = 4096;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fanfare_protocol::Kind;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn publication() -> Publication {
        Publication::new(Kind::Text, Bytes::from_static(b"x"))
    }

    #[test]
    fn everything_goes_in_its_time_and_leaves_nothing() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let channel = Channel::lobby();
        let retention = Retention { size: 2, ttl: SECOND * 10, meta_ttl: SECOND * 100 };
        let once = AppendOptions { idempotency_ttl: SECOND * 5, ..AppendOptions::once("key") };
        let mut kept = Kept::default();
        for now in [0, 1, 2, 8] {
            kept.append(&channel, &publication(), retention, at(now));
        }
        kept.remember(&channel, &once, None, at(8));
        // At, publications kept, results kept, streams kept.
        for (now, publications, results, streams) in
            [(12, 2, 1, 1), (13, 2, 0, 1), (17, 2, 0, 1), (18, 0, 0, 1), (107, 0, 0, 1), (108, 0, 0, 0)]
        {
            kept.forget(at(now));
            let found = kept.streams.get(&channel).map_or(0, |stream| stream.publications.len());
            assert_eq!(
                (found, kept.results.len(), kept.streams.len()),
                (publications, results, streams),
                "{now}"
            );
        }
        assert_eq!(kept.due.len(), 0);
    }

    #[test]
    fn a_history_that_comes_back_after_its_life_goes_on_counting_and_expires_again() {
        let start = Instant::now();
        let channel = Channel::lobby();
        let retention = Retention { size: 2, ttl: SECOND, meta_ttl: SECOND * 100 };
        let mut kept = Kept::default();
        for round in 0..50 {
            let now = start + SECOND * round;
            kept.forget(now);
            let position = kept.append(&channel, &publication(), retention, now);
            assert_eq!(position.offset, u64::from(round) + 1);
            let read = kept.read(&channel, Query::newest(9), retention, now);
            assert_eq!((read.publications.len(), kept.due.len()), (1, 1));
        }
    }

    #[test]
    fn names_that_nothing_was_published_to_leave_nothing_and_keep_their_place() {
        let start = Instant::now();
        let retention = Retention { size: 2, ttl: SECOND, meta_ttl: SECOND * 10 };
        let named = |number: usize| Channel::new(&format!("made up {number}")).expect("a name");
        let mut kept = Kept::default();
        let told: Vec<_> =
            (0..1000).map(|number| kept.read(&named(number), Query::TOP, retention, start).top).collect();
        assert_eq!((kept.streams.len(), kept.due.len(), kept.beginnings.forgotten.len()), (0, 0, 0));
        for (number, told) in told.iter().enumerate() {
            let channel = named(number);
            let back = kept.read(&channel, Query::since(*told, 9), retention, start + SECOND * 1000);
            assert_eq!((back.top, back.epoch_matches, back.publications.len()), (*told, true, 0));
            let first = kept.append(&channel, &publication(), retention, start + SECOND * 1000);
            assert_eq!(first, Position { offset: 1, ..*told }, "whoever waited has missed nothing");
            let missed = kept.read(&channel, Query::since(*told, 9), retention, start + SECOND * 1000);
            assert_eq!((missed.epoch_matches, missed.publications.len()), (true, 1));
        }
        assert_eq!(kept.streams.len(), 1000);
        kept.forget(start + SECOND * 2000);
        assert_eq!((kept.streams.len(), kept.due.len()), (0, 0));
        for (number, told) in told.iter().enumerate() {
            let back = kept.read(&named(number), Query::since(*told, 9), retention, start + SECOND * 2000);
            assert!(!back.epoch_matches && back.top.offset == 0, "{number}: what was forgotten is announced");
        }
    }
}
