//! The yardstick: what it costs at least to write the same frames to as many sockets at the same pace. A server's
//! cost over this one holds on any machine, where a time in microseconds does not.
//!
//! The writer is a process of its own, as a server is, with one thread that does nothing but `write` a prepared
//! frame to one socket after another when a message is due. It reads no requests while it does, keeps no
//! queues and serves no second channel. Its receivers are the same code as a server's, in a process of their own
//! as well: so neither side's sockets count against this process's limit of open files. The processes are this
//! same program with other arguments ([`Program`]), and speak in lines on their standard streams.

mod talk;
mod writer;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audit::stamp::{Pattern, Payload};
use crate::client::sys;
use crate::client::target::Target;
use crate::client::transport::Transport;
use crate::error::BenchError;
use crate::progress::{Progress, STEP};
use crate::report::usage::{CpuReading, Processes};
use crate::report::{Cost, FloorReport, Slice, Wire};
use crate::runs::audience::{Audience, Seating};
use crate::runs::run::{gathered, settled, within_open_files};
use talk::Talk;
use writer::WriterSettings;

/// How to start this program in another part: the path, these arguments, then the part's name and its settings,
/// with which the program calls [`play`].
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// What comes before the part's name.
    pub arguments: Vec<String>,
}

/// A floor to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Floor {
    /// How many sockets are written to.
    pub subscribers: usize,
    /// Bytes of each message.
    pub size: usize,
    /// What messages are made of.
    pub payload: Payload,
    /// Each is an event in a chunk of a body that does not end, instead of a frame.
    pub chunked: bool,
    /// Messages a second.
    pub rate: f64,
    /// How long each round measures.
    pub duration: Duration,
    /// How long each round runs before it measures.
    pub warmup: Duration,
    /// How many rounds, when it is measured by itself.
    pub rounds: usize,
    /// How long to wait for what is missing, after the last delivery.
    pub settle: Duration,
    /// Threads for the receivers.
    pub threads: usize,
    /// The same seed makes the same schedule.
    pub seed: u64,
}

impl Floor {
    /// Measures it by itself.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, or a process that cannot be started or fails.
    pub fn run(&self, program: &Program, progress: &mut dyn Progress) -> Result<FloorReport, BenchError> {
        let mut receivers = Receivers::begin(self, program)?;
        let mut rounds = Vec::new();
        progress.stage("floor", self.rounds as u64);
        for round in 1..=self.rounds {
            rounds.push(receivers.slice()?);
            progress.at(round as u64);
        }
        let cost = Cost::sum(rounds.iter().filter_map(|slice| slice.cost.as_ref())).unwrap_or_default();
        receivers.audience.dismiss()?;
        Ok(FloorReport { subscribers: self.subscribers, size: self.size, rate: self.rate, rounds, cost })
    }
}

/// Plays a part in a floor: what a program does that was started by way of [`Program`]. It returns when `input`
/// ends.
///
/// # Errors
///
/// A part or settings that no version of this program wrote, or what `Floor::run` returns.
pub fn play(
    part: &str,
    settings: &str,
    program: &Program,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), BenchError> {
    let broken = |error: serde_json::Error| BenchError::Setting(format!("settings of {part}: {error}"));
    match part {
        SLICES => slices(&serde_json::from_str(settings).map_err(broken)?, program, input, output),
        WRITER => writer::write(&serde_json::from_str(settings).map_err(broken)?, input, output),
        other => Err(BenchError::Setting(format!("a floor has no part `{other}`"))),
    }
}

/// How much text is in an event whose chunk is so large in all.
///
/// # Errors
///
/// What has no room for the stamp that the floor's receivers look for.
pub(crate) fn in_event(chunk: usize) -> Result<usize, BenchError> {
    // The size and the chunk's two ends of a line; a digit more makes room for sixteen times as much.
    let whole = |inside: usize| format!("{inside:x}").len() + 4 + inside;
    let inside = (0..=chunk.saturating_sub(5)).rev().take(16).find(|inside| whole(*inside) <= chunk);
    let text = inside.unwrap_or_default().saturating_sub(writer::AROUND);
    if text < Payload::Text.smallest() {
        return Err(BenchError::Setting(format!(
            "what the server writes of a message, {chunk} bytes, is too small for the floor's stamp: give a larger --size"
        )));
    }
    Ok(text)
}

/// A floor that waits in another process to be measured.
#[derive(Debug)]
pub(crate) struct FloorProcess(Talk);

impl FloorProcess {
    /// Starts it, and returns when its sockets are open.
    pub(crate) fn start(program: &Program, floor: &Floor) -> Result<Self, BenchError> {
        let mut talk = Talk::start(program, SLICES, &floor)?;
        talk.expect("ready")?;
        Ok(Self(talk))
    }

    /// Asks for a slice.
    pub(crate) fn request(&self) -> Result<(), BenchError> {
        self.0.say("slice")
    }

    /// The slice that was asked for, if it is over.
    pub(crate) fn slice(&self) -> Result<Option<Slice>, BenchError> {
        let Some(line) = self.0.heard()? else { return Ok(None) };
        serde_json::from_str(&line).map(Some).map_err(|error| BenchError::Floor(format!("{error}: {line}")))
    }
}

/// The part that receives, and measures on request.
const SLICES: &str = "slices";
/// The part that writes.
const WRITER: &str = "writer";

fn slices(
    floor: &Floor,
    program: &Program,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), BenchError> {
    let mut receivers = Receivers::begin(floor, program)?;
    writeln!(output, "ready")?;
    output.flush()?;
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let slice = receivers.slice()?;
        let json = serde_json::to_string(&slice).map_err(|error| BenchError::Floor(error.to_string()))?;
        writeln!(output, "{json}")?;
        output.flush()?;
        line.clear();
    }
    Ok(())
}

/// Those who receive what the writer writes, and the writer's process.
struct Receivers<'f> {
    floor: &'f Floor,
    audience: Audience,
    sent: Arc<[AtomicU64]>,
    writer: Talk,
    process: Processes,
    rng: fastrand::Rng,
}

impl<'f> Receivers<'f> {
    fn begin(floor: &'f Floor, program: &Program) -> Result<Self, BenchError> {
        let rate_is_usable = floor.rate > 0.0 && floor.rate.is_finite();
        if floor.subscribers == 0 || floor.rounds == 0 || !rate_is_usable || floor.duration.is_zero() {
            let problem = "a floor needs a subscriber, a round, and a rate and a duration above 0";
            return Err(BenchError::Setting(problem.to_owned()));
        }
        within_open_files(floor.subscribers)?;
        let pattern = Pattern::new(floor.payload, floor.size)?;
        let run = fastrand::u64(..);
        let Floor { size, payload, chunked, subscribers, .. } = *floor;
        let settings = WriterSettings { run, size, payload, chunked, subscribers };
        let mut writer = Talk::start(program, WRITER, &settings)?;
        let url = writer.listen("listening ")?;
        let transport = if chunked { Transport::Sse } else { Transport::WebSocket };
        let target = Target::resolve(&url).and_then(|target| target.over(transport));
        let target = target.map_err(|error| BenchError::Floor(error.to_string()))?.joining();
        let sent: Arc<[AtomicU64]> = Arc::from([AtomicU64::new(0)]);
        let audience = Audience::gather(&Seating {
            targets: Arc::from([target]),
            subscribers: floor.subscribers,
            threads: floor.threads,
            concurrency: 64,
            run,
            pattern,
            sent: Arc::clone(&sent),
            reconnect: false,
            flight: None,
        })?;
        let complete = gathered(&audience, floor.subscribers, &mut |_| {
            std::thread::park_timeout(STEP);
            Ok(true)
        })?;
        if !complete {
            return Err(BenchError::not_connected(floor.subscribers, &audience.dismiss()?.ends));
        }
        writer.expect("accepted")?;
        let process = Processes::new(vec![writer.pid()])?;
        let rng = fastrand::Rng::with_seed(floor.seed);
        Ok(Self { floor, audience, sent, writer, process, rng })
    }

    fn slice(&mut self) -> Result<Slice, BenchError> {
        let floor = self.floor;
        if !floor.warmup.is_zero() {
            self.publish(floor.warmup)?;
        }
        self.audience.record();
        let (before, traffic) = (self.audience.delivered(), self.audience.traffic());
        let (writer, own) = (self.process.cpu()?, CpuReading::own()?);
        let start = sys::monotonic();
        let messages = self.publish(floor.duration)?;
        let cpu = self.process.cpu()?.since(writer);
        let generator = CpuReading::own()?.since(own);
        let deliveries = self.audience.delivered() - before;
        if deliveries != messages * floor.subscribers as u64 {
            return Err(BenchError::Floor(format!("{deliveries} of {messages} messages to each came")));
        }
        let seconds =
            (self.audience.last().saturating_sub(start) as f64 / 1e9).max(messages as f64 / floor.rate);
        Ok(Slice {
            messages,
            deliveries,
            seconds,
            deliveries_per_second: deliveries as f64 / seconds,
            given_up: 0,
            wire: Wire::new(self.audience.traffic(), traffic, deliveries),
            latency: self.audience.collect().quantiles(),
            cost: Some(Cost::new(cpu, deliveries)),
            generator,
        })
    }

    fn publish(&mut self, duration: Duration) -> Result<u64, BenchError> {
        let count = (self.floor.rate * duration.as_secs_f64()).round().max(1.0) as u64;
        let first = self.sent[0].fetch_add(count, Ordering::AcqRel);
        let order = writer::Order { rate: self.floor.rate, count, first, seed: self.rng.u64(..) };
        let order = serde_json::to_string(&order).map_err(|error| BenchError::Floor(error.to_string()))?;
        self.writer.say(&order)?;
        self.writer.expect("written")?;
        let target = (first + count) * self.floor.subscribers as u64;
        settled(target, self.floor.settle, || {
            std::thread::park_timeout(STEP);
            Ok(self.audience.accounted())
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_the_floor_is_as_large_as_one_of_the_server() {
        // (text in an event, bytes of the whole chunk)
        for (text, chunk) in [(64, 78), (128, 142), (247, 261), (248, 263), (4087, 4102), (4088, 4104)] {
            assert_eq!(in_event(chunk).unwrap(), text, "{chunk}");
        }
        for chunk in [0, 5, 77] {
            let error = in_event(chunk).unwrap_err().to_string();
            let expected = format!("what the server writes of a message, {chunk} bytes, is too small");
            assert!(error.starts_with(&expected), "{error}");
        }
        // No chunk is as large: one digit more, and then a byte less.
        assert_eq!(in_event(262).unwrap(), 247);
    }
}
