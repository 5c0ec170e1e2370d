//! The publishers of a run, on the thread that steers it: they send to a schedule, or keep so many messages under
//! way. Raw ones join with `?echo=false`, and what they get from one another is counted and not audited; clients of the
//! Centrifuge protocol do not subscribe.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mio::{Interest, Token, Waker};

use crate::audit::latency::Latencies;
use crate::audit::losses::Broken;
use crate::audit::stamp::{Pattern, Stamp};
use crate::client::connection::{Connection, End, Message};
use crate::client::swarm::{Swarm, Watch, farewell};
use crate::client::sys::{self, Timer};
use crate::client::target::Target;
use crate::flight::Flight;
use crate::runs::schedule::Schedule;

const TIMER: Token = Token(usize::MAX - 1);

/// Messages that are queued, when they are overdue, before what comes in is looked at.
const BATCH: usize = 256;

/// How often whoever watches is told how far a run is, at most.
const TOLD_EVERY: u64 = 100_000_000;

/// All publishers.
#[derive(Debug)]
pub(crate) struct Publishers {
    swarm: Swarm,
    senders: Senders,
    timer: Timer,
    pattern: Pattern,
    run: u64,
    /// Whose turn it is.
    turn: usize,
    lateness: Latencies,
    told: u64,
}

/// What flat out means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flood<'f> {
    /// Where receipts are counted.
    pub(crate) flight: &'f Flight,
    /// How many messages each publisher keeps under way.
    pub(crate) in_flight: usize,
    /// How long, in nanoseconds.
    pub(crate) duration: u64,
    /// After so many nanoseconds a message is given up, and the next one sent.
    pub(crate) patience: u64,
}

/// What becomes of the publishers' connections.
#[derive(Debug)]
struct Senders {
    sent: Arc<[AtomicU64]>,
    /// The first number that each has written to its present connection.
    since: Vec<u64>,
    broken: Vec<Broken>,
    received: u64,
    ends: BTreeMap<String, u64>,
    reconnect: bool,
}

impl Publishers {
    /// As many publishers as `sent` counts for, none of them connected yet.
    pub(crate) fn new(
        targets: Arc<[Target]>,
        sent: Arc<[AtomicU64]>,
        pattern: Pattern,
        run: u64,
        reconnect: bool,
    ) -> io::Result<Self> {
        let mut swarm = Swarm::new(targets, sent.len(), 0, 64)?;
        swarm.connect_all();
        let mut timer = Timer::new()?;
        swarm.registry().register(&mut timer, TIMER, Interest::READABLE)?;
        Ok(Self {
            swarm,
            senders: Senders {
                since: vec![0; sent.len()],
                sent,
                broken: Vec::new(),
                received: 0,
                ends: BTreeMap::new(),
                reconnect,
            },
            timer,
            pattern,
            run,
            turn: 0,
            lateness: Latencies::new(),
            told: 0,
        })
    }

    /// What ends a wait of theirs from another thread.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        self.swarm.waker()
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.swarm.open()
    }

    /// Messages that they got from one another.
    pub(crate) fn received(&self) -> u64 {
        self.senders.received
    }

    /// How their connections ended so far.
    pub(crate) fn ends(&self) -> &BTreeMap<String, u64> {
        &self.senders.ends
    }

    /// What was written to connections that broke.
    pub(crate) fn broken(&self) -> &[Broken] {
        &self.senders.broken
    }

    /// How much later than intended messages were handed to their sockets, since the last time it was asked.
    pub(crate) fn lateness(&mut self) -> Latencies {
        std::mem::replace(&mut self.lateness, Latencies::new())
    }

    /// Lets pass what comes, for `timeout` at most.
    pub(crate) fn idle(&mut self, timeout: Duration) -> io::Result<()> {
        self.swarm.turn(Some(timeout), &mut self.senders)
    }

    /// Sends `count` messages to a schedule, the publishers taking turns; `told` is called now and then.
    pub(crate) fn pace(&mut self, schedule: Schedule, count: u64, told: &mut dyn FnMut()) -> io::Result<()> {
        let mut due = schedule.take(usize::try_from(count).unwrap_or(usize::MAX)).peekable();
        while let Some(next) = due.peek().copied() {
            self.timer.set(next)?;
            self.swarm.turn(None, &mut self.senders)?;
            let mut touched = Vec::new();
            while touched.len() < BATCH
                && due.peek().is_some_and(|moment| *moment <= sys::monotonic())
                && let Some(who) = self.next_open()
                && let Some(intended) = due.next()
            {
                self.queue(who, intended);
                touched.push(who);
            }
            touched.sort_unstable();
            touched.dedup();
            for who in touched {
                self.swarm.with(who, &mut self.senders, Connection::flush);
            }
            if self.open() == 0 {
                // Whoever is overdue would ring at once, over and over; coming back takes a while.
                self.idle(Duration::from_millis(5))?;
                self.give_up_if_gone()?;
            }
            self.tell(told);
        }
        Ok(())
    }

    /// Sends as fast as everybody receives, keeping so many messages of each publisher under way. Returns
    /// how many were given up.
    pub(crate) fn flood(&mut self, flood: Flood<'_>, told: &mut dyn FnMut()) -> io::Result<u64> {
        let mut given_up = 0;
        let mut under_way: Vec<VecDeque<(u64, u64)>> = vec![VecDeque::new(); self.senders.sent.len()];
        let end = sys::monotonic() + flood.duration;
        loop {
            let now = sys::monotonic();
            for (who, queue) in under_way.iter_mut().enumerate() {
                while let Some((sequence, since)) = queue.front().copied() {
                    let done = flood.flight.is_done(who, sequence);
                    if !done && now <= since + flood.patience {
                        break;
                    }
                    given_up += u64::from(!done);
                    queue.pop_front();
                }
                if now >= end || !self.swarm.is_open(who) || queue.len() == flood.in_flight {
                    continue;
                }
                while queue.len() < flood.in_flight {
                    let sequence = self.senders.sent[who].load(Ordering::Acquire);
                    flood.flight.launch(who, sequence);
                    self.queue(who, now);
                    queue.push_back((sequence, now));
                }
                self.swarm.with(who, &mut self.senders, Connection::flush);
            }
            if now >= end && under_way.iter().all(VecDeque::is_empty) {
                return Ok(given_up);
            }
            self.give_up_if_gone()?;
            self.swarm.turn(Some(Duration::from_millis(20)), &mut self.senders)?;
            self.tell(told);
        }
    }

    /// Lets all of them leave.
    pub(crate) fn dismiss(mut self) -> io::Result<()> {
        let size = self.senders.sent.len();
        farewell(&mut self.swarm, size)
    }

    /// Stamps a message and queues it; it counts as sent from now on, since it may be received from now on.
    fn queue(&mut self, who: usize, intended: u64) {
        let sequence = self.senders.sent[who].load(Ordering::Acquire);
        let text = self.pattern.is_text();
        let stamp = Stamp { run: self.run, publisher: who as u32, sequence, intended };
        let payload = self.pattern.stamp(&stamp);
        self.senders.sent[who].store(sequence + 1, Ordering::Release);
        self.lateness.record(intended, sys::monotonic());
        self.swarm.with(who, &mut self.senders, |connection| {
            connection.publish(text, payload);
            Ok(())
        });
    }

    /// The next in turn that is connected.
    fn next_open(&mut self) -> Option<usize> {
        let publishers = self.senders.sent.len();
        let who = (0..publishers)
            .map(|step| (self.turn + step) % publishers)
            .find(|who| self.swarm.is_open(*who))?;
        self.turn = who + 1;
        Some(who)
    }

    fn give_up_if_gone(&self) -> io::Result<()> {
        if self.open() > 0 || self.senders.reconnect {
            return Ok(());
        }
        let ends: Vec<&str> = self.senders.ends.keys().map(String::as_str).collect();
        Err(io::Error::other(format!("every publisher's connection has ended: {}", ends.join(", "))))
    }

    fn tell(&mut self, told: &mut dyn FnMut()) {
        let now = sys::monotonic();
        if now >= self.told + TOLD_EVERY {
            self.told = now;
            told();
        }
    }
}

impl Watch for Senders {
    fn opened(&mut self, who: usize, _took: u64, _now: u64) {
        self.since[who] = self.sent[who].load(Ordering::Acquire);
    }

    fn message(&mut self, _who: usize, _message: Message<'_>, _now: u64) {
        self.received += 1;
    }

    fn ended(&mut self, who: usize, end: End, now: u64) -> Option<u64> {
        *self.ends.entry(end.to_string()).or_default() += 1;
        let (from, to) = (self.since[who], self.sent[who].load(Ordering::Acquire));
        if from < to {
            self.broken.push(Broken { publisher: who as u32, from, to });
            self.since[who] = to;
        }
        self.reconnect.then(|| now + fastrand::u64(0..250_000_000))
    }
}
