//! A storm: many clients lose their instance, something is published meanwhile, and all come back at once to another
//! one and want what they have missed. Measured is how long that takes, whether anything is missing, and what
//! bystanders at the other instance notice. It brings nobody back after a loss that recovery could not make good.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::audit::latency::Latencies;
use crate::audit::stamp::{Pattern, Payload, Stamp};
use crate::client::connection::{End, Message};
use crate::client::speech::{Protocol, Seat};
use crate::client::swarm::{Swarm, Watch, farewell};
use crate::client::sys;
use crate::client::target::Target;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::redis;
use crate::report::RecoverReport;
use crate::report::usage::{Cpu, Processes};
use crate::runs::fanout::{Fanout, Load};
use crate::runs::returners::{MOST, Party, Returners};
use crate::runs::run::{Run, within_open_files};

/// A storm to measure.
#[derive(Debug, Clone)]
pub struct Recover {
    /// The instance that is lost, then those to which the clients come back. All have the channels' history in common.
    pub targets: Vec<Target>,
    /// How it is lost.
    pub loss: Loss,
    /// How many clients lose it.
    pub clients: usize,
    /// Over how many channels they are spread: the targets' channel with a number behind it.
    pub channels: usize,
    /// How many messages of each channel they miss.
    pub missed: u64,
    /// Bytes of each message.
    pub size: usize,
    /// Bystanders at the other instances, who hear each other in the targets' channel.
    pub bystanders: usize,
    /// Messages a second that bystanders hear.
    pub rate: f64,
    /// How long they are measured before the storm.
    pub duration: Duration,
    /// Handshakes under way at a time.
    pub concurrency: usize,
    /// How long the storm may take, and how long nothing may come after it before what is missing counts as lost.
    pub patience: Duration,
    /// The other instances', for CPU time.
    pub processes: Processes,
    /// `HOST:PORT` of the Redis between them, for its counts of commands.
    pub redis: Option<String>,
    /// The same seed makes the same schedule.
    pub seed: u64,
}

/// How clients lose their instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Their sockets are closed without a word.
    Cut,
    /// This process, which is the instance, is killed.
    Kill(u32),
}

/// Messages before the loss, and after the return.
const AROUND: u64 = 3;

/// How long a slice of bystanders' time is, at the end of which it is seen whether the storm is over.
const SLICE: Duration = Duration::from_millis(200);

/// How long nothing may happen, in all steps but the storm.
const PATIENCE: Duration = Duration::from_secs(15);

impl Recover {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, an instance that does not take the clients, or publications that it does not
    /// take.
    /// What is lost is in the report.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<RecoverReport, BenchError> {
        let pattern = self.check()?;
        let bystanders = self.bystanders();
        let run_id = fastrand::u64(..);
        // As under an attack: bystanders stand for people with machines of their own.
        let in_front = sys::stand_in_front().is_ok();
        let mut run = Run::begin(&bystanders, bystanders.check()?, progress)?;
        let channel =
            self.targets[0].speech.as_ref().map_or_else(|| Arc::from(""), |speech| speech.channel.clone());
        let channels: Arc<[Arc<str>]> =
            (0..self.channels).map(|number| format!("{channel}{number}").into()).collect();
        let others: Arc<[Target]> = self.targets[1..].iter().map(|target| target.listening(true)).collect();
        progress.stage("connecting", self.clients as u64);
        let returners = Returners::gather(Party {
            first: self.targets[0].listening(true),
            others,
            clients: self.clients,
            channels: channels.clone(),
            concurrency: self.concurrency,
            run: run_id,
            pattern: pattern.clone(),
        })?;
        let open = || returners.counts().open.load(Ordering::Acquire) as u64;
        let clients = self.clients as u64;
        until(&mut run, clients, PATIENCE, progress, open)?;
        let mut speakers = Speakers::connect(&self.targets[1..], channels, run_id, pattern)?;
        let got = || returners.counts().got.load(Ordering::Acquire);
        progress.stage("before", clients * AROUND);
        speakers.publish(AROUND)?;
        until(&mut run, clients * AROUND, PATIENCE, progress, got)?;
        let (mut quiet, mut stormy) = (Latencies::new(), Latencies::new());
        run.measure(self.duration, "quiet", progress, &mut quiet, &mut Latencies::new())?;

        self.lose(&returners)?;
        progress.stage("losing their instance", clients);
        until(&mut run, clients, PATIENCE, progress, || clients - open())?;
        speakers.publish(self.missed)?;
        let calls = self.calls()?;
        let cpu = self.processes.cpu()?;
        let start = sys::monotonic();
        returners.come_back(start);
        let due = clients * (AROUND + self.missed);
        let is_over = || open() == clients && got() >= due;
        while !is_over() && sys::monotonic() < start + self.patience.as_nanos() as u64 {
            run.measure(SLICE, "storm", progress, &mut stormy, &mut Latencies::new())?;
        }
        let took = returners.counts().last.load(Ordering::Acquire).saturating_sub(start);
        let cpu = self.processes.cpu()?.since(cpu);
        let calls = match (self.calls()?, calls) {
            (Some(now), Some(before)) => Some(redis::since(now, &before)),
            _ => None,
        };
        let back = returners.counts().open.load(Ordering::Acquire);
        progress.stage("after", clients * AROUND);
        speakers.publish(AROUND)?;
        let all = clients * (2 * AROUND + self.missed);
        // What does not come is in the report.
        let _ = until(&mut run, all, self.patience.min(PATIENCE), progress, got);
        speakers.dismiss()?;
        let found = returners.finish(2 * AROUND + self.missed)?;
        let report = run.finish(Vec::new(), &quiet, &Latencies::new())?;
        if in_front {
            sys::stand_in_line()?;
        }
        let calls_per_client = calls.map(|calls| {
            calls.into_iter().map(|(name, count)| (name, count as f64 / clients as f64)).collect()
        });
        let cpu = (!self.processes.is_empty()).then_some(cpu);
        Ok(RecoverReport {
            protocol: self.targets[0].protocol(),
            clients: self.clients,
            channels: self.channels,
            missed: self.missed,
            back,
            recovered: found.recovered,
            unrecovered: found.unrecovered,
            made_good: found.made_good,
            seconds: took as f64 / 1e9,
            returned: found.returned.quantiles(),
            due: found.due,
            delivered: found.delivered,
            lost: found.lost,
            duplicate: found.duplicate,
            reordered: found.reordered,
            phantom: found.phantom,
            ends: found.ends,
            bystanders: self.bystanders,
            in_front,
            quiet: quiet.quantiles(),
            stormy: stormy.quantiles(),
            audit: report.audit,
            cpu_micros: cpu.map(|Cpu { total, .. }| total as f64 / 1e3 / clients as f64),
            calls_per_client,
        })
    }

    fn check(&self) -> Result<Pattern, BenchError> {
        let setting = |problem: &str| Err(BenchError::Setting(problem.to_owned()));
        if self.targets.len() < 2 {
            return setting("the URL of the instance that is lost is needed, and one of another");
        }
        if self.targets.iter().any(|target| target.protocol() == Protocol::Raw) {
            return setting("only clients of the Centrifuge protocol recover: --protocol centrifuge-json");
        }
        if self.clients == 0 || self.channels == 0 || self.channels > self.clients {
            return setting("at least one client is needed for each of at least one channel");
        }
        if self.missed == 0 || self.missed + 2 * AROUND > MOST {
            return Err(BenchError::Setting(format!(
                "clients can miss 1 to {} messages of a channel",
                MOST - 2 * AROUND
            )));
        }
        within_open_files(self.clients + self.channels + self.bystanders + 1)?;
        Pattern::new(Payload::Json, self.size)
    }

    fn bystanders(&self) -> Fanout {
        Fanout {
            targets: self.targets[1..].to_vec(),
            subscribers: self.bystanders,
            publishers: 1,
            size: self.size,
            payload: Payload::Json,
            compression: false,
            load: Load::Rate(self.rate),
            duration: self.duration,
            warmup: Duration::ZERO,
            rounds: 1,
            settle: Duration::from_secs(5),
            threads: 1,
            concurrency: 16,
            processes: Processes::default(),
            reconnect: false,
            floor: None,
            seed: self.seed,
        }
    }

    fn lose(&self, returners: &Returners) -> Result<(), BenchError> {
        match self.loss {
            Loss::Cut => returners.cut(),
            Loss::Kill(pid) => sys::kill(pid)?,
        }
        Ok(())
    }

    fn calls(&self) -> io::Result<Option<redis::Calls>> {
        self.redis.as_deref().map(redis::calls).transpose()
    }
}

/// Lets bystanders wait until `count` has come to `wanted`, or has not moved for as long as `patience`, which is an
/// error.
fn until(
    run: &mut Run<'_>,
    wanted: u64,
    patience: Duration,
    progress: &mut dyn Progress,
    count: impl Fn() -> u64,
) -> Result<(), BenchError> {
    let mut last = (count(), sys::monotonic());
    while last.0 < wanted {
        run.rest(Duration::from_millis(20))?;
        let now = (count(), sys::monotonic());
        progress.at(now.0);
        if now.0 != last.0 {
            last = now;
        } else if now.1 > last.1 + patience.as_nanos() as u64 {
            return Err(BenchError::Setting(format!("{} of {wanted} are there, and no more come", now.0)));
        }
    }
    Ok(())
}

/// Those who publish, one for each channel.
struct Speakers {
    swarm: Swarm,
    voices: Voices,
    run: u64,
    pattern: Pattern,
    sent: u64,
}

struct Voices {
    channels: Arc<[Arc<str>]>,
    confirmed: u64,
    end: Option<End>,
}

impl Speakers {
    fn connect(
        targets: &[Target],
        channels: Arc<[Arc<str>]>,
        run: u64,
        pattern: Pattern,
    ) -> Result<Self, BenchError> {
        let targets = targets.iter().map(Target::publishing).collect();
        let mut swarm = Swarm::new(targets, channels.len(), 0, 64)?;
        swarm.connect_all();
        let voices = Voices { channels, confirmed: 0, end: None };
        let mut speakers = Self { swarm, voices, run, pattern, sent: 0 };
        let all = speakers.voices.channels.len();
        speakers.turn_until(|speakers| speakers.swarm.open() == all)?;
        Ok(speakers)
    }

    /// Publishes so many messages in each channel, and returns when the server has all of them.
    fn publish(&mut self, messages: u64) -> Result<(), BenchError> {
        let channels = self.voices.channels.len();
        let wanted = self.voices.confirmed + messages * channels as u64;
        for sequence in self.sent..self.sent + messages {
            for who in 0..channels {
                let stamp =
                    Stamp { run: self.run, publisher: who as u32, sequence, intended: sys::monotonic() };
                let payload = self.pattern.stamp(&stamp);
                self.swarm.with(who, &mut self.voices, |connection| {
                    connection.publish(true, payload);
                    connection.flush()
                });
            }
        }
        self.sent += messages;
        self.turn_until(|speakers| speakers.voices.confirmed == wanted)
    }

    fn turn_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), BenchError> {
        let deadline = sys::monotonic() + PATIENCE.as_nanos() as u64;
        while !done(self) {
            self.swarm.turn(Some(Duration::from_millis(20)), &mut self.voices)?;
            if let Some(end) = &self.voices.end {
                return Err(BenchError::Io(io::Error::other(format!(
                    "a publisher's connection has ended: {end}"
                ))));
            }
            if sys::monotonic() > deadline {
                return Err(BenchError::Io(io::Error::other("publications are not answered")));
            }
        }
        Ok(())
    }

    fn dismiss(mut self) -> io::Result<()> {
        let size = self.voices.channels.len();
        farewell(&mut self.swarm, size)
    }
}

impl Watch for Voices {
    fn seat(&self, who: usize) -> Option<Seat> {
        Some(Seat { channel: self.channels[who].clone(), epoch: None, offset: 0 })
    }

    fn opened(&mut self, _who: usize, _took: u64, _now: u64) {}

    fn message(&mut self, _who: usize, _message: Message<'_>, _now: u64) {}

    fn published(&mut self, _who: usize, _now: u64) {
        self.confirmed += 1;
    }

    fn ended(&mut self, _who: usize, end: End, _now: u64) -> Option<u64> {
        self.end = Some(end);
        None
    }
}
