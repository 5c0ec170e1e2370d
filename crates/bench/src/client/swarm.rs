//! Many connections on one thread: opened a bounded number at a time, read with one scratch buffer, brought
//! back when they are lost, if whoever watches wants that. It attaches no meaning to what they receive.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::centrifuge::SubscribeResult;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::client::connection::{Connection, End, Happening, Intake, Message, Traffic};
use crate::client::speech::Seat;
use crate::client::sys;
use crate::client::target::Target;
use crate::client::uplink::Uplink;

/// Makes the swarm's `turn` return; nothing else is attached to it.
pub(crate) const WAKE: Token = Token(usize::MAX);

/// Watches what happens to a swarm's connections, which it knows by index.
pub(crate) trait Watch {
    /// The connection is there; it took so many nanoseconds.
    fn opened(&mut self, who: usize, took: u64, now: u64);

    /// A message came.
    fn message(&mut self, who: usize, message: Message<'_>, now: u64);

    /// This one's own channel, if it has one, and where it was there.
    fn seat(&self, _who: usize) -> Option<Seat> {
        None
    }

    /// What the answer to its subscription was; it is opened next.
    fn subscribed(&mut self, _who: usize, _result: &SubscribeResult, _now: u64) {}

    /// The server has what this one published.
    fn published(&mut self, _who: usize, _now: u64) {}

    /// An answer to a ping came.
    fn pong(&mut self, _who: usize) {}

    /// The connection, or the attempt at one, has ended. Returns when to try again, if at all.
    fn ended(&mut self, who: usize, end: End, now: u64) -> Option<u64>;
}

/// Connections to some targets, taken in turn.
#[derive(Debug)]
pub(crate) struct Swarm {
    poll: Poll,
    events: Events,
    scratch: Box<[u8]>,
    intake: Intake,
    targets: Arc<[Target]>,
    members: Vec<Member>,
    /// What sessions say that hear in bodies: a way to each target. Their tokens follow those of the members.
    uplinks: Vec<Uplink>,
    /// To be opened as soon as fewer than `concurrency` handshakes are under way.
    waiting: VecDeque<usize>,
    /// To be opened at a time.
    later: BinaryHeap<Reverse<(u64, usize)>>,
    concurrency: usize,
    handshaking: usize,
    open: usize,
}

#[derive(Debug)]
struct Member {
    connection: Option<Connection>,
    /// Index of the target to go to next.
    target: usize,
}

impl Swarm {
    /// A swarm of `size` connections, of which none is open yet. The first goes to the target `first`.
    pub(crate) fn new(
        targets: Arc<[Target]>,
        size: usize,
        first: usize,
        concurrency: usize,
    ) -> io::Result<Self> {
        let members = (0..size)
            .map(|index| Member { connection: None, target: (first + index) % targets.len() })
            .collect();
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            scratch: vec![0; 256 * 1024].into_boxed_slice(),
            intake: Intake::default(),
            uplinks: targets
                .iter()
                .enumerate()
                .map(|(index, target)| Uplink::new(target, Token(size + index)))
                .collect(),
            targets,
            members,
            waiting: VecDeque::new(),
            later: BinaryHeap::new(),
            concurrency: concurrency.max(1),
            handshaking: 0,
            open: 0,
        })
    }

    /// What ends the wait in `turn` from another thread. There can be one.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    /// For what else is to be waited for in `turn`.
    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// What came over all connections so far.
    pub(crate) fn traffic(&self) -> Traffic {
        self.intake.traffic
    }

    /// Lets everybody connect, in the turns to come.
    pub(crate) fn connect_all(&mut self) {
        self.waiting.extend(0..self.members.len());
    }

    /// Lets nobody connect any more.
    pub(crate) fn connect_none(&mut self) {
        self.waiting.clear();
        self.later.clear();
    }

    /// Waits for something to happen, at most for `timeout`, and deals with all that has happened.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>, watch: &mut impl Watch) -> io::Result<()> {
        let now = sys::monotonic();
        while let Some(Reverse((when, who))) = self.later.peek().copied()
            && when <= now
        {
            self.later.pop();
            self.waiting.push_back(who);
        }
        while self.handshaking < self.concurrency
            && let Some(who) = self.waiting.pop_front()
        {
            self.open_one(who, watch);
        }
        let next = self.later.peek().map(|Reverse((when, _))| Duration::from_nanos(when.saturating_sub(now)));
        let timeout = [timeout, next].into_iter().flatten().min();
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let token = event.token().0;
            if token < self.members.len() {
                self.ready(token, event.is_read_closed() || event.is_error(), watch);
            } else if let Some(uplink) = self.uplinks.get_mut(token - self.members.len()) {
                uplink.ready(&mut self.scratch, self.poll.registry());
            }
        }
        self.events = events;
        Ok(())
    }

    /// Whether this one is open.
    pub(crate) fn is_open(&self, who: usize) -> bool {
        self.members[who].connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Does something to an open connection: queues a message, flushes, leaves. Nothing, if it is not open.
    pub(crate) fn with(
        &mut self,
        who: usize,
        watch: &mut impl Watch,
        act: impl FnOnce(&mut Connection) -> Result<(), End>,
    ) {
        let Some(connection) = self.members[who].connection.as_mut().filter(|one| one.is_open()) else {
            return;
        };
        if let Err(end) = act(connection) {
            self.end(who, end, watch);
        }
    }

    fn open_one(&mut self, who: usize, watch: &mut impl Watch) {
        let member = &mut self.members[who];
        let target = &self.targets[member.target];
        member.target = (member.target + 1) % self.targets.len();
        match Connection::open(target, watch.seat(who), self.poll.registry(), Token(who)) {
            Ok(connection) => {
                member.connection = Some(connection);
                self.handshaking += 1;
            }
            Err(end) => {
                if let Some(when) = watch.ended(who, end, sys::monotonic()) {
                    self.later.push(Reverse((when, who)));
                }
            }
        }
    }

    fn ready(&mut self, who: usize, hung_up: bool, watch: &mut impl Watch) {
        let Member { connection: Some(connection), target } = &mut self.members[who] else { return };
        // It is at the one before the one that is next.
        let there = (*target + self.targets.len() - 1) % self.targets.len();
        let (uplink, registry) = (&mut self.uplinks[there], self.poll.registry());
        let was_open = connection.is_open();
        let mut on = |happening: Happening<'_>, now| match happening {
            Happening::Opened { took, subscribed } => {
                if let Some(result) = subscribed {
                    watch.subscribed(who, result, now);
                }
                watch.opened(who, took, now);
            }
            Happening::Message(message) => watch.message(who, message, now),
            Happening::Published => watch.published(who, now),
            Happening::Pong => watch.pong(who),
            Happening::Says(request) => uplink.say(request, registry),
        };
        let result = connection.ready(hung_up, &mut self.scratch, &mut self.intake, &mut on);
        if !was_open && connection.is_open() {
            self.handshaking -= 1;
            self.open += 1;
        }
        if let Err(end) = result {
            self.end(who, end, watch);
        }
    }

    fn end(&mut self, who: usize, end: End, watch: &mut impl Watch) {
        // Closing the socket takes it out of the poll as well.
        if let Some(connection) = self.members[who].connection.take() {
            if connection.is_open() {
                self.open -= 1;
            } else {
                self.handshaking -= 1;
            }
        }
        if let Some(when) = watch.ended(who, end, sys::monotonic()) {
            self.later.push(Reverse((when, who)));
        }
    }
}

/// Says goodbye and waits a moment, so that the server counts nobody as vanished.
pub(crate) fn farewell(swarm: &mut Swarm, size: usize) -> io::Result<()> {
    struct Leavers;
    impl Watch for Leavers {
        fn opened(&mut self, _: usize, _: u64, _: u64) {}
        fn message(&mut self, _: usize, _: Message<'_>, _: u64) {}
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

/// How long subscribers wait for the server to let them go, at the end.
const FAREWELL: u64 = 3_000_000_000;
