//! What happens to one subscriber, as a script, and what the auditor makes of it.

use super::*;
use crate::audit::stamp::Payload;

const RUN: u64 = 7;
const SECOND: u64 = 1_000_000_000;

/// One thing that happens. Publishers and sequence numbers are as in the stamps.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The publisher has sent so many in all.
    Sent(usize, u64),
    /// These arrive, in this order.
    Got(u32, &'static [u64]),
    /// The subscriber is told of a gap.
    Notice,
    /// Its connection ends.
    Leave,
    /// It is back.
    Rejoin,
    /// So many seconds pass.
    Pass(u64),
    /// A message of another run.
    OtherRun,
    /// A message that bears no stamp.
    Garbage,
    /// A message of this run, with a byte changed behind its stamp.
    Altered(u64),
    /// A message of this run that is text where it was sent as binary.
    OtherKind(u64),
}

use Step::*;

/// Once, duplicate, reordered, announced, silent, phantom.
type Classes = [u64; 6];

fn audit(script: &[Step]) -> Audit {
    let pattern = Pattern::new(Payload::Binary, 40).unwrap();
    let sent: Arc<[AtomicU64]> = (0..2).map(|_| AtomicU64::new(0)).collect();
    let mut auditor = Auditor::new(RUN, pattern.clone(), Arc::clone(&sent), 2);
    let mut now = 0;
    let message = |run, publisher, sequence| {
        pattern.clone().stamp(&Stamp { run, publisher, sequence, intended: 0 }).to_vec()
    };
    // The script happens to the second subscriber: the first gets everything.
    let mut got_by_first = [0; 2];
    for step in script {
        match *step {
            Sent(publisher, count) => {
                sent[publisher].store(count, Ordering::Release);
                for sequence in got_by_first[publisher]..count {
                    let receipt = auditor.received(0, false, &message(RUN, publisher as u32, sequence), now);
                    assert!(matches!(receipt, Receipt::Once(_)));
                }
                got_by_first[publisher] = count;
            }
            Got(publisher, sequences) => {
                for sequence in sequences {
                    auditor.received(1, false, &message(RUN, publisher, *sequence), now);
                }
            }
            Notice => auditor.noticed(1, now),
            Leave => auditor.left(1),
            Rejoin => auditor.rejoined(1, now),
            Pass(seconds) => now += seconds * SECOND,
            OtherRun => drop(auditor.received(1, false, &message(RUN + 1, 0, 0), now)),
            Garbage => drop(auditor.received(1, true, b"hello", now)),
            Altered(sequence) => {
                let mut bytes = message(RUN, 0, sequence);
                bytes[39] ^= 1;
                auditor.received(1, false, &bytes, now);
            }
            OtherKind(sequence) => drop(auditor.received(1, true, &message(RUN, 0, sequence), now)),
        }
    }
    let mut audit = auditor.finish();
    audit.delivered_once -= got_by_first[0] + got_by_first[1];
    audit
}

#[test]
fn each_class_can_come_about() {
    let rows: &[(&str, &[Step], Classes)] = &[
        ("all is well", &[Sent(0, 3), Got(0, &[0, 1, 2])], [3, 0, 0, 0, 0, 0]),
        (
            "two publishers",
            &[Sent(0, 2), Sent(1, 1), Got(0, &[0]), Got(1, &[0]), Got(0, &[1])],
            [3, 0, 0, 0, 0, 0],
        ),
        ("nothing came", &[Sent(0, 3)], [0, 0, 0, 0, 3, 0]),
        ("the end is missing", &[Sent(0, 3), Got(0, &[0])], [1, 0, 0, 0, 2, 0]),
        ("the middle is missing", &[Sent(0, 4), Got(0, &[0, 3])], [2, 0, 0, 0, 2, 0]),
        ("the beginning is missing", &[Sent(0, 2), Got(0, &[1])], [1, 0, 0, 0, 1, 0]),
        ("twice", &[Sent(0, 2), Got(0, &[0, 0, 1, 0])], [2, 2, 0, 0, 0, 0]),
        ("changed places", &[Sent(0, 4), Got(0, &[0, 2, 1, 3])], [3, 0, 1, 0, 0, 0]),
        ("changed places, and twice", &[Sent(0, 3), Got(0, &[0, 2, 1, 1])], [2, 1, 1, 0, 0, 0]),
        (
            "another publisher's fill no hole",
            &[Sent(0, 3), Sent(1, 2), Got(0, &[0, 2]), Got(1, &[0, 1])],
            [4, 0, 0, 0, 1, 0],
        ),
        ("of another run", &[Sent(0, 1), OtherRun, Got(0, &[0])], [1, 0, 0, 0, 0, 1]),
        ("of nobody", &[Garbage], [0, 0, 0, 0, 0, 1]),
        ("never sent", &[Sent(0, 1), Got(0, &[0, 5])], [1, 0, 0, 0, 0, 1]),
        ("an unknown publisher", &[Sent(0, 1), Got(2, &[0])], [0, 0, 0, 0, 1, 1]),
        ("altered", &[Sent(0, 1), Altered(0)], [0, 0, 0, 0, 1, 1]),
        ("as another kind", &[Sent(0, 1), OtherKind(0)], [0, 0, 0, 0, 1, 1]),
    ];
    check(rows);
}

#[test]
fn a_notice_announces_what_is_missing_around_it() {
    let rows: &[(&str, &[Step], Classes)] = &[
        ("between", &[Sent(0, 5), Got(0, &[0]), Notice, Got(0, &[4])], [2, 0, 0, 3, 0, 0]),
        ("before the end", &[Sent(0, 5), Got(0, &[0]), Notice], [1, 0, 0, 4, 0, 0]),
        ("just after", &[Sent(0, 5), Got(0, &[0, 4]), Pass(4), Notice], [2, 0, 0, 3, 0, 0]),
        ("long after", &[Sent(0, 5), Got(0, &[0, 4]), Pass(6), Notice], [2, 0, 0, 0, 3, 0]),
        ("before what was whole", &[Sent(0, 5), Notice, Got(0, &[0, 1, 4])], [3, 0, 0, 0, 2, 0]),
        ("needless", &[Sent(0, 2), Got(0, &[0]), Notice, Got(0, &[1])], [2, 0, 0, 0, 0, 0]),
        (
            "for every publisher",
            &[Sent(0, 2), Sent(1, 2), Notice, Got(0, &[1]), Got(1, &[1])],
            [2, 0, 0, 2, 0, 0],
        ),
        ("and it comes after all", &[Sent(0, 3), Got(0, &[0]), Notice, Got(0, &[2, 1])], [2, 0, 1, 0, 0, 0]),
    ];
    check(rows);
}

#[test]
fn a_disconnection_excuses_what_was_sent_before_the_return() {
    let rows: &[(&str, &[Step], Classes)] = &[
        ("never back", &[Sent(0, 1), Got(0, &[0]), Leave, Sent(0, 4)], [1, 0, 0, 3, 0, 0]),
        (
            "back",
            &[Sent(0, 1), Got(0, &[0]), Leave, Sent(0, 4), Rejoin, Sent(0, 6), Got(0, &[4, 5])],
            [3, 0, 0, 3, 0, 0],
        ),
        (
            "back, then silent loss",
            &[Leave, Sent(0, 4), Rejoin, Sent(0, 6), Got(0, &[5])],
            [1, 0, 0, 4, 1, 0],
        ),
        ("back, then nothing", &[Leave, Sent(0, 4), Rejoin, Sent(0, 6)], [0, 0, 0, 4, 2, 0]),
        (
            "some came in time",
            &[Leave, Sent(0, 4), Rejoin, Got(0, &[2, 3]), Sent(0, 5), Got(0, &[4])],
            [3, 0, 0, 2, 0, 0],
        ),
        ("late, after what followed", &[Leave, Sent(0, 4), Rejoin, Got(0, &[3, 2])], [1, 0, 1, 2, 0, 0]),
        (
            "late, after what came then",
            &[Leave, Sent(0, 4), Rejoin, Sent(0, 5), Got(0, &[4, 2])],
            [1, 0, 1, 3, 0, 0],
        ),
        (
            "nothing was sent",
            &[Sent(0, 1), Got(0, &[0]), Leave, Rejoin, Sent(0, 2), Got(0, &[1])],
            [2, 0, 0, 0, 0, 0],
        ),
        (
            "the old connection's came twice",
            &[Sent(0, 1), Got(0, &[0]), Leave, Rejoin, Got(0, &[0])],
            [1, 1, 0, 0, 0, 0],
        ),
        (
            "twice away",
            &[Leave, Sent(0, 2), Rejoin, Leave, Sent(0, 4), Rejoin, Sent(0, 5), Got(0, &[4])],
            [1, 0, 0, 4, 0, 0],
        ),
    ];
    check(rows);
}

#[test]
fn more_holes_than_are_kept_are_still_lost() {
    let holes = HOLES_KEPT as u64 + 10;
    let odd: &'static [u64] = (0..holes).map(|n| n * 2 + 1).collect::<Vec<_>>().leak();
    check(&[("every second", &[Sent(0, holes * 2), Got(0, odd)], [holes, 0, 0, 0, holes, 0])]);
}

#[test]
fn what_is_accounted_for_need_not_be_waited_for() {
    let sent: Arc<[AtomicU64]> = Arc::from([AtomicU64::new(5)]);
    let pattern = Pattern::new(Payload::Binary, 32).unwrap();
    let mut auditor = Auditor::new(RUN, pattern.clone(), sent, 1);
    let get = |auditor: &mut Auditor, sequence| {
        let message =
            pattern.clone().stamp(&Stamp { run: RUN, publisher: 0, sequence, intended: 0 }).to_vec();
        auditor.received(0, false, &message, 0)
    };
    get(&mut auditor, 0);
    get(&mut auditor, 3);
    assert_eq!(auditor.accounted(), 2);
    auditor.noticed(0, 0);
    assert_eq!(auditor.accounted(), 4, "announced");
    get(&mut auditor, 1);
    assert_eq!(auditor.accounted(), 4, "and here after all");
    auditor.left(0);
    auditor.rejoined(0, 0);
    assert_eq!(auditor.accounted(), 5, "sent while away");
}

fn check(rows: &[(&str, &[Step], Classes)]) {
    for (name, script, expected) in rows {
        let audit = audit(script);
        let missing = |announced| {
            let of = |loss: &&Loss| loss.announced == announced;
            audit.losses.iter().filter(of).map(|loss| loss.to - loss.from).sum::<u64>()
        };
        let classes = [
            audit.delivered_once,
            audit.duplicate,
            audit.reordered,
            missing(true),
            missing(false),
            audit.phantom,
        ];
        assert_eq!(classes, *expected, "{name}: {audit:?}");
        assert!(audit.losses.iter().all(|loss| loss.subscriber == 1), "{name}");
    }
}
