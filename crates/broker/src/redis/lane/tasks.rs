//! What the publisher's task and the subscriber's tell their lane, and ask of it. When they do is their own business.

use std::time::{Duration, Instant};

use fanfare_protocol::Channel;

use super::Lane;
use crate::redis::control::Lost;
use crate::redis::fault::Fault;
use crate::redis::log::Message;
use crate::{Gap, GapCause};

impl Lane {
    // What the publisher's task tells and asks.

    /// The connection that publishes is there.
    pub fn publisher_open(&self) {
        let mut bus = self.bus.lock();
        bus.publisher = Ok(());
        bus.followed = false;
        self.release_canary(&mut bus);
        drop(bus);
        self.witnesses.lock().doubt();
        self.heal.notify_one();
    }

    /// It has gone: what it was given is sent again.
    pub fn publisher_lost(&self, fault: &Fault) {
        self.go_down(|bus| {
            bus.publisher = Err(fault.clone());
            bus.log.send_again();
        });
    }

    /// Once a second: sends a canary out. If one is late, another follows, which is proof as well when it comes back;
    /// if one still waits to be sent, there is no use in another.
    pub fn tick(&self) {
        let mut bus = self.bus.lock();
        let seen_off = bus.log.seen_off();
        match &bus.canary {
            Some(canary) if canary.acknowledged.is_some() => {
                bus.log.push(Message::Canary);
                self.wake(&mut bus);
            }
            Some(canary) if canary.sequence > seen_off => {}
            // None, or a full spool has dropped it.
            _ => self.release_canary(&mut bus),
        }
    }

    /// What to send next, in order; nothing while the subscriber is not there, so that the others, who lost Redis
    /// when we did, have a moment to return as well, and we never miss what we publish. `take` must be quick.
    pub fn send(&self, count: usize, bytes: usize, take: impl FnMut(u64, Message)) -> Option<Lost> {
        let mut bus = self.bus.lock();
        bus.idle = bus.subscriber.is_err() || bus.log.waiting() == 0;
        if bus.idle {
            return None;
        }
        bus.log.send(count, bytes, take);
        bus.log.take_lost()
    }

    /// Up to here, messages have been sent at least once.
    pub fn ever_sent(&self) -> u64 {
        self.bus.lock().log.ever_sent()
    }

    /// Redis would not take it, and nobody waits for an answer: everybody misses it.
    pub fn refused(&self, channel: &Channel) {
        self.bus.lock().log.lose(channel);
        self.overflow(vec![channel.clone()]);
    }

    /// The others were not told of these losses.
    pub fn not_announced(&self, lost: Lost) {
        self.bus.lock().log.put_back_lost(lost);
    }

    /// Redis has taken everything up to this number.
    pub fn acknowledged(&self, sequence: u64) {
        let heard = self.order.lock().heard;
        let mut bus = self.bus.lock();
        bus.log.acknowledge(sequence);
        bus.log.trim(heard);
        if let Some(canary) = &mut bus.canary
            && canary.sequence <= sequence
        {
            canary.acknowledged.get_or_insert_with(Instant::now);
        }
        drop(bus);
        self.room.notify_waiters();
    }

    /// Nobody was subscribed where the canary of this number was published. Whoever hears it all the same listens to a
    /// replica, and may have missed what came while it was made one.
    pub fn unheard(&self, sequence: u64) {
        let mut bus = self.bus.lock();
        // Once for each connection: what only speaks like Redis may never count.
        if bus.subscriber.is_ok() && sequence > bus.subscribed_at && !bus.followed {
            bus.followed = true;
            self.elsewhere.send_replace(true);
        }
    }

    // What the subscriber's task tells and asks.

    /// Resolves when it is found that the connection that listens should be another one.
    pub async fn listens_elsewhere(&self) {
        // An error says that the lane has ended.
        let _ = self.elsewhere.subscribe().wait_for(|elsewhere| *elsewhere).await;
    }

    /// Whatever was promised is subscribed.
    pub fn subscriber_open(&self) {
        let mut bus = self.bus.lock();
        bus.subscriber = Ok(());
        bus.subscribed_at = bus.log.last();
        self.release_canary(&mut bus);
    }

    /// The connection that listens has gone: publications may be missed from now on.
    pub fn subscriber_lost(&self, fault: &Fault) {
        self.go_down(|bus| {
            bus.subscriber = Err(fault.clone());
            self.elsewhere.send_replace(false);
        });
        self.interest.lock().away();
        self.order.lock().streams.lost(fault.gap_cause());
    }

    /// The last number given out.
    pub fn last(&self) -> u64 {
        self.bus.lock().log.last()
    }

    /// Our own messages are delivered up to `heard`; `back` is the highest number that came back just now. The
    /// canary's, or a later one, proves that the bus brings what it is given.
    pub fn heard(&self, heard: u64, back: Option<u64>) {
        let mut bus = self.bus.lock();
        bus.log.trim(heard);
        if bus.canary.as_ref().is_none_or(|canary| back < Some(canary.sequence)) {
            return;
        }
        bus.canary = None;
        if bus.up || bus.publisher.is_err() || bus.subscriber.is_err() {
            return;
        }
        bus.up = true;
        drop(bus);
        tracing::info!(redis = self.address, "the broker is up");
    }

    /// How long the canary should have been back.
    pub fn canary_overdue(&self) -> Option<Duration> {
        Some(self.bus.lock().canary.as_ref()?.acknowledged?.elapsed())
    }

    /// What another lane lost is a gap here, in the channels of this lane.
    pub fn announce(&self, lost: &Lost, ours: impl Fn(&Channel) -> bool) {
        let channels: Vec<_> = match lost.channels() {
            Some(channels) => channels.iter().filter(|channel| ours(channel)).cloned().collect(),
            None => self.interest.lock().promised(),
        };
        if !channels.is_empty() {
            self.relay.gap(Gap { channels: Some(channels), cause: GapCause::Overflow });
        }
    }
}
