//! The pace at which a worker's clients are given what they have missed. When thousands lose their instance at once and
//! come here, they could keep every core busy for seconds, and everybody else would wait for them. So each worker
//! takes `recovery_rate` a second and no more, in the order in which they ask; and while some wait, it takes fewer new
//! connections, so that most wait in the kernel, where they cost nothing and no deadline of their clients' runs yet. Nobody
//! holds up anybody by being slow: counted are those who wait for us, not those for whom we wait. Nor by asking for much: a
//! connection stands in the line once, and what else it wants waits behind that.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use fanfare_protocol::ConnectionId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::crowd::Crowd;

/// So many are taken at once after a pause: ordinary clients that come back wait for nothing.
const BURST: u32 = 32;

/// While so many wait, others come later.
const MANY: usize = 32;

/// One worker's.
#[derive(Debug)]
pub struct Recoveries {
    /// How long each is behind the one before it; nothing, if as many as come are taken.
    spacing: Option<Duration>,
    /// When the next one would be due, had they all come at that pace.
    next: Cell<Instant>,
    /// Who stands at its head is the next one.
    line: Semaphore,
    /// The lines of those connections that want something, each before the common one.
    own: RefCell<HashMap<ConnectionId, Rc<Semaphore>>>,
    crowd: Crowd,
}

/// One wish of a connection's, in its own line.
struct Wish<'a> {
    recoveries: &'a Recoveries,
    connection: ConnectionId,
    line: Rc<Semaphore>,
}

impl Recoveries {
    /// So many a second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            spacing: rate.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Cell::new(Instant::now()),
            line: Semaphore::new(1),
            own: RefCell::default(),
            crowd: Crowd::new(MANY),
        }
    }

    /// Reads what a connection has missed in one of its channels, in its turn, which comes after those of all others that
    /// wait; and begins to read no more of it before that has been read.
    pub async fn in_turn_of<T>(&self, connection: ConnectionId, reading: impl Future<Output = T>) -> T {
        let wish = Wish::new(self, connection);
        // Never closed.
        let _head = wish.line.acquire().await;
        self.in_turn(reading).await
    }

    /// Reads what somebody has missed who wants nothing else, in his turn.
    pub async fn in_turn<T>(&self, reading: impl Future<Output = T>) -> T {
        let _waiting = self.crowd.join();
        if let Some(spacing) = self.spacing {
            self.turn(spacing).await;
        }
        reading.await
    }

    async fn turn(&self, spacing: Duration) {
        // Never closed.
        let _head = self.line.acquire().await;
        let now = Instant::now();
        let due = self.next.get().max(now.checked_sub(spacing * BURST).unwrap_or(now));
        self.next.set(due + spacing);
        if due > now {
            sleep_until(due).await;
        }
    }

    /// Those who wait for what they missed.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }
}

impl<'a> Wish<'a> {
    fn new(recoveries: &'a Recoveries, connection: ConnectionId) -> Self {
        let mut own = recoveries.own.borrow_mut();
        let line = own.entry(connection).or_insert_with(|| Rc::new(Semaphore::new(1))).clone();
        Self { recoveries, connection, line }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        // This one's and the map's: it was the last.
        if Rc::strong_count(&self.line) == 2 {
            self.recoveries.own.borrow_mut().remove(&self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_wants_much_stands_in_the_line_once() {
        const EACH: usize = 4;
        let recoveries = Recoveries::new(NonZeroU32::new(20));
        // The first ones after a pause are not waited for.
        for _ in 0..=BURST {
            recoveries.in_turn(async {}).await;
        }
        let served = RefCell::new(Vec::new());
        let wish = |name: &'static str, connection: ConnectionId| {
            let (recoveries, served) = (&recoveries, &served);
            async move {
                recoveries
                    .in_turn_of(connection, async {
                        assert!(!recoveries.crowd().are_many());
                        served.borrow_mut().push(name);
                    })
                    .await;
            }
        };
        let greedy = [("one", ConnectionId::new_v4()), ("two", ConnectionId::new_v4())]
            .into_iter()
            .flat_map(|row| std::iter::repeat_n(row, EACH));
        let modest = [("three", ConnectionId::new_v4())];
        join_all(greedy.chain(modest).map(|(name, connection)| wish(name, connection))).await;
        let served = served.into_inner();
        assert_eq!(served.len(), 2 * EACH + 1);
        assert_eq!(served[..3], ["one", "two", "three"], "the last to come wants one, and each has a turn");
        assert!(served[3..].chunks(2).all(|pair| pair == ["one", "two"]), "{served:?}");
        assert!(recoveries.own.borrow().is_empty(), "nothing is kept of who wants nothing");
    }
}
