//! What the last publication of a channel said, where somebody wants to be told the delta to it. All together have a
//! bound, for whoever subscribes to many channels holds none of it: what is beyond is not remembered, and the next
//! publication there is told whole.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use fanfare_protocol::Channel;
use papaya::HashMap;

/// What an entry takes beside its bytes, about.
const ENTRY: usize = 150;

/// Of the most memory that the instance may take, this part …
const PART: usize = 8;

/// … and without a limit, so much.
const USUAL: usize = 128 << 20;

/// See the module.
pub struct Previous {
    most: usize,
    bytes: AtomicUsize,
    payloads: HashMap<Channel, Bytes>,
}

impl Previous {
    /// As much as an instance that may take `limit` has room for.
    pub fn within(limit: Option<usize>) -> Self {
        let most = limit.map_or(USUAL, |limit| limit / PART);
        Self { most, bytes: AtomicUsize::new(0), payloads: HashMap::new() }
    }

    /// What the channel's publication before this one said, if that is remembered; this one takes its place. To be
    /// called in the channel's order.
    pub fn replace(&self, channel: &Channel, payload: &Bytes) -> Option<Bytes> {
        let weight = weigh(channel, payload);
        // Counted before anybody can forget it.
        let bytes = self.bytes.fetch_add(weight, Relaxed) + weight;
        let before = self.payloads.pin().insert(channel.clone(), payload.clone()).cloned();
        let freed = before.as_ref().map_or(0, |before| weigh(channel, before));
        self.bytes.fetch_sub(freed, Relaxed);
        if bytes > self.most.saturating_add(freed) {
            self.forget(channel);
        }
        before
    }

    /// Forgets what a channel's last publication said.
    pub fn forget(&self, channel: &Channel) {
        if self.payloads.is_empty() {
            return;
        }
        if let Some(payload) = self.payloads.pin().remove(channel) {
            self.bytes.fetch_sub(weigh(channel, payload), Relaxed);
        }
    }
}

fn weigh(channel: &Channel, payload: &Bytes) -> usize {
    channel.as_str().len() + payload.len() + ENTRY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_bound_is_not_remembered() {
        let previous = Previous::within(Some(PART * 10_000));
        let named = |number: usize| Channel::new(&number.to_string()).unwrap();
        let said = |byte: u8| Bytes::from(vec![byte; 1000]);
        for number in 0..20 {
            assert_eq!(previous.replace(&named(number), &said(1)), None);
            assert!(previous.bytes.load(Relaxed) <= 10_000);
        }
        // Those that are remembered go on, and make room for others when nobody wants them any more.
        for number in 0..20 {
            let before = previous.replace(&named(number), &said(2));
            assert_eq!(before, (number < 8).then(|| said(1)), "{number}");
        }
        previous.forget(&named(3));
        previous.forget(&named(3));
        assert_eq!(previous.replace(&named(19), &said(3)), None);
        assert_eq!(previous.replace(&named(19), &said(4)), Some(said(3)));
        // A smaller one in the place of a larger one, and the other way round.
        assert_eq!(previous.replace(&named(19), &Bytes::from_static(b"x")), Some(said(4)));
        assert_eq!(previous.replace(&named(19), &vec![0; 9000].into()), Some(Bytes::from_static(b"x")));
        assert_eq!(previous.replace(&named(19), &said(5)), None, "it was too large");
        (0..20).for_each(|number| previous.forget(&named(number)));
        assert_eq!(previous.bytes.load(Relaxed), 0);
    }
}
