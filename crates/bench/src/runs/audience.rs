//! The subscribers of a run: threads that read, audit and time every delivery. They publish nothing, and say
//! what they have seen only when asked, so that asking costs the measurement nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use mio::Waker;

use crate::audit::Audit;
use crate::audit::latency::Latencies;
use crate::audit::stamp::Pattern;
use crate::client::connection::Traffic;
use crate::client::swarm::Swarm;
use crate::client::target::Target;
use crate::flight::Flight;
use crate::runs::listeners::Listeners;

/// What the subscribers of a run need to know.
#[derive(Debug, Clone)]
pub(crate) struct Seating {
    /// Where they connect to, in turn.
    pub(crate) targets: Arc<[Target]>,
    pub(crate) subscribers: usize,
    /// Over how many threads they are spread; no more than there are subscribers.
    pub(crate) threads: usize,
    /// Handshakes under way at a time, over all threads.
    pub(crate) concurrency: usize,
    /// What stamps of this run carry, so that messages of another are told apart.
    pub(crate) run: u64,
    /// How a message is made, to see whether one came unchanged.
    pub(crate) pattern: Pattern,
    /// How many messages each publisher has sent.
    pub(crate) sent: Arc<[AtomicU64]>,
    /// Whether those whose connection ends come back.
    pub(crate) reconnect: bool,
    /// Where receipts are counted, if the run goes flat out.
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
    /// Connections that are open now.
    pub(crate) open: AtomicUsize,
    /// Connections that ended, or never came about.
    pub(crate) ended: AtomicUsize,
    /// Messages that came for the first time.
    pub(crate) delivered: AtomicU64,
    /// Those, and the ones whose loss was announced.
    pub(crate) accounted: AtomicU64,
    /// What came over their connections.
    pub(crate) wire: AtomicU64,
    /// The payloads in it, inflated. Both in bytes.
    pub(crate) payload: AtomicU64,
    /// When the last one came.
    pub(crate) last: AtomicU64,
}

/// What the subscribers have seen, in the end.
#[derive(Debug)]
pub(crate) struct Attendance {
    pub(crate) audit: Audit,
    /// How connections ended, before the run did.
    pub(crate) ends: BTreeMap<String, u64>,
    /// How many ended in each second of the run.
    pub(crate) ends_by_second: Vec<u32>,
    /// Announced gaps, of all subscribers.
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

/// What a thread of subscribers is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Forget the latencies so far, and record from now on; what was sent is dropped when that is so.
    Record(mpsc::Sender<Infallible>),
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

    /// As [`Counts::open`].
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Ordering::Acquire)
    }

    /// As [`Counts::ended`].
    pub(crate) fn ended(&self) -> usize {
        self.counts.ended.load(Ordering::Acquire)
    }

    /// As [`Counts::delivered`].
    pub(crate) fn delivered(&self) -> u64 {
        self.counts.delivered.load(Ordering::Acquire)
    }

    /// As [`Counts::accounted`].
    pub(crate) fn accounted(&self) -> u64 {
        self.counts.accounted.load(Ordering::Acquire)
    }

    /// What has come over all connections.
    pub(crate) fn traffic(&self) -> Traffic {
        let [wire, payload] = [&self.counts.wire, &self.counts.payload];
        Traffic { wire: wire.load(Ordering::Acquire), payload: payload.load(Ordering::Acquire) }
    }

    /// When the last delivery came.
    pub(crate) fn last(&self) -> u64 {
        self.counts.last.load(Ordering::Acquire)
    }

    /// Latencies count from now on, those of the next message's first delivery too.
    pub(crate) fn record(&self) {
        let (sender, receiver) = mpsc::channel();
        for row in &self.rows {
            row.command(Command::Record(sender.clone()));
        }
        drop(sender);
        // Nothing is ever sent: the end is that all have dropped it.
        let _ = receiver.recv();
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
