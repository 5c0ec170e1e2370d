//! What the memory broker remembers: histories of channels and results of appends, each for its time, and less long
//! if all together would be too much. It is plain data and has no clock of its own. Of a channel to which nothing was
//! published it keeps nothing: anybody can ask for any name, and the numbering of such a channel can be worked out
//! again whenever somebody does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Epoch, Position, Publication};

use super::allowance::Allowance;
use super::weight;
use crate::{AppendOptions, History, Query, Retention, Version};

/// A part of the channels.
pub(super) struct Kept {
    /// What it may keep together with the other parts, of which it is this one.
    allowance: Arc<Allowance>,
    part: usize,
    streams: HashMap<Channel, Stream>,
    results: HashMap<(Channel, String), Option<Position>>,
    /// When to look at which stream: one entry for each. It may be too early, for what was used meanwhile, and never
    /// too late.
    due: BTreeSet<(Instant, Channel)>,
    /// When the stream was published to last: one entry for each. It may be too early as well, so that whoever
    /// publishes need not change it.
    idle: BTreeSet<(Instant, Channel)>,
    /// When each result goes.
    ending: BTreeSet<(Instant, Channel, String)>,
    beginnings: Beginnings,
}

/// Where channels begin that nothing was published to, or nothing that is remembered. Who is told of it, and comes
/// back, or waits for the first publication, finds it unchanged. When a numbering is forgotten, that of the channel
/// goes on behind it, and with it that of a few others that have not begun: an offset is never given twice, so who
/// has it has seen what it stands for.
#[derive(Default)]
struct Beginnings {
    /// Its keys are this process's own, so no epoch is told twice, nor guessed.
    random: RandomState,
    /// The greatest offset that was forgotten, by a part of the channels' hash: [`SHARES`] of them, or none.
    forgotten: Vec<u64>,
}

struct Stream {
    epoch: Epoch,
    /// Of the last publication.
    offset: u64,
    /// The newest that a publisher has given a version.
    version: Option<Version>,
    /// The newest, without holes.
    publications: VecDeque<Publication>,
    /// What hangs on them, in bytes.
    content: usize,
    /// What the allowance was told that it takes.
    weight: usize,
    /// When the publications go.
    expires: Instant,
    /// When all goes.
    forgotten: Instant,
    /// Its entry in `due`.
    due: Instant,
    /// When it was published to last.
    published: Instant,
    /// Its entry in `idle`.
    idle: Instant,
}

impl Kept {
    /// Nothing yet; the parts of one `allowance` are told apart by their numbers.
    pub fn new(allowance: Arc<Allowance>, part: usize) -> Self {
        Self {
            allowance,
            part,
            streams: HashMap::new(),
            results: HashMap::new(),
            due: BTreeSet::new(),
            idle: BTreeSet::new(),
            ending: BTreeSet::new(),
            beginnings: Beginnings::default(),
        }
    }

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
        stream.push(Publication { position: Some(position), ..publication.clone() });
        while stream.publications.len() > retention.size {
            stream.pop();
        }
        stream.published = now;
        stream.expires = later(now, retention.ttl);
        let (was, next) = (stream.due, stream.expires);
        stream.due = was.min(next);
        let (before, after) = stream.weigh(channel);
        self.allowance.history_changed(before, after);
        if next < was {
            self.due.remove(&(was, channel.clone()));
            self.due.insert((next, channel.clone()));
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
        let (before, after) = stream.weigh(channel);
        self.allowance.history_changed(before, after);
        None
    }

    /// What `query` asks for, with the top; that keeps a numbering that has begun, and begins none.
    pub fn read(&mut self, channel: &Channel, query: Query, retention: Retention, now: Instant) -> History {
        let Some(stream) = self.streams.get_mut(channel) else {
            let top = self.beginnings.top(channel);
            let epoch_matches = query.since.is_none_or(|since| since.epoch.matches(&top.epoch));
            return History { publications: Vec::new(), bytes: 0, too_much: false, top, epoch_matches };
        };
        stream.forgotten = forgotten(retention, now);
        let top = stream.top();
        let epoch_matches = query.since.is_none_or(|since| since.epoch.matches(&top.epoch));
        let since = query.since.map(|since| since.offset);
        let kept = stream.publications.iter();
        let mut publications: Vec<_> = match (epoch_matches, query.reverse) {
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
        // What they are made of is shared with what is kept.
        let bytes = publications.iter().map(|publication| publication.size() + ENTRY).sum();
        let too_much = bytes > query.bytes;
        if too_much {
            publications = Vec::new();
        }
        History { publications, bytes, too_much, top, epoch_matches }
    }

    /// Forgets a channel's publications.
    pub fn remove(&mut self, channel: &Channel) {
        if let Some(stream) = self.streams.get_mut(channel) {
            stream.clear();
            let (before, after) = stream.weigh(channel);
            self.allowance.history_changed(before, after);
        }
    }

    /// What came of an append with the same key, if that is remembered.
    pub fn result(&self, channel: &Channel, options: &AppendOptions) -> Option<Option<Position>> {
        let key = options.idempotency_key.clone()?;
        self.results.get(&(channel.clone(), key)).copied()
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
        self.allowance.result_changed(0, weigh_result(channel, &key));
        self.ending.insert((later(now, options.idempotency_ttl), channel.clone(), key.clone()));
        self.results.insert((channel.clone(), key), position);
        self.tell_heads();
    }

    /// Lets go of everything whose time is over.
    pub fn forget(&mut self, now: Instant) {
        while self.ending.first().is_some_and(|(ends, ..)| *ends <= now) {
            self.end_result();
        }
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, channel)) = self.due.pop_first() else { return };
            let Some(stream) = self.streams.get_mut(&channel) else { continue };
            if stream.forget(now) {
                self.end_stream(&channel);
            } else {
                let (before, after) = stream.weigh(&channel);
                self.allowance.history_changed(before, after);
                self.due.insert((stream.due, channel));
            }
        }
    }

    /// Gives up the oldest publications of the channel that was published to longest ago, until not too much is kept
    /// any more, or there are none and the whole channel is forgotten.
    pub fn give_up_history(&mut self) {
        if let Some((since, channel)) = self.idle.pop_first()
            && let Some(stream) = self.streams.get_mut(&channel)
        {
            if stream.published > since {
                stream.idle = stream.published;
                self.idle.insert((stream.published, channel));
                return self.tell_heads();
            }
            while self.allowance.is_passed() && stream.pop() {
                let (before, after) = stream.weigh(&channel);
                self.allowance.history_changed(before, after);
                self.allowance.publication_given_up();
            }
            if self.allowance.is_passed() {
                self.end_stream(&channel);
            } else {
                self.idle.insert((since, channel));
            }
        }
        self.tell_heads();
    }

    /// Gives up the result that would be the first to go.
    pub fn give_up_result(&mut self) {
        if self.end_result() {
            self.allowance.result_given_up();
        }
        self.tell_heads();
    }

    fn end_result(&mut self) -> bool {
        let Some((_, channel, key)) = self.ending.pop_first() else { return false };
        self.allowance.result_changed(weigh_result(&channel, &key), 0);
        self.results.remove(&(channel, key)).is_some()
    }

    fn end_stream(&mut self, channel: &Channel) {
        let Some(stream) = self.streams.remove(channel) else { return };
        self.due.remove(&(stream.due, channel.clone()));
        self.idle.remove(&(stream.idle, channel.clone()));
        self.allowance.history_changed(stream.weight, 0);
        self.beginnings.forget(channel, stream.offset);
        self.tell_heads();
    }

    fn stream(&mut self, channel: &Channel, retention: Retention, now: Instant) -> &mut Stream {
        let forgotten = forgotten(retention, now);
        if !self.streams.contains_key(channel) {
            self.due.insert((forgotten, channel.clone()));
            self.idle.insert((now, channel.clone()));
            self.tell_heads();
        }
        let stream = self.streams.entry(channel.clone()).or_insert_with(|| {
            let Position { offset, epoch } = self.beginnings.top(channel);
            Stream {
                epoch,
                offset,
                version: None,
                publications: VecDeque::new(),
                content: 0,
                weight: 0,
                expires: forgotten,
                forgotten,
                due: forgotten,
                published: now,
                idle: now,
            }
        });
        stream.forgotten = forgotten;
        stream
    }

    /// Says what would be given up first.
    fn tell_heads(&self) {
        let (idle, ending) = (self.idle.first().map(|(at, _)| *at), self.ending.first().map(|(at, ..)| *at));
        self.allowance.heads(self.part, idle, ending);
    }
}

impl Beginnings {
    fn top(&self, channel: &Channel) -> Position {
        let hash = self.random.hash_one(channel);
        let offset = self.forgotten.get(share(hash)).copied().unwrap_or(0);
        Position { offset, epoch: Epoch::from_random(hash) }
    }

    fn forget(&mut self, channel: &Channel, offset: u64) {
        self.forgotten.resize(SHARES, 0);
        let greatest = &mut self.forgotten[share(self.random.hash_one(channel))];
        *greatest = offset.max(*greatest);
    }
}

/// The epoch is made of the rest.
fn share(hash: u64) -> usize {
    (hash >> 54) as usize
}

impl Stream {
    fn top(&self) -> Position {
        Position { offset: self.offset, epoch: self.epoch }
    }

    fn push(&mut self, publication: Publication) {
        self.content += weight::of_publication(&publication);
        self.publications.push_back(publication);
    }

    /// Lets go of the oldest publication. False, if there is none.
    fn pop(&mut self) -> bool {
        let Some(oldest) = self.publications.pop_front() else { return false };
        self.content -= weight::of_publication(&oldest);
        let (left, room) = (self.publications.len(), self.publications.capacity());
        if left == 0 {
            self.clear();
        } else if left < room / 4 {
            self.publications.shrink_to(room / 2);
        }
        true
    }

    fn clear(&mut self) {
        (self.publications, self.content) = (VecDeque::new(), 0);
    }

    /// What it took and what it takes, in bytes.
    fn weigh(&mut self, channel: &Channel) -> (usize, usize) {
        let version = self.version.as_ref().map_or(0, |version| weight::of_bytes(version.epoch.len()));
        let weight = weight::of_entry::<(Channel, Self)>()
            + 2 * weight::of_entry::<(Instant, Channel)>()
            + weight::of_bytes(channel.as_str().len())
            + version
            + self.publications.capacity() * size_of::<Publication>()
            + self.content;
        (std::mem::replace(&mut self.weight, weight), weight)
    }

    /// Forgets what is over. True if that is everything; otherwise it is `due` again.
    fn forget(&mut self, now: Instant) -> bool {
        if self.expires <= now {
            self.clear();
        }
        self.due =
            if self.publications.is_empty() { self.forgotten } else { self.expires.min(self.forgotten) };
        self.forgotten <= now
    }
}

fn weigh_result(channel: &Channel, key: &str) -> usize {
    weight::of_entry::<((Channel, String), Option<Position>)>()
        + weight::of_entry::<(Instant, Channel, String)>()
        + weight::of_bytes(channel.as_str().len())
        + 2 * weight::of_bytes(key.len())
}

fn forgotten(retention: Retention, now: Instant) -> Instant {
    later(now, retention.meta_ttl.max(retention.ttl))
}

/// A time that is beyond the clock never comes.
fn later(now: Instant, pause: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + pause.min(CENTURY)
}

/// So many that channels seldom share one, and so few that it is no matter if all have been used.
const SHARES: usize = 1 << 10;

/// What a publication takes beside its payload, about: as much as in Redis.
const ENTRY: usize = 64;

#[cfg(test)]
mod tests;
