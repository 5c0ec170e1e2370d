//! Whose TLS handshake is being reckoned for. A signature takes up to a millisecond, so however many clients come at
//! once, there is one at a time, and between two of them everybody else has a turn. While many wait for theirs the
//! listener lets them wait in the kernel, or those who have waited longest for us would be cut as if they kept us
//! waiting (see `unfinished`). It does none of the reckoning itself.

use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::admission::crowd::Crowd;

/// While so many wait, others come later: a few milliseconds' work.
const MANY: usize = 32;

/// One worker's.
#[derive(Debug)]
pub struct Reckoning {
    place: Semaphore,
    crowd: Crowd,
}

impl Reckoning {
    /// Nobody waits yet.
    pub const fn new() -> Self {
        Self { place: Semaphore::const_new(1), crowd: Crowd::new(MANY) }
    }

    /// Does it when its turn has come, first come, first served.
    pub async fn take_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        let _waiting = self.crowd.join();
        // Never closed; and were it, the work must be done all the same.
        let _place = self.place.acquire().await;
        let result = work();
        yield_now().await;
        result
    }

    /// Those who wait for their turn, and whose turn it is.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::test_log::Log;

    #[tokio::test]
    async fn others_have_their_turn_between_two() {
        const HANDSHAKES: usize = 5;
        let (reckoning, log) = (Rc::new(Reckoning::new()), Log::default());
        let handshakes = (0..HANDSHAKES).map(|_| {
            let (reckoning, log) = (reckoning.clone(), log.clone());
            async move { reckoning.take_turn(|| log.put('h')).await }
        });
        let log = log.beside_others(handshakes).await;
        // Each goes round once; two in a row would be the end of one round and the beginning of the next.
        assert!(!log.contains("hhh") && log.matches('h').count() == HANDSHAKES, "{log}");
    }

    #[test]
    fn whoever_waits_for_a_turn_is_one_of_the_crowd() {
        use futures_util::FutureExt;

        let reckoning = Reckoning::new();
        let mut turns: Vec<_> = (0..MANY).map(|_| Box::pin(reckoning.take_turn(|| ()))).collect();
        assert!(!reckoning.crowd().are_many());
        assert!(turns.iter_mut().all(|turn| turn.now_or_never().is_none()));
        assert!(reckoning.crowd().are_many());
        turns.pop();
        assert!(!reckoning.crowd().are_many());
    }
}
