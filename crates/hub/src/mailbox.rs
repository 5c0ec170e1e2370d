//! What all threads may ask of the workers: put an event into their mailboxes. A mailbox is bounded in
//! bytes by its senders' good manners (`relieved`) and, beyond that, by dropping with a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId, Control, Tags};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::directory::{Audience, Directory, Workers};
use crate::format::{Frames, Protocol};
use crate::phrases::Phrases;
use crate::pressure::Urgent;
use crate::stats::Stats;

/// How long a worker may take to answer a question. A stuck one must not hold up those who ask.
pub(crate) const ANSWER: Duration = Duration::from_secs(1);

/// What an event costs beside its frame, so that a flood of empty frames is bounded, too.
const EVENT: usize = 96;

/// How much may wait between the relay and the sockets, in bytes for each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From so much in a mailbox on, whoever can wait before publishing more should (`Hub::relieved`).
    pub pressed: usize,
    /// Beyond so much a publication is not queued for the worker: its subscribers are told of a gap.
    pub full: usize,
    /// When all rooms together keep so much, all rounds are finished before more is taken up: the mailbox,
    /// which holds publishers back, does not count what has left it.
    pub kept: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { pressed: 8 << 20, full: 64 << 20, kept: 8 << 20 }
    }
}

impl Bounds {
    /// Bounds that together take at most a quarter of `memory`, and never more than the default.
    pub fn within(memory: usize, workers: usize) -> Self {
        let (most, share) = (Self::default(), memory / workers.max(1));
        let full = most.full.min(share / 8);
        Self { pressed: most.pressed.min(full / 4), full, kept: most.kept.min(share / 16) }
    }
}

/// One publication as the sockets get it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Whole frames, encoded once for each format that is wanted.
    pub frames: Frames,
    /// The connection to leave out.
    pub exclude: Option<ConnectionId>,
    /// Microseconds since 1970.
    pub published_at: u64,
    /// Its number in the channel's history; 0 where none is kept.
    pub offset: u64,
    /// What subscribers with a filter choose by.
    pub tags: Option<Arc<Tags>>,
    /// It is no publication but the news that somebody came or went, for those who asked for news.
    pub news: bool,
}

impl Delivery {
    /// What it counts for while it waits.
    pub(crate) fn bytes(&self) -> usize {
        EVENT + self.frames.bytes()
    }
}

/// All that can happen to a shard from outside its thread.
#[derive(Debug)]
pub enum Event {
    /// A publication for the channel's members.
    Deliver(Channel, Delivery),
    /// Another worker has made a frame for which the channel's members wait.
    Made(Channel),
    /// Publications of these channels may have been missed; `None` is everywhere.
    Gap(Option<Arc<[Channel]>>),
    /// End one connection, wherever it is; whoever has it answers.
    Kick(ConnectionId, mpsc::Sender<()>),
    /// Count what is open now.
    Census(oneshot::Sender<Census>),
    /// Something that the back end wants of clients, for whoever runs the shard.
    Control(Arc<Control>),
}

/// What one worker has open, counted when asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Connections that can send and receive.
    pub connections: u64,
    /// The same by `Protocol`.
    pub by_protocol: [u64; Protocol::ALL.len()],
    /// Connections that are told of their end and have not gone yet.
    pub closing: u64,
    /// Subscriptions of open connections.
    pub subscriptions: u64,
    /// Those of them whose publications are compressed.
    pub compressed: u64,
    /// Bytes in all outboxes.
    pub outbox_bytes: u64,
    /// Tasks that are alive.
    pub tasks: u64,
}

struct Mailbox {
    sender: UnboundedSender<Event>,
    urgent: UnboundedSender<Urgent>,
    bytes: AtomicUsize,
    overflows: AtomicU64,
    /// A notice of an overflow is queued, and nothing was taken out since: what is dropped now would
    /// have come right behind it, so the one notice covers it.
    gap_told: AtomicBool,
    /// What it said last of what it has open.
    counted: Mutex<Census>,
    stats: Arc<Stats>,
}

/// The instance's workers, as every thread sees them.
pub struct Hub {
    directory: Directory,
    mailboxes: Box<[Mailbox]>,
    bounds: Bounds,
    relieved: Notify,
    phrases: Phrases,
}

/// The receiving end of one worker's mailbox.
pub struct Inbox {
    pub(crate) worker: usize,
    pub(crate) hub: Arc<Hub>,
    receiver: UnboundedReceiver<Event>,
    /// Taken by the shard, which looks after it apart from the events.
    pub(crate) urgent: Option<UnboundedReceiver<Urgent>>,
}

impl Hub {
    /// A hub and the inbox of each of its workers (1 to `Workers::MAX`), which speaks in these phrases.
    pub fn new(workers: usize, bounds: Bounds, phrases: Phrases) -> (Arc<Self>, Vec<Inbox>) {
        assert!((1..=Workers::MAX).contains(&workers), "1 to {} workers, not {workers}", Workers::MAX);
        let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| Mailbox::new()).unzip();
        let (directory, relieved) = (Directory::default(), Notify::new());
        let hub = Arc::new(Self { directory, mailboxes: mailboxes.into(), bounds, relieved, phrases });
        let inbox =
            |(worker, (receiver, urgent))| Inbox { worker, hub: hub.clone(), receiver, urgent: Some(urgent) };
        let inboxes = receivers.into_iter().enumerate().map(inbox).collect();
        (hub, inboxes)
    }

    /// Who is to get publications of `channel`.
    pub fn audience(&self, channel: &Channel) -> Audience {
        self.directory.audience(channel)
    }

    /// How many channels have subscribers.
    pub fn channels(&self) -> usize {
        self.directory.channels()
    }

    /// Hands one publication to those workers. Never waits.
    pub fn deliver(&self, workers: Workers, channel: &Channel, delivery: &Delivery) {
        let bytes = delivery.bytes();
        for worker in workers.iter() {
            let mailbox = &self.mailboxes[worker];
            if mailbox.bytes.load(Ordering::Relaxed) > self.bounds.full {
                mailbox.overflow();
            } else {
                mailbox.bytes.fetch_add(bytes, Ordering::Relaxed);
                mailbox.send(Event::Deliver(channel.clone(), delivery.clone()));
            }
        }
    }

    /// Publications may have been missed, and subscribers are to hear of it or to end, as they asked; `None`
    /// stands for every channel.
    pub fn gap(&self, channels: Option<Vec<Channel>>) {
        let channels: Option<Arc<[Channel]>> = channels.map(Arc::from);
        for mailbox in &self.mailboxes {
            mailbox.send(Event::Gap(channels.clone()));
        }
    }

    /// Whether a publisher should wait for `relieved` before it reads more.
    pub fn pressed(&self) -> bool {
        self.mailboxes.iter().any(|mailbox| mailbox.bytes.load(Ordering::Relaxed) > self.bounds.pressed)
    }

    /// Resolves when the workers have caught up.
    pub async fn relieved(&self) {
        loop {
            let notified = self.relieved.notified();
            if !self.pressed() {
                return;
            }
            notified.await;
        }
    }

    /// Hands a message to every worker, in the order of the calls: its clients may be anywhere.
    pub fn control(&self, message: Control) {
        let message = Arc::new(message);
        for mailbox in &self.mailboxes {
            mailbox.send(Event::Control(message.clone()));
        }
    }

    /// Hands a message to one worker, in the order of the calls: it has the client. What a client sends counts like a
    /// publication while it waits.
    pub fn control_at(&self, worker: usize, message: Control) {
        if let Some(mailbox) = self.mailboxes.get(worker) {
            let event = Event::Control(Arc::new(message));
            mailbox.bytes.fetch_add(event.bytes(), Ordering::Relaxed);
            mailbox.send(event);
        }
    }

    /// How many connections are subscribed to `channel`.
    pub fn subscribers(&self, channel: &Channel) -> u64 {
        self.directory.subscribers(channel)
    }

    /// Ends the connection with this id; whether there was one, as far as the workers say within a second.
    pub async fn kick(&self, id: ConnectionId) -> bool {
        let (found, mut answer) = mpsc::channel(1);
        for mailbox in &self.mailboxes {
            mailbox.send(Event::Kick(id, found.clone()));
        }
        drop(found);
        timeout(ANSWER, answer.recv()).await.is_ok_and(|found| found.is_some())
    }

    /// Asks each worker what it has open. For one that says nothing for a second, what it said last stands: a machine
    /// may be busy, and nobody has gone for that. One that has ended has nothing.
    pub async fn census(&self) -> Vec<Census> {
        let asked: Vec<_> = self.mailboxes.iter().map(|mailbox| (mailbox, mailbox.ask())).collect();
        let deadline = Instant::now() + ANSWER;
        let mut counted = Vec::with_capacity(asked.len());
        for (mailbox, answer) in asked {
            let answer = timeout_at(deadline, answer).await.map(Result::unwrap_or_default);
            let mut last = mailbox.counted.lock();
            *last = answer.unwrap_or(*last);
            counted.push(*last);
        }
        counted
    }

    /// Each worker's counts.
    pub fn stats(&self) -> impl Iterator<Item = &Arc<Stats>> {
        self.mailboxes.iter().map(|mailbox| &mailbox.stats)
    }

    /// Bytes that wait for the workers.
    pub fn inbox_bytes(&self) -> usize {
        self.mailboxes.iter().map(|mailbox| mailbox.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Publications that some worker's full mailbox could not take.
    pub fn overflows(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.overflows.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn phrases(&self) -> Phrases {
        self.phrases
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// How many there are.
    pub(crate) fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// These workers need not wait any more for a frame that another has made.
    pub(crate) fn tell_made(&self, workers: Workers, channel: &Channel) {
        workers.iter().for_each(|worker| self.mailboxes[worker].send(Event::Made(channel.clone())));
    }

    /// Sends what goes before everything that waits, and counts for no bound.
    pub(crate) fn urge(&self, worker: usize, urgent: Urgent) {
        // A worker that has ended has nothing left to free.
        let _ = self.mailboxes[worker].urgent.send(urgent);
    }
}

impl Mailbox {
    fn new() -> (Self, (UnboundedReceiver<Event>, UnboundedReceiver<Urgent>)) {
        let ((sender, receiver), (urgent, urged)) = (unbounded_channel(), unbounded_channel());
        let mailbox = Self {
            sender,
            urgent,
            bytes: AtomicUsize::new(0),
            overflows: AtomicU64::new(0),
            gap_told: AtomicBool::new(false),
            counted: Mutex::default(),
            stats: Arc::default(),
        };
        (mailbox, (receiver, urged))
    }

    fn send(&self, event: Event) {
        // A worker that has ended has no sockets left to tell.
        let _ = self.sender.send(event);
    }

    fn overflow(&self) {
        self.overflows.fetch_add(1, Ordering::Relaxed);
        if !self.gap_told.swap(true, Ordering::Relaxed) {
            self.send(Event::Gap(None));
        }
    }

    fn ask(&self) -> oneshot::Receiver<Census> {
        let (answer, answered) = oneshot::channel();
        self.send(Event::Census(answer));
        answered
    }
}

impl Inbox {
    /// Waits for events and takes all that have come, up to `most`. 0 when nobody can send any more.
    pub(crate) async fn take(&mut self, into: &mut Vec<Event>, most: usize) -> usize {
        let taken = self.receiver.recv_many(into, most).await;
        self.mailbox().gap_told.store(false, Ordering::Relaxed);
        taken
    }

    /// Takes what has come, up to `most`, without waiting.
    pub(crate) fn take_now(&mut self, into: &mut Vec<Event>, most: usize) {
        while into.len() < most
            && let Ok(event) = self.receiver.try_recv()
        {
            into.push(event);
        }
        self.mailbox().gap_told.store(false, Ordering::Relaxed);
    }

    /// Events of so many bytes have been dealt with, which makes room for as much.
    pub(crate) fn done(&self, bytes: usize) {
        let before = self.mailbox().bytes.fetch_sub(bytes, Ordering::Relaxed);
        let pressed = self.hub.bounds.pressed;
        if before > pressed && before - bytes <= pressed {
            self.hub.relieved.notify_waiters();
        }
    }

    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.mailbox().stats.clone()
    }

    fn mailbox(&self) -> &Mailbox {
        &self.hub.mailboxes[self.worker]
    }
}

impl Event {
    /// What it counts for while it waits.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Deliver(_, delivery) => delivery.bytes(),
            Self::Control(message) => match &**message {
                Control::Uplink(uplink) => EVENT + uplink.data.len(),
                _ => 0,
            },
            Self::Made(_) | Self::Gap(_) | Self::Kick(..) | Self::Census(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_for_a_while_has_what_it_had() {
        let (hub, inboxes) = Hub::new(2, Bounds::default(), Phrases::WEBSOCKET);
        let [mut lives, mut ends] = <[Inbox; 2]>::try_from(inboxes).ok().expect("one for each");
        let count = |connections| Census { connections, ..Census::default() };
        let answer = async |inbox: &mut Inbox, connections| {
            let mut events = Vec::new();
            inbox.take(&mut events, usize::MAX).await;
            let Some(Event::Census(answer)) = events.pop() else { panic!("it was asked") };
            answer.send(count(connections)).expect("somebody waits");
        };
        let (counted, ..) = tokio::join!(hub.census(), answer(&mut lives, 3), answer(&mut ends, 4));
        assert_eq!(counted, [count(3), count(4)]);
        assert_eq!(hub.census().await, [count(3), count(4)], "neither has said anything");
        drop(ends);
        assert_eq!(hub.census().await, [count(3), count(0)], "one has gone");
    }
}
