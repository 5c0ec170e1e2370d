//! Attacks kept up, and what bystanders notice: publisher and subscribers of a channel of their own, at an even pace,
//! timed from when each message should have been sent. Each attack has rounds of two slices, under it and without it,
//! so that whatever else goes on in the machine falls into both; without it, a decoy keeps the machine as busy.
//! Bystanders go before everybody else on the processors, for they stand for people with machines of their own. It
//! decides nothing about how an attack goes.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use super::decoy::Decoy;
use super::report::{HostileReport, Siege, Toll};
use super::{Answer, Attack, Field};
use crate::audit::latency::Latencies;
use crate::audit::stamp::Payload;
use crate::client::sys;
use crate::client::target::Target;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::usage::Processes;
use crate::runs::fanout::{Fanout, Load};
use crate::runs::run::{Run, within_open_files};

/// How long an attack goes on before bystanders are timed.
const RUN_UP: Duration = Duration::from_millis(500);

/// The longest wait for the server to be rid of an attack.
const CALM_WITHIN: Duration = Duration::from_secs(20);

/// How long a rest is between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// Sockets that an attack of its own uses at most.
const SOCKETS: usize = 8_000;

/// Attacks to measure.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// The instances. Bystanders connect to them in turn, attackers to the first.
    pub targets: Vec<Target>,
    /// Which.
    pub attacks: Vec<&'static Attack>,
    /// How many bystanders subscribe.
    pub subscribers: usize,
    /// Messages a second of the one who publishes.
    pub rate: f64,
    /// How long each slice is, but of attacks that say themselves how long they last.
    pub duration: Duration,
    /// How many rounds for each attack.
    pub rounds: usize,
    /// The server's, for memory and files.
    pub processes: Processes,
    /// The same seed makes the same schedule.
    pub seed: u64,
}

impl Hostile {
    /// Runs it. The calling thread publishes.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, bystanders that do not get in or lose their publisher, or a process that has
    /// gone.
    /// What attacks get, and what bystanders lose, is in the report.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<HostileReport, BenchError> {
        let bystanders = self.bystanders();
        let pattern = bystanders.check()?;
        within_open_files(self.subscribers + SOCKETS)?;
        // Where that is not permitted, they wait for the server's threads as well as for its answers.
        let in_front = sys::stand_in_front().is_ok();
        let mut run = Run::begin(&bystanders, pattern, progress)?;
        let mut sieges = Vec::new();
        let mut all = Latencies::new();
        for attack in &self.attacks {
            sieges.push(self.lay(attack, &mut run, &mut all, progress)?);
        }
        let report = run.finish(Vec::new(), &all, &Latencies::new())?;
        if in_front {
            sys::stand_in_line()?;
        }
        Ok(HostileReport {
            subscribers: self.subscribers,
            rate: self.rate,
            in_front,
            server_in_front: self.processes.in_front()?,
            sieges,
            audit: report.audit,
            ends: report.ends,
        })
    }

    fn bystanders(&self) -> Fanout {
        Fanout {
            targets: self.targets.clone(),
            subscribers: self.subscribers,
            publishers: 1,
            size: 128,
            payload: Payload::Binary,
            compression: false,
            load: Load::Rate(self.rate),
            duration: self.duration,
            warmup: Duration::ZERO,
            rounds: self.rounds,
            settle: Duration::from_secs(5),
            threads: 1,
            concurrency: 16,
            processes: Processes::default(),
            reconnect: false,
            floor: None,
            seed: self.seed,
        }
    }

    /// All rounds of one attack.
    fn lay(
        &self,
        attack: &'static Attack,
        run: &mut Run<'_>,
        all: &mut Latencies,
        progress: &mut dyn Progress,
    ) -> Result<Siege, BenchError> {
        let before = self.toll()?;
        let mut siege = Siege::of(attack, before);
        // One that lasts a minute is measured once.
        let rounds = if attack.lasts.is_some() { 1 } else { self.rounds };
        for round in 1..=rounds {
            let mut slice = |run: &mut Run<'_>, duration: Duration, what: &str| -> Result<u64, BenchError> {
                let name = format!("{} {round}: {what}", attack.name);
                let slice = run.measure(duration, &name, progress, all, &mut Latencies::new())?;
                Ok(slice.latency.p99)
            };
            let lasts = attack.lasts.unwrap_or(self.duration);
            let field = Field::new(self.targets[0].clone(), lasts + RUN_UP);
            let begun = sys::monotonic();
            let besieger = Besieger::start(attack, field.clone())?;
            slice(run, RUN_UP, "begun")?;
            let attacked = slice(run, lasts, "attacked")?;
            siege.at_worst = self.toll()?;
            besieger.stop(&mut siege)?;
            let share = field.spent() as f64 / (sys::monotonic() - begun) as f64;
            siege.after = self.calm(run, before)?;
            let decoy = Decoy::start(share)?;
            slice(run, RUN_UP, "calm")?;
            let quiet = slice(run, self.duration, "calm")?;
            drop(decoy);
            siege.rounds.push((quiet, attacked));
            siege.shares.push(share);
        }
        Ok(siege)
    }

    /// Waits until the server has closed what the attack had opened.
    fn calm(&self, run: &mut Run<'_>, before: Option<Toll>) -> Result<Option<Toll>, BenchError> {
        let end = sys::monotonic() + CALM_WITHIN.as_nanos() as u64;
        loop {
            run.rest(LOOK)?;
            let now = self.toll()?;
            let calm = before.zip(now).is_none_or(|(before, now)| now.files <= before.files);
            if calm || sys::monotonic() > end {
                return Ok(now);
            }
        }
    }

    fn toll(&self) -> Result<Option<Toll>, BenchError> {
        if self.processes.is_empty() {
            return Ok(None);
        }
        let resident = self.processes.resident()?;
        Ok(Some(Toll { resident, files: self.processes.files()? }))
    }
}

/// The thread that attacks, over and over, until it is told to stop.
struct Besieger {
    field: Field,
    thread: JoinHandle<Spoils>,
}

/// What it got.
#[derive(Default)]
struct Spoils {
    goes: u64,
    answers: BTreeMap<String, u64>,
    unexpected: u64,
}

impl Besieger {
    fn start(attack: &'static Attack, field: Field) -> Result<Self, BenchError> {
        let theirs = field.clone();
        let thread = std::thread::Builder::new().name("besieger".to_owned()).spawn(move || {
            let mut spoils = Spoils::default();
            if let Err(error) = sys::stand_back() {
                *spoils.answers.entry(format!("not standing back: {error}")).or_default() += 1;
            }
            let mut held = Vec::new();
            while !theirs.is_over() && spoils.take(attack, &theirs, &mut held) {
                if !held.is_empty() {
                    // What is held does its harm by being there; a few thousand are enough.
                    sys::sleep_until(sys::monotonic() + LOOK.as_nanos() as u64);
                }
            }
            if let Err(error) = theirs.spend() {
                *spoils.answers.entry(format!("no clock: {error}")).or_default() += 1;
            }
            spoils
        })?;
        Ok(Self { field, thread })
    }

    fn stop(self, siege: &mut Siege) -> Result<(), BenchError> {
        self.field.call_off();
        let spoils = self.thread.join().map_err(|_| std::io::Error::other("an attack panicked"))?;
        siege.goes += spoils.goes;
        siege.unexpected += spoils.unexpected;
        for (answer, count) in spoils.answers {
            *siege.answers.entry(answer).or_default() += count;
        }
        Ok(())
    }
}

impl Spoils {
    /// One go. False if it makes no sense to go on.
    fn take(&mut self, attack: &Attack, field: &Field, held: &mut Vec<super::Assailant>) -> bool {
        match attack.carry_out(field) {
            Ok(outcome) => {
                self.goes += 1;
                for blow in outcome.blows {
                    // Who was called off has not waited for an answer.
                    let cut_short = blow.got == Answer::Silence && field.is_over();
                    self.unexpected += u64::from(blow.got != blow.expected && !cut_short);
                    *self.answers.entry(blow.got.to_string()).or_default() += 1;
                }
                held.extend(outcome.held);
                true
            }
            Err(_) if field.is_over() => false,
            Err(error) => {
                *self.answers.entry(format!("failed: {error}")).or_default() += 1;
                self.unexpected += 1;
                false
            }
        }
    }
}
