//! To what a lane is to be subscribed, and since when it is. Who tells Redis is the subscriber's task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_protocol::Channel;

use super::Lane;
use crate::redis::interest::Subscribed;
use crate::{GapCause, Pending};

impl Lane {
    /// Resolves when all that is published from then on comes, and where the channel is kept, it is known where it
    /// stands. While the bus is away it is promised instead.
    pub fn subscribe(self: &Arc<Self>, channel: &Channel) -> Pending<'static, ()> {
        let subscribed = self.interest.lock().subscribe(channel);
        let confirmed = match subscribed {
            Subscribed::Already => None,
            Subscribed::Soon(confirmed) => {
                self.change.notify_one();
                Some(confirmed)
            }
        };
        let kept = (self.retain)(channel).is_some();
        if confirmed.is_none() && !kept {
            return Box::pin(std::future::ready(()));
        }
        let (lane, channel) = (self.clone(), channel.clone());
        Box::pin(async move {
            // An error says that the lane has ended, and then nobody needs to know.
            if let Some(confirmed) = confirmed {
                confirmed.await.unwrap_or_default();
            }
            let established = kept.then(|| lane.order.lock().streams.established(&channel));
            if let Some(established) = established.flatten() {
                established.await.unwrap_or_default();
            }
        })
    }

    /// Perhaps nobody wants the channel any more; the relay is asked a second later.
    pub fn release(&self, channel: &Channel) {
        let mut interest = self.interest.lock();
        let idle = interest.first_release().is_none();
        interest.release(channel, Instant::now());
        drop(interest);
        if idle {
            self.change.notify_one();
        }
    }

    /// Forgets the released channels that nobody wants after all; gives back those that the bus must be told of.
    pub fn leave_released(&self) -> Vec<Channel> {
        let Some(until) = Instant::now().checked_sub(LINGER) else { return Vec::new() };
        let mut released = self.interest.lock().take_released(until);
        // Asked without a lock: the relay has locks of its own.
        released.retain(|(_, channel)| !self.relay.wanted(channel));
        let mut interest = self.interest.lock();
        let mut left = Vec::new();
        released.retain(|(at, channel)| {
            let leave = interest.leave(*at, channel);
            left.extend(leave.map(|_| channel.clone()));
            leave == Some(true)
        });
        drop(interest);
        let (mut order, mut witnesses) = (self.order.lock(), self.witnesses.lock());
        let now = Instant::now();
        for channel in &left {
            order.streams.forget(channel).into_iter().for_each(|known| witnesses.note(channel, known, now));
        }
        drop((order, witnesses));
        released.into_iter().map(|(_, channel)| channel).collect()
    }

    /// These are about to be subscribed.
    pub fn expect(&self, channels: &[Channel]) {
        let now = Instant::now();
        for channel in channels.iter().filter(|channel| (self.retain)(channel).is_some()) {
            self.order.lock().streams.expect(channel, now);
        }
    }

    /// These are subscribed; of these, `promised` were taken for subscribed before. Gives back those that have no
    /// history, out of which what they missed could be read.
    pub fn subscribed(&self, channels: &[Channel], promised: Vec<Channel>, cause: GapCause) -> Vec<Channel> {
        let (kept, plain): (Vec<_>, Vec<_>) =
            promised.into_iter().partition(|channel| (self.retain)(channel).is_some());
        let mut order = self.order.lock();
        kept.iter().for_each(|channel| order.streams.subscribed(channel, Some(cause)));
        channels.iter().for_each(|channel| order.streams.subscribed(channel, None));
        drop(order);
        self.heal.notify_one();
        plain
    }

    /// When the next released channel will have lingered long enough.
    pub fn next_leave(&self) -> Option<Instant> {
        Some(self.interest.lock().first_release()? + LINGER)
    }
}

/// How long a subscription outlives its last subscriber: a page that reloads finds it there.
const LINGER: Duration = Duration::from_secs(1);
