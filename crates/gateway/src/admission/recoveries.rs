//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once
//! and come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer
//! new connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs
//! yet. Nobody holds up anybody by being slow: counted are those who wait for us, not those for whom we wait. Nor by
//! asking for much: a session waits for a turn or for room once, and what else it wants waits behind that. Nor by
//! asking again and again: newcomers wait for those who have come back, and not for who stays. It weighs nothing: room
//! is `memory`'s business.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::admission::crowd::{Crowd, Member};

/// So many are taken at once after a pause: ordinary clients that come back wait for nothing.
const BURST: u32 = 32;

/// While so many wait, others come later.
const MANY: usize = 32;

/// One more channel of the same client takes so many times less than the first: it has been waited for, and its
/// answer goes with the first one's.
const MORE: u32 = 4;

/// What a connection asks for first, in channels, is what it has missed elsewhere.
const FIRST: u8 = 128;

/// Whether newcomers wait for somebody who recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It has come back. It is one of the crowd.
    Returning,
    /// It has been here for long, and could go on for ever.
    Staying,
}

/// How much one connection has recovered.
#[derive(Debug, Default)]
pub struct Stay(u8);

impl Stay {
    /// What it is by now.
    pub fn guest(&self) -> Guest {
        if self.0 < FIRST { Guest::Returning } else { Guest::Staying }
    }

    /// It recovers so many channels more.
    pub fn recovers(&mut self, channels: usize) {
        self.0 = self.0.saturating_add(u8::try_from(channels).unwrap_or(u8::MAX));
    }
}

/// One worker's.
#[derive(Debug)]
pub struct Recoveries {
    /// How long each is behind the one before it; nothing, if as many as come are taken.
    spacing: Option<Duration>,
    /// When the next one would be due, had they all come at that pace.
    next: Cell<Instant>,
    /// Who stands at its head is the next one.
    line: Semaphore,
    crowd: Crowd,
}

/// A client that recovers. If it has come back it is one of the crowd, once, however many turns it waits for.
pub struct Recovering<'a> {
    recoveries: &'a Recoveries,
    _member: Option<Member<'a>>,
}

impl Recovering<'_> {
    /// Resolves when it is its turn to read what it has missed in a channel. It is nobody's if that is not waited for.
    pub async fn turn(&self) {
        self.recoveries.wait(1).await;
    }

    /// The same for one more channel.
    pub async fn another_turn(&self) {
        self.recoveries.wait(MORE).await;
    }
}

impl Recoveries {
    /// So many a second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            spacing: rate.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Cell::new(Instant::now()),
            line: Semaphore::new(1),
            crowd: Crowd::new(MANY),
        }
    }

    /// Reads what a client that has come back has missed in a channel, in its turn.
    pub async fn in_turn<T>(&self, reading: impl Future<Output = T>) -> T {
        self.join(Guest::Returning).turn().await;
        reading.await
    }

    async fn wait(&self, part: u32) {
        let Some(spacing) = self.spacing else { return };
        // Never closed.
        let _head = self.line.acquire().await;
        let now = Instant::now();
        let due = self.next.get().max(now.checked_sub(spacing * BURST).unwrap_or(now));
        if due > now {
            sleep_until(due).await;
        }
        self.next.set(due + spacing / part);
    }

    /// A client is being given what it has missed, for as long as this lives.
    pub fn join(&self, guest: Guest) -> Recovering<'_> {
        let member = (guest == Guest::Returning).then(|| self.crowd.join());
        Recovering { recoveries: self, _member: member }
    }

    /// Those who wait for what they missed.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_stays_is_none_of_the_crowd() {
        let recoveries = Recoveries::new(NonZeroU32::new(1));
        recoveries.next.set(Instant::now() + Duration::from_secs(60));
        let mut stays: Vec<_> = (0..MANY).map(|_| Stay::default()).collect();
        for (channels, guest, many) in [
            (100, Guest::Returning, true),
            (100, Guest::Returning, true),
            (1, Guest::Staying, false),
            (usize::MAX, Guest::Staying, false),
        ] {
            let guests: Vec<_> = stays.iter().map(Stay::guest).collect();
            stays.iter_mut().for_each(|stay| stay.recovers(channels));
            assert_eq!(guests, [guest; MANY]);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.expect("a runtime").block_on(async {
                let waiting: Vec<_> = guests.iter().map(|guest| recoveries.join(*guest)).collect();
                let mut turns: Vec<_> = waiting.iter().map(|one| Box::pin(one.turn())).collect();
                assert!(turns.iter_mut().all(|turn| turn.now_or_never().is_none()));
                assert_eq!(recoveries.crowd().are_many(), many, "{channels} channels");
            });
        }
    }

    #[test]
    fn who_waits_for_a_turn_is_one_of_the_crowd_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let recoveries = Recoveries::new(NonZeroU32::new(1));
            // Those who come first wait for nothing.
            let first = recoveries.join(Guest::Staying);
            while first.turn().now_or_never().is_some() {}
            let mut waiting = Vec::new();
            while !recoveries.crowd().are_many() {
                let mut read = Box::pin(recoveries.in_turn(async {}));
                assert!(read.as_mut().now_or_never().is_none());
                waiting.push(read);
            }
            assert_eq!(waiting.len(), MANY);
        });
    }

    #[test]
    fn a_turn_that_is_not_waited_for_is_the_next_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let recoveries = Recoveries::new(NonZeroU32::new(1));
            recoveries.next.set(Instant::now() - Duration::from_secs(1) * BURST);
            let client = recoveries.join(Guest::Returning);
            let at_once = (0..100).take_while(|_| client.turn().now_or_never().is_some()).count();
            assert_eq!(at_once, BURST as usize + 1);
            let next = recoveries.next.get();
            let mut waiting = Box::pin(client.turn());
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(client.turn().now_or_never().is_none());
            drop(waiting);
            assert_eq!(recoveries.next.get(), next);
        });
    }
}
