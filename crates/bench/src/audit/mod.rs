//! Whether every delivery that was due came: once, in order, and where not, whether the server said so.
//!
//! For each pair of subscriber and publisher the auditor keeps the next number that it expects, and only
//! when one did not come, the hole. It does not know sockets or threads: each thread audits the subscribers
//! that it reads, and [`Audit`]s are added up.
//!
//! A missing message is *announced* if the subscriber was told of a gap between the messages on either side of
//! the hole, or within [`NOTICE_GRACE`] of its showing, or was not connected when it was sent.

pub mod json;
pub mod latency;
pub mod losses;
pub mod stamp;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit::losses::{Complaint, Loss};
use crate::audit::stamp::{Pattern, Stamp};

/// How long after a hole has shown a notice may still announce it, in nanoseconds.
pub const NOTICE_GRACE: u64 = 5_000_000_000;

/// Holes that are remembered for each subscriber, in case what is missing comes late. Older ones are lost for
/// good, and what fills them afterwards counts as a duplicate.
const HOLES_KEPT: usize = 1024;

/// Audits the deliveries to some subscribers, which it knows by their index.
#[derive(Debug)]
pub struct Auditor {
    run: u64,
    pattern: Pattern,
    sent: Arc<[AtomicU64]>,
    /// A row of publishers for each subscriber.
    pairs: Vec<Pair>,
    ledgers: Vec<Ledger>,
    audit: Audit,
}

/// What a message turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Due, and here for the first time, in order.
    Once(Stamp),
    /// Due, and here for the first time, after one that was sent later.
    Reordered(Stamp),
    /// Was here before.
    Duplicate,
    /// Not of this run, never sent, or altered on its way.
    Phantom,
}

/// Deliveries by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Once and in order.
    pub delivered_once: u64,
    /// Once, but after one that was sent later.
    pub reordered: u64,
    /// A second time, and every further time.
    pub duplicate: u64,
    /// What nobody sent.
    pub phantom: u64,
    /// What is missing now and was announced; some of it may still come.
    pub announced: u64,
    /// What did not come; complete once the auditor has finished.
    pub losses: Vec<Loss>,
    /// The first few offences, for whoever has to find the cause.
    pub complaints: Vec<Complaint>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    /// The number that should come next.
    next: u64,
    /// The subscriber's `breaks` when the last one came.
    breaks: u32,
}

#[derive(Debug, Clone, Default)]
struct Ledger {
    /// Notices of a gap and own disconnections so far: a hole with one of them inside is announced.
    breaks: u32,
    /// Some hole is `Open`, so that even the expected message must be looked at twice.
    open: bool,
    holes: Vec<Hole>,
}

/// Numbers `from..to` of a publisher that a subscriber has not got.
#[derive(Debug, Clone, Copy)]
struct Hole {
    publisher: u32,
    from: u64,
    to: u64,
    found: u64,
    kind: HoleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoleKind {
    /// Nobody said anything.
    Silent,
    /// The subscriber knows that it missed something here.
    Announced,
    /// Sent before the subscriber was known to be back: it may come, in order, or not.
    Open,
}

impl Auditor {
    /// An auditor for `subscribers` subscribers of one run. `sent` counts, for each publisher, what it has
    /// begun to send; all subscribers are connected before the first message.
    pub fn new(run: u64, pattern: Pattern, sent: Arc<[AtomicU64]>, subscribers: usize) -> Self {
        Self {
            run,
            pattern,
            pairs: vec![Pair::default(); subscribers * sent.len()],
            sent,
            ledgers: vec![Ledger::default(); subscribers],
            audit: Audit::default(),
        }
    }

    /// Classes a message that came at `now`.
    pub fn received(&mut self, subscriber: usize, text: bool, message: &[u8], now: u64) -> Receipt {
        let publishers = self.sent.len();
        let stamp = self
            .pattern
            .read(text, message)
            .filter(|stamp| stamp.run == self.run && (stamp.publisher as usize) < publishers);
        let Some(stamp) = stamp else { return self.phantom(subscriber) };
        let ledger = &self.ledgers[subscriber];
        let pair = &mut self.pairs[subscriber * publishers + stamp.publisher as usize];
        if stamp.sequence == pair.next && !ledger.open {
            *pair = Pair { next: pair.next + 1, breaks: ledger.breaks };
            self.audit.delivered_once += 1;
            return Receipt::Once(stamp);
        }
        self.out_of_step(subscriber, stamp, now)
    }

    /// The subscriber was told of a gap.
    pub fn noticed(&mut self, subscriber: usize, now: u64) {
        let ledger = &mut self.ledgers[subscriber];
        ledger.breaks += 1;
        for hole in &mut ledger.holes {
            if hole.kind == HoleKind::Silent && now.saturating_sub(hole.found) <= NOTICE_GRACE {
                hole.kind = HoleKind::Announced;
                self.audit.announced += hole.to - hole.from;
            }
        }
    }

    /// The subscriber's connection has ended.
    pub fn left(&mut self, subscriber: usize) {
        self.ledgers[subscriber].breaks += 1;
    }

    /// The subscriber is connected again. What was sent before this moment may be missing; what is sent from
    /// now on may not.
    pub fn rejoined(&mut self, subscriber: usize, now: u64) {
        let ledger = &mut self.ledgers[subscriber];
        let row = subscriber * self.sent.len();
        for (publisher, sent) in self.sent.iter().enumerate() {
            let pair = &mut self.pairs[row + publisher];
            let sent = sent.load(Ordering::Acquire).max(pair.next);
            if sent > pair.next {
                let (from, to) = (pair.next, sent);
                let publisher = publisher as u32;
                ledger.holes.push(Hole { publisher, from, to, found: now, kind: HoleKind::Open });
                ledger.open = true;
                self.audit.announced += to - from;
            }
            *pair = Pair { next: sent, breaks: ledger.breaks };
        }
    }

    /// Deliveries that nobody needs to wait for any more: they came, or their loss was announced.
    pub fn accounted(&self) -> u64 {
        self.audit.delivered_once + self.audit.reordered + self.audit.announced
    }

    /// Ends the audit: what has not come by now is lost.
    pub fn finish(mut self) -> Audit {
        for subscriber in 0..self.ledgers.len() {
            let ledger = std::mem::take(&mut self.ledgers[subscriber]);
            for hole in ledger.holes {
                self.lose(subscriber, hole);
            }
            for publisher in 0..self.sent.len() {
                let pair = self.pairs[subscriber * self.sent.len() + publisher];
                let to = self.sent[publisher].load(Ordering::Acquire);
                if to > pair.next {
                    let kind =
                        if pair.breaks == ledger.breaks { HoleKind::Silent } else { HoleKind::Announced };
                    let publisher = publisher as u32;
                    self.lose(subscriber, Hole { publisher, from: pair.next, to, found: 0, kind });
                }
            }
        }
        self.audit
    }

    fn phantom(&mut self, subscriber: usize) -> Receipt {
        self.audit.phantom += 1;
        self.audit.complain(Complaint::phantom(subscriber));
        Receipt::Phantom
    }

    /// A message of this run that is not simply the next one.
    fn out_of_step(&mut self, subscriber: usize, stamp: Stamp, now: u64) -> Receipt {
        let index = stamp.publisher as usize;
        let pair = self.pairs[subscriber * self.sent.len() + index];
        if stamp.sequence >= self.sent[index].load(Ordering::Acquire) {
            return self.phantom(subscriber);
        }
        if stamp.sequence < pair.next {
            return self.fill(subscriber, stamp);
        }
        let ledger = &mut self.ledgers[subscriber];
        for hole in &mut ledger.holes {
            if hole.publisher == stamp.publisher && hole.kind == HoleKind::Open {
                hole.kind = HoleKind::Announced;
            }
        }
        ledger.refresh();
        let breaks = ledger.breaks;
        if stamp.sequence > pair.next {
            let kind = if pair.breaks == breaks { HoleKind::Silent } else { HoleKind::Announced };
            let (from, to) = (pair.next, stamp.sequence);
            self.dig(subscriber, Hole { publisher: stamp.publisher, from, to, found: now, kind });
        }
        self.pairs[subscriber * self.sent.len() + index] = Pair { next: stamp.sequence + 1, breaks };
        self.audit.delivered_once += 1;
        Receipt::Once(stamp)
    }

    /// An older message: it fills a hole, or it was here before.
    fn fill(&mut self, subscriber: usize, stamp: Stamp) -> Receipt {
        let ledger = &mut self.ledgers[subscriber];
        let Stamp { publisher, sequence, .. } = stamp;
        let within = |hole: &Hole| hole.publisher == publisher && (hole.from..hole.to).contains(&sequence);
        let Some(at) = ledger.holes.iter().position(within) else {
            self.audit.duplicate += 1;
            self.audit.complain(Complaint::duplicate(subscriber, publisher, sequence));
            return Receipt::Duplicate;
        };
        let hole = ledger.holes.swap_remove(at);
        // In an open hole, what lies before a message that came in order will not come any more.
        let before = if hole.kind == HoleKind::Open { HoleKind::Announced } else { hole.kind };
        let parts = [Hole { to: sequence, kind: before, ..hole }, Hole { from: sequence + 1, ..hole }];
        ledger.holes.extend(parts.into_iter().filter(|part| part.from < part.to));
        ledger.refresh();
        if hole.kind != HoleKind::Silent {
            self.audit.announced -= 1;
        }
        if hole.kind == HoleKind::Open {
            self.audit.delivered_once += 1;
            return Receipt::Once(stamp);
        }
        self.audit.reordered += 1;
        self.audit.complain(Complaint::reordered(subscriber, publisher, sequence));
        Receipt::Reordered(stamp)
    }

    fn dig(&mut self, subscriber: usize, hole: Hole) {
        if hole.kind == HoleKind::Announced {
            self.audit.announced += hole.to - hole.from;
        }
        let ledger = &mut self.ledgers[subscriber];
        ledger.holes.push(hole);
        if ledger.holes.len() > HOLES_KEPT {
            let oldest = ledger.holes.remove(0);
            ledger.refresh();
            self.lose(subscriber, oldest);
        }
    }

    fn lose(&mut self, subscriber: usize, hole: Hole) {
        let Hole { publisher, from, to, kind, .. } = hole;
        let loss = Loss { subscriber, publisher, from, to, announced: kind != HoleKind::Silent };
        if !loss.announced {
            self.audit.complain(Complaint::lost(&loss));
        }
        self.audit.losses.push(loss);
    }
}

impl Ledger {
    fn refresh(&mut self) {
        self.open = self.holes.iter().any(|hole| hole.kind == HoleKind::Open);
    }
}

impl Audit {
    /// Offences that are kept as examples.
    const COMPLAINTS_KEPT: usize = 10;

    /// Adds another thread's audit, whose subscribers follow this one's.
    pub fn add(&mut self, other: Self, first_subscriber: usize) {
        self.delivered_once += other.delivered_once;
        self.reordered += other.reordered;
        self.duplicate += other.duplicate;
        self.phantom += other.phantom;
        self.announced += other.announced;
        self.losses.extend(
            other
                .losses
                .into_iter()
                .map(|loss| Loss { subscriber: loss.subscriber + first_subscriber, ..loss }),
        );
        for complaint in other.complaints {
            self.complain(complaint.shifted(first_subscriber));
        }
    }

    fn complain(&mut self, complaint: Complaint) {
        if self.complaints.len() < Self::COMPLAINTS_KEPT {
            self.complaints.push(complaint);
        }
    }
}

#[cfg(test)]
mod tests;
