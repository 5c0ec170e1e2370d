//! The task that reads what the bus did not bring, and where channels stand. What becomes of it, the streams decide;
//! other channels never wait for it. It reads in pieces of bounded size, and no more of what is large before all
//! subscribers have been given what was read before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::Channel;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::lane::Lane;
use super::reads::Reading;
use super::shared_reads::SharedReads;
use super::streams::{Answer, Errand};
use super::witnesses::Known;
use crate::{GapCause, Query};

/// Runs for as long as the broker lives. Channels that are silent for `idle` are looked at.
pub(super) async fn heal(lane: Arc<Lane>, reads: Arc<SharedReads>, idle: Duration) {
    let mut backoff = Backoff::new();
    let (mut under_way, mut looks) = (FuturesUnordered::new(), FuturesUnordered::new());
    let step = (idle / 8).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut next_check = Instant::now() + step;
    let mut resume = Instant::now();
    // How many publications are a piece, of channels where that is fewer than usual and there is more to read.
    let mut pages = HashMap::<Channel, usize>::new();
    loop {
        if resume <= Instant::now() {
            let errands = lane.order.lock().streams.take_errands(MOST - under_way.len());
            under_way.extend(errands.into_iter().map(|errand| {
                let page = pages.get(&errand.channel).copied();
                run(&lane, &reads, errand, page, idle)
            }));
            let due = lane.witnesses.lock().take_due(MOST_KNOWN - looks.len());
            looks.extend(due.into_iter().map(|(channel, known)| look(&lane, &reads, channel, known)));
            if under_way.is_empty() {
                // Of channels that nobody wants any more.
                pages = HashMap::new();
            }
        }
        tokio::select! {
            () = lane.heal.notified(), if resume <= Instant::now() => {}
            () = sleep_until(resume), if resume > Instant::now() => {}
            () = sleep_until(next_check) => {
                next_check = Instant::now() + step;
                lane.order.lock().streams.check(idle, std::time::Instant::now());
            }
            Some(failed) = looks.next() => {
                if let Some((channel, known)) = failed {
                    lane.witnesses.lock().put_back(channel, known);
                    if resume <= Instant::now() {
                        resume = Instant::now() + backoff.after(Duration::ZERO);
                    }
                }
            }
            Some((errand, page, answer)) = under_way.next() => {
                let failed = matches!(answer, Answer::Failed);
                match page {
                    Some(page) => drop(pages.insert(errand.channel.clone(), page)),
                    None => drop(pages.remove(&errand.channel)),
                }
                let (now, relay) = (std::time::Instant::now(), &*lane.relay);
                let mut order = lane.order.lock();
                order.streams.answer(&errand.channel, errand.id, answer, now, relay);
                if !failed {
                    backoff = Backoff::new();
                } else if resume <= Instant::now() {
                    resume = Instant::now() + backoff.after(Duration::ZERO);
                    // Those behind it would find out the same, a pause and some hundreds at a time.
                    order.streams.let_go(GapCause::Disconnected);
                }
            }
        }
    }
}

/// Reads up to a page. Gives also how many the next one has, if these were not all and it is fewer than usual.
async fn run(
    lane: &Lane,
    reads: &Arc<SharedReads>,
    errand: Errand,
    page: Option<usize>,
    idle: Duration,
) -> (Errand, Option<usize>, Answer) {
    let Some(retention) = (lane.retain)(&errand.channel) else { return (errand, page, Answer::Refused) };
    let limit = if errand.ask.top_only { 0 } else { page.unwrap_or(PAGE) };
    let mut query = Query { since: errand.ask.since, limit, ..Query::TOP }.within(PIECE);
    if page.is_some() && limit > 0 {
        lane.relay.heard().await;
    }
    loop {
        let reading =
            Reading::of(&lane.keys, &errand.channel, query, retention).looking_after(errand.ask, idle);
        match reads.read(reading).await {
            Ok(history) if history.too_much => query = query.fewer(&history),
            Ok(history) => {
                let is_all = limit > 0 && history.publications.len() < query.limit;
                // Towards the usual again, in case that only some were large.
                let next = match limit {
                    0 => page,
                    _ => Some(query.limit * 2).filter(|next| !is_all && *next < PAGE),
                };
                return (errand, next, Answer::Read(history));
            }
            Err(fault) if fault.is_refusal() => {
                tracing::warn!(
                    because = lane.because(&fault),
                    channel = errand.channel.as_str(),
                    "a history cannot be read"
                );
                return (errand, None, Answer::Refused);
            }
            Err(_) => return (errand, page, Answer::Failed),
        }
    }
}

/// Looks whether Redis has what it had, which begins a new epoch if not. Gives back what could not be looked at.
async fn look(
    lane: &Lane,
    reads: &Arc<SharedReads>,
    channel: Channel,
    known: Known,
) -> Option<(Channel, Known)> {
    let retention = (lane.retain)(&channel)?;
    match reads.read(Reading::of_known(&lane.keys, &channel, known, retention)).await {
        Ok(history) => {
            lane.meet(&channel, history.top).await;
            None
        }
        Err(fault) => (!fault.is_refusal()).then_some((channel, known)),
    }
}

/// Looks that may be under way: few, because clients that come back wait for their turns behind them.
const MOST_KNOWN: usize = 64;
/// Reads that may be under way, or wait for their turn.
const MOST: usize = 512;
/// Publications in one read, and bytes, unless a publication has more.
const PAGE: usize = 256;
const PIECE: usize = 256 << 10;
