use fanfare_protocol::Publication;

use super::super::Names;
use super::*;
use crate::redis::keys::Keys;
use crate::redis::lane::Lane;
use crate::redis::link::Link;
use crate::{Gap, RedisConfig, Relay};

/// Only in `held` is anybody subscribed.
struct Held;

impl Relay for Held {
    fn deliver(&self, _channel: &Channel, _publication: Publication) {}

    fn gap(&self, _gap: Gap) {}

    fn wanted(&self, channel: &Channel) -> bool {
        channel.as_str() == "held"
    }
}

#[test]
fn who_comes_and_goes_while_redis_is_away_leaves_no_names() {
    let config = RedisConfig::new("redis://localhost");
    let link = Link::new(config.nodes().expect("a URL"), false, config.timeout).expect("a URL");
    let lane = Lane::new(&config, "localhost".into(), Arc::new(Held), Arc::new(|_| None), None, None);
    let (names, keys) = (Names::new("fanfare"), Keys::new("fanfare", Uuid::nil()));
    let ledger = Ledger::new(names, keys, link, Box::new([Arc::new(lane)]), config.lease);
    let channel = |name: &str| Channel::new(name).expect("a name");
    // Redis has been told of these.
    for name in ["held", "left"] {
        ledger.rows.lock().counts.wrote(channel(name), 2);
    }
    for name in ["held", "left"].map(str::to_owned).into_iter().chain((0..1000).map(|n| format!("c{n}"))) {
        ledger.subscribers_changed(&channel(&name));
    }
    ledger.lost(&Fault::Refused);
    let mut changed = ledger.rows.lock().counts.take(usize::MAX);
    changed.sort_unstable();
    assert_eq!(changed, ["held", "left"].map(channel), "what Redis does not know yet");
}
