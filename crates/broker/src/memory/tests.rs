//! All that is kept, against its bound.

use bytes::Bytes;
use fanfare_protocol::{Kind, Position};

use super::*;
use crate::{Gap, Retention};

/// Nobody hears anything.
struct Nobody;

impl Relay for Nobody {
    fn deliver(&self, _channel: &Channel, _publication: Publication) {}
    fn gap(&self, gap: Gap) {
        panic!("{gap:?}");
    }
    fn wanted(&self, _channel: &Channel) -> bool {
        false
    }
}

fn broker(most: usize, runtime: &tokio::runtime::Runtime) -> Memory {
    let retain: Retain = Arc::new(|channel| {
        let size = if channel.as_str().starts_with("short") { 3 } else { 10_000 };
        Some(Retention::new(size, Duration::from_secs(300)))
    });
    Memory::new(Arc::new(Nobody), retain, most, Uuid::nil(), runtime.handle())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn said(bytes: usize) -> Publication {
    Publication::new(Kind::Binary, Bytes::from(vec![7; bytes]))
}

fn named(name: impl std::fmt::Display) -> Channel {
    Channel::new(&name.to_string()).expect("a name")
}

impl Memory {
    fn say(&self, channel: &Channel, bytes: usize) -> Position {
        let appended = self.append_now(channel, said(bytes), &AppendOptions::default());
        appended.position.expect("it is numbered")
    }

    fn read(&self, channel: &Channel, query: Query) -> History {
        let retention = (self.retain)(channel).expect("it has a history");
        self.order(channel).lock().read(channel, query, retention, Instant::now())
    }

    fn is_kept(&self, channel: &Channel) -> bool {
        !self.read(channel, Query::ALL).publications.is_empty()
    }
}

/// The channels of all parts stand in one line, and the oldest publication of the first goes first.
#[test]
fn what_was_published_longest_ago_is_forgotten_first() {
    const MOST: usize = 1 << 20;
    let runtime = runtime();
    let broker = broker(MOST, &runtime);
    let favourite = named("favourite");
    for number in 0..3000 {
        broker.say(&named(number), 2500);
        broker.say(&favourite, 10);
        assert!(broker.status().kept_bytes <= MOST as u64);
    }
    let kept: Vec<_> = (0..3000).filter(|number| broker.is_kept(&named(number))).collect();
    assert!(kept.len() > 100 && kept.len() < MOST / 2500, "{}", kept.len());
    assert!(kept.iter().copied().eq(3000 - kept.len()..3000), "the others are the oldest: {kept:?}");
    assert_eq!(broker.read(&favourite, Query::ALL).publications.len(), 3000);
    assert_eq!(broker.status().publications_given_up, 3000 - kept.len() as u64);
    // One channel alone gives up its own, from the old end, and goes on counting.
    for number in 0..2000 {
        assert_eq!(broker.say(&favourite, 2500).offset, 3001 + number);
    }
    let read = broker.read(&favourite, Query::ALL);
    assert!(read.publications.len() > 200 && read.publications.len() < MOST / 2500);
    assert_eq!(read.publications.last().unwrap().position, Some(read.top));
    assert!(!(0..3000).any(|number| broker.is_kept(&named(number))));
    // And what is larger than everything is published all the same.
    let top = broker.say(&favourite, MOST);
    assert_eq!((top.offset, broker.is_kept(&favourite)), (5001, false));
    assert_eq!(broker.say(&favourite, 10), Position { offset: 5002, ..top });
    assert!(broker.is_kept(&favourite));
}

/// Whoever comes back with any position that was ever told, gets everything behind it or can see that it does not.
#[test]
fn nothing_is_lost_in_silence() {
    for seed in 0..30 {
        let runtime = runtime();
        let mut random = fastrand::Rng::with_seed(seed);
        let broker = broker(random.usize(2_000..40_000), &runtime);
        let mut published: HashMap<Channel, Vec<Position>> = HashMap::new();
        for _ in 0..2000 {
            let kind = if random.bool() { "short" } else { "long" };
            let channel = named(format!("{kind} {}", random.usize(..30)));
            let told = published
                .entry(channel.clone())
                .or_insert_with(|| vec![broker.read(&channel, Query::TOP).top]);
            if random.u8(..3) > 0 {
                let position = broker.say(&channel, random.usize(..500));
                let last = told.last().expect("there is one");
                assert!(position.offset > last.offset, "no offset is given twice");
                told.push(position);
                continue;
            }
            let place = random.usize(..told.len());
            let behind = &told[place + 1..];
            let read = broker.read(&channel, Query::since(told[place], usize::MAX));
            let offsets: Vec<_> = read
                .publications
                .iter()
                .filter_map(|publication| Some(publication.position?.offset))
                .collect();
            // As a session judges it: whole is what goes on without a hole up to the top.
            let is_whole = read.epoch_matches && (told[place].offset + 1..=read.top.offset).eq(offsets);
            let all = behind.iter().map(|position| position.offset);
            assert!(
                !is_whole
                    || read.publications.len() == behind.len()
                        && all.eq(told[place].offset + 1..=read.top.offset)
            );
        }
        assert!(broker.status().publications_given_up > 0);
    }
}

#[test]
fn keys_are_forgotten_for_too_many_keys_alone() {
    const MOST: usize = 200_000;
    let runtime = runtime();
    let broker = broker(MOST, &runtime);
    let once =
        |number: usize| AppendOptions { skip_history: true, ..AppendOptions::once(number.to_string()) };
    let is_known = |number: usize| {
        let channel = named(number % 100);
        broker.order(&channel).lock().result(&channel, &once(number)).is_some()
    };
    for number in 0..50 {
        broker.append_now(&named(number % 100), said(10), &once(number));
    }
    for number in 0..1000 {
        broker.say(&named(number), 2500);
    }
    assert!((0..50).all(is_known), "whatever is published");
    for number in 50..1000 {
        broker.append_now(&named(number % 100), said(10), &once(number));
        assert!(is_known(number));
        assert!(broker.status().kept_bytes <= MOST as u64);
    }
    let known: Vec<_> = (0..1000).filter(|number| is_known(*number)).collect();
    assert!(known.len() > 60 && known.len() < 500, "{}", known.len());
    assert!(known.iter().copied().eq(1000 - known.len()..1000), "the others are the oldest: {known:?}");
    assert_eq!(broker.status().keys_given_up, 1000 - known.len() as u64);
    assert!(broker.is_kept(&named(999)), "and the rest is for histories");
}

/// Several who publish at once keep to the bound together.
#[test]
fn publishers_on_many_threads_keep_to_the_bound() {
    const MOST: usize = 1 << 20;
    let runtime = runtime();
    let broker = broker(MOST, &runtime);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let broker = &broker;
            scope.spawn(move || {
                for number in 0..2000 {
                    broker.say(&named(format!("{thread} {number}")), 2500);
                    assert!(broker.status().kept_bytes < MOST as u64 + 4 * 4000);
                }
            });
        }
    });
    let kept = broker.status().kept_bytes;
    assert!(kept <= MOST as u64 && kept > MOST as u64 / 2, "{kept}");
}
