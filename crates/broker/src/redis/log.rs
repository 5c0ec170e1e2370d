//! What a lane has published and not yet seen through: to be sent, on its way, or sent and not heard back.
//! It is plain data; who may touch it when is the lane's business.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_protocol::{Channel, Publication};

use super::append::Append;
use super::control::Lost;

/// One queue in the order of sequence numbers, with a mark at how far it was sent and one at how far the bus
/// acknowledged. Everything before the second is kept only until it was heard.
#[derive(Default)]
pub(super) struct Log {
    /// Without holes; the last has the number `last`.
    entries: VecDeque<Message>,
    last: u64,
    sent: u64,
    /// The most that `sent` ever was.
    ever_sent: u64,
    acknowledged: u64,
    /// Of the entries that are not acknowledged.
    waiting_bytes: usize,
    dropped: u64,
    /// What was dropped and not yet announced.
    lost: Option<Lost>,
}

/// What is published under one sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Publication(Channel, Publication),
    /// Delivered here only when the bus brings it.
    Append(Arc<Append>),
    Canary,
    /// An append that is at the bus, or of which nobody wants to know any more.
    Done,
}

impl Message {
    /// What it takes of the memory, about.
    fn bytes(&self) -> usize {
        const ENTRY: usize = 160;
        match self {
            Self::Publication(channel, publication) => ENTRY + channel.as_str().len() + publication.size(),
            Self::Append(append) => ENTRY + append.channel.as_str().len() + append.publication.size(),
            Self::Canary | Self::Done => ENTRY,
        }
    }
}

impl Log {
    /// The number of the last message, 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Bytes that the bus has not acknowledged.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Messages that the bus has not acknowledged.
    pub fn waiting(&self) -> u64 {
        self.last - self.acknowledged
    }

    /// The bus has everything up to here, but for what was dropped.
    pub fn seen_off(&self) -> u64 {
        self.acknowledged
    }

    /// Publications that were dropped unsent, ever.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends; gives the message its number.
    pub fn push(&mut self, message: Message) -> u64 {
        self.last += 1;
        self.waiting_bytes += message.bytes();
        self.entries.push_back(message);
        self.last
    }

    /// Hands out what comes next, up to `count` messages and about `bytes` bytes, and marks it as sent.
    pub fn send(&mut self, count: usize, bytes: usize, mut take: impl FnMut(u64, Message)) {
        let mut left = bytes;
        for message in self.entries.range((self.sent - self.before()) as usize..).take(count) {
            if message.bytes() > left && left < bytes {
                break;
            }
            left = left.saturating_sub(message.bytes());
            self.sent += 1;
            let abandoned = matches!(message, Message::Append(append) if append.is_abandoned());
            take(self.sent, if abandoned { Message::Done } else { message.clone() });
        }
        self.ever_sent = self.ever_sent.max(self.sent);
    }

    /// Up to here everything was handed out at least once.
    pub fn ever_sent(&self) -> u64 {
        self.ever_sent
    }

    /// Whether it was handed out at least once.
    pub fn was_sent(&self, sequence: u64) -> bool {
        sequence <= self.ever_sent
    }

    /// The bus has everything up to this number.
    pub fn acknowledge(&mut self, sequence: u64) {
        let (before, from) = (self.before(), self.acknowledged);
        // What was dropped meanwhile is not there any more.
        for number in from.max(before) + 1..=sequence {
            let entry = &mut self.entries[(number - before - 1) as usize];
            self.waiting_bytes -= entry.bytes();
            if matches!(entry, Message::Append(_)) {
                *entry = Message::Done;
            }
        }
        self.acknowledged = from.max(sequence);
    }

    /// It is not known what became of what was sent and not acknowledged: it will be sent again.
    pub fn send_again(&mut self) {
        self.sent = self.acknowledged;
    }

    /// The publications after this number, in order.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = (&Channel, &Publication)> {
        let start = sequence.saturating_sub(self.before()).min(self.entries.len() as u64);
        self.entries.range(start as usize..).filter_map(|message| match message {
            Message::Publication(channel, publication) => Some((channel, publication)),
            Message::Append(_) | Message::Canary | Message::Done => None,
        })
    }

    /// Forgets what is acknowledged and, as `heard` says, needed by nobody here.
    pub fn trim(&mut self, heard: u64) {
        let seen_through = self.acknowledged.min(heard);
        let count = seen_through.saturating_sub(self.before()) as usize;
        self.entries.drain(..count);
        if self.entries.is_empty() && self.entries.capacity() > 4096 {
            self.entries = VecDeque::new();
        }
    }

    /// Drops the oldest until no more than `limit` bytes wait; what is on its way may take as much again. Only for
    /// when everything has been delivered here that will be, so that the others alone miss it; they are told. Gives
    /// back the channels of appends, which everybody misses.
    #[must_use]
    pub fn shed(&mut self, limit: usize) -> Vec<Channel> {
        self.trim(self.acknowledged);
        let mut missed = Vec::new();
        while self.waiting_bytes > limit {
            let on_its_way = self.before() < self.sent;
            if on_its_way && self.waiting_bytes <= limit.saturating_mul(2) {
                break;
            }
            let Some(message) = self.entries.pop_front() else { break };
            self.waiting_bytes -= message.bytes();
            self.acknowledged = self.before();
            self.sent = self.sent.max(self.acknowledged);
            let channel = match message {
                Message::Publication(channel, _) => channel,
                // Whoever waits for the answer is told by getting none.
                Message::Append(append) if !append.is_awaited() => {
                    missed.push(append.channel.clone());
                    append.channel.clone()
                }
                _ => continue,
            };
            self.lose(&channel);
        }
        missed.sort();
        missed.dedup();
        missed
    }

    /// A publication will never be at the bus.
    pub fn lose(&mut self, channel: &Channel) {
        self.dropped += 1;
        self.lost.get_or_insert_with(Lost::new).add(channel);
    }

    /// What was dropped since the last time.
    pub fn take_lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    /// It could not be announced after all.
    pub fn put_back_lost(&mut self, lost: Lost) {
        match &mut self.lost {
            Some(more) => more.merge(lost),
            None => self.lost = Some(lost),
        }
    }

    /// The number before the first entry's.
    fn before(&self) -> u64 {
        self.last - self.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use fanfare_protocol::Kind;

    use super::*;

    fn message(payload: usize) -> Message {
        Message::Publication(Channel::lobby(), Publication::new(Kind::Binary, Bytes::from(vec![0; payload])))
    }

    fn log(messages: u64) -> Log {
        let mut log = Log::default();
        (0..messages).for_each(|_| {
            log.push(message(100));
        });
        log
    }

    fn sent(log: &mut Log, count: usize, bytes: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        log.send(count, bytes, |number, _| numbers.push(number));
        numbers
    }

    #[test]
    fn messages_go_out_in_order_and_again_when_in_doubt() {
        let mut log = log(5);
        assert_eq!(sent(&mut log, 2, usize::MAX), [1, 2]);
        assert_eq!(sent(&mut log, 9, 600), [3, 4], "two fit into the bytes");
        log.acknowledge(2);
        log.send_again();
        assert_eq!(sent(&mut log, 9, 1), [3], "one always goes");
        assert_eq!(sent(&mut log, 9, usize::MAX), [4, 5]);
        log.acknowledge(5);
        assert_eq!((log.waiting(), log.waiting_bytes()), (0, 0));
        assert_eq!(log.entries.len(), 5, "kept until heard");
        log.trim(3);
        assert_eq!(log.after(3).count(), 2);
        log.trim(9);
        assert_eq!(log.entries.len(), 0);
        assert_eq!(log.push(Message::Canary), 6);
        assert_eq!(sent(&mut log, 9, usize::MAX), [6]);
    }

    #[test]
    fn what_was_not_heard_is_known() {
        let mut log = log(4);
        log.push(Message::Canary);
        for (heard, expected) in [(0, 4), (1, 3), (4, 0), (5, 0), (9, 0)] {
            assert_eq!(log.after(heard).count(), expected, "after {heard}");
        }
        log.trim(4);
        assert_eq!(log.after(0).count(), 4, "not acknowledged, so still there");
    }

    #[test]
    fn the_oldest_go_first_but_not_what_is_on_its_way() {
        let mut log = log(5);
        let each = log.waiting_bytes() / 5;
        assert_eq!(sent(&mut log, 1, usize::MAX), [1]);
        let _ = log.shed(each * 3);
        assert_eq!((log.dropped(), log.waiting()), (0, 5), "the first is on its way");
        log.send_again();
        let _ = log.shed(each * 2);
        assert_eq!((log.dropped(), log.waiting(), log.waiting_bytes()), (3, 2, each * 2));
        let lost = log.take_lost().expect("something was dropped");
        assert_eq!(lost.channels(), Some(&HashSet::from([Channel::lobby()])));
        assert_eq!(log.take_lost(), None);
        log.put_back_lost(lost);
        assert!(log.take_lost().is_some());
        assert_eq!(sent(&mut log, 9, usize::MAX), [4, 5]);
        log.acknowledge(5);
        log.trim(5);
        assert_eq!((log.entries.len(), log.waiting_bytes()), (0, 0));
    }

    #[test]
    fn what_is_on_its_way_is_bounded_too() {
        let mut log = log(9);
        let each = log.waiting_bytes() / 9;
        assert_eq!(sent(&mut log, 5, usize::MAX), [1, 2, 3, 4, 5]);
        let _ = log.shed(each * 3);
        assert_eq!((log.dropped(), log.waiting_bytes()), (3, each * 6));
        log.acknowledge(5);
        log.trim(9);
        assert_eq!((log.waiting(), log.waiting_bytes()), (4, each * 4));
        assert_eq!(sent(&mut log, 9, usize::MAX), [6, 7, 8, 9]);
    }
}
