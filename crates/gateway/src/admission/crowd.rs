//! Those who wait for us. While they are many, others should come later: in the kernel waiting costs nothing, and no
//! deadline of a client's that has not been accepted runs yet. It decides neither who is next nor how long one may
//! wait.

use std::cell::Cell;

use tokio::sync::Notify;

/// One worker's, of one kind.
#[derive(Debug)]
pub struct Crowd {
    many: usize,
    count: Cell<usize>,
    fewer: Notify,
}

/// One who waits, as long as this lives.
pub struct Member<'a>(&'a Crowd);

impl Crowd {
    /// So many are many.
    pub const fn new(many: usize) -> Self {
        Self { many, count: Cell::new(0), fewer: Notify::const_new() }
    }

    /// One more.
    pub fn join(&self) -> Member<'_> {
        self.count.set(self.count.get() + 1);
        Member(self)
    }

    /// Whether so many wait that others should come later.
    pub fn are_many(&self) -> bool {
        self.count.get() >= self.many
    }

    /// Resolves when they are not many any more. For one who waits, which is the listener.
    pub async fn are_fewer(&self) {
        while self.are_many() {
            self.fewer.notified().await;
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let Self(crowd) = self;
        crowd.count.set(crowd.count.get() - 1);
        if !crowd.are_many() {
            crowd.fewer.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_listener_waits_while_they_are_many() {
        let crowd = Crowd::new(2);
        let first = crowd.join();
        assert_eq!(crowd.are_fewer().now_or_never(), Some(()));
        let second = crowd.join();
        let mut fewer = pin!(crowd.are_fewer());
        assert_eq!(fewer.as_mut().now_or_never(), None);
        let third = crowd.join();
        drop(second);
        assert_eq!(fewer.as_mut().now_or_never(), None);
        drop(third);
        assert_eq!(fewer.now_or_never(), Some(()));
        drop(first);
    }
}
