//! One channel, many subscribers: how fast, how costly, and whether every delivery came once and in order. Here is
//! what can be asked for, and the order of rounds; how a slice of time is measured is in `run`.

use std::time::Duration;

use crate::audit::latency::Latencies;
use crate::audit::stamp::{Pattern, Payload};
use crate::client::speech::Protocol;
use crate::client::target::{Target, agree};
use crate::client::transport::Transport;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::usage::Processes;
use crate::report::{FanoutReport, Round};
use crate::runs::floor::{Floor, FloorProcess, Program, in_event};
use crate::runs::run::{Run, within_open_files};

/// A fan-out to measure.
#[derive(Debug, Clone)]
pub struct Fanout {
    /// The instances, all with the same channel; subscribers and publishers take them in turn.
    pub targets: Vec<Target>,
    /// How many subscribe.
    pub subscribers: usize,
    /// How many publish.
    pub publishers: usize,
    /// Bytes of each message.
    pub size: usize,
    /// What messages are made of.
    pub payload: Payload,
    /// Subscribers offer permessage-deflate, and there is no run if the server does not agree on it. Publishers
    /// do not: what they send is not what is measured.
    pub compression: bool,
    /// How much is published.
    pub load: Load,
    /// How long each round measures.
    pub duration: Duration,
    /// How long each round runs before it measures.
    pub warmup: Duration,
    /// How many rounds.
    pub rounds: usize,
    /// How long to wait for what is missing, after the last delivery.
    pub settle: Duration,
    /// Threads for the subscribers.
    pub threads: usize,
    /// Handshakes under way at a time.
    pub concurrency: usize,
    /// The server's, for CPU time and memory.
    pub processes: Processes,
    /// Whoever loses the connection comes back, to the next instance.
    pub reconnect: bool,
    /// Measure the floor as well, in the same rounds; only where the load is paced. It compresses nothing.
    pub floor: Option<Program>,
    /// The same seed makes the same schedule.
    pub seed: u64,
}

/// How much is published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many messages a second in all, to an open schedule.
    Rate(f64),
    /// As many as can be: each publisher keeps so many under way.
    InFlight(usize),
}

impl Fanout {
    /// Runs it. The calling thread publishes.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, a server that does not take the connections or loses all publishers, or a
    /// process that cannot be read. A delivery that is lost is no error: it is in the report.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<FanoutReport, BenchError> {
        let pattern = self.check()?;
        let mut run = Run::begin(self, pattern, progress)?;
        let floor = match (&self.floor, self.load) {
            (Some(program), Load::Rate(rate)) => {
                let is_plain = (self.protocol(), self.transport()) == (Protocol::Raw, Transport::WebSocket);
                let size = if is_plain { self.size } else { run.probe()? };
                Some(FloorProcess::start(program, &self.as_floor(rate, size)?)?)
            }
            _ => None,
        };
        let mut rounds = Vec::new();
        let mut latency = Latencies::new();
        let mut lateness = Latencies::new();
        for round in 1..=self.rounds {
            let floor = match &floor {
                Some(floor) => Some(run.floor(floor, round, progress)?),
                None => None,
            };
            let server = run.slice(round, progress, &mut latency, &mut lateness)?;
            let costs = server.cost.zip(floor.as_ref().and_then(|slice| slice.cost));
            let ratio = costs.map(|(server, floor)| server.micros / floor.micros);
            rounds.push(Round { server, floor, ratio });
        }
        run.finish(rounds, &latency, &lateness)
    }

    /// Refuses what cannot be run.
    pub(crate) fn check(&self) -> Result<Pattern, BenchError> {
        let setting = |problem: String| Err(BenchError::Setting(problem));
        if self.targets.is_empty() || self.subscribers == 0 || self.publishers == 0 || self.rounds == 0 {
            return setting("a run needs a URL, a subscriber, a publisher and a round".to_owned());
        }
        let positive = match self.load {
            Load::Rate(rate) => rate > 0.0 && rate.is_finite(),
            Load::InFlight(in_flight) => in_flight > 0,
        };
        if !positive || self.duration.is_zero() {
            return setting("the rate, the number in flight and the duration must be above 0".to_owned());
        }
        if self.floor.is_some() && (self.processes.is_empty() || matches!(self.load, Load::InFlight(_))) {
            return setting(
                "the floor is compared with a paced server's CPU time: give a rate and the server's process id"
                    .to_owned(),
            );
        }
        agree(&self.targets, self.compression)?;
        let protocol = self.protocol();
        if protocol == Protocol::CentrifugeJson && self.payload != Payload::Json {
            return setting(format!("{protocol} carries JSON and nothing else, not {}", self.payload));
        }
        within_open_files(self.subscribers + self.publishers)?;
        Pattern::new(self.payload, self.size)
    }

    /// What the connections speak.
    pub(crate) fn protocol(&self) -> Protocol {
        self.targets.first().map(Target::protocol).unwrap_or_default()
    }

    /// What carries what subscribers hear.
    pub(crate) fn transport(&self) -> Transport {
        self.targets.first().map(|target| target.transport).unwrap_or_default()
    }

    /// The floor writes frames of the same size, or chunks, and does not care what is in them. `size` is that of a
    /// frame's payload, or of a whole chunk.
    fn as_floor(&self, rate: f64, size: usize) -> Result<Floor, BenchError> {
        let chunked = self.transport() != Transport::WebSocket;
        let (size, payload) = if chunked { (in_event(size)?, Payload::Text) } else { (size, self.payload) };
        Ok(Floor {
            subscribers: self.subscribers,
            size,
            payload,
            chunked,
            rate,
            duration: self.duration,
            warmup: self.warmup,
            rounds: self.rounds,
            settle: self.settle,
            threads: self.threads,
            seed: self.seed,
        })
    }
}
