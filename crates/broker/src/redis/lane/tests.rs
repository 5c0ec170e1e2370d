use fanfare_protocol::Kind;

use super::*;

/// Remembers the payloads.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Relay for Heard {
    fn deliver(&self, _channel: &Channel, publication: Publication) {
        self.0.lock().push(String::from_utf8_lossy(&publication.payload).into_owned());
    }

    fn gap(&self, gap: Gap) {
        panic!("{gap:?}");
    }

    fn wanted(&self, _channel: &Channel) -> bool {
        false
    }
}

/// A lane whose tasks are played by the test.
struct Stage {
    lane: Lane,
    relay: Arc<Heard>,
}

impl Stage {
    fn new(spool_bytes: usize) -> Self {
        let relay = Arc::new(Heard::default());
        let config = RedisConfig { spool_bytes, ..RedisConfig::new("redis://localhost") };
        Self {
            lane: Lane::new(&config, "localhost:6379".into(), relay.clone(), Arc::new(|_| None), None, None),
            relay,
        }
    }

    fn up(spool_bytes: usize) -> Self {
        let stage = Self::new(spool_bytes);
        stage.lane.publisher_open();
        stage.lane.subscriber_open();
        stage.round_trip();
        assert!(stage.is_up());
        stage
    }

    fn is_up(&self) -> bool {
        let mut status = Status { up: true, ..Status::default() };
        self.lane.add_to(&mut status);
        status.up
    }

    fn publish(&self, text: &'static str) {
        self.lane.publish(&Channel::lobby(), Publication::new(Kind::Text, text.into()));
    }

    /// What the publisher's task would send.
    fn send(&self) -> Vec<(u64, Message)> {
        let mut batch = Vec::new();
        self.lane.send(100, usize::MAX, |number, message| batch.push((number, message)));
        batch
    }

    /// The bus takes and brings back all there is.
    fn round_trip(&self) {
        let Some((last, _)) = self.send().pop() else { return };
        self.lane.acknowledged(last);
        self.lane.order.lock().heard = last;
        self.lane.heard(last, Some(last));
    }

    fn heard(&self) -> Vec<String> {
        self.relay.0.lock().clone()
    }
}

#[test]
fn it_is_up_when_the_canary_is_back_and_not_before() {
    let stage = Stage::new(1 << 20);
    stage.lane.publisher_open();
    assert_eq!(stage.send(), [], "not before the subscriber is there");
    stage.lane.subscriber_open();
    let sent = stage.send();
    assert_eq!(sent, [(1, Message::Canary)]);
    assert!(!stage.is_up());
    stage.lane.acknowledged(1);
    assert!(stage.lane.canary_overdue().is_some() && !stage.is_up());
    stage.lane.heard(0, Some(0));
    assert!(!stage.is_up(), "an echo of something earlier");
    stage.lane.heard(1, Some(1));
    assert!(stage.is_up() && stage.lane.canary_overdue().is_none());
}

#[test]
fn what_had_no_echo_is_delivered_when_the_lane_goes_down_and_once() {
    let stage = Stage::up(1 << 20);
    stage.publish("echoed");
    stage.round_trip();
    stage.publish("sent");
    let sent = stage.send();
    stage.publish("waits");
    assert_eq!(stage.heard(), [""; 0], "the listener delivers echoes, not the lane");
    stage.lane.publisher_lost(&Fault::Closed);
    assert_eq!(stage.heard(), ["sent", "waits"]);
    stage.publish("at once");
    stage.lane.subscriber_lost(&Fault::Closed);
    assert_eq!(stage.heard(), ["sent", "waits", "at once"]);
    assert_eq!(stage.lane.order.lock().heard, stage.lane.last(), "echoes of all these will be known");
    stage.lane.subscriber_open();
    stage.lane.publisher_open();
    let again = stage.send();
    assert_eq!(again[0], sent[0], "nobody knows what became of it");
    assert_eq!(again.len(), 4, "and the canary behind them all");
}

#[test]
fn a_late_canary_is_followed_and_a_dropped_one_replaced() {
    let stage = Stage::up(1000);
    stage.lane.tick();
    stage.lane.tick();
    assert_eq!(stage.send().len(), 1, "one waits to be sent: there is no use in another");
    stage.lane.acknowledged(stage.lane.last());
    stage.lane.tick();
    let followers = stage.send();
    assert_eq!(followers.len(), 1);
    stage.lane.heard(followers[0].0, Some(followers[0].0));
    assert_eq!(stage.lane.canary_overdue(), None, "the follower is proof as well");

    let stage = Stage::new(0);
    stage.lane.publisher_open();
    stage.lane.subscriber_open();
    stage.publish("more than the spool holds");
    assert_eq!(stage.send(), [], "the canary is gone too");
    stage.lane.tick();
    stage.round_trip();
    assert!(stage.is_up());
}
