//! The task that looks after the leases of others, ends those that nobody renews, and removes the rows that were
//! written under them. Every instance runs one; they need not agree on anything but the scripts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, Value};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::super::backoff::Backoff;
use super::super::fault::Fault;
use super::line::Line;
use super::names::Place;
use super::{Ledger, Pulse, scripts};

/// Runs for as long as the broker lives.
pub(super) async fn reap(ledger: Arc<Ledger>) {
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        let fault = match Line::open(&ledger.link, scripts::of_the_reaper()).await {
            Ok(line) => Reaper { ledger: &ledger, line, me: Uuid::new_v4() }.watch().await,
            Err(fault) => fault,
        };
        tracing::debug!(because = ledger.because(&fault).0, "cannot look after other instances");
        sleep(backoff.after(started.elapsed())).await;
    }
}

struct Reaper<'a> {
    ledger: &'a Ledger,
    line: Line,
    me: Uuid,
}

/// How the leases read, and since when. Begun anew after every break: what could not be seen may have been renewed.
#[derive(Default)]
struct Watch {
    seen: HashMap<Uuid, (String, Instant)>,
    looked: Option<Instant>,
    pulse: Pulse,
}

impl Watch {
    /// The leases that have read the same for so long.
    fn look(&mut self, alive: Vec<(Uuid, String)>, length: Duration, now: Instant) -> Vec<(Uuid, String)> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) > length / 2) {
            self.seen.clear();
        }
        let looked = self.looked.replace(now);
        let before = std::mem::take(&mut self.seen);
        let pulse = std::mem::take(&mut self.pulse);
        let mut silent = Vec::new();
        for (lease, score) in alive {
            let (since, renewed) = match before.get(&lease) {
                Some((then, since)) if *then == score => (*since, pulse.get(&lease).copied().flatten()),
                // When it was looked at before, it had yet to be.
                Some(_) => (now, looked),
                None => (now, None),
            };
            self.pulse.insert(lease, renewed);
            if now.duration_since(since) >= length {
                silent.push((lease, score.clone()));
            }
            self.seen.insert(lease, (score, since));
        }
        silent
    }
}

impl Reaper<'_> {
    async fn watch(&mut self) -> Fault {
        let (names, length) = (&self.ledger.names, self.ledger.lease);
        let mut watch = Watch::default();
        loop {
            let asked = Instant::now();
            let mut alive = command("ZRANGE", &names.alive());
            alive.arg(0).arg(-1).arg("WITHSCORES");
            let answers = match self.line.ask(vec![alive, command("SMEMBERS", &names.dying())]).await {
                Ok(answers) => answers,
                Err(fault) => return fault,
            };
            let mut lists =
                answers.into_iter().map(|list| Vec::<String>::from_redis_value(list).unwrap_or_default());
            let alive = lists.next().unwrap_or_default();
            let alive =
                alive.chunks_exact(2).filter_map(|pair| Some((pair[0].parse().ok()?, pair[1].clone())));
            let dying = lists.next().unwrap_or_default();
            let dying: Vec<Uuid> = dying.iter().filter_map(|lease| lease.parse().ok()).collect();
            // What was read was true when it was asked for, or later.
            let silent = watch.look(alive.collect(), length, asked);
            match self.end(silent, dying).await {
                Ok(()) => {}
                Err(fault) => return fault,
            }
            self.ledger.pulse.send_replace(watch.pulse.clone());
            sleep(length / MOST_LOOKS).await;
            // Who doubts wants to know how it reads now, to see it change.
            let _ = timeout(length / LOOKS - length / MOST_LOOKS, self.ledger.doubted.notified()).await;
        }
    }

    async fn end(&mut self, silent: Vec<(Uuid, String)>, mut dying: Vec<Uuid>) -> Result<(), Fault> {
        for (lease, score) in silent {
            let condemned = self.line.ask_one(scripts::condemn(&self.ledger.names, lease, &score)).await?;
            if condemned == Value::Int(1) {
                self.ledger.leases_ended.fetch_add(1, Relaxed);
                tracing::info!(?lease, "an instance has not renewed its lease; its members are let go");
                dying.push(lease);
            }
        }
        for lease in dying {
            self.clear(lease).await?;
        }
        Ok(())
    }

    /// Removes what there is to remove now. Two may do it at a time; that is only wasteful.
    async fn clear(&mut self, lease: Uuid) -> Result<(), Fault> {
        let reaper = self.ledger.names.reaper(lease);
        let mut claim = command("SET", &reaper);
        let patience = (self.ledger.lease / 3).as_millis() as u64;
        claim.arg(self.me.to_string()).arg("NX").arg("PX").arg(patience);
        if self.line.ask_one(claim).await? == Value::Nil {
            return Ok(());
        }
        let places = self.ledger.names.places(lease);
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = command("SSCAN", &places);
            scan.arg(&cursor).arg("COUNT").arg(AT_ONCE);
            let mut extend = command("PEXPIRE", &reaper);
            extend.arg(patience);
            let scanned = self.line.ask(vec![scan, extend]).await?.swap_remove(0);
            let (next, written) = <(String, Vec<String>)>::from_redis_value(scanned).unwrap_or_default();
            for some in written.chunks(AT_ONCE) {
                self.clear_places(lease, some).await?;
            }
            cursor = next;
            if cursor == "0" || cursor.is_empty() {
                break;
            }
        }
        let mut commands = vec![scripts::bury(&self.ledger.names, lease), command("DEL", &reaper)];
        let (facts, counts) = (self.ledger.names.facts(lease), self.ledger.names.counts(lease));
        commands.extend([facts, counts].map(|key| command("UNLINK", &key)));
        self.line.ask(commands).await.map(drop)
    }

    async fn clear_places(&mut self, lease: Uuid, written: &[String]) -> Result<(), Fault> {
        let (names, keys) = (&self.ledger.names, &self.ledger.keys);
        let mut left: Vec<_> = written.iter().collect();
        let mut done = Vec::new();
        while !left.is_empty() {
            let evict = |written: &&String| {
                // A place that cannot be read was written by a newer version, which looks after it.
                Place::read(written).map(|place| scripts::evict(names, keys, lease, &place, AT_ONCE))
            };
            left.retain(|written| Place::read(written).is_some());
            let answers = self.line.ask_each(left.iter().filter_map(evict).collect()).await?;
            let mut more = Vec::new();
            for (written, answer) in left.into_iter().zip(answers) {
                let answer = answer.map(|answer| <(u64, u64)>::from_redis_value(answer).unwrap_or_default());
                self.ledger
                    .rows_cleared
                    .fetch_add(answer.as_ref().map_or(0, |(removed, _)| *removed), Relaxed);
                match answer {
                    // A key of a foreign kind holds none of our rows.
                    Ok((_, 0)) | Err(_) => done.push(written),
                    // Those who are waited for; until then the place stays noted.
                    Ok((0, _)) => {}
                    Ok(_) => more.push(written),
                }
            }
            left = more;
        }
        if done.is_empty() {
            return Ok(());
        }
        let mut strike = command("SREM", &names.places(lease));
        strike.arg(done);
        self.line.ask_one(strike).await.map(drop)
    }
}

fn command(verb: &str, key: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(verb).arg(key);
    command
}

/// Looks in the length of a lease.
const LOOKS: u32 = 9;
/// The same while somebody doubts that another instance lives.
const MOST_LOOKS: u32 = 36;
/// Places or rows that are removed in one go.
const AT_ONCE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_watched_in_silence_for_the_whole_lease_is_silent() {
        let length = Duration::from_secs(9);
        let start = Instant::now();
        let mut watch = Watch::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let both = |one_reads, other_reads| vec![(one, one_reads), (other, other_reads)];
        let rows = [
            (0, both("a", "a"), vec![]),
            (4, both("a", "b"), vec![]),
            (8, both("a", "b"), vec![]),
            // The other was renewed.
            (9, both("a", "b"), vec![one]),
            (12, vec![(other, "b")], vec![]),
            // A break: nobody knows what was renewed meanwhile.
            (30, vec![(other, "b")], vec![]),
            (34, vec![(other, "b")], vec![]),
            (38, vec![(other, "b")], vec![]),
            (39, vec![(other, "b")], vec![other]),
        ];
        for (second, alive, expected) in rows {
            let alive = alive.into_iter().map(|(lease, score)| (lease, score.to_owned())).collect();
            let silent = watch.look(alive, length, start + Duration::from_secs(second));
            let silent: Vec<_> = silent.into_iter().map(|(lease, _)| lease).collect();
            assert_eq!(silent, expected, "second {second}");
        }
    }
}
