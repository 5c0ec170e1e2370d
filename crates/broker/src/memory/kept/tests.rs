//! What is kept, for how long, and what goes first.

use bytes::Bytes;
use fanfare_protocol::Kind;

use super::*;

/// One that keeps everything for its time.
fn kept() -> Kept {
    Kept::new(Arc::new(Allowance::new(usize::MAX, 1)), 0)
}

const SECOND: Duration = Duration::from_secs(1);

fn publication() -> Publication {
    Publication::new(Kind::Text, Bytes::from_static(b"x"))
}

#[test]
fn everything_goes_in_its_time_and_leaves_nothing() {
    let start = Instant::now();
    let at = |seconds: u32| start + SECOND * seconds;
    let channel = Channel::lobby();
    let retention = Retention { size: 2, ttl: SECOND * 10, meta_ttl: SECOND * 100 };
    let once = AppendOptions { idempotency_ttl: SECOND * 5, ..AppendOptions::once("key") };
    let mut kept = kept();
    for now in [0, 1, 2, 8] {
        kept.append(&channel, &publication(), retention, at(now));
    }
    kept.remember(&channel, &once, None, at(8));
    // At, publications kept, results kept, streams kept.
    for (now, publications, results, streams) in
        [(12, 2, 1, 1), (13, 2, 0, 1), (17, 2, 0, 1), (18, 0, 0, 1), (107, 0, 0, 1), (108, 0, 0, 0)]
    {
        kept.forget(at(now));
        let found = kept.streams.get(&channel).map_or(0, |stream| stream.publications.len());
        assert_eq!(
            (found, kept.results.len(), kept.streams.len()),
            (publications, results, streams),
            "{now}"
        );
    }
    assert_eq!((kept.due.len(), kept.idle.len(), kept.ending.len(), kept.allowance.kept()), (0, 0, 0, 0));
}

#[test]
fn a_history_that_comes_back_after_its_life_goes_on_counting_and_expires_again() {
    let start = Instant::now();
    let channel = Channel::lobby();
    let retention = Retention { size: 2, ttl: SECOND, meta_ttl: SECOND * 100 };
    let mut kept = kept();
    for round in 0..50 {
        let now = start + SECOND * round;
        kept.forget(now);
        let position = kept.append(&channel, &publication(), retention, now);
        assert_eq!(position.offset, u64::from(round) + 1);
        let read = kept.read(&channel, Query::ALL, retention, now);
        assert_eq!((read.publications.len(), kept.due.len()), (1, 1));
    }
}

#[test]
fn names_that_nothing_was_published_to_leave_nothing_and_keep_their_place() {
    let start = Instant::now();
    let retention = Retention { size: 2, ttl: SECOND, meta_ttl: SECOND * 10 };
    let named = |number: usize| Channel::new(&format!("made up {number}")).expect("a name");
    let mut kept = kept();
    let told: Vec<_> =
        (0..1000).map(|number| kept.read(&named(number), Query::TOP, retention, start).top).collect();
    assert_eq!((kept.streams.len(), kept.due.len(), kept.beginnings.forgotten.len()), (0, 0, 0));
    for (number, told) in told.iter().enumerate() {
        let channel = named(number);
        let back = kept.read(&channel, Query::since(*told, 9), retention, start + SECOND * 1000);
        assert_eq!((back.top, back.epoch_matches, back.publications.len()), (*told, true, 0));
        let first = kept.append(&channel, &publication(), retention, start + SECOND * 1000);
        assert_eq!(first, Position { offset: 1, ..*told }, "whoever waited has missed nothing");
        let missed = kept.read(&channel, Query::since(*told, 9), retention, start + SECOND * 1000);
        assert_eq!((missed.epoch_matches, missed.publications.len()), (true, 1));
    }
    assert_eq!(kept.streams.len(), 1000);
    kept.forget(start + SECOND * 2000);
    assert_eq!((kept.streams.len(), kept.due.len()), (0, 0));
    for (number, told) in told.iter().enumerate() {
        let back = kept.read(&named(number), Query::since(*told, 9), retention, start + SECOND * 2000);
        assert_eq!(back.publications, []);
        assert!(back.epoch_matches && back.top.offset > 0, "{number}: what was forgotten is announced");
        let next = kept.append(&named(number), &publication(), retention, start + SECOND * 2000);
        assert_eq!(next, Position { offset: back.top.offset + 1, ..*told }, "no offset is given twice");
    }
}

/// Whatever happens in whatever order, what the allowance was told is what is there.
#[test]
fn the_allowance_knows_what_is_kept() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut kept = kept();
        for step in 0..500 {
            now += Duration::from_millis(random.u64(..2000));
            kept.forget(now);
            let channel = Channel::new(&"x".repeat(random.usize(1..9))).expect("a name");
            let seconds = |random: &mut fastrand::Rng| SECOND * random.u32(1..100);
            let (ttl, meta_ttl) = (seconds(&mut random), seconds(&mut random));
            let retention = Retention { size: random.usize(1..5), ttl, meta_ttl };
            match random.u8(..9) {
                0..=3 => {
                    let payload = Bytes::from(vec![0; random.usize(..1000)]);
                    let info = random.bool().then(Arc::default);
                    let said = Publication { info, ..Publication::new(Kind::Binary, payload) };
                    kept.append(&channel, &said, retention, now);
                }
                4 => {
                    let version = Version { number: random.u64(..9), epoch: "e".repeat(random.usize(..9)) };
                    kept.suppress(&channel, &version, retention, now);
                }
                5 => kept.remove(&channel),
                6 => {
                    let once = AppendOptions::once(step.to_string());
                    let once = AppendOptions { idempotency_ttl: seconds(&mut random), ..once };
                    kept.remember(&channel, &once, None, now);
                }
                7 => kept.give_up_result(),
                _ => {
                    kept.read(&channel, Query::TOP, retention, now);
                }
            }
            let content =
                |stream: &Stream| -> usize { stream.publications.iter().map(weight::of_publication).sum() };
            assert!(kept.streams.values().all(|stream| stream.content == content(stream)), "{seed}");
            let streams: usize = kept
                .streams
                .iter_mut()
                .map(|(channel, stream)| {
                    let (told, is) = stream.weigh(channel);
                    assert_eq!(told, is, "{seed}");
                    is
                })
                .sum();
            let results: usize = kept.results.keys().map(|(channel, key)| weigh_result(channel, key)).sum();
            assert_eq!(kept.allowance.kept(), streams + results, "{seed}");
            let (streams, results) = (kept.streams.len(), kept.results.len());
            assert_eq!(
                (kept.due.len(), kept.idle.len(), kept.ending.len()),
                (streams, streams, results),
                "{seed}"
            );
        }
        kept.forget(now + SECOND * 1000);
        assert_eq!(kept.allowance.kept(), 0, "{seed}");
    }
}
