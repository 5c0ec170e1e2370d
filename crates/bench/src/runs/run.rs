//! A fan-out under way, from the first connection to the report. The publishers are on the thread that steers, the
//! subscribers on others. It does not decide what to run, only how it is measured.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::audit::latency::Latencies;
use crate::audit::losses::Verdict;
use crate::audit::stamp::Pattern;
use crate::client::speech::Protocol;
use crate::client::sys;
use crate::client::target::Target;
use crate::client::transport::Transport;
use crate::error::BenchError;
use crate::flight::Flight;
use crate::progress::{Progress, STEP};
use crate::report::usage::CpuReading;
use crate::report::{AuditReport, Cost, FanoutReport, Round, Slice, Wire, median};
use crate::runs::audience::{Attendance, Audience, Seating};
use crate::runs::fanout::{Fanout, Load};
use crate::runs::floor::FloorProcess;
use crate::runs::publishers::{Flood, Publishers};
use crate::runs::schedule::Schedule;

/// A run that has begun: everybody is connected.
pub(crate) struct Run<'f> {
    settings: &'f Fanout,
    sent: Arc<[AtomicU64]>,
    audience: Audience,
    publishers: Publishers,
    flight: Option<Arc<Flight>>,
    rng: fastrand::Rng,
}

impl<'f> Run<'f> {
    /// Connects everybody; nothing is sent yet.
    pub(crate) fn begin(
        settings: &'f Fanout,
        pattern: Pattern,
        progress: &mut dyn Progress,
    ) -> Result<Self, BenchError> {
        let id = fastrand::u64(..);
        let sent: Arc<[AtomicU64]> = (0..settings.publishers).map(|_| AtomicU64::new(0)).collect();
        let mut publishers = Publishers::new(
            settings.targets.iter().map(Target::publishing).collect(),
            Arc::clone(&sent),
            pattern.clone(),
            id,
            settings.reconnect,
        )?;
        let flight = match settings.load {
            Load::Rate(_) => None,
            Load::InFlight(in_flight) => {
                let waker = Arc::new(publishers.waker()?);
                Some(Arc::new(Flight::new(settings.publishers, in_flight, settings.subscribers, waker)))
            }
        };
        let text = pattern.is_text();
        let seat = |target: &Target| target.listening(text).compressing(settings.compression);
        let audience = Audience::gather(&Seating {
            targets: settings.targets.iter().map(seat).collect(),
            subscribers: settings.subscribers,
            threads: settings.threads,
            concurrency: settings.concurrency,
            run: id,
            pattern,
            sent: Arc::clone(&sent),
            reconnect: settings.reconnect,
            flight: flight.clone(),
        })?;
        progress.stage("connecting", (settings.subscribers + settings.publishers) as u64);
        let complete = gathered(&audience, settings.subscribers, &mut |open| {
            progress.at((open + publishers.open()) as u64);
            publishers.idle(STEP * 5)?;
            Ok(publishers.open() == settings.publishers)
        })?;
        if !complete {
            let mut ends = audience.dismiss()?.ends;
            for (end, count) in publishers.ends() {
                *ends.entry(end.clone()).or_default() += count;
            }
            return Err(BenchError::not_connected(settings.subscribers + settings.publishers, &ends));
        }
        let rng = fastrand::Rng::with_seed(settings.seed);
        Ok(Self { settings, sent, audience, publishers, flight, rng })
    }

    /// Sends one message, and gives the bytes of the frame that subscribers get of it: with the client protocol there
    /// is more in it than the payload. Of a body it is the whole chunk. A ping that comes at the same time is too small
    /// to change that.
    pub(crate) fn probe(&mut self) -> Result<usize, BenchError> {
        let (traffic, delivered) = (self.audience.traffic(), self.audience.delivered());
        self.publishers.pace(Schedule::new(sys::monotonic(), 1_000.0, 0), 1, &mut || {})?;
        self.settle()?;
        let deliveries = self.audience.delivered() - delivered;
        let came = self.audience.traffic();
        let bytes = match self.settings.transport() {
            Transport::WebSocket => came.payload - traffic.payload,
            Transport::Sse | Transport::HttpStream => came.wire - traffic.wire,
        };
        if deliveries == 0 {
            return Err(BenchError::Floor("a first message reached nobody".to_owned()));
        }
        Ok((bytes / deliveries) as usize)
    }

    /// A slice of time with the floor; the server's connections are only kept alive.
    pub(crate) fn floor(
        &mut self,
        floor: &FloorProcess,
        round: usize,
        progress: &mut dyn Progress,
    ) -> Result<Slice, BenchError> {
        progress.stage(&format!("round {round}: floor"), 0);
        floor.request()?;
        loop {
            self.publishers.idle(STEP * 10)?;
            if let Some(slice) = floor.slice()? {
                return Ok(slice);
            }
        }
    }

    /// Warms up and measures for one `duration`. What is measured is added to the latencies, too.
    pub(crate) fn slice(
        &mut self,
        round: usize,
        progress: &mut dyn Progress,
        latency: &mut Latencies,
        lateness: &mut Latencies,
    ) -> Result<Slice, BenchError> {
        let Fanout { warmup, duration, .. } = *self.settings;
        self.warm_up(warmup, round, progress)?;
        self.measure(duration, &format!("round {round}: measuring"), progress, latency, lateness)
    }

    fn warm_up(
        &mut self,
        warmup: Duration,
        round: usize,
        progress: &mut dyn Progress,
    ) -> Result<(), BenchError> {
        if !warmup.is_zero() {
            self.publish(warmup, &format!("round {round}: warm-up"), progress)?;
            self.settle()?;
        }
        Ok(())
    }

    /// Publishes for `duration`, and measures that.
    pub(crate) fn measure(
        &mut self,
        duration: Duration,
        name: &str,
        progress: &mut dyn Progress,
        latency: &mut Latencies,
        lateness: &mut Latencies,
    ) -> Result<Slice, BenchError> {
        let settings = self.settings;
        self.audience.record();
        self.publishers.lateness();
        let (messages, received) = (self.messages(), self.deliveries());
        let (heard, traffic) = (self.audience.delivered(), self.audience.traffic());
        let (server, own) = (settings.processes.cpu()?, CpuReading::own()?);
        let start = sys::monotonic();
        let given_up = self.publish(duration, name, progress)?;
        self.settle()?;
        let cpu = settings.processes.cpu()?.since(server);
        let generator = CpuReading::own()?.since(own);
        let (messages, deliveries) = (self.messages() - messages, self.deliveries() - received);
        let scheduled = match settings.load {
            Load::Rate(rate) => messages as f64 / rate,
            Load::InFlight(_) => 0.0,
        };
        let seconds = (self.audience.last().saturating_sub(start) as f64 / 1e9).max(scheduled);
        let latencies = self.audience.collect();
        latency.add(&latencies);
        lateness.add(&self.publishers.lateness());
        Ok(Slice {
            messages,
            deliveries,
            seconds,
            deliveries_per_second: deliveries as f64 / seconds,
            given_up,
            wire: Wire::new(self.audience.traffic(), traffic, self.audience.delivered() - heard),
            latency: latencies.quantiles(),
            cost: (!settings.processes.is_empty()).then(|| Cost::new(cpu, deliveries)),
            generator,
        })
    }

    /// Publishes for a while, and returns how many messages were given up.
    fn publish(
        &mut self,
        duration: Duration,
        name: &str,
        progress: &mut dyn Progress,
    ) -> Result<u64, BenchError> {
        let begun = self.audience.delivered();
        let audience = &self.audience;
        match self.settings.load {
            Load::Rate(rate) => {
                let count = (rate * duration.as_secs_f64()).round().max(1.0) as u64;
                progress.stage(name, count * self.settings.subscribers as u64);
                let schedule = Schedule::new(sys::monotonic(), rate, self.rng.u64(..));
                self.publishers.pace(schedule, count, &mut || progress.at(audience.delivered() - begun))?;
                Ok(0)
            }
            Load::InFlight(in_flight) => {
                let flight = self.flight.as_ref().expect("a run that goes flat out begins with a flight");
                let start = sys::monotonic();
                progress.stage(name, duration.as_millis() as u64);
                let flood = Flood {
                    flight,
                    in_flight,
                    duration: duration.as_nanos() as u64,
                    patience: self.settings.settle.as_nanos() as u64,
                };
                let told = &mut || progress.at((sys::monotonic() - start) / 1_000_000);
                Ok(self.publishers.flood(flood, told)?)
            }
        }
    }

    /// Waits until everything that was sent is accounted for, or nothing has come for a while. Raw publishers are
    /// receivers too, of one another's messages.
    fn settle(&mut self) -> io::Result<()> {
        let Fanout { subscribers, publishers, settle, .. } = self.settings;
        let hearing = if self.settings.protocol() == Protocol::Raw { publishers - 1 } else { 0 };
        let target = self.messages() * (subscribers + hearing) as u64;
        let (audience, publishers) = (&self.audience, &mut self.publishers);
        settled(target, *settle, || {
            publishers.idle(STEP)?;
            Ok(audience.accounted() + publishers.received())
        })
    }

    /// Publishes nothing for a while; the connections are kept alive.
    pub(crate) fn rest(&mut self, duration: Duration) -> io::Result<()> {
        let end = sys::monotonic() + duration.as_nanos() as u64;
        while sys::monotonic() < end {
            self.publishers.idle(STEP * 10)?;
        }
        Ok(())
    }

    fn messages(&self) -> u64 {
        self.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum()
    }

    fn deliveries(&self) -> u64 {
        self.audience.delivered() + self.publishers.received()
    }

    /// Takes everybody away, and makes the report of what was seen.
    pub(crate) fn finish(
        self,
        rounds: Vec<Round>,
        latency: &Latencies,
        lateness: &Latencies,
    ) -> Result<FanoutReport, BenchError> {
        let Self { settings, sent, audience, publishers, .. } = self;
        let resident =
            if settings.processes.is_empty() { None } else { Some(settings.processes.resident()?) };
        let connected_at_end = audience.open();
        let attendance = audience.dismiss()?;
        let messages = sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum();
        let audit = judge(&attendance, &publishers, messages, settings.subscribers);
        let publisher_ends = publishers.ends().clone();
        publishers.dismiss()?;
        Ok(FanoutReport {
            subscribers: settings.subscribers,
            publishers: settings.publishers,
            size: settings.size,
            protocol: settings.protocol(),
            transport: settings.transport(),
            payload: settings.payload,
            compression: settings.compression,
            rate: if let Load::Rate(rate) = settings.load { Some(rate) } else { None },
            in_flight: if let Load::InFlight(count) = settings.load { Some(count) } else { None },
            ratio_to_floor: median(rounds.iter().filter_map(|round| round.ratio).collect()),
            wire: Wire::sum(rounds.iter().map(|round| &round.server.wire)),
            cost: Cost::sum(rounds.iter().filter_map(|round| round.server.cost.as_ref())),
            floor_cost: Cost::sum(rounds.iter().filter_map(|round| round.floor.as_ref()?.cost.as_ref())),
            rounds,
            audit,
            latency: latency.quantiles(),
            lateness: lateness.quantiles(),
            handshake: attendance.handshakes.quantiles(),
            ends: attendance.ends,
            ends_by_second: attendance.ends_by_second,
            publisher_ends,
            notices: attendance.notices,
            away: attendance.away.quantiles(),
            connected_at_end,
            resident,
            reconnect: settings.reconnect,
        })
    }
}

/// Waits until all subscribers are connected and `step` agrees; returns whether that came about.
pub(crate) fn gathered(
    audience: &Audience,
    subscribers: usize,
    step: &mut dyn FnMut(usize) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut last = (0, sys::monotonic());
    loop {
        let open = audience.open();
        let now = sys::monotonic();
        let ready = step(open)?;
        if open == subscribers && ready {
            return Ok(true);
        }
        if open != last.0 {
            last = (open, now);
        }
        // Where attempts fail, the rest is soon known; where nothing answers, it may yet.
        let patience = if audience.ended() > 0 { REFUSED_PATIENCE } else { CONNECT_PATIENCE };
        if now > last.1 + patience {
            return Ok(false);
        }
    }
}

/// Waits until `step` has accounted for `target` deliveries, or for nothing more in all of `patience`.
pub(crate) fn settled(
    target: u64,
    patience: Duration,
    mut step: impl FnMut() -> io::Result<u64>,
) -> io::Result<()> {
    let mut last = (step()?, sys::monotonic());
    while last.0 < target && sys::monotonic() < last.1 + patience.as_nanos() as u64 {
        let accounted = step()?;
        if accounted != last.0 {
            last = (accounted, sys::monotonic());
        }
    }
    Ok(())
}

fn judge(attendance: &Attendance, publishers: &Publishers, messages: u64, subscribers: usize) -> AuditReport {
    let audit = &attendance.audit;
    let verdict = Verdict::of(&audit.losses, publishers.broken(), subscribers);
    AuditReport {
        expected: (messages - verdict.unaccepted) * subscribers as u64,
        delivered_once: audit.delivered_once,
        duplicate: audit.duplicate,
        reordered: audit.reordered,
        lost_announced: verdict.announced,
        lost_silent: verdict.silent,
        phantom: audit.phantom,
        unaccepted: verdict.unaccepted,
        complaints: audit.complaints.clone(),
    }
}

/// Fails if this process may not open so many sockets, and raises its limit if it may.
pub(crate) fn within_open_files(sockets: usize) -> Result<(), BenchError> {
    /// Standard streams, polls, timers, libraries.
    const BESIDE: u64 = 64;
    let limit = sys::raise_open_files()?;
    if sockets as u64 + BESIDE > limit {
        return Err(BenchError::Setting(format!(
            "{sockets} sockets are more than this process may open ({limit} files, {BESIDE} of them for other uses)"
        )));
    }
    Ok(())
}

/// If nobody has connected for so long, and some have failed, nobody will.
const REFUSED_PATIENCE: u64 = 1_500_000_000;

/// If nobody has connected for so long, nobody will.
const CONNECT_PATIENCE: u64 = 15_000_000_000;
