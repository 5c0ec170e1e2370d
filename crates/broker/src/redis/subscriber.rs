//! The task that hears the bus: keeps the subscriptions as they are wanted, notices when it hears nothing any more,
//! and returns for ever. What it hears it only reads and hands over.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fanfare_protocol::Channel;
use futures_util::future::join_all;
use redis::aio::{PubSub, PubSubSink};
use redis::{RedisResult, Value};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::backoff::Backoff;
use super::fault::Fault;
use super::lane::Lane;
use super::link::Link;
use super::listener::{LastHeard, Listener};
use super::log_limit::LogLimit;
use crate::{Gap, GapCause};

/// Runs for as long as the broker lives.
pub(super) async fn subscribe(lane: Arc<Lane>, link: Link, mut listener: Listener) {
    let mut backoff = Backoff::new();
    let complaints = LogLimit::new();
    let mut been_open = false;
    // The first thing that went wrong since everything was subscribed is what the gap is announced for.
    let mut cause = None;
    loop {
        let started = Instant::now();
        let fault = match link.subscriptions().await {
            Ok(pubsub) => {
                let mut session =
                    Session { lane: &lane, link: &link, cause: &mut cause, been_open: &mut been_open };
                session.serve(pubsub, &mut listener).await
            }
            Err(fault) => fault,
        };
        cause.get_or_insert(fault.gap_cause());
        lane.subscriber_lost(&fault);
        if let Some(times) = complaints.happened(started.into()) {
            tracing::warn!(because = lane.because(&fault), times, "cannot subscribe; trying again");
        }
        // They must not pile up while nothing is subscribed.
        lane.leave_released();
        sleep(backoff.after(started.elapsed())).await;
    }
}

/// One connection.
struct Session<'a> {
    lane: &'a Lane,
    link: &'a Link,
    cause: &'a mut Option<GapCause>,
    been_open: &'a mut bool,
}

impl Session<'_> {
    /// Hears and keeps the subscriptions until the connection fails.
    async fn serve(&mut self, pubsub: PubSub, listener: &mut Listener) -> Fault {
        let (sink, stream) = pubsub.split();
        let (lane, link) = (self.lane, self.link);
        let last_heard = listener.last_heard();
        self.lane.interest.lock().open();
        // The stream's own budget would hand over 128 messages a turn, while the library's task reads a thousand.
        let listen = pin!(unconstrained(listener.listen(stream)));
        tokio::select! {
            fault = listen => fault,
            fault = self.keep_subscriptions(sink.clone()) => fault,
            fault = ping(link, &last_heard, sink) => fault,
            fault = watch_canary(lane, &last_heard) => fault,
            () = lane.listens_elsewhere() => Fault::Elsewhere,
        }
    }

    async fn keep_subscriptions(&mut self, sink: PubSubSink) -> Fault {
        match self.subscribe_to_everything(&sink).await {
            Ok(()) => {}
            Err(fault) => return fault,
        }
        loop {
            let left = self.lane.leave_released();
            let pending = self.lane.interest.lock().take_pending();
            if left.is_empty() && pending.is_empty() {
                let next = self.lane.next_leave().map_or_else(far_away, Instant::from_std);
                tokio::select! {
                    () = self.lane.change.notified() => {}
                    () = sleep_until(next) => {}
                }
                continue;
            }
            // In this order: what was left may be wanted again.
            if let Err(fault) = self.in_batches(&sink, Verb::Unsubscribe, self.names(&left)).await {
                return fault;
            }
            self.lane.expect(&pending);
            if let Err(fault) = self.in_batches(&sink, Verb::Subscribe, self.names(&pending)).await {
                return fault;
            }
            // Whoever subscribes while the connection is open waits, so there is nobody to tell of a gap.
            self.lane.interest.lock().confirm(pending.clone());
            self.lane.subscribed(&pending, Vec::new(), GapCause::Disconnected);
        }
    }

    /// After that, nobody believes to be subscribed who is not; and those who did meanwhile are told.
    async fn subscribe_to_everything(&mut self, sink: &PubSubSink) -> Result<(), Fault> {
        let pending = self.lane.interest.lock().take_pending();
        self.lane.expect(&pending);
        let mut names = self.names(&pending);
        names.extend([self.lane.keys.control.clone(), self.lane.keys.canary.clone()]);
        names.extend(self.lane.instance.map(|instance| self.lane.keys.instance(instance)));
        self.in_batches(sink, Verb::Subscribe, names).await?;
        self.lane.order.lock().streams.open();
        let promised = self.lane.interest.lock().confirm(pending.clone());
        self.lane.reconnects.fetch_add(u64::from(*self.been_open), Relaxed);
        *self.been_open = true;
        self.lane.subscriber_open();
        let cause = self.cause.take().unwrap_or(GapCause::Disconnected);
        let missed = self.lane.subscribed(&pending, promised, cause);
        if !missed.is_empty() {
            self.lane.relay.gap(Gap { channels: Some(missed), cause });
        }
        Ok(())
    }

    fn names(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.lane.keys.channel(channel)).collect()
    }

    /// Some hundreds of channels a command, all commands in one go, each answered within the deadline.
    async fn in_batches(&self, sink: &PubSubSink, verb: Verb, names: Vec<String>) -> Result<(), Fault> {
        let started = Instant::now();
        let batches = names.chunks(BATCH).enumerate().map(|(number, batch)| {
            // They are answered one after the other.
            let deadline = started + self.link.timeout * (number as u32 + 1);
            let mut sink = sink.clone();
            async move {
                let answer = match verb {
                    Verb::Subscribe => timeout_at(deadline, sink.subscribe(batch)).await,
                    Verb::Unsubscribe => timeout_at(deadline, sink.unsubscribe(batch)).await,
                };
                match answer {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(Fault::read(&error, self.link.timeout)),
                    Err(_) => Err(Fault::TimedOut(self.link.timeout)),
                }
            }
        });
        join_all(batches).await.into_iter().collect()
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Subscribe,
    Unsubscribe,
}

/// Finds the connection that is open and silent, even while the publisher's is gone.
async fn ping(link: &Link, last_heard: &LastHeard, mut sink: PubSubSink) -> Fault {
    loop {
        sleep(PING).await;
        let sent = Instant::now();
        let answer: RedisResult<Value> = loop {
            match timeout(link.timeout, sink.ping()).await {
                Ok(answer) => break answer,
                Err(_) if last_heard.is_deaf(sent) => return Fault::Deaf,
                // The answer stands in line behind the messages that do arrive.
                Err(_) => {}
            }
        };
        match answer {
            // An error is an answer too: Redis refuses PING while it loads its data or cannot save it.
            Err(error) if error.code().is_none() => return Fault::read(&error, link.timeout),
            _ => {}
        }
    }
}

/// Finds the connection that lives and through which nothing comes.
async fn watch_canary(lane: &Lane, last_heard: &LastHeard) -> Fault {
    loop {
        sleep(CANARY_CHECK).await;
        let Some(overdue) = lane.canary_overdue() else { continue };
        let Some(acknowledged) = Instant::now().checked_sub(overdue) else { continue };
        if overdue >= CANARY_LATE && last_heard.is_deaf(acknowledged) {
            return Fault::Deaf;
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

const BATCH: usize = 500;
const PING: Duration = Duration::from_secs(1);
const CANARY_LATE: Duration = Duration::from_millis(2000);
const CANARY_CHECK: Duration = Duration::from_millis(250);
