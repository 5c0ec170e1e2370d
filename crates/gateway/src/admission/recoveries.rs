//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once
//! and come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer
//! new connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs
//! yet. Nobody holds up anybody by being slow: counted are those who wait for us, not those for whom we wait. Nor by
//! asking for much: a session waits for a turn or for room once, and what else it wants waits behind that. Nor by
//! asking again and again: newcomers wait for those who have come back, and not for who stays. It weighs nothing.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::admission::crowd::{Crowd, Member};

/// So many are taken at once after a pause: ordinary clients that come back wait for nothing.
const BURST: u32 = 32;

/// While so many wait, others come later.
const MANY: usize = 32;

/// Bytes of what clients have missed that are held in memory at a time, unless one alone has missed more.
const ROOM: usize = 8 << 20;

/// That is given away in pieces of so many.
const PIECE: usize = 1 << 10;

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
    /// For sessions, whose channels may have missed much.
    room: Arc<Semaphore>,
    crowd: Crowd,
}

/// So long as it lives, what a session has missed may be held in memory.
pub struct Room {
    _permit: OwnedSemaphorePermit,
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
            room: Arc::new(Semaphore::new(ROOM / PIECE)),
            crowd: Crowd::new(MANY),
        }
    }

    /// Resolves when there is room for so many bytes of what somebody has missed, first come, first served. It is to
    /// be held until all of that waits for its socket; who waits for more must not hold any, or two might wait for
    /// each other. Nobody gets more than all there is, whatever it asks for.
    pub async fn room(&self, guest: Guest, bytes: usize) -> Room {
        let pieces = bytes.min(ROOM).div_ceil(PIECE);
        let _waiting = self.join(guest);
        let permit = self.room.clone().acquire_many_owned(pieces as u32).await;
        Room { _permit: permit.expect("it is never closed") }
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
    fn there_is_room_for_so_many_bytes_and_who_waits_for_it_is_one_of_the_crowd() {
        let recoveries = Recoveries::new(None);
        let mut held: Vec<_> = (0..4)
            .map(|_| recoveries.room(Guest::Returning, ROOM / 4).now_or_never().expect("room"))
            .collect();
        let mut waiting: Vec<_> =
            (0..MANY).map(|_| Box::pin(recoveries.room(Guest::Returning, ROOM / 4))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(recoveries.crowd().are_many());
        held.pop();
        // Who has waited longest is the next one, and does not wait any more.
        assert!(waiting[1].as_mut().now_or_never().is_none());
        let next = waiting[0].as_mut().now_or_never();
        assert!(next.is_some() && !recoveries.crowd().are_many());
        assert!(waiting[1].as_mut().now_or_never().is_none());
        drop((next, waiting));
        // Who asks for more than there is waits for all of it, and those behind wait as well.
        let mut all = Box::pin(recoveries.room(Guest::Returning, usize::MAX));
        assert!(all.as_mut().now_or_never().is_none());
        let mut little = Box::pin(recoveries.room(Guest::Returning, 1));
        assert!(little.as_mut().now_or_never().is_none());
        drop(held);
        let all = all.now_or_never().expect("all of it");
        assert!(little.as_mut().now_or_never().is_none());
        drop(all);
        assert!(little.now_or_never().is_some());
    }

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
                let mut rooms: Vec<_> =
                    guests.iter().map(|guest| Box::pin(recoveries.room(*guest, ROOM))).collect();
                assert!(turns.iter_mut().all(|turn| turn.now_or_never().is_none()));
                assert_eq!(recoveries.crowd().are_many(), many, "{channels} channels");
                drop(turns);
                drop(waiting);
                let _held = rooms.remove(0).now_or_never().expect("room");
                let waiting = rooms.iter_mut().filter_map(FutureExt::now_or_never).count();
                assert_eq!(waiting, 0);
            });
        }
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
