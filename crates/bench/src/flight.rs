//! Messages that are under way when a run goes flat out: each publisher keeps so many outstanding, and one is
//! done when every subscriber has it. The threads that read count here, the one that publishes waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mio::Waker;

/// Counts the receipts of each message that is outstanding.
#[derive(Debug)]
pub(crate) struct Flight {
    /// For each publisher a ring of slots; each has the number's lower half above and the receipts below, so that
    /// a receipt that comes too late is not counted for the message which took the slot over.
    slots: Vec<AtomicU64>,
    ring: usize,
    /// How many subscribers must have a message; fewer when one has gone.
    audience: AtomicU64,
    waker: Arc<Waker>,
}

impl Flight {
    /// Room for `in_flight` messages of each publisher; `waker` wakes the publishers' thread.
    pub(crate) fn new(publishers: usize, in_flight: usize, audience: usize, waker: Arc<Waker>) -> Self {
        let ring = in_flight.next_power_of_two();
        Self {
            slots: (0..publishers * ring).map(|_| AtomicU64::new(0)).collect(),
            ring,
            audience: AtomicU64::new(audience as u64),
            waker,
        }
    }

    /// A message is about to be sent.
    pub(crate) fn launch(&self, publisher: usize, sequence: u64) {
        self.slot(publisher, sequence).store(sequence << 32, Ordering::Release);
    }

    /// A subscriber has it.
    pub(crate) fn landed(&self, publisher: usize, sequence: u64) {
        let slot = self.slot(publisher, sequence);
        if slot.load(Ordering::Acquire) >> 32 == sequence & u64::from(u32::MAX) {
            let receipts = (slot.fetch_add(1, Ordering::AcqRel) & u64::from(u32::MAX)) + 1;
            if receipts >= self.audience.load(Ordering::Acquire) {
                self.wake();
            }
        }
    }

    /// A subscriber has gone, or is back. A message that nobody is left to receive is never done: if it were,
    /// its publisher would send the next one at once, and so on without end.
    pub(crate) fn attend(&self, audience: usize) {
        self.audience.store(audience.max(1) as u64, Ordering::Release);
        self.wake();
    }

    /// Whether every subscriber has it.
    pub(crate) fn is_done(&self, publisher: usize, sequence: u64) -> bool {
        let receipts = self.slot(publisher, sequence).load(Ordering::Acquire) & u64::from(u32::MAX);
        receipts >= self.audience.load(Ordering::Acquire)
    }

    fn slot(&self, publisher: usize, sequence: u64) -> &AtomicU64 {
        &self.slots[publisher * self.ring + sequence as usize % self.ring]
    }

    fn wake(&self) {
        // It fails only if the descriptor is gone, and then nobody waits for it.
        let _ = self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_done_when_everybody_has_it() {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let flight = Flight::new(2, 3, 2, waker);
        for sequence in 0..3 {
            flight.launch(1, sequence);
        }
        flight.landed(1, 1);
        assert!(!flight.is_done(1, 1));
        flight.landed(1, 1);
        assert!(flight.is_done(1, 1) && !flight.is_done(1, 0));

        flight.launch(1, 5);
        flight.landed(1, 1);
        assert!(!flight.is_done(1, 5), "a late receipt is not counted for its successor");
        flight.landed(1, 5);
        flight.attend(1);
        assert!(flight.is_done(1, 5));

        flight.launch(1, 6);
        flight.attend(0);
        assert!(!flight.is_done(1, 6), "nobody is left");
    }
}
