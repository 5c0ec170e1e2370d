//! Rows that instances share through Redis and that are true for as long as the lease of the instance that wrote them:
//! who is present, who has claimed a connection, which channels have subscribers, which instances there are.
//!
//! * An instance takes a **lease**, a new UUID, and renews it. Its rows carry the lease, so that one renewal serves
//!   them all. Before a row is written, its *place* (channel or user) is noted among the lease's places, which is
//!   refused if the lease is over.
//! * A lease that nobody has seen renewed for its whole length, by the watcher's own clock, is **condemned**: it can
//!   never be renewed again. Its rows are removed place by place, by scripts that tell what is to be told in the same
//!   step; so it happens once, whoever does it and however often. Each place then keeps a *fence*, so that nothing
//!   that was on its way can be written under that lease afterwards.
//! * An instance that finds its lease gone takes a new one and writes all its rows again. Where it finds the fence of
//!   the old one, its members had been told to have left, and they join; otherwise Redis has merely lost the rows,
//!   and nothing is told.
//!
//! The truth about an instance's own connections is in its memory (`roster`, `book`, `counts`); the `keeper` makes
//! Redis agree, and never the other way round.

mod book;
mod counts;
mod keeper;
mod line;
mod names;
mod queue;
pub(super) mod reading;
mod reaper;
mod roster;
mod scripts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fanfare_protocol::{Channel, ConnectionId, Member};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::book::Book;
use self::counts::Counts;
pub(super) use self::names::Names;
use self::roster::Roster;
use super::fault::Fault;
use super::keys::Keys;
use super::lane::Lane;
use super::link::Link;
use crate::{Away, Claim, InstanceFacts, Pending, PresenceStatus};

/// What this instance has to say, shared by those who say it and the keeper who writes it down.
pub(super) struct Ledger {
    rows: Mutex<Rows>,
    /// There is something to be written.
    work: Notify,
    /// The leases there are, and after which moment each has been renewed, as the reaper has seen it.
    pulse: watch::Sender<Pulse>,
    /// Somebody waits for that.
    doubted: Notify,
    /// The instance is about to end; the keeper answers when it has nothing more to do.
    resigned: watch::Sender<Resignation>,
    names: Names,
    keys: Keys,
    link: Link,
    lanes: Box<[Arc<Lane>]>,
    lease: Duration,
    leases_lost: AtomicU64,
    leases_ended: AtomicU64,
    rows_cleared: AtomicU64,
}

/// Leases, and a moment after which each was renewed, if it was since it has been watched.
type Pulse = HashMap<Uuid, Option<Instant>>;

#[derive(Default)]
struct Rows {
    roster: Roster,
    book: Book,
    counts: Counts,
    facts: Option<InstanceFacts>,
    /// Redis has not got them yet.
    facts_are_news: bool,
    /// Why nothing can be written now; nothing also before the first attempt.
    away: Option<Away>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resignation {
    No,
    Wanted,
    Done,
}

impl Ledger {
    /// Nothing is written before it is started. Leases live for `lease` after each renewal.
    pub fn new(names: Names, keys: Keys, link: Link, lanes: Box<[Arc<Lane>]>, lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            work: Notify::new(),
            pulse: watch::Sender::default(),
            doubted: Notify::new(),
            resigned: watch::Sender::new(Resignation::No),
            names,
            keys,
            link,
            lanes,
            lease,
            leases_lost: AtomicU64::new(0),
            leases_ended: AtomicU64::new(0),
            rows_cleared: AtomicU64::new(0),
        })
    }

    /// What the keys of its rows are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Begins to write, and to look after the others.
    pub fn start(self: &Arc<Self>, runtime: &Handle) -> [AbortOnDropHandle<()>; 2] {
        [runtime.spawn(keeper::keep(self.clone())), runtime.spawn(reaper::reap(self.clone()))]
            .map(AbortOnDropHandle::new)
    }

    /// Has a member be in a channel. Resolves when others can see it, or at once where Redis is away; it is written
    /// then when Redis is back.
    pub fn enter(&self, channel: &Channel, member: Member) -> Pending<'static, Result<(), Away>> {
        let (entered, waits) = oneshot::channel();
        let mut rows = self.rows.lock();
        let away = rows.away.clone();
        rows.roster.enter(channel, member, away.is_none().then_some(entered));
        drop(rows);
        self.work.notify_one();
        match away {
            Some(away) => Box::pin(std::future::ready(Err(away))),
            None => Box::pin(async { waits.await.unwrap_or_else(|_| Err(ended())) }),
        }
    }

    /// Has it be there no longer. Others are told after `grace`, unless its user is back by then.
    pub fn leave(&self, channel: &Channel, connection: ConnectionId, grace: Duration) {
        self.rows.lock().roster.leave(channel, connection, grace);
        self.work.notify_one();
    }

    /// Where a place is that of an instance that may have died, its renewal is waited for: who is told that all are
    /// taken stays away for good.
    pub async fn claim(&self, user: &str, connection: ConnectionId, limit: u32) -> Claim {
        let asked = Instant::now();
        let deadline = asked + self.lease / DOUBT;
        let mut pulse = self.pulse.subscribe();
        loop {
            let holders = match self.ask_for_place(user, connection, limit).await {
                book::Answer::Held => return Claim::Held,
                book::Answer::Unproven(away) => return Claim::Unproven(away),
                book::Answer::GivenBack => return Claim::Full,
                book::Answer::Full(holders) => holders,
            };
            // Asked again only when one of them has gone: thousands may wait.
            loop {
                let (living, gone) = {
                    let pulse = pulse.borrow_and_update();
                    let is_living = |lease| pulse.get(&lease).is_some_and(|renewed| *renewed >= Some(asked));
                    (
                        holders.living(is_living),
                        holders.elsewhere.iter().any(|(lease, _)| !pulse.contains_key(lease)),
                    )
                };
                if living >= u64::from(limit) {
                    return Claim::Full;
                }
                self.doubted.notify_one();
                // An error is impossible while `self` lives.
                if timeout_at(deadline.into(), pulse.changed()).await.is_err() {
                    return Claim::InDoubt;
                }
                if gone {
                    break;
                }
            }
        }
    }

    async fn ask_for_place(&self, user: &str, connection: ConnectionId, limit: u32) -> book::Answer {
        let (claimed, waits) = oneshot::channel();
        {
            let mut rows = self.rows.lock();
            if let Some(away) = rows.away.clone() {
                rows.book.take_place(user, connection);
                return book::Answer::Unproven(away);
            }
            rows.book.claim(user, connection, limit, claimed);
        }
        self.work.notify_one();
        waits.await.unwrap_or_else(|_| book::Answer::Unproven(ended()))
    }

    /// Gives back the place that a connection has claimed, or may have.
    pub fn give_back(&self, user: &str, connection: ConnectionId) {
        self.rows.lock().book.give_back(user, connection);
        self.work.notify_one();
    }

    /// Written with the next of its rounds.
    pub fn subscribers_changed(&self, channel: &Channel) {
        self.rows.lock().counts.changed(channel);
    }

    /// What the instance says of itself from now on, written with the next renewal.
    pub fn describe(&self, facts: InstanceFacts) {
        let mut rows = self.rows.lock();
        rows.facts_are_news |= rows.facts.as_ref() != Some(&facts);
        rows.facts = Some(facts);
    }

    /// Writes what is left to write and gives the lease up.
    pub async fn resign(&self) {
        self.resigned.send_if_modified(|resigned| {
            let wanted = *resigned == Resignation::No;
            if wanted {
                *resigned = Resignation::Wanted;
            }
            wanted
        });
        self.work.notify_one();
        let mut resigned = self.resigned.subscribe();
        // An error says that the keeper is gone, and then there is nothing to wait for.
        let _ = resigned.wait_for(|resigned| *resigned == Resignation::Done).await;
    }

    /// Adds its counts to `status`.
    pub fn add_to(&self, status: &mut PresenceStatus) {
        status.members += self.rows.lock().roster.members();
        status.leases_lost += self.leases_lost.load(Relaxed);
        status.leases_ended += self.leases_ended.load(Relaxed);
        status.rows_cleared += self.rows_cleared.load(Relaxed);
    }

    fn because(&self, fault: &Fault) -> Away {
        Away(self.lanes[0].because(fault))
    }
}

fn ended() -> Away {
    Away("the broker has ended".to_owned())
}

/// How many times over the longest doubt about a lease would last it. Of those that are renewed, renewals are seen in
/// a third of it; and clients' libraries give up after five seconds.
const DOUBT: u32 = 2;
