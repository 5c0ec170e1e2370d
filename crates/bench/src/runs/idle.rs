//! What a connection costs that does nothing: memory, after everything has calmed down, and whether all of them are
//! really there. Where the client protocol is spoken, each is subscribed. It publishes nothing before memory is read,
//! so what a connection costs that has once been used is not seen here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_websocket::Opcode;

use crate::audit::latency::Latencies;
use crate::client::connection::{End, Message};
use crate::client::swarm::{Swarm, Watch, farewell};
use crate::client::sys;
use crate::client::target::{Target, agree};
use crate::client::transport::Transport;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::IdleReport;
use crate::report::usage::Processes;
use crate::runs::run::within_open_files;

/// If nothing has happened for so long, nothing will.
const PATIENCE: u64 = 15_000_000_000;

/// Memory is read this often, until it has not moved for three readings.
const READ_EVERY: u64 = 500_000_000;

/// What still counts as not moving: this part of the whole.
const STILL: u64 = 1_000;

/// The longest wait for memory to stand still.
const CALM_WITHIN: u64 = 20_000_000_000;

/// Idle connections to measure.
#[derive(Debug, Clone)]
pub struct Idle {
    /// The instances; connections take them in turn.
    pub targets: Vec<Target>,
    /// How many connections.
    pub connections: usize,
    /// Handshakes under way at a time.
    pub concurrency: usize,
    /// They offer permessage-deflate, and those with which the server does not agree on it count as failed.
    pub compression: bool,
    /// The server's, for memory.
    pub processes: Processes,
}

impl Idle {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, or a process that cannot be read. Connections that do not come about, or do
    /// not last, are in the report.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<IdleReport, BenchError> {
        if self.targets.is_empty() || self.connections == 0 {
            return Err(BenchError::Setting("a URL and at least one connection are needed".to_owned()));
        }
        agree(&self.targets, self.compression)?;
        within_open_files(self.connections + self.targets.len())?;
        let seat = |target: &Target| target.joining().compressing(self.compression);
        let targets = self.targets.iter().map(seat);
        let mut swarm = Swarm::new(targets.collect(), self.connections, 0, self.concurrency)?;
        let mut seen = Seen::new(self.connections);
        let resident_before = self.resident()?;
        let cpu_before = self.processes.cpu()?;
        progress.stage("connecting", self.connections as u64);
        swarm.connect_all();
        wait(&mut swarm, &mut seen, self.connections, progress, |seen| seen.opened + seen.failed)?;
        let cpu = self.processes.cpu()?.since(cpu_before);
        let resident = self.calm(&mut swarm, &mut seen, progress)?;
        let open = swarm.open();
        progress.stage("pinging", open as u64);
        if self.targets[0].transport == Transport::WebSocket {
            for who in 0..self.connections {
                swarm.with(who, &mut seen, |connection| {
                    connection.queue(Opcode::Ping, b"alive?");
                    connection.flush()
                });
            }
        } else {
            seen.asked = true;
            self.publish(progress)?;
        }
        wait(&mut swarm, &mut seen, open, progress, |seen| seen.pongs)?;
        farewell(&mut swarm, self.connections)?;
        let grown = resident.zip(resident_before).map(|(after, before)| after as f64 - before as f64);
        let measured = !self.processes.is_empty() && open > 0;
        Ok(IdleReport {
            connections: self.connections,
            open,
            alive: seen.pongs,
            resident_before,
            resident,
            kib_per_connection: grown.filter(|_| measured).map(|bytes| bytes / 1024.0 / open as f64),
            connect_micros: measured.then(|| cpu.total as f64 / 1e3 / open as f64),
            handshake: seen.handshakes.quantiles(),
            ends: seen.ends,
        })
    }

    /// Says something at each target: whoever hears in a body cannot be asked there.
    fn publish(&self, progress: &mut dyn Progress) -> Result<(), BenchError> {
        let targets: Arc<[Target]> = self.targets.iter().map(Target::publishing).collect();
        let size = targets.len();
        let mut swarm = Swarm::new(targets, size, 0, size)?;
        let mut seen = Seen::new(size);
        swarm.connect_all();
        wait(&mut swarm, &mut seen, size, progress, |seen| seen.opened + seen.failed)?;
        for who in 0..size {
            swarm.with(who, &mut seen, |connection| {
                // JSON, and so text.
                connection.publish(true, br#""alive?""#);
                connection.flush()
            });
        }
        if seen.failed > 0 {
            return Err(BenchError::not_connected(size, &seen.ends));
        }
        farewell(&mut swarm, size)?;
        Ok(())
    }

    fn resident(&self) -> Result<Option<u64>, BenchError> {
        if self.processes.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.processes.resident()?))
    }

    /// Reads memory until it stands still.
    fn calm(
        &self,
        swarm: &mut Swarm,
        seen: &mut Seen,
        progress: &mut dyn Progress,
    ) -> Result<Option<u64>, BenchError> {
        let Some(mut last) = self.resident()? else { return Ok(None) };
        progress.stage("waiting for calm", CALM_WITHIN / 1_000_000_000);
        let began = sys::monotonic();
        let mut still = 0;
        let mut next = began + READ_EVERY;
        while still < 3 && sys::monotonic() < began + CALM_WITHIN {
            swarm.turn(Some(Duration::from_millis(50)), seen)?;
            if sys::monotonic() < next {
                continue;
            }
            next += READ_EVERY;
            progress.at((sys::monotonic() - began) / 1_000_000_000);
            let now = self.resident()?.unwrap_or(last);
            still = if now.abs_diff(last) <= last / STILL { still + 1 } else { 0 };
            last = now;
        }
        Ok(Some(last))
    }
}

/// Turns until `done` says that it is `total`, or nothing has happened for a while.
fn wait(
    swarm: &mut Swarm,
    seen: &mut Seen,
    total: usize,
    progress: &mut dyn Progress,
    done: impl Fn(&Seen) -> usize,
) -> Result<(), BenchError> {
    let mut last = (done(seen), sys::monotonic());
    while last.0 < total && sys::monotonic() < last.1 + PATIENCE {
        swarm.turn(Some(Duration::from_millis(50)), seen)?;
        if done(seen) != last.0 {
            last = (done(seen), sys::monotonic());
            progress.at(last.0 as u64);
        }
    }
    Ok(())
}

/// What has happened to the connections.
#[derive(Debug)]
struct Seen {
    opened: usize,
    failed: usize,
    pongs: usize,
    /// A publication is under way, which is a ping to whoever hears in a body; who has got it.
    asked: bool,
    answered: Vec<bool>,
    handshakes: Latencies,
    ends: BTreeMap<String, u64>,
}

impl Seen {
    fn new(size: usize) -> Self {
        let (opened, failed, pongs, asked) = (0, 0, 0, false);
        let (answered, handshakes, ends) = (vec![false; size], Latencies::new(), BTreeMap::new());
        Self { opened, failed, pongs, asked, answered, handshakes, ends }
    }
}

impl Watch for Seen {
    fn opened(&mut self, _who: usize, took: u64, _now: u64) {
        self.opened += 1;
        self.handshakes.record(0, took);
    }

    fn message(&mut self, who: usize, _message: Message<'_>, _now: u64) {
        if self.asked && !std::mem::replace(&mut self.answered[who], true) {
            self.pongs += 1;
        }
    }

    fn pong(&mut self, _who: usize) {
        self.pongs += 1;
    }

    fn ended(&mut self, _who: usize, end: End, _now: u64) -> Option<u64> {
        if matches!(end, End::Refused(_) | End::Unconnected(_)) {
            self.failed += 1;
        }
        *self.ends.entry(end.to_string()).or_default() += 1;
        None
    }
}
