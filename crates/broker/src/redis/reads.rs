//! Reads of histories: the script, its arguments and its answer. It delivers nothing.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use fanfare_protocol::{Channel, Epoch, Opened, Position, Publication};
use redis::{Cmd, Value};

use super::fault::Fault;
use super::keys::Keys;
use super::pool::{Pool, Script};
use crate::history::new_epoch;
use crate::{History, Query, Retention, Status};

/// Creates the numbering of a history that has none, so that a client can recover from its beginning.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/read.lua")));

/// How many reads there were, and how long they took.
#[derive(Default)]
pub(super) struct Reads {
    done: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Reads {
    pub async fn watch<T>(&self, read: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let started = Instant::now();
        let result = read.await;
        self.done.fetch_add(1, Relaxed);
        self.failed.fetch_add(u64::from(result.is_err()), Relaxed);
        self.micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        result
    }

    pub fn add_to(&self, status: &mut Status) {
        status.history_reads += self.done.load(Relaxed);
        status.history_failures += self.failed.load(Relaxed);
        status.history_micros += self.micros.load(Relaxed);
    }
}

/// A read of one channel. `reached` is an offset of `query.since`'s epoch that is known to have been given out: if the
/// history has not come so far, it was lost, and a new epoch begins.
pub(super) async fn read(
    pool: &Pool,
    keys: &Keys,
    channel: &Channel,
    query: Query,
    retention: Retention,
    reached: u64,
) -> Result<History, Fault> {
    let (stream, meta) = (keys.stream(channel), keys.meta(channel));
    let answer =
        pool.script(&READ, &[&stream, &meta], |command| complete(command, query, retention, reached)).await?;
    read_answer(answer).ok_or_else(unexpected)
}

/// Forgets the publications of a channel, and not their numbers.
pub(super) async fn remove(pool: &Pool, keys: &Keys, channel: &Channel) -> Result<(), Fault> {
    let mut command = Cmd::new();
    command.arg("DEL").arg(keys.stream(channel));
    pool.call(command).await.map(drop)
}

fn complete(command: &mut Cmd, query: Query, retention: Retention, reached: u64) {
    // Redis counts no further.
    let limit = query.limit.min(i64::MAX as usize);
    let since = query.since.map(|since| since.offset);
    let (direction, from) = match (query.reverse, since) {
        (false, since) => ("newer", since.unwrap_or(0).saturating_add(1)),
        (true, since) => ("older", since.map_or(u64::MAX, |since| since.saturating_sub(1))),
    };
    let epoch = query.since.map_or(Epoch::ANY, |since| since.epoch);
    let meta_ttl = retention.meta_ttl.max(retention.ttl).as_millis().min(MOST_MILLIS) as u64;
    command.arg(new_epoch().as_str()).arg(meta_ttl).arg(limit).arg(direction).arg(from);
    command.arg(epoch.as_str()).arg(reached);
}

fn read_answer(answer: Value) -> Option<History> {
    let Value::Array(parts) = answer else { return None };
    let [epoch, Value::Int(offset), Value::Int(matches), Value::Array(entries)] =
        <[Value; 4]>::try_from(parts).ok()?
    else {
        return None;
    };
    let top = Position { offset: u64::try_from(offset).ok()?, epoch: read_epoch(&epoch)? };
    let publications = entries.into_iter().filter_map(read_entry).collect();
    Some(History { publications, top, epoch_matches: matches == 1 })
}

/// One of `[id, [field, envelope]]`; nothing, if it was written by an instance that is too new for this one.
fn read_entry(entry: Value) -> Option<Publication> {
    let Value::Array(entry) = entry else { return None };
    let [_, Value::Array(fields)] = <[Value; 2]>::try_from(entry).ok()? else { return None };
    let [_, Value::BulkString(envelope)] = <[Value; 2]>::try_from(fields).ok()? else { return None };
    match Opened::read(Bytes::from(envelope)).ok()? {
        Opened::Envelope(envelope) => Some(envelope.publication),
        Opened::Presence(_) | Opened::Foreign(_) => None,
    }
}

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

/// A century: what Redis still takes for a life.
pub(super) const MOST_MILLIS: u128 = 100 * 365 * 24 * 3600 * 1000;
