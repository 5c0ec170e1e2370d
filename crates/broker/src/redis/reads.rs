//! Reads of histories: the script, its arguments and its answer. It delivers nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

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

/// Where histories are read, how often that happened, and how long it took.
pub(super) struct Library {
    pool: Arc<Pool>,
    done: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Library {
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, done: AtomicU64::new(0), failed: AtomicU64::new(0), micros: AtomicU64::new(0) }
    }

    /// A read of one channel. `reached` is an offset of `query.since`'s epoch that is known to have been given out: if
    /// the history has not come so far, it was lost, and a new epoch begins.
    pub async fn read(
        &self,
        keys: &Keys,
        channel: &Channel,
        query: Query,
        retention: Retention,
        reached: u64,
    ) -> Result<History, Fault> {
        let started = Instant::now();
        let (stream, meta) = (keys.stream(channel), keys.meta(channel));
        let answer = self
            .pool
            .script(&READ, &[&stream, &meta], |command| complete(command, query, retention, reached))
            .await;
        self.done.fetch_add(1, Relaxed);
        self.failed.fetch_add(u64::from(answer.is_err()), Relaxed);
        self.micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        read_answer(answer?).ok_or_else(unexpected)
    }

    /// Forgets the publications of a channel, and not their numbers.
    pub async fn remove(&self, keys: &Keys, channel: &Channel) -> Result<(), Fault> {
        let mut command = Cmd::new();
        command.arg("DEL").arg(keys.stream(channel));
        self.pool.call(command).await.map(drop)
    }

    pub fn add_to(&self, status: &mut Status) {
        status.history_reads += self.done.load(Relaxed);
        status.history_failures += self.failed.load(Relaxed);
        status.history_micros += self.micros.load(Relaxed);
    }
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
    command
        .arg(new_epoch().as_str())
        .arg(millis(retention.meta_ttl.max(retention.ttl)))
        .arg(limit)
        .arg(direction)
        .arg(from);
    command.arg(epoch.as_str()).arg(reached).arg(retention.size);
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

/// A life as Redis takes it: not nothing, and no more than a century.
pub(super) fn millis(life: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 24 * 3600 * 1000;
    life.as_millis().clamp(1, CENTURY) as u64
}
