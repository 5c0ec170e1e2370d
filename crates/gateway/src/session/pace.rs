//! How much is read from one client at a time, and when others have their turn: the more work there is in what it
//! sent, the less the next read takes. It neither reads nor decodes.

use std::time::Duration;

use fanfare_hub::Toll;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::relay::work::TURN;
use crate::worker::SCRATCH;

/// What a frame costs at least, as bytes of a large one: a hundred of them take a quarter of a millisecond.
const FRAME: usize = 512;

/// The same for a record of TLS, and for one that carries nothing: it changes a key, and that is what costs most.
const RECORD: usize = 128;
const EMPTY_RECORD: usize = 1 << 10;

/// After a read that was more than it looked, all small frames or deflated a hundred times, the next is of so many
/// bytes: a millisecond of them at a time would be noticed by every neighbour, and a whole scratch buffer of them could
/// become 64 MiB before anybody is asked whether there is room.
const CRUMBS: usize = 4 << 10;

/// What is read may become so many times as much.
const SWOLLEN: usize = 4;

/// How long nothing is read, now and then, from a client that was told to go: its end is all that is waited for, and
/// a flood that is thrown away should cost nobody anything but the client.
const DEAF: Duration = Duration::from_millis(10);

/// One connection's.
pub struct Pace {
    /// So many bytes' worth of work have been read without a pause.
    rush: u32,
    /// Others have so many more turns when it gives way: what was published wants as many, of this worker or another.
    turns: u16,
    /// The last read was more than it looked.
    crumbs: bool,
}

/// What was in some bytes.
#[derive(Debug, Default)]
pub struct Taken {
    /// Whole messages and control frames.
    pub frames: usize,
    /// The messages' bytes, as they are after inflating.
    pub bytes: usize,
    /// What there was to encode and to deflate of what they published, as bytes that are written.
    pub work: usize,
}

impl Pace {
    /// Of a connection that may send anything: a little of it shows what.
    pub const fn new() -> Self {
        Self { rush: 0, turns: 0, crumbs: true }
    }

    /// The most bytes that the next read may take.
    pub fn most(&self) -> usize {
        if self.crumbs { CRUMBS } else { SCRATCH }
    }

    /// So many bytes were read, this was in them, and this did it take.
    pub fn took(&mut self, read: usize, Taken { frames, bytes, work: made }: &Taken, toll: Toll) {
        let read = read.max(toll.sealed as usize);
        let records = toll.records as usize * RECORD + toll.empty as usize * EMPTY_RECORD;
        let work = frames * FRAME + records;
        self.crumbs = work > read || *bytes > read * SWOLLEN;
        self.rush = self.rush.saturating_add(read.max(work).max(*bytes) as u32);
        self.owe(*made);
    }

    /// What was published takes so much work: so many turns are others' before more is published.
    pub fn owe(&mut self, work: usize) {
        self.rush = self.rush.saturating_add(u32::try_from(work).unwrap_or(u32::MAX));
        self.turns = self.turns.saturating_add(u16::try_from(work / TURN).unwrap_or(u16::MAX));
    }

    /// Nothing is left to be read: what comes next may be anything.
    pub fn dry(&mut self) {
        *self = Self::new();
    }

    /// Gives others their turn, if it has been read for long: a socket that never runs dry would keep the thread from
    /// everybody else. Not after each read, because what is published together is written together. From a `deaf` one,
    /// of which nothing but its end is of interest, nothing is read for a while.
    pub async fn give_way(&mut self, deaf: bool) {
        if (self.rush as usize) < SCRATCH {
            return;
        }
        self.rush = 0;
        let turns = std::mem::take(&mut self.turns);
        if deaf {
            // Boxed, or every idle connection would keep the room for it.
            Box::pin(sleep(DEAF)).await;
        } else {
            for _ in 0..=turns {
                yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    const KIB: usize = 1 << 10;

    /// What a client sends, so much and so often until others have their turn.
    struct Row {
        name: &'static str,
        read: usize,
        taken: Taken,
        toll: Toll,
        /// Of the read after it.
        most: usize,
        /// After how many reads others have their turn.
        reads: usize,
        /// And how many turns those are.
        turns: usize,
    }

    #[tokio::test]
    async fn the_more_work_the_less_is_read() {
        let row = |name, read, frames, bytes, most, reads| Row {
            name,
            read,
            taken: Taken { frames, bytes, work: 0 },
            toll: Toll::default(),
            most,
            reads,
            turns: 1,
        };
        let made = |row: Row, work, turns| Row { taken: Taken { work, ..row.taken }, turns, ..row };
        let sealed = |row, bytes: usize, records, empty| Row {
            toll: Toll { sealed: bytes as u32, records, empty },
            ..row
        };
        let rows = [
            row("large messages", 64 * KIB, 1, 64 * KIB, SCRATCH, 1),
            row("a part of one", 64 * KIB, 0, 0, SCRATCH, 1),
            row("small reads of it", 8 * KIB, 0, 0, SCRATCH, 8),
            row("messages of 512 bytes", 16 * KIB, 32, 16 * KIB, SCRATCH, 4),
            row("messages that are smaller", 16 * KIB, 33, 16 * KIB, CRUMBS, 4),
            // 128 of them are as much work as 64 KiB in one.
            row("one small message at a time", 20, 1, 10, CRUMBS, 128),
            row("crumbs", 4 * KIB, 680, 0, CRUMBS, 1),
            made(row("what is encoded", 16 * KIB, 1, 16 * KIB, SCRATCH, 2), 16 * KIB, 1),
            made(row("what is deflated", 16 * KIB, 1, 16 * KIB, SCRATCH, 1), 64 * KIB, 1),
            made(row("what is deflated in six ways", 64 * KIB, 1, 64 * KIB, SCRATCH, 1), 6 * TURN, 7),
            made(row("and small", 20, 1, 10, CRUMBS, 98), 160, 1),
            row("what inflates a little", 4 * KIB, 1, 16 * KIB, SCRATCH, 4),
            row("what inflates a lot", 4 * KIB, 1, 16 * KIB + 1, CRUMBS, 4),
            row("a bomb", 4 * KIB, 1, 4096 * KIB, CRUMBS, 1),
            sealed(row("large records", 63 * KIB, 1, 63 * KIB, SCRATCH, 1), 64 * KIB, 4, 0),
            sealed(row("a small message in its record", 20, 1, 10, CRUMBS, 103), 42, 1, 0),
            sealed(row("records of one byte", 170, 0, 0, CRUMBS, 4), 4 * KIB, 170, 0),
            sealed(row("new keys", 4, 0, 0, CRUMBS, 1), 4 * KIB, 150, 146),
            sealed(row("one new key at a time", 0, 0, 0, CRUMBS, 57), 27, 1, 1),
        ];
        for Row { name, read, taken, toll, most, reads, turns } in rows {
            let mut pace = Pace::new();
            assert_eq!(pace.most(), CRUMBS, "{name}");
            for number in 1..=reads {
                assert_eq!(pace.give_way(false).now_or_never(), Some(()), "{name}: before read {number}");
                pace.took(read, &taken, toll);
                assert_eq!(pace.most(), most, "{name}");
            }
            let mut way = Box::pin(pace.give_way(false));
            for turn in 0..turns {
                assert_eq!(way.as_mut().now_or_never(), None, "{name}: after read {reads}, turn {turn}");
            }
            assert_eq!(way.as_mut().now_or_never(), Some(()), "{name}: after {turns} turns");
            drop(way);
            // That was its rest.
            assert_eq!(pace.give_way(false).now_or_never(), Some(()), "{name}");
            pace.took(60 * KIB, &taken, toll);
            pace.dry();
            assert_eq!((pace.most(), pace.rush), (CRUMBS, 0), "{name}");
        }
    }

    #[tokio::test]
    async fn who_is_not_heard_any_more_is_read_now_and_then() {
        let (mut pace, flood) = (Pace::new(), Taken::default());
        let start = Instant::now();
        for _ in 0..3 {
            pace.took(SCRATCH - 1, &flood, Toll::default());
            assert_eq!(pace.give_way(true).now_or_never(), Some(()));
            pace.took(1, &flood, Toll::default());
            pace.give_way(true).await;
        }
        // A sleep never ends too soon, however busy the machine is.
        assert!(start.elapsed() >= 3 * DEAF, "{:?}", start.elapsed());

        // Whoever is heard only lets others go first: everybody else who is there has had one turn then.
        pace.took(SCRATCH, &flood, Toll::default());
        let mut way = pin!(pace.give_way(false));
        assert_eq!(way.as_mut().now_or_never(), None);
        assert_eq!(way.now_or_never(), Some(()));
    }
}
