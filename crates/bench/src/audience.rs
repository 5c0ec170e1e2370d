//! The subscribers of a run: threads that read, audit and time every delivery. They publish nothing, and say
//! what they have seen only when asked, so that asking costs the measurement nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Waker;

use crate::audit::{Audit, Auditor, Receipt};
use crate::connection::{Connection, End};
use crate::flight::Flight;
use crate::latency::Latencies;
use crate::stamp::Pattern;
use crate::swarm::{Swarm, Watch};
use crate::sys;
use crate::target::Target;

/// How a text message begins that tells a subscriber of a gap.
const NOTICE: &[u8] = br#"{"fanfare":"gap""#;

/// How long subscribers wait for the server to let them go, at the end.
const FAREWELL: u64 = 3_000_000_000;

/// What the subscribers of a run need to know.
#[derive(Debug, Clone)]
pub(crate) struct Seating {
    pub(crate) targets: Arc<[Target]>,
    pub(crate) subscribers: usize,
    pub(crate) threads: usize,
    /// Handshakes under way at a time, over all threads.
    pub(crate) concurrency: usize,
    pub(crate) run: u64,
    pub(crate) pattern: Pattern,
    pub(crate) sent: Arc<[AtomicU64]>,
    pub(crate) reconnect: bool,
    pub(crate) flight: Option<Arc<Flight>>,
}

/// All subscribers, connecting or connected.
#[derive(Debug)]
pub(crate) struct Audience {
    rows: Vec<Row>,
    counts: Arc<Counts>,
}

/// What all have seen together, for whoever steers the run. Each thread adds what a turn of its loop brought.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    open: AtomicUsize,
    /// Connections that ended, or never came about.
    ended: AtomicUsize,
    /// Messages that came for the first time.
    delivered: AtomicU64,
    /// Those, and the ones whose loss was announced.
    accounted: AtomicU64,
    /// When the last one came.
    last: AtomicU64,
}

/// What the subscribers have seen, in the end.
#[derive(Debug)]
pub(crate) struct Attendance {
    pub(crate) audit: Audit,
    /// How connections ended, before the run did.
    pub(crate) ends: BTreeMap<String, u64>,
    /// How many ended in each second of the run.
    pub(crate) ends_by_second: Vec<u32>,
    pub(crate) notices: u64,
    /// How long those that came back had been away.
    pub(crate) away: Latencies,
    /// From connect to the end of the handshake.
    pub(crate) handshakes: Latencies,
}

#[derive(Debug)]
struct Row {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
    thread: JoinHandle<io::Result<Attendance>>,
    first: usize,
}

#[derive(Debug)]
enum Command {
    /// Forget the latencies so far, and record from now on.
    Record,
    /// Hand them over, and record no more.
    Collect(mpsc::Sender<Latencies>),
    /// Leave.
    Stop,
}

impl Audience {
    /// Lets all subscribers connect; `open` tells how far they are.
    pub(crate) fn gather(seating: &Seating) -> io::Result<Self> {
        let threads = seating.threads.clamp(1, seating.subscribers.max(1));
        let counts = Arc::new(Counts::default());
        let rows = (0..threads).map(|thread| {
            let first = seating.subscribers * thread / threads;
            let size = seating.subscribers * (thread + 1) / threads - first;
            Row::start(seating, first, size, threads, Arc::clone(&counts))
        });
        Ok(Self { rows: rows.collect::<io::Result<_>>()?, counts })
    }

    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Ordering::Acquire)
    }

    pub(crate) fn ended(&self) -> usize {
        self.counts.ended.load(Ordering::Acquire)
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.counts.delivered.load(Ordering::Acquire)
    }

    pub(crate) fn accounted(&self) -> u64 {
        self.counts.accounted.load(Ordering::Acquire)
    }

    /// When the last delivery came.
    pub(crate) fn last(&self) -> u64 {
        self.counts.last.load(Ordering::Acquire)
    }

    /// Latencies count from now on.
    pub(crate) fn record(&self) {
        for row in &self.rows {
            row.command(Command::Record);
        }
    }

    /// The latencies since `record`.
    pub(crate) fn collect(&self) -> Latencies {
        let (sender, receiver) = mpsc::channel();
        for row in &self.rows {
            row.command(Command::Collect(sender.clone()));
        }
        drop(sender);
        receiver.iter().fold(Latencies::new(), |mut sum, one| {
            sum.add(&one);
            sum
        })
    }

    /// Lets everybody leave, and returns what they have seen.
    pub(crate) fn dismiss(self) -> io::Result<Attendance> {
        for row in &self.rows {
            row.command(Command::Stop);
        }
        let mut all: Option<Attendance> = None;
        for row in self.rows {
            let one = row.thread.join().map_err(|_| io::Error::other("a subscribers' thread panicked"))??;
            match &mut all {
                None => all = Some(one),
                Some(all) => all.add(one, row.first),
            }
        }
        all.ok_or_else(|| io::Error::other("there were no subscribers"))
    }
}

impl Row {
    fn start(
        seating: &Seating,
        first: usize,
        size: usize,
        threads: usize,
        counts: Arc<Counts>,
    ) -> io::Result<Self> {
        let concurrency = seating.concurrency.div_ceil(threads);
        let mut swarm = Swarm::new(Arc::clone(&seating.targets), size, first, concurrency)?;
        let waker = Arc::new(swarm.waker()?);
        let listeners = Listeners::new(seating, size, counts);
        let (commands, inbox) = mpsc::channel();
        swarm.connect_all();
        let thread = std::thread::Builder::new()
            .name("subscribers".to_owned())
            .spawn(move || listeners.listen(swarm, &inbox))?;
        Ok(Self { commands, waker, thread, first })
    }

    fn command(&self, command: Command) {
        // A thread that is gone has failed, which joining it will tell.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

/// The subscribers of one thread.
#[derive(Debug)]
struct Listeners {
    auditor: Auditor,
    attendance: Attendance,
    latencies: Latencies,
    recording: bool,
    members: Vec<Member>,
    reconnect: bool,
    flight: Option<Arc<Flight>>,
    counts: Arc<Counts>,
    began: u64,
    /// What has been added to `counts` so far, and what is to be.
    told: Told,
    now: Told,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    joined: bool,
    /// When the connection was lost that it had.
    lost: Option<u64>,
    /// Attempts at coming back that failed.
    failures: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    delivered: u64,
    accounted: u64,
}

impl Listeners {
    fn new(seating: &Seating, size: usize, counts: Arc<Counts>) -> Self {
        Self {
            auditor: Auditor::new(seating.run, seating.pattern.clone(), Arc::clone(&seating.sent), size),
            attendance: Attendance {
                audit: Audit::default(),
                ends: BTreeMap::new(),
                ends_by_second: Vec::new(),
                notices: 0,
                away: Latencies::new(),
                handshakes: Latencies::new(),
            },
            latencies: Latencies::new(),
            recording: false,
            members: vec![Member::default(); size],
            reconnect: seating.reconnect,
            flight: seating.flight.clone(),
            counts,
            began: sys::monotonic(),
            told: Told::default(),
            now: Told::default(),
        }
    }

    fn listen(mut self, mut swarm: Swarm, inbox: &mpsc::Receiver<Command>) -> io::Result<Attendance> {
        while !self.obey(inbox) {
            swarm.turn(None, &mut self)?;
            self.tell();
        }
        self.attendance.audit = self.auditor.finish();
        farewell(&mut swarm, self.members.len())?;
        Ok(self.attendance)
    }

    /// Carries out what was asked for, and returns whether that was to stop.
    fn obey(&mut self, inbox: &mpsc::Receiver<Command>) -> bool {
        loop {
            match inbox.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return false,
                Ok(Command::Record) => {
                    self.latencies.clear();
                    self.recording = true;
                }
                Ok(Command::Collect(to)) => {
                    self.recording = false;
                    // Whoever asked and does not wait for the answer does not need it.
                    let _ = to.send(self.latencies.clone());
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Adds what is new to what everybody can see.
    fn tell(&mut self) {
        self.now.accounted = self.auditor.accounted();
        let Told { delivered, accounted } = self.now;
        if delivered != self.told.delivered {
            self.counts.last.fetch_max(sys::monotonic(), Ordering::AcqRel);
            self.counts.delivered.fetch_add(delivered - self.told.delivered, Ordering::AcqRel);
        }
        self.counts.accounted.fetch_add(accounted.wrapping_sub(self.told.accounted), Ordering::AcqRel);
        self.told = self.now;
    }

    /// When to come back, if at all.
    fn return_at(&mut self, who: usize, end: &End, now: u64) -> Option<u64> {
        if !self.reconnect {
            return None;
        }
        let member = &mut self.members[who];
        // Somebody whom a restarting server sends away is one of many; so is anybody, when a server dies.
        let within = match end {
            End::Closed { .. } | End::Left | End::Lost(_) | End::Offence(_) => 250,
            End::Refused(_) | End::Unconnected(_) => {
                member.failures += 1;
                250 << member.failures.min(4)
            }
        };
        Some(now + fastrand::u64(0..within * 1_000_000))
    }
}

impl Watch for Listeners {
    fn opened(&mut self, who: usize, took: u64, now: u64) {
        self.attendance.handshakes.record(0, took);
        let member = &mut self.members[who];
        member.failures = 0;
        if let Some(lost) = member.lost.take() {
            self.attendance.away.record(lost, now);
            self.auditor.rejoined(who, now);
        }
        member.joined = true;
        let open = self.counts.open.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(flight) = &self.flight {
            flight.attend(open);
        }
    }

    fn message(&mut self, who: usize, text: bool, payload: &[u8], now: u64) {
        if text && payload.starts_with(NOTICE) {
            self.attendance.notices += 1;
            return self.auditor.noticed(who, now);
        }
        let (Receipt::Once(stamp) | Receipt::Reordered(stamp)) =
            self.auditor.received(who, text, payload, now)
        else {
            return;
        };
        self.now.delivered += 1;
        if self.recording {
            self.latencies.record(stamp.intended, now);
        }
        if let Some(flight) = &self.flight {
            flight.landed(stamp.publisher as usize, stamp.sequence);
        }
    }

    fn ended(&mut self, who: usize, end: End, now: u64) -> Option<u64> {
        *self.attendance.ends.entry(end.to_string()).or_default() += 1;
        let member = &mut self.members[who];
        if member.joined && member.lost.is_none() {
            member.lost = Some(now);
            self.auditor.left(who);
            let second = (now.saturating_sub(self.began) / 1_000_000_000) as usize;
            let by_second = &mut self.attendance.ends_by_second;
            by_second.resize(by_second.len().max(second + 1), 0);
            by_second[second] += 1;
            let open = self.counts.open.fetch_sub(1, Ordering::AcqRel) - 1;
            if let Some(flight) = &self.flight {
                flight.attend(open);
            }
        }
        self.counts.ended.fetch_add(1, Ordering::AcqRel);
        self.return_at(who, &end, now)
    }
}

impl Attendance {
    fn add(&mut self, other: Self, first: usize) {
        self.audit.add(other.audit, first);
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        let seconds = self.ends_by_second.len().max(other.ends_by_second.len());
        self.ends_by_second.resize(seconds, 0);
        for (sum, one) in self.ends_by_second.iter_mut().zip(other.ends_by_second) {
            *sum += one;
        }
        self.notices += other.notices;
        self.away.add(&other.away);
        self.handshakes.add(&other.handshakes);
    }
}

/// Says goodbye and waits a moment, so that the server counts nobody as vanished.
pub(crate) fn farewell(swarm: &mut Swarm, size: usize) -> io::Result<()> {
    struct Leavers;
    impl Watch for Leavers {
        fn opened(&mut self, _: usize, _: u64, _: u64) {}
        fn message(&mut self, _: usize, _: bool, _: &[u8], _: u64) {}
        fn ended(&mut self, _: usize, _: End, _: u64) -> Option<u64> {
            None
        }
    }
    swarm.connect_none();
    for who in 0..size {
        swarm.with(who, &mut Leavers, Connection::leave);
    }
    let deadline = sys::monotonic() + FAREWELL;
    while swarm.open() > 0 && sys::monotonic() < deadline {
        swarm.turn(Some(Duration::from_millis(100)), &mut Leavers)?;
    }
    Ok(())
}
