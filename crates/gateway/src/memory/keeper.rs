//! Looks at how much memory is in use, says when it is near the limit, and past it has those cut who have not even
//! asked, and then the largest connections ended, until it is not. It runs on the backend's thread, and waits for
//! workers but no worker for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fanfare_hub::{Hub, Leaving, Shed};
use tokio::time::sleep;

use super::{Budget, CLEAR, Gauge, NEAR, SHED_TO, heap};
use crate::admission::unfinished::Unfinished;

/// How often the kernel is asked. What is allocated meanwhile is known; what sockets take is not.
const LOOK: Duration = Duration::from_millis(50);

/// More often as room gets scarce, down to this …
const SCARCE_LOOK: Duration = Duration::from_millis(10);

/// … so that nobody takes all of it between two looks: many sockets have taken half as much in a millisecond.
const FASTEST: i64 = 2 << 20;

/// The same where it is for the metric only.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// How long it must be clear before clients are let in again, and how often memory that is free is given back while it
/// is not.
const HYSTERESIS: Duration = Duration::from_secs(1);

/// Sockets are closed by their readers' tasks, after the connection was ended.
const SETTLE: Duration = Duration::from_millis(10);

/// How long whoever was told to go may hold on to what its socket holds, before it is cut and others are ended.
const FAREWELL: Duration = Duration::from_millis(200);

/// After so many rounds everybody may go on for a moment, whatever came of them.
const ROUNDS: u32 = 32;

/// If there is nothing to give up, so much more is allowed before another look, as a part of the limit: what
/// comes is then given up again.
const STEP: i64 = 64;

/// Looks for as long as the instance lives.
pub async fn keep(budget: Arc<Budget>, gauge: Gauge, hub: Arc<Hub>, unfinished: Arc<Unfinished>) {
    let mut keeper = Keeper {
        budget,
        gauge,
        hub,
        unfinished,
        clear_since: None,
        purged: Instant::now(),
        complained: None,
    };
    loop {
        let budget = keeper.budget.clone();
        let pause = match budget.limit {
            None => IDLE_LOOK,
            Some(limit) => {
                let millis = (limit - budget.in_use()) / FASTEST;
                Duration::from_millis(millis.max(0).unsigned_abs()).clamp(SCARCE_LOOK, LOOK)
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = budget.alarm.notified() => {}
        }
        keeper.look();
        if let Some(limit) = budget.limit
            && (budget.is_past() || budget.in_use() > budget.ceiling.load(Ordering::Relaxed))
        {
            keeper.make_room(limit).await;
        }
    }
}

struct Keeper {
    budget: Arc<Budget>,
    gauge: Gauge,
    hub: Arc<Hub>,
    unfinished: Arc<Unfinished>,
    /// Since when there is room again.
    clear_since: Option<Instant>,
    /// When free memory was last given back.
    purged: Instant,
    /// When it was last said that there is nothing to give up.
    complained: Option<Instant>,
}

impl Keeper {
    /// Measures, and says whether it is near.
    fn look(&mut self) {
        self.measure();
        let Some(limit) = self.budget.limit else { return };
        let hundredth = limit / 100;
        // What the allocator keeps free is no reason to turn anybody away.
        let is_scarce = self.budget.in_use() >= hundredth * NEAR;
        if is_scarce && !self.budget.is_near() || self.budget.is_near() && self.purged.elapsed() >= HYSTERESIS
        {
            self.purge();
        }
        let used = self.budget.in_use();
        if used >= hundredth * NEAR {
            self.turn_away(used, limit);
        } else if self.budget.is_near() && used < hundredth * CLEAR {
            let since = *self.clear_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= HYSTERESIS {
                self.budget.near.store(false, Ordering::Relaxed);
                tracing::info!(used, limit, "ready: there is memory again");
            }
        }
        if used <= limit {
            self.budget.ceiling.store(limit, Ordering::Relaxed);
        }
    }

    /// Whoever comes from now on goes elsewhere.
    fn turn_away(&mut self, used: i64, limit: i64) {
        self.clear_since = None;
        if !self.budget.near.swap(true, Ordering::Relaxed) {
            tracing::warn!(used, limit, "not ready: memory is running out");
        }
    }

    fn measure(&self) {
        heap::tally();
        match self.gauge.read() {
            Ok(used) => self.budget.measured(used),
            // What was measured before, and the allocations since, are still known.
            Err(error) => tracing::debug!("the memory in use cannot be measured: {error}"),
        }
    }

    fn purge(&mut self) {
        heap::purge();
        self.purged = Instant::now();
        self.measure();
    }

    /// Has connections ended, the largest first and the unfinished before all others, until less is in use. Everybody
    /// waits meanwhile who can.
    async fn make_room(&mut self, limit: i64) {
        self.budget.past.store(true, Ordering::Relaxed);
        let (start, enough) = (self.budget.in_use(), limit / 100 * SHED_TO);
        let mut told = Told::default();
        // What is free already may be all that it takes.
        self.purge();
        // It may have been passed within a millisecond, since the last look; nobody is let in while others are ended.
        if self.budget.in_use() > enough {
            self.turn_away(start, limit);
        }
        while let excess @ 1.. = self.budget.in_use() - enough
            && told.rounds < ROUNDS
        {
            let farewell = told.since.elapsed() < FAREWELL;
            let owed = if farewell { told.leaving } else { 0 };
            // Who is in goes after all who are not.
            if excess > owed && !self.is_owed_by_the_unfinished(&mut told, excess, limit) {
                // Whoever holds the same as others frees nothing alone, so each round that frees nothing makes the next
                // one go further.
                let wanted = (excess - owed).saturating_mul(told.reach);
                let leaving = if farewell { Leaving::Wait } else { Leaving::Cut };
                let round = self.hub.shed(wanted.unsigned_abs() as usize, leaving).await;
                // Nobody holds more than a little.
                if round.connections == 0
                    && round.leaving == 0
                    && told.leaving == 0
                    && !told.cut(self.unfinished.shed_anybody(excess.unsigned_abs() as usize))
                {
                    break;
                }
                told.take(&round, excess);
            }
            sleep(SETTLE).await;
            self.purge();
            told.measure(self.budget.in_use() - enough);
        }
        let used = self.budget.in_use();
        if told.connections + told.unfinished > 0 {
            let Told { connections, unfinished, bytes, rounds, .. } = told;
            tracing::warn!(
                connections,
                unfinished,
                bytes,
                rounds,
                start,
                used,
                limit,
                "connections ended for want of memory"
            );
        } else if used > limit && self.complained.is_none_or(|at| at.elapsed() > HYSTERESIS * 60) {
            self.complained = Some(Instant::now());
            tracing::error!(
                used,
                limit,
                "memory_limit is passed, and no connection holds any that it could give up"
            );
        }
        self.budget.relieve(if used <= limit { limit } else { used.saturating_add(limit / STEP) });
    }

    /// Whether something is to be hoped for from those who are not in: they let go of everything when they hear that
    /// they are cut. What they have sent and nobody has read is found by whoever would have read it, and they are cut
    /// for that.
    fn is_owed_by_the_unfinished(&self, told: &mut Told, excess: i64, limit: i64) -> bool {
        told.takes_leave(self.unfinished.leaving())
            || told.cut(self.unfinished.shed(excess.unsigned_abs() as usize))
            || self.unfinished.count() > 0 && told.waits(excess, limit / STEP)
    }
}

/// What has been ended so far, and what came of it.
struct Told {
    connections: usize,
    /// Those who were cut before they had asked.
    unfinished: usize,
    bytes: usize,
    rounds: u32,
    /// When the last of those were cut.
    cut: Option<Instant>,
    /// The excess when others last had their turn to cut whoever is not in, for what had not been read. The least
    /// there is, once that does not help any more.
    unread: Option<i64>,
    /// When the last were told to go.
    since: Instant,
    /// What those who were told to go still hold.
    leaving: i64,
    /// What the last round should have freed at once, and the excess before it.
    expected: Option<(i64, i64)>,
    /// How many times what is wanted has to be ended, because those who hold it share it.
    reach: i64,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            connections: 0,
            unfinished: 0,
            bytes: 0,
            rounds: 0,
            cut: None,
            unread: None,
            since: Instant::now(),
            leaving: 0,
            expected: None,
            reach: 1,
        }
    }
}

impl Told {
    /// So many were cut before they had asked. Whether that was anybody.
    fn cut(&mut self, unfinished: usize) -> bool {
        if unfinished > 0 {
            self.unfinished += unfinished;
            self.rounds += 1;
            self.cut = Some(Instant::now());
        }
        unfinished > 0
    }

    /// Whether those who were cut, of whom so many have not let go yet, should have time for that.
    fn takes_leave(&mut self, leaving: usize) -> bool {
        leaving > 0 && self.cut.get_or_insert_with(Instant::now).elapsed() < FAREWELL
    }

    /// Whether others should have their turn to cut whoever has sent what they will not read: as long as each such wait
    /// frees `step`.
    fn waits(&mut self, excess: i64, step: i64) -> bool {
        let helps = self.unread.is_none_or(|before| excess <= before.saturating_sub(step));
        self.unread = Some(if helps { excess } else { i64::MIN });
        self.rounds += u32::from(helps);
        helps
    }

    fn take(&mut self, round: &Shed, excess: i64) {
        self.rounds += 1;
        self.connections += round.connections;
        self.bytes += round.bytes;
        self.since = Instant::now();
        self.leaving = i64::try_from(round.leaving).unwrap_or(i64::MAX);
        let held = i64::try_from(round.bytes).unwrap_or(i64::MAX);
        self.expected = (round.connections > 0).then_some((held.saturating_sub(self.leaving).max(0), excess));
    }

    /// So much is too much now.
    fn measure(&mut self, excess: i64) {
        if let Some((expected, before)) = self.expected.take() {
            let freed = before - excess;
            self.reach = if freed < expected / 4 { self.reach.saturating_mul(2) } else { 1 };
        }
    }
}
