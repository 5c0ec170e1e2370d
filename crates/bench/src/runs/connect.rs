//! What it costs to come and go: connect, handshake, close, one after another, some at a time. Nothing is said on
//! the connections.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::latency::Latencies;
use crate::client::connection::{Connection, End, Message};
use crate::client::swarm::{Swarm, Watch};
use crate::client::sys;
use crate::client::target::Target;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::usage::Processes;
use crate::report::{ConnectReport, Cost};
use crate::runs::run::within_open_files;

/// If nobody has come or gone for so long, nobody will.
const PATIENCE: u64 = 10_000_000_000;

/// Coming and going to measure.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The instances; connections take them in turn.
    pub targets: Vec<Target>,
    /// How many connections.
    pub connections: usize,
    /// How many at a time, from connect to the end of the close.
    pub concurrency: usize,
    /// The server's, for CPU time.
    pub processes: Processes,
}

impl Connect {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, or a process that cannot be read. Connections that do not come about, or do
    /// not close as they should, are in the report.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<ConnectReport, BenchError> {
        if self.targets.is_empty() || self.connections == 0 || self.concurrency == 0 {
            let problem = "a URL, at least one connection and a concurrency of at least one are needed";
            return Err(BenchError::Setting(problem.to_owned()));
        }
        let places = self.concurrency.min(self.connections);
        within_open_files(places)?;
        let targets = self.targets.iter().map(Target::joining);
        let mut swarm = Swarm::new(targets.collect(), places, 0, places)?;
        let mut visits = Visits {
            to_begin: self.connections - places,
            opened: Vec::new(),
            completed: 0,
            handshakes: Latencies::new(),
            failures: BTreeMap::new(),
        };
        progress.stage("connecting", self.connections as u64);
        let before = self.processes.cpu()?;
        let start = sys::monotonic();
        swarm.connect_all();
        let mut last = (0, start);
        while visits.over() < self.connections as u64 && sys::monotonic() < last.1 + PATIENCE {
            swarm.turn(Some(Duration::from_millis(50)), &mut visits)?;
            for who in std::mem::take(&mut visits.opened) {
                swarm.with(who, &mut visits, Connection::leave);
            }
            if visits.over() != last.0 {
                last = (visits.over(), sys::monotonic());
                progress.at(last.0);
            }
        }
        let seconds = (last.1 - start) as f64 / 1e9;
        let unanswered = self.connections as u64 - visits.over();
        if unanswered > 0 {
            visits.failures.insert("not answered".to_owned(), unanswered);
        }
        let cpu = self.processes.cpu()?.since(before);
        let cost = (!self.processes.is_empty()).then(|| Cost::new(cpu, visits.completed));
        Ok(ConnectReport {
            connections: self.connections,
            completed: visits.completed,
            connects_per_second: visits.completed as f64 / seconds.max(1e-9),
            micros: cost.map(|cost| cost.micros),
            user_micros: cost.map(|cost| cost.user_micros),
            handshake: visits.handshakes.quantiles(),
            failures: visits.failures,
        })
    }
}

/// Who is there and who has been.
#[derive(Debug)]
struct Visits {
    /// How many are still to come.
    to_begin: usize,
    /// Whose handshake is done: they leave at once.
    opened: Vec<usize>,
    completed: u64,
    handshakes: Latencies,
    failures: BTreeMap<String, u64>,
}

impl Visits {
    fn over(&self) -> u64 {
        self.completed + self.failures.values().sum::<u64>()
    }
}

impl Watch for Visits {
    fn opened(&mut self, who: usize, took: u64, _now: u64) {
        self.handshakes.record(0, took);
        self.opened.push(who);
    }

    fn message(&mut self, _who: usize, _message: Message<'_>, _now: u64) {}

    fn ended(&mut self, _who: usize, end: End, now: u64) -> Option<u64> {
        if end == End::Left {
            self.completed += 1;
        } else {
            *self.failures.entry(end.to_string()).or_default() += 1;
        }
        // The next one takes this one's place.
        self.to_begin = self.to_begin.checked_sub(1)?;
        Some(now)
    }
}
