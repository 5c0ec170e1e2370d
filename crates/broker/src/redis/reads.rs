//! Reads of histories: the script, its arguments and its answer. It delivers nothing, and decides nothing
//! about when to read.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Channel, Epoch, Opened, Position, Publication};
use redis::{Cmd, Value};

use super::append::MOST_IN_BUNDLE;
use super::calls::Calls;
use super::fault::Fault;
use super::keys::Keys;
use super::script::Script;
use super::witnesses::Known;
use crate::history::new_epoch;
use crate::stream::{Ask, Author};
use crate::{History, Query, Retention};

/// Creates the numbering of a history that has none, so that a client can recover from its beginning.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/read.lua")));

/// One read of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Reading {
    pub stream: String,
    pub top: String,
    pub query: Query,
    pub retention: Retention,
    /// An offset of `query.since`'s epoch that is known to have been given out: if the history has not come so far, it
    /// was lost, and a new epoch begins.
    pub reached: u64,
    /// Who has published what stands at `query.since`, if that is known: if it is another, that was lost, too.
    pub author: Option<Author>,
    /// For how long the numbering lives if nothing was published in it.
    pub unpublished: Duration,
}

impl Reading {
    /// Of a channel, by whoever does not stay.
    pub fn of(keys: &Keys, channel: &Channel, query: Query, retention: Retention) -> Self {
        let (stream, top) = (keys.stream(channel), keys.top(channel));
        Self { stream, top, query, retention, reached: 0, author: None, unpublished: PASSING }
    }

    /// The same by whoever stays subscribed, looks after the channel every `pause`, and knows how far it had come.
    pub fn looking_after(self, ask: Ask, pause: Duration) -> Self {
        let Ask { reached, author, .. } = ask;
        let stays = self.query.since.is_some();
        Self { reached, author, unpublished: (pause * 3).max(if stays { STAYING } else { PASSING }), ..self }
    }

    /// Where a channel stands, by whoever only knows that it had come so far.
    pub fn of_known(keys: &Keys, channel: &Channel, known: Known, retention: Retention) -> Self {
        let query = Query { since: Some(known.at), ..Query::TOP };
        Self { reached: known.at.offset, author: known.author, ..Self::of(keys, channel, query, retention) }
    }

    /// Whether Redis has little to do for it, and the answer is little.
    pub fn is_little(&self) -> bool {
        self.query.limit == 0 || self.query.bytes <= LITTLE
    }

    /// Asks Redis.
    pub async fn carry_out(&self, calls: &Calls) -> Result<History, Fault> {
        let answer =
            calls.script(&READ, &[&self.stream, &self.top], |command| self.complete(command)).await?;
        read_answer(answer, self.query, self.retention).ok_or_else(unexpected)
    }

    fn complete(&self, command: &mut Cmd) {
        let Self { query, retention, reached, author, unpublished, .. } = *self;
        // Redis counts no further.
        let limit = query.limit.min(i64::MAX as usize);
        let direction = if query.reverse { "older" } else { "newer" };
        let epoch = query.since.map_or(Epoch::ANY, |since| since.epoch);
        let life = retention.meta_ttl.max(retention.ttl);
        command.arg(&new_epoch().padded()[..]).arg(millis(life)).arg(limit).arg(direction).arg(from(query));
        command.arg(epoch.as_str()).arg(reached).arg(retention.size).arg(MOST_IN_BUNDLE);
        command.arg(millis(unpublished.min(life))).arg(query.bytes.min(i64::MAX as usize));
        let name = |(origin, sequence): Author| [&origin.as_bytes()[..], &sequence.to_be_bytes()].concat();
        command.arg(author.map(name).unwrap_or_default());
    }
}

/// Bytes.
const LITTLE: usize = 64 << 10;
/// How long a numbering without publications outlives whoever came by: long enough to lose a connection and come back,
/// and for those who stay, until they look after it for the first time.
const PASSING: Duration = Duration::from_secs(120);
/// How long it outlives somebody who stayed: instances that are cut off from Redis for a while find it unchanged.
const STAYING: Duration = Duration::from_secs(3600);

/// The first offset that is asked for, in the direction that is asked for.
fn from(query: Query) -> u64 {
    let since = query.since.map(|since| since.offset);
    match query.reverse {
        false => since.unwrap_or(0).saturating_add(1),
        true => since.map_or(u64::MAX, |since| since.saturating_sub(1)),
    }
}

fn read_answer(answer: Value, query: Query, retention: Retention) -> Option<History> {
    let Value::Array(parts) = answer else { return None };
    let [epoch, Value::Int(offset), Value::Int(matches), Value::Array(entries), Value::Int(bytes)] =
        <[Value; 5]>::try_from(parts).ok()?
    else {
        return None;
    };
    let top = Position { offset: u64::try_from(offset).ok()?, epoch: read_epoch(&epoch)? };
    // Bundles begin before and end behind what is asked for, and the stream is trimmed roughly.
    let kept = top.offset.saturating_sub(retention.size as u64).saturating_add(1)..=top.offset;
    let asked = if query.reverse { 0..=from(query) } else { from(query)..=u64::MAX };
    let is_asked = |publication: &Publication| {
        publication.position.is_some_and(|at| {
            at.epoch == top.epoch && kept.contains(&at.offset) && asked.contains(&at.offset)
        })
    };
    let publications = entries
        .into_iter()
        .flat_map(|entry| {
            let mut publications = read_entry(entry).unwrap_or_default();
            if query.reverse {
                publications.reverse();
            }
            publications
        })
        .filter(is_asked)
        .take(query.limit)
        .collect();
    let bytes = usize::try_from(bytes).ok()?;
    Some(History { publications, bytes, too_much: bytes > query.bytes, top, epoch_matches: matches == 1 })
}

/// Those of one `[id, [field, bundle]]`, without what was written by an instance that is too new for this one.
fn read_entry(entry: Value) -> Option<Vec<Publication>> {
    let Value::Array(entry) = entry else { return None };
    let [_, Value::Array(fields)] = <[Value; 2]>::try_from(entry).ok()? else { return None };
    let [_, Value::BulkString(bundle)] = <[Value; 2]>::try_from(fields).ok()? else { return None };
    match Opened::read(Bytes::from(bundle)).ok()? {
        Opened::Bundle(bundle) => {
            Some(bundle.envelopes().flatten().map(|envelope| envelope.publication).collect())
        }
        Opened::Envelope(_) | Opened::Presence(_) | Opened::Foreign(_) => None,
    }
}

/// An epoch out of an answer; nothing, if it is none.
pub(super) fn read_epoch(value: &Value) -> Option<Epoch> {
    match value {
        Value::BulkString(bytes) => Epoch::new(std::str::from_utf8(bytes).ok()?),
        Value::SimpleString(text) => Epoch::new(text),
        _ => None,
    }
}

/// Something else has written to our keys.
pub(super) fn unexpected() -> Fault {
    Fault::Io("an answer about a history is not what it should be".to_owned())
}

/// A life as Redis takes it: not nothing, and no more than a century.
pub(super) fn millis(life: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 24 * 3600 * 1000;
    life.as_millis().clamp(1, CENTURY) as u64
}
