//! The stream against a reference: a history that is appended to, evicted, lost and rolled back, and a bus that breaks.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use fanfare_protocol::{Epoch, Kind};
use proptest::prelude::*;

use super::*;

/// What can happen, in any order.
#[derive(Debug, Clone, Copy)]
enum Event {
    Publish,
    /// The bus brings the next of what is on its way.
    Arrive,
    /// The next of what is on its way is lost without a trace.
    Vanish,
    /// Everything on its way is lost, and what is published from now on.
    Break,
    Subscribe,
    Check,
    /// The history is read as was asked for.
    Execute,
    /// What was read comes back.
    Answer,
    Fail,
    /// All but so many are evicted.
    Evict(usize),
    /// The history and its numbering are lost.
    Flush,
    /// The last publications are lost with their numbers, as in a failover.
    RollBack(u64),
    /// Somebody else reads where the channel stands.
    Meet,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Publish),
        8 => Just(Event::Arrive),
        1 => Just(Event::Vanish),
        1 => Just(Event::Break),
        2 => Just(Event::Subscribe),
        2 => Just(Event::Check),
        5 => Just(Event::Execute),
        5 => Just(Event::Answer),
        1 => Just(Event::Fail),
        1 => (0..6_usize).prop_map(Event::Evict),
    ]
}

fn disaster() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => event(),
        1 => Just(Event::Flush),
        1 => (1..4_u64).prop_map(Event::RollBack),
        2 => Just(Event::Meet),
    ]
}

/// The history as Redis keeps it.
struct Redis {
    epochs: u64,
    top: Position,
    kept: VecDeque<u64>,
}

impl Redis {
    fn new() -> Self {
        Self { epochs: 0, top: Position { offset: 0, epoch: Epoch::from_random(0) }, kept: VecDeque::new() }
    }

    fn begin_anew(&mut self) {
        self.epochs += 1;
        self.top = Position { offset: 0, epoch: Epoch::from_random(self.epochs) };
        self.kept.clear();
    }

    /// What `scripts/read.lua` does.
    fn read(&mut self, ask: Ask) -> History {
        if ask.since.is_some_and(|since| since.epoch == self.top.epoch) && self.top.offset < ask.reached {
            self.begin_anew();
        }
        let top = self.top;
        let epoch_matches = ask.since.is_none_or(|since| since.epoch == top.epoch);
        let since = ask.since.map_or(0, |since| since.offset);
        let limit = if ask.top_only || !epoch_matches { 0 } else { PAGE };
        let newer = self.kept.iter().filter(|offset| **offset > since).take(limit);
        History {
            publications: newer.map(|offset| publication(Position { offset: *offset, ..top })).collect(),
            bytes: 0,
            too_much: false,
            top,
            epoch_matches,
        }
    }
}

fn told(top: Position, epoch_matches: bool) -> History {
    History { publications: Vec::new(), bytes: 0, too_much: false, top, epoch_matches }
}

/// A stream with everything around it.
struct World {
    redis: Redis,
    /// Nothing, while the bus is broken.
    bus: Option<VecDeque<Position>>,
    stream: Stream,
    heals: Heals,
    asked: Option<Ask>,
    read: Option<History>,
    room: usize,
    /// What the relay got: positions, and nothing for a gap.
    relayed: Vec<Option<Position>>,
    /// When the stream was established the first time: from then on everything counts.
    established: Option<Position>,
    /// Something was evicted or lost that had not been relayed, so that a gap may be due.
    excused: bool,
    /// The bus has lost something without breaking.
    vanished: bool,
    /// The epoch in which somebody else has found the channel, and how much had been relayed then.
    met: Option<(Epoch, usize)>,
}

impl World {
    fn new(room: usize) -> Self {
        Self {
            redis: Redis::new(),
            bus: None,
            stream: Stream::default(),
            heals: Heals::default(),
            asked: None,
            read: None,
            room,
            relayed: Vec::new(),
            established: None,
            excused: false,
            vanished: false,
            met: None,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish => {
                self.redis.top.offset += 1;
                self.redis.kept.push_back(self.redis.top.offset);
                self.bus.iter_mut().for_each(|bus| bus.push_back(self.redis.top));
            }
            Event::Arrive => {
                let Some(position) = self.bus.as_mut().and_then(VecDeque::pop_front) else { return };
                let relayed = &mut self.relayed;
                let step = &mut |step| relayed.push(relay(step));
                self.stream.hear(position, envelope(position), self.room, &mut self.heals, step);
            }
            Event::Vanish => {
                self.vanished |= self.bus.as_mut().and_then(VecDeque::pop_front).is_some();
            }
            Event::Break => {
                self.bus = None;
                // Whoever waited was let in without knowing from where.
                self.excused |= !self.stream.is_established();
                self.stream.lost(GapCause::Disconnected);
            }
            Event::Subscribe => {
                self.bus.get_or_insert_default();
                self.stream.subscribed(None);
            }
            Event::Check => self.stream.check(),
            Event::Execute => {
                if self.asked.is_none() && self.read.is_none() {
                    self.asked = self.stream.ask();
                }
                if let Some(ask) = self.asked.take() {
                    self.read = Some(self.redis.read(ask));
                }
            }
            Event::Answer => {
                let Some(history) = self.read.take() else { return };
                self.established.get_or_insert(history.top);
                let relayed = &mut self.relayed;
                let step = &mut |step| relayed.push(relay(step));
                self.stream.answer(history, &mut self.heals, step);
            }
            Event::Fail => {
                if self.read.take().is_some() {
                    self.stream.failed();
                }
            }
            Event::Evict(keep) => {
                self.redis.kept.drain(..self.redis.kept.len().saturating_sub(keep));
                self.excused = true;
            }
            Event::Flush => {
                self.redis.begin_anew();
                (self.excused, self.vanished) = (true, true);
            }
            Event::Meet => {
                let top = self.redis.top;
                let relayed = &mut self.relayed;
                self.stream.meet(top, &mut |step| relayed.push(relay(step)));
                if self.stream.is_established() {
                    self.met = Some((top.epoch, self.relayed.len()));
                }
            }
            Event::RollBack(count) => {
                let offset = self.redis.top.offset.saturating_sub(count);
                self.redis.top.offset = offset;
                self.redis.kept.retain(|kept| *kept <= offset);
                (self.excused, self.vanished) = (true, true);
            }
        }
    }

    /// The bus and Redis do all they have to do, and nothing else happens.
    fn settle(&mut self) {
        if self.bus.is_none() {
            self.happen(Event::Subscribe);
        }
        for turn in 0.. {
            // Nothing else would find it.
            if self.vanished {
                self.happen(Event::Check);
            }
            let before = self.relayed.len();
            while self.bus.as_ref().is_some_and(|bus| !bus.is_empty()) {
                self.happen(Event::Arrive);
            }
            for _ in 0..4 {
                self.happen(Event::Execute);
                self.happen(Event::Answer);
            }
            if self.relayed.len() == before && turn > 8 {
                return;
            }
            assert!(turn < 1000, "it reads for ever");
        }
    }

    /// Everything that the contract says of what the relay gets.
    fn check(&self) {
        let mut last: Option<Position> = None;
        let mut seen = HashSet::new();
        for relayed in &self.relayed {
            if let Some(position) = relayed {
                assert!(seen.insert(*position), "{position:?} came twice: {:?}", self.relayed);
                let next = last.map_or(*position, |last| Position { offset: last.offset + 1, ..last });
                assert_eq!(*position, next, "{:?}", self.relayed);
            }
            last = *relayed;
        }
        // Whoever has a place in an epoch gets nothing of another without hearing of a gap.
        let behind = self.met.map(|(epoch, before)| (epoch, &self.relayed[before..]));
        if let Some((epoch, Some(Some(next)))) = behind.map(|(epoch, behind)| (epoch, behind.first())) {
            assert_eq!(next.epoch, epoch, "{:?}", self.relayed);
        }
    }
}

fn relay(step: Step) -> Option<Position> {
    match step {
        Step::Deliver(publication) => publication.position,
        Step::Gap(_) => None,
    }
}

fn publication(position: Position) -> Publication {
    Publication { position: Some(position), ..Publication::new(Kind::Text, Bytes::from_static(b"x")) }
}

fn envelope(position: Position) -> Envelope {
    Envelope { origin: Uuid::nil(), sequence: position.offset, publication: publication(position) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_the_history_holds_is_relayed_once_in_order_without_a_gap(
        events in prop::collection::vec(event(), 0..120),
        few in any::<bool>(),
    ) {
        let mut world = World::new(if few { 2 * (ENTRY + 1) } else { usize::MAX });
        events.into_iter().for_each(|event| world.happen(event));
        world.settle();
        world.check();
        prop_assert_eq!(world.stream.at, Some(world.redis.top), "it has caught up");
        prop_assert!(world.stream.held.is_empty() && world.stream.dropped.is_none());
        prop_assert_eq!(world.stream.held_bytes, 0);
        let gaps = world.relayed.iter().filter(|relayed| relayed.is_none()).count();
        if !world.excused {
            prop_assert_eq!(gaps, 0, "{:?}", world.relayed);
            let since = world.established.expect("it has settled");
            let offsets = world.relayed.iter().flatten().map(|position| position.offset);
            prop_assert!(offsets.eq(since.offset + 1..=world.redis.top.offset), "{:?}", world.relayed);
            prop_assert_eq!(world.heals.with_gap, 0);
        }
    }

    #[test]
    fn what_is_lost_is_announced_whatever_happens(
        events in prop::collection::vec(disaster(), 0..120),
        few in any::<bool>(),
    ) {
        let mut world = World::new(if few { 2 * (ENTRY + 1) } else { usize::MAX });
        events.into_iter().for_each(|event| world.happen(event));
        world.settle();
        world.check();
        prop_assert_eq!(world.stream.at, Some(world.redis.top), "it has caught up");
        prop_assert!(world.stream.held.is_empty() && world.stream.dropped.is_none());
    }
}

/// Publications in one read; few, so that several are needed.
const PAGE: usize = 3;

#[test]
fn who_was_promised_the_channel_is_told_that_it_began_later() {
    let top = Position { offset: 7, epoch: Epoch::from_random(1) };
    let answer = || told(top, true);
    for (lost, promised, gaps) in
        [(false, None, 0), (true, None, 1), (false, Some(GapCause::Deaf), 1), (true, Some(GapCause::Deaf), 1)]
    {
        let (mut stream, mut steps) = (Stream::default(), Vec::new());
        if lost {
            stream.lost(GapCause::Disconnected);
        }
        stream.subscribed(promised);
        assert_eq!(stream.ask(), Some(Ask { since: None, reached: 0, author: None, top_only: true }));
        assert_eq!(stream.ask(), None, "one at a time");
        stream.hear(top, envelope(top), 1000, &mut Heals::default(), &mut |step| steps.push(step));
        stream.answer(answer(), &mut Heals::default(), &mut |step| steps.push(step));
        assert_eq!(steps.len(), gaps, "{steps:?}");
        assert!(stream.is_established() && !stream.wants());
    }
}

#[test]
fn where_redis_refuses_what_comes_is_all_there_is() {
    let at = |offset| Position { offset, epoch: Epoch::from_random(1) };
    let (mut stream, mut relayed, mut heals) = (Stream::default(), Vec::new(), Heals::default());
    stream.subscribed(None);
    stream.ask().expect("it asks");
    stream.refused(&mut heals, &mut |step| relayed.push(relay(step)));
    assert!(stream.is_established(), "nobody waits for what nobody will say");
    for offset in [4, 5, 7] {
        stream.hear(at(offset), envelope(at(offset)), 1000, &mut heals, &mut |step| {
            relayed.push(relay(step));
        });
    }
    stream.ask().expect("it asks for what is missing");
    stream.refused(&mut heals, &mut |step| relayed.push(relay(step)));
    assert_eq!(relayed, [Some(at(4)), Some(at(5)), None, Some(at(7))]);
    assert!(!stream.wants());
}

/// What was read says nothing of who published it.
#[test]
fn whose_publication_was_the_last_is_known_if_the_bus_brought_it() {
    let at = |offset| Position { offset, epoch: Epoch::from_random(1) };
    let (mut stream, mut heals) = (Stream::default(), Heals::default());
    let author = |stream: &mut Stream| {
        stream.check();
        stream.ask().expect("it compares").author
    };
    stream.subscribed(None);
    stream.ask().expect("where does it stand?");
    stream.answer(told(at(3), true), &mut heals, &mut |_| {});
    assert_eq!(author(&mut stream), None);
    stream.answer(told(at(3), true), &mut heals, &mut |_| {});
    stream.hear(at(4), envelope(at(4)), 1000, &mut heals, &mut |_| {});
    assert_eq!(author(&mut stream), Some((Uuid::nil(), 4)));
    // Held until what was missing before it has been read.
    stream.failed();
    stream.hear(at(6), envelope(at(6)), 1000, &mut heals, &mut |_| {});
    stream.ask().expect("it asks for what is missing");
    let read = History { publications: vec![publication(at(5))], ..told(at(6), true) };
    stream.answer(read, &mut heals, &mut |_| {});
    assert_eq!(author(&mut stream), Some((Uuid::nil(), 6)));
    let read = History { publications: vec![publication(at(7))], ..told(at(7), true) };
    stream.answer(read, &mut heals, &mut |_| {});
    assert_eq!(author(&mut stream), None);
}

/// A check compares what was delivered with what Redis has come to, at two moments: what is on its way between them
/// makes a difference that is none.
#[test]
fn a_single_difference_is_not_believed() {
    let at = |offset| Position { offset, epoch: Epoch::from_random(1) };
    let top = |offset| told(at(offset), true);
    let anew = Position { offset: 0, epoch: Epoch::from_random(2) };
    let anew = || told(anew, false);
    // What the first check finds, what comes between, what the second finds, and what is done then.
    for (first, comes, second, reads, gaps) in [
        (top(2), None, top(2), true, 0),
        (top(2), Some(2), top(2), false, 0),
        (top(2), Some(2), top(3), false, 0),
        (top(2), None, top(1), false, 0),
        (top(1), None, top(2), false, 0),
        (anew(), None, anew(), false, 1),
        (anew(), None, top(1), false, 0),
    ] {
        let row = format!("{:?}, {comes:?}, {:?}", first.top, second.top);
        let (mut stream, mut heals, mut gone) = (Stream::default(), Heals::default(), 0);
        let mut step = |step| gone += usize::from(matches!(step, Step::Gap(_)));
        stream.subscribed(None);
        stream.ask().expect("where does it stand?");
        stream.answer(top(1), &mut heals, &mut step);
        stream.check();
        assert!(stream.ask().expect("it compares").top_only, "{row}");
        stream.answer(first, &mut heals, &mut step);
        assert!(!stream.wants(), "it waits for the next check: {row}");
        if let Some(offset) = comes {
            stream.hear(at(offset), envelope(at(offset)), 1000, &mut heals, &mut step);
        }
        stream.check();
        assert!(stream.ask().expect("it compares").top_only, "{row}");
        stream.answer(second, &mut heals, &mut step);
        assert_eq!((stream.wants(), heals.publications), (reads, 0), "{row}");
        assert_eq!(gone, gaps, "{row}");
    }
}
