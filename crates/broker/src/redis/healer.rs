//! The task that reads what the bus did not bring, and where channels stand. What becomes of it, the streams decide;
//! other channels never wait for it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::lane::Lane;
use super::reads::Reading;
use super::shared_reads::SharedReads;
use super::streams::{Answer, Errand};
use crate::Query;

/// Runs for as long as the broker lives. Channels that are silent for `idle` are looked at.
pub(super) async fn heal(lane: Arc<Lane>, reads: Arc<SharedReads>, idle: Duration) {
    let mut backoff = Backoff::new();
    let mut under_way = FuturesUnordered::new();
    let step = (idle / 8).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut next_check = Instant::now() + step;
    let mut resume = Instant::now();
    loop {
        if resume <= Instant::now() {
            let errands = lane.order.lock().streams.take_errands(MOST - under_way.len());
            under_way.extend(errands.into_iter().map(|errand| run(&lane, &reads, errand, idle)));
        }
        tokio::select! {
            () = lane.heal.notified(), if resume <= Instant::now() => {}
            () = sleep_until(resume), if resume > Instant::now() => {}
            () = sleep_until(next_check) => {
                next_check = Instant::now() + step;
                lane.order.lock().streams.check(idle, std::time::Instant::now());
            }
            Some((errand, answer)) = under_way.next() => {
                let failed = matches!(answer, Answer::Failed);
                let (now, relay) = (std::time::Instant::now(), &*lane.relay);
                lane.order.lock().streams.answer(&errand.channel, errand.id, answer, now, relay);
                if !failed {
                    backoff = Backoff::new();
                } else if resume <= Instant::now() {
                    resume = Instant::now() + backoff.after(Duration::ZERO);
                }
            }
        }
    }
}

async fn run(lane: &Lane, reads: &Arc<SharedReads>, errand: Errand, idle: Duration) -> (Errand, Answer) {
    let Some(retention) = (lane.retain)(&errand.channel) else { return (errand, Answer::Refused) };
    let limit = if errand.ask.top_only { 0 } else { PAGE };
    let query = Query { since: errand.ask.since, limit, ..Query::TOP };
    let reading =
        Reading::of(&lane.keys, &errand.channel, query, retention).looking_after(errand.ask.reached, idle);
    let answer = match reads.read(reading).await {
        Ok(history) => Answer::Read(history),
        Err(fault) if fault.is_refusal() => {
            tracing::warn!(
                because = lane.because(&fault),
                channel = errand.channel.as_str(),
                "a history cannot be read"
            );
            Answer::Refused
        }
        Err(_) => Answer::Failed,
    };
    (errand, answer)
}

/// Reads that may be under way, or wait for their turn.
const MOST: usize = 512;
/// Publications in one read.
const PAGE: usize = 256;
