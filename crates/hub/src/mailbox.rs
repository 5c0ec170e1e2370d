//! What all threads may ask of the workers: put an event into their mailboxes. A mailbox is bounded in
//! bytes by its senders' good manners (`relieved`) and, beyond that, by dropping with a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_protocol::{Channel, ConnectionId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::directory::{Audience, Directory, Workers};
use crate::format::Frames;
use crate::phrases::Phrases;
use crate::stats::Stats;

/// From so many bytes on, whoever can wait before publishing more should (`Hub::relieved`).
const PRESSED: usize = 8 << 20;

/// Beyond so many bytes a publication is not queued for the worker: its subscribers are told of a gap.
const FULL: usize = 64 << 20;

/// How long a worker may take to answer a question. A stuck one must not hold up those who ask.
const ANSWER: Duration = Duration::from_secs(1);

/// What an event costs beside its frame, so that a flood of empty frames is bounded, too.
const EVENT: usize = 96;

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
    /// Publications of these channels may have been missed; `None` is everywhere.
    Gap(Option<Arc<[Channel]>>),
    /// End one connection, wherever it is; whoever has it answers.
    Kick(ConnectionId, mpsc::Sender<()>),
    /// Count what is open now.
    Census(oneshot::Sender<Census>),
}

/// What one worker has open, counted when asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Connections that can send and receive.
    pub connections: u64,
    /// Connections that are told of their end and have not gone yet.
    pub closing: u64,
    /// Subscriptions of open connections.
    pub subscriptions: u64,
    /// Those of them whose publications are compressed.
    pub compressed: u64,
    /// Bytes in all outboxes.
    pub outbox_bytes: u64,
}

struct Mailbox {
    sender: UnboundedSender<Event>,
    bytes: AtomicUsize,
    overflows: AtomicU64,
    /// A notice of an overflow is queued, and nothing was taken out since: what is dropped now would
    /// have come right behind it, so the one notice covers it.
    gap_told: AtomicBool,
    stats: Arc<Stats>,
}

/// The instance's workers, as every thread sees them.
pub struct Hub {
    directory: Directory,
    mailboxes: Box<[Mailbox]>,
    relieved: Notify,
    phrases: Phrases,
}

/// The receiving end of one worker's mailbox.
pub struct Inbox {
    pub(crate) worker: usize,
    pub(crate) hub: Arc<Hub>,
    receiver: UnboundedReceiver<Event>,
}

impl Hub {
    /// A hub and the inbox of each of its workers (1 to `Workers::MAX`), which speaks in these phrases.
    pub fn new(workers: usize, phrases: Phrases) -> (Arc<Self>, Vec<Inbox>) {
        assert!((1..=Workers::MAX).contains(&workers), "1 to {} workers, not {workers}", Workers::MAX);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
        let mailboxes = senders.into_iter().map(Mailbox::new).collect();
        let hub =
            Arc::new(Self { directory: Directory::default(), mailboxes, relieved: Notify::new(), phrases });
        let inbox = |(worker, receiver)| Inbox { worker, hub: hub.clone(), receiver };
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
            if mailbox.bytes.load(Ordering::Relaxed) > FULL {
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
        self.mailboxes.iter().any(|mailbox| mailbox.bytes.load(Ordering::Relaxed) > PRESSED)
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

    /// Ends the connection with this id; whether there was one, as far as the workers say within a second.
    pub async fn kick(&self, id: ConnectionId) -> bool {
        let (found, mut answer) = mpsc::channel(1);
        for mailbox in &self.mailboxes {
            mailbox.send(Event::Kick(id, found.clone()));
        }
        drop(found);
        timeout(ANSWER, answer.recv()).await.is_ok_and(|found| found.is_some())
    }

    /// Asks each worker what it has open; `None` for one that has ended or says nothing for a second.
    pub async fn census(&self) -> Vec<Option<Census>> {
        let asked: Vec<_> = self.mailboxes.iter().map(Mailbox::ask).collect();
        let deadline = Instant::now() + ANSWER;
        let mut counted = Vec::with_capacity(asked.len());
        for answer in asked {
            counted.push(timeout_at(deadline, answer).await.ok().and_then(Result::ok));
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
}

impl Mailbox {
    fn new(sender: UnboundedSender<Event>) -> Self {
        Self {
            sender,
            bytes: AtomicUsize::new(0),
            overflows: AtomicU64::new(0),
            gap_told: AtomicBool::new(false),
            stats: Arc::default(),
        }
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
        if before > PRESSED && before - bytes <= PRESSED {
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
            Self::Gap(_) | Self::Kick(..) | Self::Census(_) => 0,
        }
    }
}
