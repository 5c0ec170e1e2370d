//! The task that keeps the lease and writes this instance's rows under it, one pipeline after the other on one
//! connection, so that nothing of its own ever overtakes anything. It removes no rows of others; the reaper does.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, ConnectionId};
use redis::{Cmd, FromRedisValue, Value};
use tokio::time::{sleep, sleep_until, timeout};
use uuid::Uuid;

use super::super::backoff::Backoff;
use super::super::fault::Fault;
use super::line::Line;
use super::names::Place;
use super::{Ledger, Resignation, book, roster, scripts};
use crate::InstanceFacts;

/// Runs until the instance has resigned.
pub(super) async fn keep(ledger: Arc<Ledger>) {
    let mut backoff = Backoff::new();
    let mut lease = None;
    loop {
        let started = Instant::now();
        let fault = match Line::open(&ledger.link, scripts::of_the_keeper()).await {
            Ok(line) => {
                let mut keeper = Keeper { ledger: &ledger, line };
                match keeper.serve(&mut lease).await {
                    Ok(()) => return,
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };
        ledger.lost(&fault);
        if *ledger.resigned.borrow() != Resignation::No {
            // Others find out by the lease.
            ledger.resigned.send_replace(Resignation::Done);
            return;
        }
        sleep(backoff.after(started.elapsed())).await;
    }
}

/// One connection.
struct Keeper<'a> {
    ledger: &'a Ledger,
    line: Line,
}

/// The lease is over; whoever ended it removes what was written under it.
struct Lost;

impl Ledger {
    fn lost(&self, fault: &Fault) {
        let away = self.because(fault);
        let mut rows = self.rows.lock();
        rows.roster.away(&away);
        rows.book.away(&away);
        if rows.away.is_none() {
            tracing::warn!(because = away.0, "presence and claims cannot be written");
        }
        rows.away = Some(away);
        drop(rows);
        self.forget_old_counts();
    }

    /// Whoever comes and goes while there is no Redis leaves no names behind.
    fn forget_old_counts(&self) {
        let changed = self.rows.lock().counts.take(usize::MAX);
        let relay = &self.lanes[0].relay;
        let counted: Vec<_> =
            changed.into_iter().map(|channel| (relay.subscribers(&channel), channel)).collect();
        let mut rows = self.rows.lock();
        for (subscribers, channel) in counted {
            if rows.counts.is_news(&channel, subscribers) {
                rows.counts.changed(&channel);
            }
        }
    }

    fn lease_lost(&self) {
        self.leases_lost.fetch_add(1, Relaxed);
        tracing::warn!("the lease on this instance's presence is over; taking another one");
    }

    /// Everything is to be written under a new lease.
    fn begin_anew(&self) {
        let mut rows = self.rows.lock();
        rows.roster.renew();
        rows.book.renew();
        rows.counts.renew();
        rows.facts_are_news = true;
    }

    /// Whether nothing waits to be written, but for what is written in rounds.
    fn is_idle(&self) -> bool {
        let rows = self.rows.lock();
        rows.roster.is_idle() && rows.book.is_idle()
    }
}

impl Keeper<'_> {
    /// Writes until the connection fails or the instance has resigned. `held` is the lease of the connection before.
    async fn serve(&mut self, held: &mut Option<Uuid>) -> Result<(), Fault> {
        let audit = held.is_some();
        let mut lease = self.renew(*held, held).await?;
        if audit && *held == Some(lease) {
            self.audit(lease).await?;
        }
        self.ledger.rows.lock().away = None;
        let pace = self.ledger.lease;
        let (mut renewal, mut round) = (Instant::now() + pace / RENEWALS, Instant::now());
        loop {
            let now = Instant::now();
            if now >= renewal {
                renewal = now + pace / RENEWALS;
                lease = self.renew(Some(lease), held).await?;
            }
            if now >= round {
                round = now + pace / ROUNDS;
                self.write_counts(lease).await?;
            }
            match self.write(lease).await? {
                Ok(true) => continue,
                Ok(false) => {}
                Err(Lost) => {
                    self.ledger.lease_lost();
                    lease = self.renew(None, held).await?;
                    continue;
                }
            }
            if *self.ledger.resigned.borrow() == Resignation::Wanted && self.ledger.is_idle() {
                self.line.ask_one(scripts::condemn(&self.ledger.names, lease, "")).await?;
                self.ledger.resigned.send_replace(Resignation::Done);
                return Ok(());
            }
            let grace = self.ledger.rows.lock().roster.next_grace();
            let next = grace.into_iter().fold(renewal.min(round), Instant::min);
            tokio::select! {
                () = self.ledger.work.notified() => {}
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Renews the lease, or takes a new one if there is none or it is over. With it goes whatever lasts as long.
    async fn renew(&mut self, held: Option<Uuid>, kept: &mut Option<Uuid>) -> Result<Uuid, Fault> {
        let (ledger, length) = (self.ledger, self.ledger.lease);
        if let Some(lease) = held {
            let (facts, counts) = (ledger.names.facts(lease), ledger.names.counts(lease));
            let mut commands = vec![scripts::renew(&ledger.names, lease, length, false)];
            commands.extend([facts, counts].map(|key| expire(&key, length)));
            let holds = self.line.ask(commands).await?.first() == Some(&Value::Int(1));
            if holds {
                self.write_facts(lease).await?;
                return Ok(lease);
            }
            ledger.lease_lost();
        }
        let lease = Uuid::new_v4();
        self.line.ask_one(scripts::renew(&ledger.names, lease, length, true)).await?;
        *kept = Some(lease);
        ledger.begin_anew();
        self.write_facts(lease).await?;
        Ok(lease)
    }

    async fn write_facts(&mut self, lease: Uuid) -> Result<(), Fault> {
        let facts = {
            let mut rows = self.ledger.rows.lock();
            let news = std::mem::replace(&mut rows.facts_are_news, false);
            rows.facts.clone().filter(|_| news)
        };
        let Some(facts) = facts else { return Ok(()) };
        let key = self.ledger.names.facts(lease);
        let written = self.line.ask(vec![facts_command(&key, &facts), expire(&key, self.ledger.lease)]).await;
        if written.is_err() {
            self.ledger.rows.lock().facts_are_news = true;
        }
        written.map(drop)
    }

    /// Some of the changed counts, so that a million of them do not hold up the rest.
    async fn write_counts(&mut self, lease: Uuid) -> Result<(), Fault> {
        for _ in 0..COUNTS / COUNTS_AT_ONCE {
            let channels = self.ledger.rows.lock().counts.take(COUNTS_AT_ONCE);
            let last = channels.len() < COUNTS_AT_ONCE;
            // Asked without a lock: the relay has locks of its own.
            let relay = &self.ledger.lanes[0].relay;
            let mut counted: Vec<_> =
                channels.into_iter().map(|channel| (relay.subscribers(&channel), channel)).collect();
            let key = self.ledger.names.counts(lease);
            let commands = {
                let rows = self.ledger.rows.lock();
                counted.retain(|(subscribers, channel)| rows.counts.is_news(channel, *subscribers));
                let mut commands: Vec<_> =
                    counted.chunks(FIELDS).flat_map(|some| counts_commands(&key, some)).collect();
                commands.extend((!counted.is_empty()).then(|| expire(&key, self.ledger.lease)));
                commands
            };
            let written = self.line.ask(commands).await;
            let mut rows = self.ledger.rows.lock();
            match written {
                Ok(_) => counted.into_iter().for_each(|(count, channel)| rows.counts.wrote(channel, count)),
                Err(fault) => {
                    rows.counts.in_doubt(counted.into_iter().map(|(_, channel)| channel));
                    return Err(fault);
                }
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// One pipeline of changes, after one that notes where they are. False, if there was nothing to write.
    async fn write(&mut self, lease: Uuid) -> Result<Result<bool, Lost>, Fault> {
        let ledger = self.ledger;
        let (members, claims, places, left) = {
            let mut rows = ledger.rows.lock();
            let members = rows.roster.take(MOST, lease, Instant::now());
            let claims = rows.book.take(MOST, lease);
            let mut places = rows.roster.unnoted(&members, lease);
            places.extend(rows.book.unnoted(&claims, lease));
            let mut left: Vec<_> = rows.roster.take_left().into_iter().map(Place::Channel).collect();
            left.extend(rows.book.take_left().into_iter().map(Place::User));
            (members, claims, places, left)
        };
        let noted = self.note(lease, &places, &left).await;
        if noted == Ok(true) {
            let mut rows = ledger.rows.lock();
            for place in &places {
                match place {
                    Place::Channel(channel) => rows.roster.noted(channel, lease),
                    Place::User(user) => rows.book.noted(user, lease),
                }
            }
        } else {
            let mut rows = ledger.rows.lock();
            rows.roster.put_back(&members);
            rows.book.in_doubt(&claims);
            return noted.map(|_| Err(Lost));
        }
        if members.is_empty() && claims.is_empty() {
            return Ok(Ok(!left.is_empty()));
        }
        if members.iter().any(|change| change.what != roster::What::Enter) {
            // What they published is to be there before it is told that they have left.
            // But a way so narrow that it takes longer must not cost the lease.
            let flush = async {
                for lane in &ledger.lanes {
                    lane.flush().await;
                }
            };
            let _ = timeout(ledger.lease / RENEWALS, flush).await;
        }
        let lost = ledger.lease / RENEWALS * 2;
        let presence =
            members.iter().map(|change| scripts::presence(&ledger.names, &ledger.keys, lease, change, lost));
        let claimed = claims.iter().map(|change| scripts::claim(&ledger.names, lease, change));
        // If it is not admitted, what follows answers the same.
        let admit = places.iter().map(|place| scripts::admit(&ledger.names, lease, place));
        match self.line.ask_each(admit.chain(presence).chain(claimed).collect()).await {
            Ok(mut answers) => {
                let answers = answers.split_off(places.len());
                Ok(self.written(lease, &members, &claims, answers))
            }
            Err(fault) => {
                let mut rows = ledger.rows.lock();
                rows.roster.in_doubt(&members, lease);
                rows.book.in_doubt(&claims);
                Err(fault)
            }
        }
    }

    fn written(
        &self,
        lease: Uuid,
        members: &[roster::Change],
        claims: &[book::Change],
        answers: Vec<Result<Value, Fault>>,
    ) -> Result<bool, Lost> {
        let now = Instant::now();
        let mut answers = answers.into_iter();
        let mut rows = self.ledger.rows.lock();
        let mut lost = Ok(true);
        for (change, answer) in members.iter().zip(&mut answers) {
            match answer.map(i64::from_redis_value) {
                Ok(Ok(LEASE_LOST)) => {
                    rows.roster.put_back(std::slice::from_ref(change));
                    lost = Err(Lost);
                }
                Ok(Ok(FORGOTTEN)) => {
                    rows.roster.put_back(std::slice::from_ref(change));
                    rows.roster.forgotten(&change.channel);
                }
                Ok(answer) => rows.roster.answered(change, answer.unwrap_or_default(), lease, now),
                Err(fault) => rows.roster.refused(change, &self.ledger.because(&fault)),
            }
        }
        for (change, answer) in claims.iter().zip(answers) {
            match answer {
                Ok(Value::Int(LEASE_LOST)) => {
                    rows.book.in_doubt(std::slice::from_ref(change));
                    lost = Err(Lost);
                }
                Ok(Value::Int(FORGOTTEN)) => {
                    rows.book.in_doubt(std::slice::from_ref(change));
                    rows.book.forgotten(&change.user);
                }
                Ok(answer) => rows.book.answered(change, scripts::taken(answer), lease),
                Err(fault) => rows.book.refused(change, &self.ledger.because(&fault)),
            }
        }
        lost
    }

    /// Writes down the places and strikes out those that were left. False, if the lease is over.
    async fn note(&mut self, lease: Uuid, places: &[Place], left: &[Place]) -> Result<bool, Fault> {
        let names = &self.ledger.names;
        let mut commands = Vec::new();
        for some in places.chunks(FIELDS) {
            commands.push(scripts::note(names, lease, some));
        }
        let notes = commands.len();
        for some in left.chunks(FIELDS) {
            let mut command = Cmd::new();
            command.arg("SREM").arg(names.places(lease));
            some.iter().for_each(|place| {
                command.arg(place.encode());
            });
            commands.push(command);
        }
        commands.extend(left.iter().map(|place| scripts::dismiss(names, lease, place)));
        let answers = self.line.ask_each(commands).await?;
        Ok(answers[..notes].iter().all(|answer| *answer == Ok(Value::Int(1))))
    }

    /// After a break nobody knows what was late on its way, or lost with a Redis that another one has replaced:
    /// compares how many rows there are with how many there should be, and looks closer where that differs.
    async fn audit(&mut self, lease: Uuid) -> Result<(), Fault> {
        let expected = self.ledger.rows.lock().roster.expected(lease);
        for some in expected.chunks(MOST) {
            let key = |channel: &Channel| self.ledger.names.members(channel, lease);
            let count = |(channel, _): &(Channel, usize)| command("HLEN", &key(channel));
            let counts = self.line.ask_each(some.iter().map(count).collect()).await?;
            for ((channel, expected), count) in some.iter().zip(counts) {
                if count.ok() == Some(Value::Int(*expected as i64)) {
                    continue;
                }
                let found = self.line.ask_each(vec![command("HKEYS", &key(channel))]).await?.pop();
                let Some(Ok(found)) = found else { continue };
                let found = Vec::<Vec<u8>>::from_redis_value(found).unwrap_or_default();
                let found: HashSet<_> =
                    found.iter().filter_map(|raw| ConnectionId::from_slice(raw).ok()).collect();
                self.ledger.rows.lock().roster.audited(channel, &found, lease);
            }
        }
        Ok(())
    }
}

fn command(verb: &str, key: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(verb).arg(key);
    command
}

/// Keys that need no reaper: they go by themselves some time after their lease.
fn expire(key: &str, lease: Duration) -> Cmd {
    let mut command = command("PEXPIRE", key);
    command.arg((lease * 4).as_millis() as u64);
    command
}

fn facts_command(key: &str, facts: &InstanceFacts) -> Cmd {
    let mut command = command("HSET", key);
    for (field, value) in super::reading::fields_of(facts) {
        command.arg(field).arg(value);
    }
    command
}

fn counts_commands(key: &str, counted: &[(u64, Channel)]) -> Vec<Cmd> {
    let (mut set, mut delete) = (command("HSET", key), command("HDEL", key));
    let (mut sets, mut deletes) = (false, false);
    for (subscribers, channel) in counted {
        if *subscribers == 0 {
            delete.arg(channel.as_str());
            deletes = true;
        } else {
            set.arg(channel.as_str()).arg(*subscribers);
            sets = true;
        }
    }
    [(set, sets), (delete, deletes)].into_iter().filter_map(|(command, any)| any.then_some(command)).collect()
}

/// What a script answers when the lease is over.
const LEASE_LOST: i64 = -1;
/// What it answers when Redis does not know the lease in that place.
const FORGOTTEN: i64 = -2;
/// Renewals in the length of a lease: four may fail.
const RENEWALS: u32 = 5;
/// Rounds of counts in the length of a lease.
const ROUNDS: u32 = 9;
/// Changes in one pipeline.
const MOST: usize = 512;
/// Fields or places in one command.
const FIELDS: usize = 500;
/// Channels in one pipeline of counts, and in a round.
const COUNTS_AT_ONCE: usize = 5000;
const COUNTS: usize = 50_000;

#[cfg(test)]
mod tests;
