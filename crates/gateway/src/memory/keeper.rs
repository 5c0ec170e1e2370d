//! Looks at how much memory is in use, says when it is near the limit, and past it has the largest
//! connections ended until it is not. It runs on the backend's thread, and waits for workers but no worker
//! for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fanfare_hub::{Hub, Shed};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Budget, CLEAR, Gauge, NEAR, SHED_TO, heap};

/// How often the kernel is asked. What is allocated meanwhile is known; what sockets take is not.
const LOOK: Duration = Duration::from_millis(50);

/// The same, where it is for the metric only.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// How long it must be clear before clients are let in again, and how often memory that is free is given
/// back while it is not.
const HYSTERESIS: Duration = Duration::from_secs(1);

/// Sockets are closed by their readers' tasks, after the connection was ended.
const SETTLE: Duration = Duration::from_millis(2);

/// If there is nothing to give up, so much more is allowed before another look, as a part of the limit: what
/// comes is then given up again.
const STEP: i64 = 64;

/// Looks for as long as the instance lives.
pub async fn keep(budget: Arc<Budget>, gauge: Gauge, hub: Arc<Hub>) {
    let mut interval = interval(if budget.limit.is_some() { LOOK } else { IDLE_LOOK });
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper =
        Keeper { budget, gauge, hub, clear_since: None, purged: Instant::now(), complained: None };
    loop {
        let budget = keeper.budget.clone();
        tokio::select! {
            _ = interval.tick() => {}
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
        let used = self.budget.in_use();
        let hundredth = limit / 100;
        if used >= hundredth * NEAR {
            self.clear_since = None;
            if !self.budget.near.swap(true, Ordering::Relaxed) {
                tracing::warn!(used, limit, "not ready: memory is running out");
            }
        } else if self.budget.is_near() && used < hundredth * CLEAR {
            let since = *self.clear_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= HYSTERESIS {
                self.budget.near.store(false, Ordering::Relaxed);
                tracing::info!(used, limit, "ready: there is memory again");
            }
        }
        // What the allocator keeps free is no reason to turn anybody away.
        if self.budget.is_near() && self.purged.elapsed() >= HYSTERESIS {
            self.purge();
        }
        if used <= limit {
            self.budget.ceiling.store(limit, Ordering::Relaxed);
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

    /// Has connections ended, the largest first, until less is in use. Everybody waits meanwhile who can.
    async fn make_room(&mut self, limit: i64) {
        self.budget.past.store(true, Ordering::Relaxed);
        let (start, enough) = (self.budget.in_use(), limit / 100 * SHED_TO);
        let mut shed = Shed::default();
        let mut rounds = 0;
        // What is free already may be all that it takes.
        self.purge();
        while self.budget.in_use() > enough {
            // Whoever holds the same as others frees nothing alone, so each round goes further.
            let excess = (self.budget.in_use() - enough).saturating_mul(1 << rounds.min(16));
            let round = self.hub.shed(excess.unsigned_abs() as usize).await;
            if round.connections == 0 {
                break;
            }
            shed.connections += round.connections;
            shed.bytes += round.bytes;
            rounds += 1;
            sleep(SETTLE).await;
            self.purge();
        }
        let used = self.budget.in_use();
        if shed.connections > 0 {
            let Shed { connections, bytes } = shed;
            tracing::warn!(
                connections,
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
        self.budget.relieve(limit.max(used.saturating_add(limit / STEP)));
    }
}
