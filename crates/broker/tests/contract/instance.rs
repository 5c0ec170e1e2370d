//! A broker with a relay that remembers everything, and the ways to wait for what it should remember.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{
    AppendOptions, Broker, BrokerError, Gap, GapCause, Memory, Pending, Query, Redis, RedisConfig, Relay,
    Retain, Retention,
};
use fanfare_protocol::{Channel, Control, Kind, Member, Position, PresenceChange, Publication};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// How long a test waits for what should happen; much longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a gateway would be to its broker.
pub struct Instance {
    pub id: Uuid,
    pub broker: Arc<dyn Broker>,
    pub relay: Arc<Recorder>,
}

/// One thing that the broker handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Delivered(Channel, String),
    Gap(Gap),
    Presence(Channel, PresenceChange),
    Control(Control),
}

/// A relay that remembers.
pub struct Recorder {
    wanted: Mutex<HashSet<Channel>>,
    subscribers: Mutex<HashMap<Channel, u64>>,
    events: Mutex<Vec<Event>>,
    /// Of those events that are deliveries with a position.
    positions: Mutex<HashMap<usize, Position>>,
    /// Whether its subscribers take what they are given.
    hears: watch::Sender<bool>,
    /// How often somebody has waited for that.
    waited_for: AtomicUsize,
    changed: watch::Sender<()>,
}

/// Channels whose names begin with `kept` have a history: of a hundred thousand publications, or as many as follow
/// (`kept:3:news`). Those of `brief` last a third of a second, and are forgotten after one.
pub fn retain() -> Retain {
    Arc::new(|channel| {
        if channel.as_str().starts_with("brief") {
            let (ttl, meta_ttl) = (Duration::from_millis(300), Duration::from_millis(1000));
            return Some(Retention { size: 100, ttl, meta_ttl });
        }
        let size = channel.as_str().strip_prefix("kept")?.trim_start_matches(':').split(':').next();
        let size = size.and_then(|size| size.parse().ok()).unwrap_or(100_000);
        Some(Retention::new(size, Duration::from_secs(60)))
    })
}

impl Instance {
    pub fn memory() -> Self {
        let (id, relay) = (Uuid::new_v4(), Recorder::new());
        let broker = Memory::new(relay.clone(), retain(), usize::MAX, id, &Handle::current());
        Self { id, broker: Arc::new(broker), relay }
    }

    /// One that may still be connecting.
    pub fn redis(config: &RedisConfig) -> Self {
        let (id, relay) = (Uuid::new_v4(), Recorder::new());
        let config = RedisConfig { instance: id, ..config.clone() };
        let broker = Redis::start(&config, relay.clone(), retain(), &Handle::current())
            .expect("the configuration is right");
        Self { id, broker: Arc::new(broker), relay }
    }

    /// Two that listen in a channel, each with a way to Redis of its own.
    pub async fn two([a, b]: [&str; 2], channel: &Channel) -> [Self; 2] {
        let both = [Self::at(a).await, Self::at(b).await];
        for instance in &both {
            instance.join(channel).await;
        }
        both
    }

    /// One that is up, with the defaults.
    pub async fn at(url: &str) -> Self {
        let instance = Self::redis(&RedisConfig::new(url));
        instance.until_up().await;
        instance
    }

    /// A first client joins.
    pub async fn join(&self, channel: &Channel) {
        self.relay.wanted.lock().insert(channel.clone());
        timeout(PATIENCE, self.broker.subscribe(channel)).await.expect("the subscription is confirmed");
    }

    /// The last client leaves.
    pub fn leave(&self, channel: &Channel) {
        self.relay.wanted.lock().remove(channel);
        self.broker.release(channel);
    }

    pub fn publish(&self, channel: &Channel, text: &str) {
        self.broker.publish(channel, Publication::new(Kind::Text, Bytes::copy_from_slice(text.as_bytes())));
    }

    /// Appends, and says where it is.
    pub async fn append(&self, channel: &Channel, text: &str) -> Result<Option<Position>, BrokerError> {
        let publication = Publication::new(Kind::Text, Bytes::copy_from_slice(text.as_bytes()));
        let append = self.broker.append(channel, publication, AppendOptions::default());
        let appended = timeout(PATIENCE, append).await.expect("it says yes or no")?;
        assert_eq!(appended.suppressed, None, "{text}");
        Ok(appended.position)
    }

    /// The whole history: offsets and texts.
    pub async fn kept(&self, channel: &Channel) -> Vec<(u64, String)> {
        let history = self.broker.history(channel, Query::ALL).await.expect("it can be read");
        let text = |publication: &Publication| String::from_utf8_lossy(&publication.payload).into_owned();
        let numbered = |publication: Publication| Some((publication.position?.offset, text(&publication)));
        history.publications.into_iter().filter_map(numbered).collect()
    }

    pub async fn until_up(&self) {
        let start = Instant::now();
        eventually("it is up", async || {
            let status = self.broker.status();
            assert!(status.up || start.elapsed() < PATIENCE / 2, "{status:?}");
            status.up
        })
        .await;
    }

    /// Waits until it is down, for a reason that contains these words.
    pub async fn until_down(&self, because: &str) {
        let down = async || self.broker.status().down_because.is_some_and(|said| said.contains(because));
        eventually(&format!("it is down because: {because}"), down).await;
    }
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            wanted: Mutex::default(),
            subscribers: Mutex::default(),
            events: Mutex::default(),
            positions: Mutex::default(),
            hears: watch::Sender::new(true),
            waited_for: AtomicUsize::new(0),
            changed: watch::Sender::new(()),
        })
    }

    /// From now on its subscribers take what they are given, or not.
    pub fn hear(&self, hears: bool) {
        self.hears.send_replace(hears);
    }

    /// How often somebody has waited for them to take it.
    pub fn waited_for(&self) -> usize {
        self.waited_for.load(SeqCst)
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// How much has happened.
    pub fn count(&self) -> usize {
        self.events.lock().len()
    }

    /// What was delivered in a channel, in order.
    pub fn delivered(&self, channel: &Channel) -> Vec<String> {
        let ours = |event: &Event| match event {
            Event::Delivered(at, text) if at == channel => Some(text.clone()),
            _ => None,
        };
        self.events.lock().iter().filter_map(ours).collect()
    }

    /// What was told of a channel: "text", "+user", "-user", in order; an anonymous connection by its number.
    pub fn told(&self, channel: &Channel) -> Vec<String> {
        let name = |member: &Member| match &*member.user {
            "" => member.connection.as_u128().to_string(),
            user => user.to_owned(),
        };
        let told = |event: &Event| match event {
            Event::Delivered(at, text) if at == channel => Some(text.clone()),
            Event::Presence(at, PresenceChange::Joined(member)) if at == channel => {
                Some(format!("+{}", name(member)))
            }
            Event::Presence(at, PresenceChange::Left(member)) if at == channel => {
                Some(format!("-{}", name(member)))
            }
            _ => None,
        };
        self.events.lock().iter().filter_map(told).collect()
    }

    pub async fn until_told(&self, channel: &Channel, expected: &[&str]) {
        let enough = |relay: &Self| relay.told(channel).len() >= expected.len();
        self.until(&format!("{expected:?} in {channel}"), enough).await;
        assert_eq!(self.told(channel), expected, "in {channel}");
    }

    /// What others wanted of this instance, in order.
    pub fn controls(&self) -> Vec<Control> {
        let control = |event: &Event| match event {
            Event::Control(control) => Some(control.clone()),
            _ => None,
        };
        self.events.lock().iter().filter_map(control).collect()
    }

    pub fn set_subscribers(&self, channel: &Channel, count: u64) {
        self.subscribers.lock().insert(channel.clone(), count);
    }

    /// The gaps in a channel, in order.
    pub fn gaps(&self, channel: &Channel) -> Vec<GapCause> {
        let ours = |event: &Event| match event {
            Event::Gap(gap) if gap.channels.as_ref().is_none_or(|channels| channels.contains(channel)) => {
                Some(gap.cause)
            }
            _ => None,
        };
        self.events.lock().iter().filter_map(ours).collect()
    }

    pub async fn until(&self, what: &str, mut there: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = timeout(PATIENCE, async {
            while !there(self) {
                changed.changed().await.expect("the sender is ours");
            }
        });
        if waited.await.is_err() {
            let events = self.events();
            let last = &events[events.len().saturating_sub(20)..];
            panic!("waited for: {what}; {} events, the last: {last:#?}", events.len());
        }
    }

    pub async fn until_delivered(&self, channel: &Channel, expected: &[&str]) {
        self.until(&format!("{expected:?} in {channel}"), |relay| {
            relay.delivered(channel).len() >= expected.len()
        })
        .await;
        assert_eq!(self.delivered(channel), expected, "in {channel}");
    }

    pub async fn until_text(&self, channel: &Channel, text: &str) {
        self.until(text, |relay| {
            let event = Event::Delivered(channel.clone(), text.to_owned());
            relay.events.lock().iter().rev().any(|other| *other == event)
        })
        .await;
    }

    /// What was delivered with a position, in order.
    pub fn numbered(&self, channel: &Channel) -> Vec<(u64, String)> {
        let (events, positions) = (self.events.lock(), self.positions.lock());
        let ours = |(at, event): (usize, &Event)| match event {
            Event::Delivered(of, text) if of == channel => Some((positions.get(&at)?.offset, text.clone())),
            _ => None,
        };
        events.iter().enumerate().filter_map(ours).collect()
    }

    /// Checks that each position follows the one before, unless a gap was announced in between.
    pub fn assert_contiguous(&self, channel: &Channel) {
        let (events, positions) = (self.events.lock(), self.positions.lock());
        let mut last: Option<Position> = None;
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Delivered(of, text) if of == channel => {
                    let position = *positions.get(&at).unwrap_or_else(|| panic!("{text} has no position"));
                    if let Some(last) = last {
                        assert_eq!(position, Position { offset: last.offset + 1, ..last }, "{text}");
                    }
                    last = Some(position);
                }
                event if is_gap(event, channel) => last = None,
                _ => {}
            }
        }
    }

    fn record(&self, event: Event) {
        self.events.lock().push(event);
        self.changed.send_replace(());
    }
}

impl Relay for Recorder {
    fn deliver(&self, channel: &Channel, publication: Publication) {
        let text = String::from_utf8_lossy(&publication.payload).into_owned();
        let mut events = self.events.lock();
        if let Some(position) = publication.position {
            self.positions.lock().insert(events.len(), position);
        }
        events.push(Event::Delivered(channel.clone(), text));
        drop(events);
        self.changed.send_replace(());
    }

    fn gap(&self, gap: Gap) {
        self.record(Event::Gap(gap));
    }

    fn heard(&self) -> Pending<'_, ()> {
        self.waited_for.fetch_add(1, SeqCst);
        self.changed.send_replace(());
        let mut hears = self.hears.subscribe();
        Box::pin(async move { drop(hears.wait_for(|hears| *hears).await.map(|_| ())) })
    }

    fn wanted(&self, channel: &Channel) -> bool {
        self.wanted.lock().contains(channel)
    }

    fn presence(&self, channel: &Channel, change: PresenceChange) {
        self.record(Event::Presence(channel.clone(), change));
    }

    fn control(&self, message: Control) {
        self.record(Event::Control(message));
    }

    fn subscribers(&self, channel: &Channel) -> u64 {
        self.subscribers.lock().get(channel).copied().unwrap_or_default()
    }
}

pub fn channel(name: &str) -> Channel {
    Channel::new(name).expect("a channel's name")
}

/// Waits for what no event tells, asking again and again.
pub async fn eventually(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !there().await {
        assert!(start.elapsed() < PATIENCE, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Checks what one subscriber got of publishers that number their messages "name:0", "name:1" …: each once, in each
/// publisher's order, and none missing but across a gap. `whole` are the publishers of whom nothing may miss at all.
pub fn audit(relay: &Recorder, channel: &Channel, counts: &HashMap<String, usize>, whole: &[&str]) {
    let events = relay.events();
    let gaps: Vec<_> = (0..events.len()).filter(|&at| is_gap(&events[at], channel)).collect();
    for (publisher, &count) in counts {
        let (mut next, mut last_at) = (0, 0);
        // As if a last message had come at the end of time.
        let end = [(events.len(), count)];
        for (at, number) in numbers(&events, channel, publisher).into_iter().chain(end) {
            assert!(number >= next, "{publisher}:{number} came twice or too late");
            if number > next {
                assert!(!whole.contains(&publisher.as_str()), "{publisher}:{next} to {number} are missing");
                // What comes first after a break may be delivered a moment before the gap is announced.
                let announced = gaps.iter().any(|&gap| gap > last_at);
                assert!(announced, "{publisher}:{next} to {number} are missing in silence");
            }
            (next, last_at) = (number + 1, at);
        }
    }
}

fn is_gap(event: &Event, channel: &Channel) -> bool {
    matches!(event, Event::Gap(gap) if gap.channels.as_ref().is_none_or(|channels| channels.contains(channel)))
}

/// Where each message of a publisher stands among the events, and its number.
fn numbers(events: &[Event], channel: &Channel, publisher: &str) -> Vec<(usize, usize)> {
    let number = |event: &Event| match event {
        Event::Delivered(at, text) if at == channel => {
            text.strip_prefix(publisher)?.strip_prefix(':')?.parse().ok()
        }
        _ => None,
    };
    events.iter().enumerate().filter_map(|(at, event)| Some((at, number(event)?))).collect()
}
