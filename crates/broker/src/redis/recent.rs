//! What was read of histories within the last second, for thousands of clients that come back at once: most of them
//! have missed the same, or the end of it. It is an answer for as long as nothing else was published, which whoever
//! hears a channel knows; it does not hear the channel itself, and it never holds much.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, Position};

use crate::{History, Query, follow};

/// For so long an answer may be given again: what was removed, or is too old by now, is seen no longer than that.
const LIFE: Duration = Duration::from_secs(1);

/// The most bytes of one answer, and of all together.
const EACH: usize = 64 << 10;
const ALL: usize = 1 << 20;

/// What an answer takes beside its publications, about.
const ENTRY: usize = 256;

/// The last answer of each channel that was read.
#[derive(Default)]
pub(super) struct Recent {
    answers: HashMap<Channel, Answer>,
    /// In the order in which they were read. One that is not there any more was replaced or forgotten.
    order: VecDeque<(Instant, Channel)>,
    bytes: usize,
}

struct Answer {
    /// The publications are all that came after this one, up to the top.
    after: u64,
    history: History,
    read: Instant,
}

impl Recent {
    /// Remembers what came of a query, if it is all that there was.
    pub fn remember(&mut self, channel: &Channel, query: Query, history: &History, now: Instant) {
        self.let_go(now);
        let Some(since) = query.since.filter(|since| since.epoch == history.top.epoch) else { return };
        let is_all = history.top.offset.checked_sub(since.offset) == Some(history.publications.len() as u64);
        if !is_all || !follow(since.offset, &history.publications) || history.bytes > EACH {
            return;
        }
        let known = self.answers.get(channel);
        if known.is_some_and(|known| known.history.top == history.top && known.after <= since.offset) {
            return;
        }
        self.forget(channel);
        self.bytes += history.bytes + ENTRY;
        self.order.push_back((now, channel.clone()));
        let answer = Answer { after: since.offset, history: history.clone(), read: now };
        self.answers.insert(channel.clone(), answer);
        while self.bytes > ALL
            && let Some((read, channel)) = self.order.pop_front()
        {
            self.drop_if(&channel, read);
        }
    }

    /// The answer to a query of a channel that stands at `top`, if it is known.
    pub fn answer(&self, channel: &Channel, query: Query, top: Position, now: Instant) -> Option<History> {
        let Answer { after, history, read } = self.answers.get(channel)?;
        let since = query.since.filter(|since| since.epoch == top.epoch)?;
        let skipped = usize::try_from(since.offset.checked_sub(*after)?).ok()?;
        let publications = history.publications.get(skipped..)?;
        let part = publications.len() as f64 / history.publications.len().max(1) as f64;
        let bytes = (history.bytes as f64 * part).ceil() as usize;
        let is_asked = !query.reverse && publications.len() <= query.limit && bytes <= query.bytes;
        let is_new = history.top == top && now.saturating_duration_since(*read) < LIFE;
        (is_asked && is_new).then(|| History { publications: publications.to_vec(), bytes, ..*history })
    }

    /// The channel's history is not what it was.
    pub fn forget(&mut self, channel: &Channel) {
        if let Some(answer) = self.answers.remove(channel) {
            self.bytes -= answer.history.bytes + ENTRY;
        }
    }

    fn let_go(&mut self, now: Instant) {
        while let Some((read, _)) = self.order.front()
            && now.saturating_duration_since(*read) >= LIFE
            && let Some((read, channel)) = self.order.pop_front()
        {
            self.drop_if(&channel, read);
        }
    }

    fn drop_if(&mut self, channel: &Channel, read: Instant) {
        if self.answers.get(channel).is_some_and(|answer| answer.read == read) {
            self.forget(channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Epoch, Kind, Publication};

    use super::*;

    fn at(offset: u64) -> Position {
        Position { offset, epoch: Epoch::new("kRtA").unwrap() }
    }

    fn read(offsets: std::ops::RangeInclusive<u64>, top: u64, bytes: usize) -> History {
        let publication =
            |offset| Publication { position: Some(at(offset)), ..Publication::new(Kind::Text, "{}".into()) };
        let publications = offsets.map(publication).collect();
        History { publications, bytes, too_much: false, top: at(top), epoch_matches: true }
    }

    fn offsets(history: Option<History>) -> Option<Vec<u64>> {
        let history = history?;
        Some(history.publications.iter().filter_map(|one| one.position).map(|at| at.offset).collect())
    }

    #[test]
    fn what_was_read_answers_whoever_missed_no_more_as_long_as_nothing_was_published() {
        let (news, now) = (Channel::new("news").unwrap(), Instant::now());
        let all = |since| Query::since(since, 100);
        let mut recent = Recent::default();
        recent.remember(&news, all(at(40)), &read(41..=43, 43, 300), now);
        let other = Position { epoch: Epoch::new("abcd").unwrap(), ..at(41) };
        let late = now + LIFE;
        for (query, top, when, expected) in [
            (all(at(40)), at(43), now, Some(&[41, 42, 43][..])),
            (all(at(42)), at(43), now, Some(&[43][..])),
            (all(at(43)), at(43), now, Some(&[][..])),
            // More was missed than was read.
            (all(at(39)), at(43), now, None),
            // Claimed, and not published as far as is known here.
            (all(at(44)), at(43), now, None),
            (all(other), at(43), now, None),
            (all(Position { epoch: Epoch::ANY, ..at(41) }), at(43), now, None),
            // Something was published since, or the history has begun anew.
            (all(at(40)), at(44), now, None),
            (all(at(40)), Position { epoch: other.epoch, ..at(43) }, now, None),
            (Query::since(at(40), 2), at(43), now, None),
            (Query::since(at(41), 2), at(43), now, Some(&[42, 43][..])),
            (all(at(40)).within(299), at(43), now, None),
            (all(at(41)).within(200), at(43), now, Some(&[42, 43][..])),
            (Query { reverse: true, ..all(at(43)) }, at(43), now, None),
            (Query::TOP, at(43), now, None),
            (all(at(40)), at(43), late, None),
        ] {
            let expected = expected.map(<[u64]>::to_vec);
            assert_eq!(offsets(recent.answer(&news, query, top, when)), expected, "{query:?} {top:?}");
        }
        recent.forget(&news);
        assert_eq!(recent.answer(&news, all(at(40)), at(43), now), None);
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn only_what_is_whole_and_not_large_is_remembered() {
        let (news, now) = (Channel::new("news").unwrap(), Instant::now());
        let all = Query::since(at(40), 100);
        let any = Query::since(Position { epoch: Epoch::ANY, ..at(40) }, 100);
        for (query, history, is_remembered) in [
            (all, read(41..=43, 43, EACH), true),
            (Query::since(at(40), 3), read(41..=43, 43, 9), true),
            // The oldest is not kept any more; the newest were not asked for; one in the middle is missing.
            (all, read(42..=43, 43, 9), false),
            (Query::since(at(40), 2), read(41..=42, 43, 9), false),
            (all, read(42..=44, 43, 9), false),
            (any, read(41..=43, 43, 9), false),
            (all, read(41..=43, 43, EACH + 1), false),
            (Query::TOP, read(43..=43, 43, 9), false),
        ] {
            let mut recent = Recent::default();
            recent.remember(&news, query, &history, now);
            let answer = recent.answer(&news, Query::since(at(42), 100), at(43), now);
            assert_eq!(answer.is_some(), is_remembered, "{query:?} {history:?}");
        }
    }

    #[test]
    fn it_holds_no_more_than_it_may_and_nothing_old() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let channel = |number: usize| Channel::new(&format!("room{number}")).unwrap();
        let query = Query::since(at(0), 100);
        let most = ALL / (EACH + ENTRY);
        for number in 0..3 * most {
            recent.remember(&channel(number), query, &read(1..=1, 1, EACH), now);
            assert!(recent.bytes <= ALL, "{}", recent.bytes);
        }
        let is_known = |recent: &Recent, number| recent.answer(&channel(number), query, at(1), now).is_some();
        assert!(!is_known(&recent, 2 * most - 1) && is_known(&recent, 3 * most - 1));
        // One that is read again and again has one answer, the last.
        for top in 2..10 {
            recent.remember(&channel(3 * most - 1), query, &read(1..=top, top, 9), now);
        }
        assert_eq!(recent.answers.len(), most);
        let late = now + LIFE;
        recent.remember(&channel(0), query, &read(1..=1, 1, 9), late);
        assert_eq!((recent.answers.len(), recent.order.len(), recent.bytes), (1, 1, 9 + ENTRY));
    }
}
