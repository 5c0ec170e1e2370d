//! The clients that lose their instance, on a thread of their own: each is in one of several channels, remembers where
//! it is there, comes back when it is told to, and checks what it got. Whose fault it was that it was away, it does not
//! ask.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fanfare_protocol::centrifuge::SubscribeResult;

use crate::audit::latency::Latencies;
use crate::audit::stamp::{Pattern, Stamp};
use crate::client::connection::{End, Message};
use crate::client::speech::Seat;
use crate::client::swarm::{Swarm, Watch, farewell};
use crate::client::sys;
use crate::client::target::Target;

/// The most messages of a channel in one run: who has got which is a bit for each.
pub(crate) const MOST: u64 = 128;

/// What they need to know.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    /// The instance that they lose, and those that they come back to.
    pub(crate) first: Target,
    pub(crate) others: Arc<[Target]>,
    pub(crate) clients: usize,
    /// The channels that clients are spread over, one each.
    pub(crate) channels: Arc<[Arc<str>]>,
    /// Handshakes under way at a time.
    pub(crate) concurrency: usize,
    /// What stamps of this run carry.
    pub(crate) run: u64,
    pub(crate) pattern: Pattern,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Returners {
    counts: Arc<Counts>,
    commands: mpsc::Sender<Order>,
    thread: JoinHandle<io::Result<Found>>,
}

/// How far they are.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Subscribed, to the first instance or, later, to another.
    pub(crate) open: AtomicUsize,
    /// Attempts that failed.
    pub(crate) failed: AtomicUsize,
    /// Messages that came for the first time.
    pub(crate) got: AtomicU64,
    /// When the last of them was subscribed.
    pub(crate) last: AtomicU64,
}

/// What they have found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Who got everything that was missed with the answer to the subscription.
    pub(crate) recovered: usize,
    /// Who was told that it could not be.
    pub(crate) unrecovered: usize,
    /// Messages, over all clients, that came in the answers to subscriptions.
    pub(crate) made_good: u64,
    /// Messages that should have come, over all clients.
    pub(crate) due: u64,
    /// Of those, the ones that came.
    pub(crate) delivered: u64,
    /// And the ones that did not, with nothing that announced it.
    pub(crate) lost: u64,
    /// Messages that came again.
    pub(crate) duplicate: u64,
    /// Messages that came behind later ones.
    pub(crate) reordered: u64,
    /// Messages that nobody has sent.
    pub(crate) phantom: u64,
    /// From the moment at which they were let go back to the answered subscription.
    pub(crate) returned: Latencies,
    /// How attempts and connections ended, and how often.
    pub(crate) ends: BTreeMap<String, u64>,
}

#[derive(Debug)]
enum Order {
    /// Drop the connections that there still are, without a word.
    Cut,
    /// Come back, at this moment.
    Return(u64),
    /// Of each channel so many were published: that is all.
    Finish(u64),
}

impl Returners {
    /// Lets all of them connect to the first instance.
    pub(crate) fn gather(party: Party) -> io::Result<Self> {
        let swarm = Swarm::new(Arc::from([party.first.clone()]), party.clients, 0, party.concurrency)?;
        let (commands, inbox) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let clients = Clients::new(&party, counts.clone());
        let thread = std::thread::Builder::new()
            .name("returners".to_owned())
            .spawn(move || clients.live(&party, swarm, &inbox))?;
        Ok(Self { counts, commands, thread })
    }

    /// How far they are, at this moment.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Drops the connections that there still are, without a word. Does not wait for it.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Has them connect to the others. `at` is when they lost their instance, on the monotonic clock in nanoseconds.
    pub(crate) fn come_back(&self, at: u64) {
        self.order(Order::Return(at));
    }

    /// Ends it; of each channel so many messages were published.
    pub(crate) fn finish(self, published: u64) -> io::Result<Found> {
        self.order(Order::Finish(published));
        self.thread.join().map_err(|_| io::Error::other("the clients' thread panicked"))?
    }

    fn order(&self, order: Order) {
        // A thread that is gone has failed, which joining it will tell.
        let _ = self.commands.send(order);
    }
}

struct Clients {
    run: u64,
    pattern: Pattern,
    channels: Arc<[Arc<str>]>,
    counts: Arc<Counts>,
    members: Vec<Member>,
    /// When they were let go back.
    returning: Option<u64>,
    found: Found,
}

#[derive(Clone, Default)]
struct Member {
    epoch: Option<Arc<str>>,
    offset: u64,
    /// A bit for each message that it has.
    got: u128,
    open: bool,
}

impl Clients {
    fn new(party: &Party, counts: Arc<Counts>) -> Self {
        Self {
            run: party.run,
            pattern: party.pattern.clone(),
            channels: party.channels.clone(),
            counts,
            members: vec![Member::default(); party.clients],
            returning: None,
            found: Found {
                recovered: 0,
                unrecovered: 0,
                made_good: 0,
                due: 0,
                delivered: 0,
                lost: 0,
                duplicate: 0,
                reordered: 0,
                phantom: 0,
                returned: Latencies::new(),
                ends: BTreeMap::new(),
            },
        }
    }

    fn live(mut self, party: &Party, mut swarm: Swarm, inbox: &mpsc::Receiver<Order>) -> io::Result<Found> {
        swarm.connect_all();
        loop {
            match inbox.try_recv() {
                Ok(Order::Cut) => {
                    swarm.connect_none();
                    for who in 0..self.members.len() {
                        swarm.with(who, &mut self, |_| Err(End::Lost("let go by the run".to_owned())));
                    }
                }
                Ok(Order::Return(at)) => {
                    self.returning = Some(at);
                    // On a machine of its own it would take nothing from the server; here it takes what others leave.
                    sys::stand_back()?;
                    swarm = Swarm::new(party.others.clone(), party.clients, 0, party.concurrency)?;
                    swarm.connect_all();
                }
                Ok(Order::Finish(published)) => {
                    self.judge(published);
                    farewell(&mut swarm, self.members.len())?;
                    return Ok(self.found);
                }
                Err(mpsc::TryRecvError::Disconnected) => return Ok(self.found),
                Err(mpsc::TryRecvError::Empty) => swarm.turn(Some(LOOK), &mut self)?,
            }
        }
    }

    /// Takes a message; whether it came late is told by those that are there already.
    fn take(&mut self, who: usize, message: Message<'_>) {
        let stamp = self.pattern.read(message.text, message.payload);
        let channel = (who % self.channels.len()) as u32;
        let ours =
            |stamp: &Stamp| stamp.run == self.run && stamp.publisher == channel && stamp.sequence < MOST;
        let Some(stamp) = stamp.filter(ours) else {
            self.found.phantom += 1;
            return;
        };
        let member = &mut self.members[who];
        member.offset = member.offset.max(message.offset);
        let bit = 1_u128 << stamp.sequence;
        if member.got & bit != 0 {
            self.found.duplicate += 1;
            return;
        }
        if member.got > bit {
            self.found.reordered += 1;
        }
        member.got |= bit;
        self.counts.got.fetch_add(1, Ordering::AcqRel);
    }

    fn judge(&mut self, published: u64) {
        for member in &self.members {
            let got = u64::from(member.got.count_ones());
            self.found.due += published;
            self.found.delivered += got;
            self.found.lost += published.saturating_sub(got);
        }
    }
}

impl Watch for Clients {
    fn seat(&self, who: usize) -> Option<Seat> {
        let member = &self.members[who];
        let channel = self.channels[who % self.channels.len()].clone();
        Some(Seat { channel, epoch: member.epoch.clone(), offset: member.offset })
    }

    fn subscribed(&mut self, who: usize, result: &SubscribeResult, _now: u64) {
        if result.was_recovering && result.recovered {
            self.found.recovered += 1;
            self.found.made_good += result.publications.len() as u64;
        } else if result.was_recovering {
            self.found.unrecovered += 1;
        }
        let member = &mut self.members[who];
        if member.epoch.as_deref() != Some(&result.epoch) {
            member.epoch = Some(result.epoch.as_str().into());
        }
        member.offset = result.offset;
        for publication in &result.publications {
            let message = Message { text: true, payload: &publication.data, offset: publication.offset };
            self.take(who, message);
        }
    }

    fn opened(&mut self, who: usize, _took: u64, now: u64) {
        self.members[who].open = true;
        if let Some(returning) = self.returning {
            self.found.returned.record(returning, now);
        }
        self.counts.last.fetch_max(now, Ordering::AcqRel);
        self.counts.open.fetch_add(1, Ordering::AcqRel);
    }

    fn message(&mut self, who: usize, message: Message<'_>, _now: u64) {
        self.take(who, message);
    }

    fn ended(&mut self, who: usize, end: End, now: u64) -> Option<u64> {
        *self.found.ends.entry(end.to_string()).or_default() += 1;
        if std::mem::take(&mut self.members[who].open) {
            self.counts.open.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.counts.failed.fetch_add(1, Ordering::AcqRel);
        }
        // Whoever has once been let go back keeps at it.
        self.returning.map(|_| now + fastrand::u64(AGAIN..2 * AGAIN))
    }
}

/// How often orders are looked for.
const LOOK: Duration = Duration::from_millis(5);
/// After how many nanoseconds, at least, who was refused tries again.
const AGAIN: u64 = 100_000_000;
