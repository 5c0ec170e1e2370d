//! The channels of a lane that have a history and are subscribed: which publications may go to the relay, and what
//! must be read. It is plain data; the listener tells it what has come, the healer reads what it asks for.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Envelope, Position};
use tokio::sync::oneshot;

use super::witnesses::Known;
use crate::stream::{Ask, Heals, Step, Stream};
use crate::{Gap, GapCause, History, Relay, Status};

/// Guarded by the lane's `order`, as all deliveries are.
#[derive(Default)]
pub(super) struct Streams {
    channels: HashMap<Channel, Entry>,
    /// Those that may have something to read.
    due: VecDeque<Channel>,
    /// The bus brings what is published.
    open: bool,
    heals: Heals,
    /// Of the next channel: a channel that was left and joined again is another one.
    next: u64,
}

struct Entry {
    id: u64,
    stream: Stream,
    /// In `due`.
    due: bool,
    touched: Instant,
    /// When it was found in another epoch.
    moved: Option<Instant>,
    /// Who waits until it is known where the channel stands.
    waiters: Vec<oneshot::Sender<()>>,
}

/// A read that somebody has to do, and by which the answer finds back.
pub(super) struct Errand {
    pub channel: Channel,
    pub id: u64,
    pub ask: Ask,
}

/// What came of an errand.
pub(super) enum Answer {
    Read(History),
    /// Nobody knows.
    Failed,
    /// It will never be known.
    Refused,
}

impl Streams {
    /// Is about to be subscribed: what comes from now on is looked at.
    pub fn expect(&mut self, channel: &Channel, now: Instant) {
        if !self.channels.contains_key(channel) {
            self.next += 1;
            let entry = Entry {
                id: self.next,
                stream: Stream::default(),
                due: false,
                touched: now,
                moved: None,
                waiters: Vec::new(),
            };
            self.channels.insert(channel.clone(), entry);
        }
    }

    /// The bus brings what is subscribed. Said before anybody hears that something is: whoever does waits from then on
    /// until it is known where the channel stands.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// The bus brings it. `promised`, if somebody took it for subscribed before.
    pub fn subscribed(&mut self, channel: &Channel, promised: Option<GapCause>) {
        if let Some(entry) = self.channels.get_mut(channel) {
            entry.stream.subscribed(promised);
            entry.push_due(channel, &mut self.due);
        }
    }

    /// Nobody here wants it any more. Gives back how far it had come, and who had published that.
    pub fn forget(&mut self, channel: &Channel) -> Option<Known> {
        self.channels.remove(channel)?.stream.known().map(|(at, author)| Known { at, author })
    }

    /// The bus is away; nobody waits for what it would say.
    pub fn lost(&mut self, cause: GapCause) {
        self.open = false;
        self.let_go(cause);
    }

    /// Where channels stand cannot be read now. Nobody waits for it, and whoever did is told of a gap once it is known.
    pub fn let_go(&mut self, cause: GapCause) {
        self.channels.values_mut().for_each(|entry| entry.let_go(cause));
    }

    /// What to wait for until it is known where the channel stands; the sender's end is answer enough.
    pub fn established(&mut self, channel: &Channel) -> Option<oneshot::Receiver<()>> {
        let entry = self.channels.get_mut(channel).filter(|_| self.open)?;
        if entry.stream.is_established() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        entry.waiters.push(sender);
        Some(receiver)
    }

    /// Where it stands, as far as has been heard; nothing while the bus is away.
    pub fn position(&self, channel: &Channel) -> Option<Position> {
        self.channels.get(channel).filter(|_| self.open)?.stream.position()
    }

    /// A publication with a position. True if there is something to read now. What is not subscribed is dropped:
    /// whoever comes next begins where the channel stands then.
    pub fn hear(&mut self, channel: &Channel, envelope: Envelope, now: Instant, relay: &dyn Relay) -> bool {
        let Some(position) = envelope.publication.position else { return false };
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        entry.touched = now;
        entry.stream.hear(position, envelope, ROOM, &mut self.heals, &mut steps(channel, relay));
        self.open && entry.push_due(channel, &mut self.due)
    }

    /// Somebody has read where a channel stands. True if it came to another epoch just now, of which the relay has been
    /// told and not everybody may have heard; there may be something to read then.
    pub fn meet(&mut self, channel: &Channel, top: Position, now: Instant, relay: &dyn Relay) -> bool {
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        if entry.stream.meet(top, &mut steps(channel, relay)) {
            entry.moved = Some(now);
            if self.open {
                entry.push_due(channel, &mut self.due);
            }
        }
        entry.moved.is_some_and(|moved| now.saturating_duration_since(moved) < HEARD)
    }

    /// Asks where those stand of whom nothing was heard for `idle`. True if there are any.
    pub fn check(&mut self, idle: Duration, now: Instant) -> bool {
        if !self.open {
            return false;
        }
        let mut any = false;
        for (channel, entry) in &mut self.channels {
            let pause = if entry.stream.is_suspected() { idle.min(CHECK_AGAIN) } else { idle };
            if now.duration_since(entry.touched) >= pause {
                entry.touched = now;
                entry.stream.check();
                any |= entry.push_due(channel, &mut self.due);
            }
        }
        any
    }

    /// What is to be read next, if the bus is there.
    pub fn take_errands(&mut self, most: usize) -> Vec<Errand> {
        let mut errands = Vec::new();
        while self.open && errands.len() < most {
            let Some(channel) = self.due.pop_front() else { break };
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            entry.due = false;
            if let Some(ask) = entry.stream.ask() {
                errands.push(Errand { channel, id: entry.id, ask });
            }
        }
        errands
    }

    /// What came of an errand. What follows from it goes to the relay.
    pub fn answer(&mut self, channel: &Channel, id: u64, answer: Answer, now: Instant, relay: &dyn Relay) {
        let Some(entry) = self.channels.get_mut(channel).filter(|entry| entry.id == id) else { return };
        entry.touched = now;
        let before = entry.stream.epoch();
        let steps = &mut steps(channel, relay);
        match answer {
            Answer::Read(history) => entry.stream.answer(history, &mut self.heals, steps),
            Answer::Failed => {
                entry.stream.failed();
                entry.let_go(GapCause::Disconnected);
            }
            Answer::Refused => {
                entry.stream.refused(&mut self.heals, steps);
                entry.waiters.clear();
            }
        }
        if before.is_some() && entry.stream.epoch() != before {
            entry.moved = Some(now);
        }
        if entry.stream.is_established() {
            entry.waiters.clear();
        }
        entry.push_due(channel, &mut self.due);
    }

    /// Adds its counts.
    pub fn add_to(&self, status: &mut Status) {
        status.healed_publications += self.heals.publications;
        status.heals_whole += self.heals.whole;
        status.heals_with_gap += self.heals.with_gap;
        status.duplicates += self.heals.duplicates;
    }
}

impl Entry {
    fn let_go(&mut self, cause: GapCause) {
        self.stream.lost(cause);
        self.waiters.clear();
    }

    fn push_due(&mut self, channel: &Channel, due: &mut VecDeque<Channel>) -> bool {
        let push = self.stream.wants() && !self.due;
        if push {
            self.due = true;
            due.push_back(channel.clone());
        }
        push
    }
}

fn steps<'a>(channel: &'a Channel, relay: &'a dyn Relay) -> impl FnMut(Step) + 'a {
    move |step| match step {
        Step::Deliver(publication) => relay.deliver(channel, publication),
        Step::Gap(cause) => relay.gap(Gap { channels: Some(vec![channel.clone()]), cause }),
    }
}

/// Bytes that are held for one channel; what is more is read again.
const ROOM: usize = 1 << 20;
/// By then everybody has heard what the relay was told.
const HEARD: Duration = Duration::from_secs(2);
/// When a difference is looked at for the second time.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
