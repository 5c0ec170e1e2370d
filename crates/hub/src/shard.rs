//! One worker's part of the hub, on the worker's own thread: takes events out of the mailbox, turns
//! the heartbeat's wheel, and waits for full sockets. What it does to a connection, the registry does.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Channel, Control};
use fanfare_websocket::Decoder;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::end::End;
use crate::mailbox::{Event, Inbox};
use crate::placed::Placed;
use crate::pressure::Urgent;
use crate::registry::{Heartbeat, Key, News, Opening, Registry, Settings};
use crate::socket::Socket;
use crate::stats::Stats;
use crate::subscription::Subscription;
use crate::turns::Turns;
use crate::vital::watch;

/// The most events of one turn. More would delay the worker's readers without making a visit cheaper.
const TURN: usize = 1024;

/// How often a drain closes some: 20 ms is finer than any client can tell.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// A handle to a worker's connections, for that worker's tasks. Cloning shares them.
#[derive(Clone)]
pub struct Shard(Rc<Inner>);

struct Inner {
    registry: RefCell<Registry>,
    stats: Arc<Stats>,
    observer: Box<dyn Observer>,
    /// Somebody has been ended for want of memory.
    shed: Notify,
    turns: Turns,
}

/// Who hears what the shard does of its own accord. It is called after the shard has done it, on its thread.
pub trait Observer: 'static {
    /// This channel has lost its last subscriber here.
    fn released(&self, channel: &Channel);

    /// A gap has ended this subscription.
    fn lapsed(&self, key: Key, channel: &Channel);

    /// This channel has more or fewer subscribers here than before.
    fn subscribers_changed(&self, _channel: &Channel) {}

    /// This connection has been told to go. Only of those whose client speaks another way than this socket.
    fn ended(&self, _key: Key) {}

    /// The back end wants something of clients, in its order with what is published.
    fn control(&self, _message: &Arc<Control>) {}

    /// A turn is over, in which not much can have been allocated and freed.
    fn turned(&self) {}
}

impl Shard {
    /// Starts the shard on the current thread's `LocalSet`. `lag` takes the seconds from publication to
    /// write, once for each publication; `tasks` says how many tasks of connections are alive.
    pub fn start(
        mut inbox: Inbox,
        settings: Settings,
        lag: metrics::Histogram,
        observer: impl Observer,
        tasks: impl Fn() -> usize + 'static,
    ) -> Self {
        let urgent = inbox.urgent.take().expect("an inbox is one shard's");
        let stats = inbox.stats();
        let registry =
            Registry::new(inbox.worker, inbox.hub.clone(), settings, stats.clone(), lag, Box::new(tasks));
        let tick = registry.tick_length();
        let observer = Box::new(observer);
        let shed = Notify::new();
        let (registry, turns) = (RefCell::new(registry), Turns::new());
        let shard = Self(Rc::new(Inner { registry, stats, observer, shed, turns }));
        spawn_local(watch(shard.clone().serve(inbox)));
        spawn_local(watch(shard.clone().beat(tick)));
        spawn_local(watch(shard.clone().answer(urgent)));
        shard
    }

    /// This worker's counts.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Takes a place for a connection whose handshake is not answered yet.
    pub fn place(&self, opening: Opening) -> Placed {
        Placed::new(self.clone(), self.with(|registry| registry.place(opening)))
    }

    /// Subscribes a connection: from now on it misses nothing that is published in the channel. Whether the
    /// broker has yet to confirm the channel; nothing if the connection is closing or subscribed already.
    pub fn subscribe(&self, key: Key, subscription: &Subscription) -> Option<bool> {
        self.with(|registry| registry.subscribe(key, subscription))
    }

    /// Ends the holding of a subscription: `answer` is written, and behind it what was held and comes after
    /// this offset: `u64::MAX`, if nothing that has one is wanted until it is held and released again. Where others
    /// get deltas, `fresh` says that the first has to be whole. False, and nothing is written, if the
    /// subscription has ended meanwhile.
    pub fn release(&self, key: Key, channel: &Channel, answer: &Bytes, after: u64, fresh: bool) -> bool {
        self.with(|registry| registry.release(key, channel, answer, after, fresh))
    }

    /// Keeps what is published from now on for a subscription, until it is released again. False if it has ended.
    pub fn hold(&self, key: Key, channel: &Channel) -> bool {
        self.with(|registry| registry.hold(key, channel))
    }

    /// The same but for what has an offset, of which nothing is kept, and nothing that was: it will be read when the
    /// subscription is held again. For those who have yet to wait for something before they read.
    pub fn defer(&self, key: Key, channel: &Channel) {
        self.with(|registry| registry.defer(key, channel));
    }

    /// Ends a subscription, after everything that it is owed. Whether there was one.
    pub fn unsubscribe(&self, key: Key, channel: &Channel) -> bool {
        self.with(|registry| registry.unsubscribe(key, channel))
    }

    /// The broker has confirmed this channel; later members need not wait.
    pub fn confirm(&self, channel: &Channel) {
        self.with(|registry| registry.confirm(channel));
    }

    /// A frame came from this connection: it lives.
    pub fn heard(&self, key: Key) {
        self.with(|registry| registry.heard(key));
    }

    /// The client has said who it is: from now on this holds for it.
    pub fn introduce(&self, key: Key, heartbeat: Heartbeat) {
        self.with(|registry| registry.introduce(key, heartbeat));
    }

    /// What the client sends is not read for the moment: its silence says nothing.
    pub fn excuse(&self, key: Key) {
        self.with(|registry| registry.excuse(key));
    }

    /// What the client has sent is not read for the moment: an answer to a ping may be among it, and counts already.
    pub fn presume(&self, key: Key) {
        self.with(|registry| registry.presume(key));
    }

    /// Whether the client was pinged and has not answered.
    pub fn is_asked(&self, key: Key) -> bool {
        self.with(|registry| registry.is_asked(key))
    }

    /// Whether the connection is subscribed: what had ended a subscription may be news of an earlier one.
    pub fn is_subscribed(&self, key: Key, channel: &Channel) -> bool {
        self.with(|registry| registry.is_subscribed(key, channel))
    }

    /// The client has answered a ping. Whether it had been asked.
    pub fn answered(&self, key: Key) -> bool {
        self.with(|registry| registry.answered(key))
    }

    /// Lends out what this connection is read with, to be returned in the same turn of its task. Nothing
    /// means that it was made to give up what it held, and is not to be read any more.
    pub fn take_decoder(&self, key: Key) -> Option<Decoder> {
        self.with(|registry| registry.take_decoder(key))
    }

    /// Takes it back, with what it keeps of an unfinished message.
    pub fn return_decoder(&self, key: Key, decoder: Decoder) {
        self.with(|registry| registry.return_decoder(key, decoder));
    }

    /// What its session keeps for it was so many bytes, and is so many now. It counts when memory runs out.
    pub fn weigh_beside(&self, key: Key, before: u32, now: u32) {
        self.with(|registry| registry.weigh_beside(key, before, now));
    }

    /// Sends whole frames to one connection.
    pub fn send(&self, key: Key, frames: &Bytes) {
        self.with(|registry| registry.send(key, frames));
    }

    /// Ends a connection for this reason, unless it has been ended already.
    pub fn end(&self, key: Key, end: End) {
        self.with(|registry| registry.end(key, end));
    }

    /// The same with last words of the caller's.
    pub fn end_saying(&self, key: Key, end: End, words: Bytes) {
        self.with(|registry| registry.end_saying(key, end, Some(words)));
    }

    /// Waits until the client has taken all that it is owed, or was told to go.
    pub async fn written(&self, key: Key) {
        let waiting = self.with(|registry| registry.wait_until_written(key));
        if let Some(waiting) = waiting {
            // An end of any kind is what is waited for.
            let _ = waiting.await;
        }
    }

    /// Whether everything has been written that the connection was owed, its Close frame included.
    pub fn is_written(&self, key: Key) -> bool {
        self.with(|registry| registry.is_written(key))
    }

    /// Whether the connection has been told to go.
    pub fn is_closing(&self, key: Key) -> bool {
        self.with(|registry| registry.is_closing(key))
    }

    /// Resolves when connections of this worker may have been ended for want of memory: whoever waits meanwhile
    /// for something else should look whether it is one of them.
    pub async fn shed(&self) {
        self.0.shed.notified().await;
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

    /// Ends all that are open now, in random order and at an even rate over `window`, or until nobody is left.
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
            if keys.is_empty() || self.is_empty() {
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
            let dealt_with = self.with(|registry| {
                events.drain(..).for_each(|event| handle(registry, event));
                registry.go_round();
                registry.take_dealt_with()
            });
            inbox.done(dealt_with);
            self.0.observer.turned();
            // Readers and new connections get their turn, and what they publish meanwhile is taken up
            // by the rounds that are under way.
            tokio::task::yield_now().await;
        }
    }

    /// What cannot wait behind the events has a queue and a task of its own.
    async fn answer(self, mut urgent: UnboundedReceiver<Urgent>) {
        while let Some(urgent) = urgent.recv().await {
            self.with(|registry| registry.answer(urgent));
            self.0.observer.turned();
            self.0.shed.notify_waiters();
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
            if self.0.turns.take(|| self.with(|registry| registry.flush(key))).await {
                return;
            }
        }
        self.end(key, End::Vanished);
    }

    /// Closes the socket of a connection that was removed.
    pub async fn close(&self, socket: Rc<Socket>) {
        let held = socket.kernel_bytes();
        self.0.turns.take(|| (drop(socket), held)).await;
    }

    /// Every change to the registry goes through here, so that nobody who must wait is forgotten.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.0.registry.borrow_mut();
        let result = change(&mut registry);
        let news = registry.conclude();
        drop(registry);
        // Most changes concern nobody else.
        if let Some(news) = news {
            self.pass_on(news);
        }
        result
    }

    fn pass_on(&self, news: News) {
        let News { blocked, released, lapsed, parted, changed, controls } = news;
        for (key, socket) in blocked {
            spawn_local(self.clone().flush(key, socket));
        }
        for channel in &released {
            self.0.observer.released(channel);
        }
        for (key, channel) in &lapsed {
            self.0.observer.lapsed(*key, channel);
        }
        for key in parted {
            self.0.observer.ended(key);
        }
        for channel in &changed {
            self.0.observer.subscribers_changed(channel);
        }
        for message in &controls {
            self.0.observer.control(message);
        }
    }
}

fn handle(registry: &mut Registry, event: Event) {
    let bytes = event.bytes();
    match event {
        Event::Deliver(channel, delivery) => registry.queue(&channel, delivery),
        Event::Made(channel) => registry.go_on(&channel),
        Event::Gap(channels) => registry.gap(channels.as_deref()),
        Event::Kick(id, found) => {
            if let Some(key) = registry.find_id(id) {
                registry.catch_up_for(key);
                registry.end(key, End::Kicked);
                // A full channel means that somebody else has answered already.
                let _ = found.try_send(());
            }
        }
        Event::Census(answer) => {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(registry.census());
        }
        Event::Control(message) => {
            registry.catch_up_with(&message);
            registry.deal_with(bytes);
            registry.news.controls.push(message);
        }
    }
}
