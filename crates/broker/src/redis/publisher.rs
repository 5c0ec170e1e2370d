//! The task that sends what the lane's log holds, one pipeline a round trip, and tells the lane what the bus has
//! taken. It decides nothing about deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::batch::{self, Batch};
use super::commands::Commands;
use super::fault::Fault;
use super::lane::Lane;
use super::link::Link;
use super::log_limit::LogLimit;

/// Runs for as long as the broker lives.
pub(super) async fn publish(lane: Arc<Lane>, link: Link) {
    let mut backoff = Backoff::new();
    let complaints = LogLimit::new();
    let mut been_open = false;
    let mut pace = Pace { bytes: MOST_BYTES };
    loop {
        let started = Instant::now();
        let fault = match link.commands().await {
            Ok(connection) => {
                lane.reconnects.fetch_add(u64::from(been_open), Relaxed);
                been_open = true;
                serve(&lane, &link, connection, &mut pace).await
            }
            Err(fault) => fault,
        };
        lane.publisher_lost(&fault);
        if let Some(times) = complaints.happened(started.into()) {
            tracing::warn!(because = lane.because(&fault), times, "cannot publish; trying again");
        }
        sleep(backoff.after(started.elapsed())).await;
    }
}

/// Publishes until the connection fails.
async fn serve(lane: &Lane, link: &Link, mut connection: Commands, pace: &mut Pace) -> Fault {
    if let Err(fault) = batch::prepare(lane, &mut connection, link.timeout).await {
        return fault;
    }
    let in_doubt = lane.ever_sent();
    lane.publisher_open();
    let mut next_tick = Instant::now() + TICK;
    loop {
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            lane.tick();
        }
        match send(lane, link, &mut connection, pace, in_doubt).await {
            Ok(true) => {}
            Ok(false) => {
                tokio::select! {
                    () = lane.work.notified() => {}
                    () = sleep_until(next_tick) => {}
                }
            }
            Err(fault) => return fault,
        }
    }
}

/// One pipeline. False, if there was nothing to send. What has a number up to `in_doubt` may be at the bus already.
async fn send(
    lane: &Lane,
    link: &Link,
    connection: &mut Commands,
    pace: &mut Pace,
    in_doubt: u64,
) -> Result<bool, Fault> {
    let mut messages = Vec::new();
    let lost = lane.send(MOST, pace.bytes, |sequence, message| messages.push((sequence, message)));
    let (Some(&(first, _)), Some(&(last, _))) = (messages.first(), messages.last()) else { return Ok(false) };
    let mut batch = Batch::new(lane, first <= in_doubt);
    if let Some(lost) = &lost {
        batch.announce(lost);
    }
    messages.into_iter().for_each(|(sequence, message)| batch.add(sequence, message));
    let started = Instant::now();
    let done = batch.run(connection, link.timeout).await;
    pace.learn(started.elapsed(), link.timeout);
    match done {
        Ok(()) => {
            lane.acknowledged(last);
            Ok(true)
        }
        Err(fault) => {
            lost.into_iter().for_each(|lost| lane.not_announced(lost));
            Err(fault)
        }
    }
}

/// How much goes into one pipeline, so that a slow line does not break every deadline with the same megabyte.
struct Pace {
    bytes: usize,
}

impl Pace {
    fn learn(&mut self, took: Duration, deadline: Duration) {
        if took > deadline / 4 {
            self.bytes = (self.bytes / 4).max(LEAST_BYTES);
        } else if took < deadline / 16 {
            self.bytes = (self.bytes * 2).min(MOST_BYTES);
        }
    }
}

const TICK: Duration = Duration::from_secs(1);
/// Messages in one pipeline.
const MOST: usize = 8192;
const MOST_BYTES: usize = 2 << 20;
const LEAST_BYTES: usize = 4096;
