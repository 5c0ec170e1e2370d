//! One worker's part of the hub, on the worker's own thread: takes events out of the mailbox, turns
//! the heartbeat's wheel, and waits for full sockets. What it does to a connection, the registry does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::Channel;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::context::Context;
use crate::end::End;
use crate::mailbox::{Event, Inbox};
use crate::registry::{Key, Member, Registry, Settings};
use crate::socket::Socket;
use crate::stats::Stats;

/// The most events of one turn. More would delay the worker's readers without making a visit cheaper.
const TURN: usize = 1024;

/// The turn also ends with the event that brings it to so many bytes: a client that keeps up reads
/// between turns, and no single turn may fill its outbox. 1024 small messages are a little less.
const TURN_BYTES: usize = 256 << 10;

/// How many members are visited before readers get their turn: one to two milliseconds.
const VISITS: usize = 256;

/// How often a drain closes some: 20 ms is finer than any client can tell.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// A handle to a worker's connections, for that worker's tasks. Cloning shares them.
#[derive(Clone)]
pub struct Shard(Rc<Inner>);

struct Inner {
    registry: RefCell<Registry>,
    stats: std::sync::Arc<Stats>,
    on_release: Box<dyn Fn(&Channel)>,
}

/// A place in a channel that was taken before the handshake is answered. Dropping it gives it back.
pub struct Joined {
    shard: Shard,
    key: Key,
    unconfirmed: bool,
    kept: bool,
}

impl Shard {
    /// Starts the shard on the current thread's `LocalSet`. `lag` takes the seconds from publication to
    /// write, once for each publication; `on_release` hears of channels that lost their last member here.
    pub fn start(
        inbox: Inbox,
        settings: Settings,
        lag: metrics::Histogram,
        on_release: impl Fn(&Channel) + 'static,
    ) -> Self {
        let stats = inbox.stats();
        let registry = Registry::new(inbox.worker, inbox.hub.clone(), settings, stats.clone(), lag);
        let tick = registry.tick_length();
        let on_release = Box::new(on_release);
        let shard = Self(Rc::new(Inner { registry: RefCell::new(registry), stats, on_release }));
        let (serve, beat) = (shard.clone().serve(inbox), shard.clone().beat(tick));
        spawn_local(Vital::watch(serve));
        spawn_local(Vital::watch(beat));
        shard
    }

    /// This worker's counts.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Takes a place for a connection whose handshake is not answered yet. From now on it misses
    /// nothing that is published in its channel. With a `context` of its own, its publications are
    /// compressed for it alone.
    pub fn join(&self, member: &Member, context: Option<Context>) -> Joined {
        let (key, unconfirmed) = self.with(|registry| registry.join(member, context));
        Joined { shard: self.clone(), key, unconfirmed, kept: false }
    }

    /// The broker has confirmed this channel; later members need not wait.
    pub fn confirm(&self, channel: &Channel) {
        self.with(|registry| registry.confirm(channel));
    }

    /// A frame came from this connection: it lives.
    pub fn heard(&self, key: Key) {
        self.with(|registry| registry.heard(key));
    }

    /// Sends whole frames to one connection.
    pub fn send(&self, key: Key, frames: &Bytes) {
        self.with(|registry| registry.send(key, frames));
    }

    /// Ends a connection for this reason, unless it has been ended already.
    pub fn end(&self, key: Key, end: End) {
        self.with(|registry| registry.end(key, end));
    }

    /// Whether everything has been written that the connection was owed, its Close frame included.
    pub fn is_written(&self, key: Key) -> bool {
        self.with(|registry| registry.is_written(key))
    }

    /// Whether the connection has been told to go.
    pub fn is_closing(&self, key: Key) -> bool {
        self.with(|registry| registry.is_closing(key))
    }

    /// Nobody reads this connection any more: ends it if need be, and frees its place.
    pub fn remove(&self, key: Key) {
        self.with(|registry| {
            registry.end(key, End::Vanished);
            registry.remove(key);
        });
    }

    /// How many connections there are, closing ones included.
    pub fn len(&self) -> usize {
        self.0.registry.borrow().len()
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all that are open now, in random order and at an even rate over `window`.
    pub async fn drain(&self, window: Duration, end: End) {
        let mut keys = self.with(|registry| registry.open_keys());
        fastrand::shuffle(&mut keys);
        let (start, total) = (Instant::now(), keys.len());
        let steps = (window.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
        for step in 0..steps {
            let left = total - total * (step + 1) / steps;
            for key in keys.drain(left..) {
                self.end(key, end);
            }
            if keys.is_empty() {
                return;
            }
            sleep_until(start + DRAIN_STEP * (step as u32 + 1)).await;
        }
    }

    async fn serve(self, mut inbox: Inbox) {
        let mut events = Vec::new();
        loop {
            if self.with(|registry| registry.owes()) {
                inbox.take_now(&mut events, TURN);
            } else if inbox.take(&mut events, TURN).await == 0 {
                return;
            }
            let mut events = events.drain(..);
            loop {
                let mut bytes = 0;
                self.with(|registry| {
                    while bytes < TURN_BYTES
                        && let Some(event) = events.next()
                    {
                        bytes += event.bytes();
                        handle(registry, event);
                    }
                    registry.go_round(VISITS);
                });
                inbox.done(bytes);
                // Readers and new connections get their turn, and what they publish meanwhile is taken up
                // by the rounds that are under way.
                tokio::task::yield_now().await;
                if events.len() == 0 {
                    break;
                }
            }
        }
    }

    async fn beat(self, tick: Duration) {
        let mut interval = interval(tick);
        // After a pause of the whole process the wheel goes on where it was: nobody is timed out for
        // what could not have been heard.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.with(Registry::tick);
        }
    }

    async fn flush(self, key: Key, socket: Rc<Socket>) {
        while socket.writable().await.is_ok() {
            if self.with(|registry| registry.flush(key)) {
                return;
            }
        }
        self.end(key, End::Vanished);
    }

    /// Every change to the registry goes through here, so that nobody who must wait is forgotten.
    fn with<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.0.registry.borrow_mut();
        let result = change(&mut registry);
        registry.carry_out_ends();
        let blocked = std::mem::take(&mut registry.blocked);
        let released = std::mem::take(&mut registry.released);
        drop(registry);
        for (key, socket) in blocked {
            spawn_local(self.clone().flush(key, socket));
        }
        for channel in &released {
            (self.0.on_release)(channel);
        }
        result
    }
}

impl Joined {
    /// The broker has not confirmed the channel for this worker yet.
    pub fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }

    /// The handshake is answered, and this is the socket.
    pub fn open(mut self, socket: Rc<Socket>) -> Key {
        self.kept = true;
        self.shard.with(|registry| registry.open(self.key, socket));
        self.key
    }

    /// The handshake was answered, and there is no socket.
    pub fn fail(mut self) {
        self.kept = true;
        self.shard.with(|registry| {
            registry.end(self.key, End::UpgradeFailed);
            registry.remove(self.key);
        });
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if !self.kept {
            self.shard.with(|registry| registry.abandon(self.key));
        }
    }
}

/// Held by a task without which the worker is worth nothing. The runtime would catch its panic, and the
/// process would look alive and deliver nothing; ended, it is started again.
struct Vital;

impl Vital {
    async fn watch(task: impl Future<Output = ()>) {
        let _vital = Self;
        task.await;
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker's shard has panicked; the process ends");
            std::process::abort();
        }
    }
}

fn handle(registry: &mut Registry, event: Event) {
    match event {
        Event::Deliver(channel, delivery) => registry.queue(&channel, delivery),
        Event::Gap { channels, notice } => registry.gap(channels.as_deref(), notice),
        Event::Kick(id, found) => {
            if let Some(key) = registry.find_id(id) {
                registry.end(key, End::Kicked);
                // A full channel means that somebody else has answered already.
                let _ = found.try_send(());
            }
        }
        Event::Census(answer) => {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(registry.census());
        }
    }
}
