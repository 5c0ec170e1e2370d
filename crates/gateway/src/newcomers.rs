//! How much of a worker's time goes to connections whose handshake is not over. Thousands that come at once would keep it
//! busy for as long as it takes to let all of them in, and on a machine with few cores everybody else, Redis included, would
//! wait as long. So while anybody is being served the listener pauses after every millisecond of that. It knows nothing of
//! what they want.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// After so much time for newcomers …
const BUSY: Duration = Duration::from_millis(1);

/// … there is so much for others, if there are any.
const PAUSE: Duration = Duration::from_millis(2);

/// One worker's. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Newcomers {
    spent: Rc<Cell<Duration>>,
    /// Deliveries of the worker's, when it last paused.
    deliveries: Rc<Cell<u64>>,
}

/// A handshake whose time is counted.
pub struct Counted<F> {
    newcomers: Newcomers,
    // Boxed, because it may not move; it is gone when the handshake is over.
    handshake: Pin<Box<F>>,
}

impl Newcomers {
    /// The same handshake, counted.
    pub fn counting<F: Future>(&self, handshake: F) -> Counted<F> {
        Counted { newcomers: self.clone(), handshake: Box::pin(handshake) }
    }

    /// Resolves when the next one may come. The worker has made so many deliveries by now.
    pub async fn pause(&self, deliveries: u64) {
        if self.spent.get() < BUSY {
            return;
        }
        self.spent.set(Duration::ZERO);
        if self.deliveries.replace(deliveries) != deliveries {
            sleep(PAUSE).await;
        }
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let begun = Instant::now();
        let polled = self.handshake.as_mut().poll(cx);
        let spent = &self.newcomers.spent;
        spent.set(spent.get() + begun.elapsed());
        polled
    }
}
