//! The task that sends what the lane's log holds, one pipeline a round trip, and tells the lane what the bus has
//! taken. It decides nothing about deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Envelope, Kind, Publication};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::fault::Fault;
use super::lane::Lane;
use super::link::Link;
use super::log::Message;
use super::occasionally::Occasionally;

/// Runs for as long as the broker lives.
pub(super) async fn publish(lane: Arc<Lane>, link: Link) {
    let mut backoff = Backoff::new();
    let complaints = Occasionally::new();
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
async fn serve(lane: &Lane, link: &Link, mut connection: MultiplexedConnection, pace: &mut Pace) -> Fault {
    lane.publisher_open();
    let mut next_tick = Instant::now() + TICK;
    let mut ticks = 0_u64;
    loop {
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            ticks += 1;
            lane.tick();
            if ticks.is_multiple_of(TICKS_TO_ROLE)
                && let Err(fault) = link.check_role(&mut connection).await
            {
                return fault;
            }
        }
        match send(lane, link, &mut connection, pace).await {
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

/// One pipeline. False, if there was nothing to send.
async fn send(
    lane: &Lane,
    link: &Link,
    connection: &mut MultiplexedConnection,
    pace: &mut Pace,
) -> Result<bool, Fault> {
    let mut batch = Vec::new();
    let lost = lane.send(MOST, pace.bytes, |sequence, message| batch.push((sequence, message)));
    let Some(&(last, _)) = batch.last() else { return Ok(false) };
    let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
    if let Some(lost) = &lost {
        pipeline.add_command(publish_command(&lane.keys.control, &lost.encode(lane.origin)));
    }
    let mut key = String::new();
    for (sequence, message) in batch {
        pipeline.add_command(command(lane, sequence, message, &mut key));
    }
    let count = pipeline.len();
    let started = Instant::now();
    let answers = timeout(link.timeout, connection.req_packed_commands(&pipeline, 0, count)).await;
    let fault = match answers {
        Ok(Ok(answers)) => Fault::among(&answers),
        Ok(Err(error)) => Some(Fault::read(&error, link.timeout)),
        Err(_) => Some(Fault::TimedOut(link.timeout)),
    };
    pace.learn(started.elapsed(), link.timeout);
    match fault {
        None => {
            lane.acknowledged(last);
            Ok(true)
        }
        Some(fault) => {
            lost.into_iter().for_each(|lost| lane.not_announced(lost));
            Err(fault)
        }
    }
}

fn command(lane: &Lane, sequence: u64, message: Message, key: &mut String) -> Cmd {
    let (key, publication) = match message {
        Message::Publication(channel, publication) => {
            lane.keys.write_channel(&channel, key);
            (&*key, publication)
        }
        Message::Canary => (&lane.keys.canary, Publication::new(Kind::Binary, Bytes::new())),
    };
    let envelope = Envelope { origin: lane.origin, sequence, publication };
    publish_command(key, &envelope.encode())
}

fn publish_command(key: &str, message: &[u8]) -> Cmd {
    let mut command = Cmd::with_capacity(3, 7 + key.len() + message.len());
    command.arg("PUBLISH").arg(key).arg(message);
    command
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
/// How often it is asked whether Redis has become a replica, in ticks.
const TICKS_TO_ROLE: u64 = 5;
/// Messages in one pipeline.
const MOST: usize = 2048;
const MOST_BYTES: usize = 1 << 20;
const LEAST_BYTES: usize = 4096;
