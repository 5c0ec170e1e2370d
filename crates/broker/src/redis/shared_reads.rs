//! Who reads histories when. When thousands of clients come back at once, each wants to read one, and Redis does one
//! thing after the other: what is published meanwhile would wait behind all of them. So only a few reads are before
//! Redis at a time, the others wait here, and whoever wants the same as somebody who still waits shares his answer. It
//! remembers no answer: a read begins after everybody who gets it has asked for it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use metrics::Histogram;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::calls::Calls;
use super::fault::Fault;
use super::questions::Questions;
use super::reads::Reading;
use crate::{History, Status};

/// Reads under way at a time. Each takes Redis some tens of microseconds, so what is published waits for less than a
/// millisecond behind them.
const AT_ONCE: usize = 8;

/// After so long Redis has done what is little, and the answer is on its way, which may take many times as long: others
/// may ask meanwhile. So there are some thousands a second, wherever Redis is.
const DONE: Duration = Duration::from_millis(1);

/// So many may be on their way, in case that Redis is busy and has not done them.
const ON_THEIR_WAY: usize = 256;

/// Where histories are read, how often that happened, and how long it took.
pub(super) struct SharedReads {
    calls: Arc<Calls>,
    turns: Semaphore,
    on_their_way: Semaphore,
    /// What is to be read, and has not begun to be.
    waiting: Mutex<HashMap<Reading, (u64, WeakShared<Read>)>>,
    /// The number of the next one of those.
    next: AtomicU64,
    /// The last one that failed because Redis is not there: nobody waits for his turn to find that out for himself.
    failure: watch::Sender<Option<Fault>>,
    questions: Questions,
}

type Read = BoxFuture<'static, Result<History, Fault>>;

/// What is waiting is found by those who want the same, until its turn has come or nobody wants it any more.
struct Waiting {
    reads: Weak<SharedReads>,
    reading: Reading,
    number: u64,
}

impl SharedReads {
    /// One that notes how long each read takes.
    pub fn new(calls: Arc<Calls>, seconds: Histogram) -> Self {
        Self {
            calls,
            turns: Semaphore::new(AT_ONCE),
            on_their_way: Semaphore::new(ON_THEIR_WAY),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            failure: watch::Sender::new(None),
            questions: Questions::new(seconds),
        }
    }

    /// What is read, within a call's deadline from its turn on; or the fault of another read, if that ends while this
    /// one waits.
    pub fn read(self: &Arc<Self>, reading: Reading) -> Shared<Read> {
        let mut waiting = self.waiting.lock();
        if let Some(read) = waiting.get(&reading).and_then(|(_, read)| read.upgrade()) {
            return read;
        }
        let number = self.next.fetch_add(1, Relaxed);
        let place = Waiting { reads: Arc::downgrade(self), reading: reading.clone(), number };
        let read = self.clone().read_in_turn(place).boxed().shared();
        waiting.extend(read.downgrade().map(|read| (reading, (number, read))));
        read
    }

    async fn read_in_turn(self: Arc<Self>, place: Waiting) -> Result<History, Fault> {
        let mut failure = self.failure.subscribe();
        let (_on_its_way, mut turn) = tokio::select! {
            // A turn first: who needs not wait is not told of what went wrong before.
            biased;
            turn = async { (self.on_their_way.acquire().await, Some(self.turns.acquire().await)) } => turn,
            _ = failure.changed() => {
                let fault = failure.borrow().clone();
                return Err(fault.unwrap_or(Fault::Closed));
            }
        };
        let reading = place.reading.clone();
        drop(place);
        let mut answer = pin!(self.questions.ask(reading.carry_out(&self.calls)));
        let early = match reading.is_little() {
            true => timeout(DONE, &mut answer).await.ok(),
            false => None,
        };
        let history = match early {
            Some(history) => history,
            None => {
                turn = turn.filter(|_| !reading.is_little());
                answer.await
            }
        };
        if let Err(fault) = &history
            && !fault.is_refusal()
        {
            self.failure.send_replace(Some(fault.clone()));
        }
        drop(turn);
        history
    }

    /// Adds its counts.
    pub fn add_to(&self, status: &mut Status) {
        let (reads, failures) = self.questions.counts();
        status.history_reads += reads;
        status.history_failures += failures;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(reads) = self.reads.upgrade() else { return };
        let mut waiting = reads.waiting.lock();
        // If nobody wanted it any more, another may have taken its place just now.
        if waiting.get(&self.reading).is_some_and(|(number, _)| *number == self.number) {
            waiting.remove(&self.reading);
        }
    }
}
