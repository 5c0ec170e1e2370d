//! How much of a worker's time goes to connections whose handshake is not over. Thousands that come at once would keep
//! it busy for as long as it takes to let all of them in, and on a machine with few cores everybody else, Redis
//! included, would wait as long. So while anybody is being served newcomers pause after every 0.4 ms of that:
//! those who come as well as those who were let in and whose requests then arrive all at once. It knows nothing of what
//! they want.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::time::{Instant, Sleep, sleep};

/// After so much time for newcomers …
const BUSY: Duration = Duration::from_micros(400);

/// … there is so much for others, if there are any. With 1 and 2 ms, which is the same share, whoever is served waits
/// half as long again in a storm (p99.9 and longest).
const PAUSE: Duration = Duration::from_millis(1);

/// So long after a delivery there are. Longer than newcomers could hold one up, or whoever has waited longest would
/// count as nobody.
const RECENTLY: Duration = Duration::from_millis(500);

/// One worker's. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Newcomers(Rc<State>);

struct State {
    /// How many deliveries the worker has made.
    deliveries: Box<dyn Fn() -> u64>,
    /// How many there were when it was last looked, and when there were first so many.
    served: Cell<(u64, Option<Instant>)>,
    /// Since the last pause.
    spent: Cell<Duration>,
    /// The last pause, which may be over. All wait for the same timer, because setting one costs a system call.
    paused: RefCell<Option<Pause>>,
}

type Pause = Shared<Pin<Box<Sleep>>>;

/// A handshake whose time is counted, and which pauses with all others.
pub struct Counted<F> {
    newcomers: Newcomers,
    pause: Option<Pause>,
    // Boxed, because it may not move; it is gone when the handshake is over.
    handshake: Pin<Box<F>>,
}

impl Newcomers {
    /// Those of a worker that tells how many deliveries it has made.
    pub fn new(deliveries: impl Fn() -> u64 + 'static) -> Self {
        let served = Cell::new((deliveries(), None));
        Self(Rc::new(State {
            deliveries: Box::new(deliveries),
            served,
            spent: Cell::default(),
            paused: RefCell::default(),
        }))
    }

    /// The same handshake, counted.
    pub fn counting<F: Future>(&self, handshake: F) -> Counted<F> {
        Counted { newcomers: self.clone(), pause: None, handshake: Box::pin(handshake) }
    }

    /// Resolves when the next one may come.
    pub async fn pause(&self) {
        if let Some(pause) = self.0.pause() {
            pause.await;
        }
    }
}

impl State {
    /// What ends with the pause, if there is one now.
    fn pause(&self) -> Option<Pause> {
        let mut paused = self.paused.borrow_mut();
        if paused.as_ref().is_some_and(|pause| pause.clone().now_or_never().is_some()) {
            *paused = None;
        }
        paused.clone()
    }

    /// So much more time went to newcomers, until now.
    fn spend(&self, time: Duration, now: Instant) {
        let spent = self.spent.get() + time;
        if spent < BUSY {
            self.spent.set(spent);
            return;
        }
        self.spent.set(Duration::ZERO);
        let ((before, mut since), deliveries) = (self.served.get(), (self.deliveries)());
        if deliveries != before {
            since = Some(now);
        }
        self.served.set((deliveries, since));
        if since.is_some_and(|since| now < since + RECENTLY) {
            *self.paused.borrow_mut() = Some(Box::pin(sleep(PAUSE)).shared());
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("spent", &self.spent).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        while let Some(pause) = self.pause.take().or_else(|| self.newcomers.0.pause()) {
            ready!(self.pause.insert(pause).poll_unpin(cx));
            self.pause = None;
        }
        let begun = Instant::now();
        let polled = self.handshake.as_mut().poll(cx);
        let now = Instant::now();
        self.newcomers.0.spend(now - begun, now);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;

    use super::*;
    use crate::test_log::Log;

    /// How it goes when three handshakes that take so long each are let in at once: `h` for one.
    async fn log(deliveries: impl Fn() -> u64 + 'static) -> String {
        let (newcomers, log) = (Newcomers::new(deliveries), Log::default());
        let handshakes = (0..3).map(|_| {
            let log = log.clone();
            newcomers.counting(async move {
                let begun = Instant::now();
                while begun.elapsed() < BUSY {
                    spin_loop();
                }
                log.put('h');
            })
        });
        log.beside_others(handshakes).await
    }

    #[tokio::test]
    async fn others_have_their_time_between_newcomers_that_were_let_in_at_once() {
        let deliveries = Cell::new(0);
        let log = log(move || deliveries.replace(deliveries.get() + 1)).await;
        assert!(log.matches('h').count() == 3 && !log.contains("hh"), "{log}");
    }

    #[tokio::test]
    async fn where_nobody_is_served_nobody_waits() {
        let log = log(|| 7).await;
        assert!(log.contains("hhh"), "{log}");
    }
}
