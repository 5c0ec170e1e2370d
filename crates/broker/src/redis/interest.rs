//! What a lane is to be subscribed to, and what the bus has confirmed. It is plain data: the subscriber's task
//! alone removes channels, everybody may ask for them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use fanfare_protocol::Channel;
use tokio::sync::oneshot;

/// The wanted set, the confirmed set, and who waits for the one to become the other.
pub(super) struct Interest {
    bus: Bus,
    channels: HashMap<Channel, Wanted>,
    /// Wanted, and to be subscribed to next.
    pending: Vec<Channel>,
    /// Released channels by the time of their release, which is also the order here.
    released: VecDeque<(Instant, Channel)>,
    confirmed: u64,
}

/// Whether subscribing makes sense at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    /// Not known yet: whoever subscribes waits for the first attempt to connect.
    Starting,
    /// Whoever subscribes is served from here and told of the gap later.
    Away,
    /// Whoever subscribes waits for the confirmation.
    Open,
}

#[derive(Default)]
struct Wanted {
    confirmed: bool,
    /// Somebody was told that it is subscribed: if that is not so at the bus, it is a gap.
    promised: bool,
    /// Never unsubscribed.
    pinned: bool,
    /// In `pending`.
    pending: bool,
    released: Option<Instant>,
    /// In `released`.
    lingers: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

/// What to wait for after `subscribe`.
pub(super) enum Subscribed {
    Already,
    Soon(oneshot::Receiver<()>),
}

impl Interest {
    /// Interest in these channels for good, and in no other yet.
    pub fn new(pinned: impl IntoIterator<Item = Channel>) -> Self {
        let pin = |channel| (channel, Wanted { pinned: true, ..Wanted::default() });
        Self {
            bus: Bus::Starting,
            channels: pinned.into_iter().map(pin).collect(),
            pending: Vec::new(),
            released: VecDeque::new(),
            confirmed: 0,
        }
    }

    /// Channels to which the bus has confirmed the subscription.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// From now on the channel is wanted.
    pub fn subscribe(&mut self, channel: &Channel) -> Subscribed {
        let wanted = self.channels.entry(channel.clone()).or_default();
        wanted.released = None;
        if wanted.confirmed || self.bus == Bus::Away {
            wanted.promised = true;
            return Subscribed::Already;
        }
        if self.bus == Bus::Open && !wanted.pending {
            wanted.pending = true;
            self.pending.push(channel.clone());
        }
        let (sender, receiver) = oneshot::channel();
        wanted.waiters.push(sender);
        Subscribed::Soon(receiver)
    }

    /// Perhaps it is wanted no longer; it lingers until somebody takes it from `take_released`.
    pub fn release(&mut self, channel: &Channel, now: Instant) {
        let Some(wanted) = self.channels.get_mut(channel) else { return };
        if wanted.pinned {
            return;
        }
        wanted.released = Some(now);
        // One place in the queue for each channel, however often it is left and joined.
        if !wanted.lingers {
            wanted.lingers = true;
            self.released.push_back((now, channel.clone()));
        }
    }

    /// When the first release was, of those that may still stand.
    pub fn first_release(&self) -> Option<Instant> {
        self.released.front().map(|(at, _)| *at)
    }

    /// Takes the channels that were released at or before `until` and not asked for since.
    pub fn take_released(&mut self, until: Instant) -> Vec<(Instant, Channel)> {
        let mut due = Vec::new();
        while let Some((_, channel)) = self.released.pop_front_if(|(at, _)| *at <= until) {
            let Some(wanted) = self.channels.get_mut(&channel) else { continue };
            wanted.lingers = false;
            match wanted.released {
                Some(at) if at <= until => due.push((at, channel)),
                Some(at) => {
                    wanted.lingers = true;
                    self.released.push_back((at, channel));
                }
                None => {}
            }
        }
        due
    }

    /// Forgets a channel of `take_released`, unless it was asked for meanwhile; then says whether the bus must be told.
    pub fn leave(&mut self, released: Instant, channel: &Channel) -> Option<bool> {
        if self.channels.get(channel)?.released != Some(released) {
            return None;
        }
        let wanted = self.channels.remove(channel)?;
        if wanted.pending {
            self.pending.retain(|pending| pending != channel);
        }
        wanted.waiters.into_iter().for_each(done);
        self.confirmed -= u64::from(wanted.confirmed);
        Some(wanted.confirmed)
    }

    /// A connection is open: everything must be subscribed to.
    pub fn open(&mut self) {
        self.bus = Bus::Open;
        self.pending.clear();
        for (channel, wanted) in &mut self.channels {
            wanted.pending = true;
            self.pending.push(channel.clone());
        }
    }

    /// The connection is gone, or there was none to be had.
    pub fn away(&mut self) {
        self.bus = Bus::Away;
        self.pending.clear();
        self.confirmed = 0;
        for wanted in self.channels.values_mut() {
            wanted.promised |= !wanted.waiters.is_empty();
            wanted.confirmed = false;
            wanted.pending = false;
            wanted.waiters.drain(..).for_each(done);
        }
    }

    /// Takes what is to be subscribed to next.
    pub fn take_pending(&mut self) -> Vec<Channel> {
        for channel in &self.pending {
            if let Some(wanted) = self.channels.get_mut(channel) {
                wanted.pending = false;
            }
        }
        std::mem::take(&mut self.pending)
    }

    /// The bus has confirmed these. Gives back those that somebody took for subscribed before.
    pub fn confirm(&mut self, channels: Vec<Channel>) -> Vec<Channel> {
        let mut promised_before = Vec::new();
        for channel in channels {
            let Some(wanted) = self.channels.get_mut(&channel) else { continue };
            self.confirmed += u64::from(!wanted.confirmed);
            wanted.confirmed = true;
            let promised = wanted.promised;
            wanted.promised |= !wanted.waiters.is_empty();
            wanted.waiters.drain(..).for_each(done);
            if promised {
                promised_before.push(channel);
            }
        }
        promised_before
    }

    /// The channels that somebody takes for subscribed.
    pub fn promised(&self) -> Vec<Channel> {
        self.channels
            .iter()
            .filter(|(_, wanted)| wanted.promised)
            .map(|(channel, _)| channel.clone())
            .collect()
    }
}

/// Whoever waited may have gone away meanwhile.
fn done(waiter: oneshot::Sender<()>) {
    let _ = waiter.send(());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::new(name).expect("a name")
    }

    fn waits(interest: &mut Interest, name: &str) -> oneshot::Receiver<()> {
        match interest.subscribe(&channel(name)) {
            Subscribed::Soon(receiver) => receiver,
            Subscribed::Already => panic!("{name} is not confirmed"),
        }
    }

    fn confirm_all(interest: &mut Interest) -> Vec<Channel> {
        let pending = interest.take_pending();
        interest.confirm(pending)
    }

    #[test]
    fn a_subscription_is_confirmed_before_it_is_promised() {
        let mut interest = Interest::new([Channel::lobby()]);
        let mut first = waits(&mut interest, "a");
        interest.open();
        let mut second = waits(&mut interest, "b");
        assert!(first.try_recv().is_err() && second.try_recv().is_err());
        assert_eq!(confirm_all(&mut interest), [], "nobody was promised anything before");
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert_eq!(interest.confirmed(), 3, "the lobby too");
        assert!(matches!(interest.subscribe(&channel("a")), Subscribed::Already));
    }

    #[test]
    fn whoever_was_promised_is_told_of_the_gap() {
        let mut interest = Interest::new([Channel::lobby()]);
        let mut waiter = waits(&mut interest, "waited");
        interest.away();
        assert!(waiter.try_recv().is_ok(), "nobody waits for a bus that is away");
        assert!(matches!(interest.subscribe(&channel("joined")), Subscribed::Already));
        interest.open();
        let _later = waits(&mut interest, "later");
        let mut told = confirm_all(&mut interest);
        told.sort();
        assert_eq!(told, [channel("joined"), channel("waited")]);
        interest.away();
        assert_eq!(interest.confirmed(), 0);
        interest.open();
        assert_eq!(confirm_all(&mut interest).len(), 3);
    }

    #[test]
    fn a_released_channel_lingers_and_can_be_taken_back() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut interest = Interest::new([Channel::lobby()]);
        interest.open();
        for name in ["gone", "back", "late", "raced"] {
            let _ = interest.subscribe(&channel(name));
        }
        confirm_all(&mut interest);
        for name in ["gone", "back", "late", "raced", "lobby", "never"] {
            interest.release(&channel(name), start);
        }
        let _ = interest.subscribe(&channel("back"));
        interest.release(&channel("late"), start + second);
        let due = interest.take_released(start);
        assert_eq!(due, [(start, channel("gone")), (start, channel("raced"))]);
        let _ = interest.subscribe(&channel("raced"));
        assert_eq!(interest.leave(start, &channel("gone")), Some(true));
        assert_eq!(interest.leave(start, &channel("raced")), None, "asked for since");
        assert_eq!(interest.first_release(), Some(start + second));
        assert_eq!(interest.take_released(start + second), [(start + second, channel("late"))]);
        assert_eq!(interest.confirmed(), 4);
        let mut again = waits(&mut interest, "gone");
        assert_eq!(interest.take_pending(), [channel("gone")], "subscribed anew");
        assert!(again.try_recv().is_err());
    }
}
