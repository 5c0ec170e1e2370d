//! Subscribing, what is held meanwhile, gaps, and what of a channel is wanted.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::{Carrier, Encoding, End, Format, Heartbeat, OnGap, Subscription};
use fanfare_protocol::centrifuge::FilterNode;
use fanfare_protocol::{Channel, Filter};
use fanfare_websocket::{Opcode, frame};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::{LIMIT, SOON, binary, settings, wanting, with_shard, written};

#[test]
fn a_gap_is_told_in_its_place_to_those_who_asked() {
    with_shard(settings(), async |bench| {
        let mut told = bench.peer("a", true, true).await;
        let mut untold = bench.peer("a", true, false).await;
        let mut other = bench.peer("b", true, true).await;
        bench.publish("a", b"before", None);
        bench.hub.gap(Some(vec![Channel::new("a").unwrap(), Channel::new("unknown").unwrap()]));
        bench.publish("a", b"after", None);
        bench.hub.gap(None);
        let (before, after) = (binary(b"before"), binary(b"after"));
        let notice = |channel: &str| frame(Opcode::Text, channel.as_bytes());
        told.expect(&[before.clone(), notice("a"), after.clone(), notice("a")]).await;
        untold.expect(&[before, after]).await;
        other.expect(&[notice("b")]).await;
    });
}

#[test]
fn a_connection_is_in_many_rooms_and_leaves_each_by_itself() {
    with_shard(settings(), async |bench| {
        let mut random = fastrand::Rng::with_seed(7);
        let names = ["a", "b", "c", "d", "e"];
        let mut peers = Vec::new();
        for _ in 0..6 {
            peers.push((bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await, Vec::new()));
        }
        let mut expected = vec![Vec::new(); peers.len()];
        for step in 0..600_u32 {
            let name = names[random.usize(0..names.len())];
            let (peer, rooms) = &mut peers[random.usize(0..6)];
            let channel = Channel::new(name).unwrap();
            match random.u8(0..4) {
                0 if !rooms.contains(&name) => {
                    assert!(bench.shard.subscribe(peer.key, &wanting(Format::PLAIN, name)).is_some());
                    rooms.push(name);
                }
                1 if rooms.contains(&name) => {
                    // What has been published is taken up before anybody leaves.
                    bench.hub.census().await;
                    assert!(bench.shard.unsubscribe(peer.key, &channel));
                    assert!(!bench.shard.unsubscribe(peer.key, &channel));
                    rooms.retain(|room| *room != name);
                }
                0 | 1 => {}
                _ => {
                    bench.publish(name, &step.to_be_bytes(), None);
                    bench.hub.census().await;
                    for ((_, rooms), expected) in peers.iter().zip(&mut expected) {
                        if rooms.contains(&name) {
                            expected.push(binary(&step.to_be_bytes()));
                        }
                    }
                }
            }
        }
        for ((peer, _), expected) in peers.iter_mut().zip(&expected) {
            peer.expect(expected).await;
            bench.shard.end(peer.key, End::Kicked);
        }
        assert_eq!(bench.hub.channels(), 0, "every room is left");
    });
}

#[test]
fn what_is_held_comes_behind_the_answer_and_after_the_position() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await;
        let held = Subscription { held: true, on_gap: OnGap::Lapse, ..wanting(Format::PLAIN, "a") };
        let channel = held.channel.clone();
        assert!(bench.shard.subscribe(peer.key, &held).is_some());
        assert!(bench.shard.subscribe(peer.key, &held).is_none(), "once is enough");
        bench.shard.subscribe(peer.key, &wanting(Format::PLAIN, "b")).unwrap();
        for offset in 1..=5 {
            bench.publish_as(offset, "a", &[offset as u8], None);
        }
        bench.publish_as(0, "a", b"from afar", None);
        bench.publish("b", b"not held", None);
        bench.hub.census().await;
        let answer = frame(Opcode::Text, b"answer");
        assert!(bench.shard.release(peer.key, &channel, &answer, 3, true));
        bench.publish_as(6, "a", &[6], None);
        let after = [binary(&[4]), binary(&[5]), binary(b"from afar"), binary(&[6])];
        peer.expect(&[vec![binary(b"not held"), answer.clone()], after.to_vec()].concat()).await;

        // A gap ends it, held or not; what is published then is nobody's.
        bench.hub.gap(Some(vec![channel.clone()]));
        bench.publish_as(8, "a", &[8], None);
        bench.hub.census().await;
        assert_eq!(*bench.heard.lapsed.borrow(), [(peer.key, channel.clone())]);
        assert!(!bench.shard.release(peer.key, &channel, &answer, 3, true));
        assert!(bench.shard.subscribe(peer.key, &held).is_some());
        bench.hub.gap(None);
        bench.hub.census().await;
        assert!(!bench.shard.release(peer.key, &channel, &answer, 3, true));
        bench.publish("b", b"still there", None);
        peer.expect(&[binary(b"still there")]).await;
    });
}

/// Where the position was found, the history may have been ahead of what had been delivered here.
#[test]
fn what_was_read_is_not_delivered_again_when_it_comes_later() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await;
        let mut other = bench.peer("a", true, false).await;
        let held = Subscription { held: true, on_gap: OnGap::Lapse, ..wanting(Format::PLAIN, "a") };
        bench.shard.subscribe(peer.key, &held).unwrap();
        assert!(bench.shard.release(peer.key, &held.channel, &Bytes::new(), 3, false));
        for offset in 2..=5 {
            bench.publish_as(offset, "a", &[offset as u8], None);
            bench.publish_as(0, "a", b"from afar", None);
            bench.hub.census().await;
        }
        let afar = || binary(b"from afar");
        peer.expect(&[afar(), afar(), binary(&[4]), afar(), binary(&[5]), afar()]).await;
        other.expect(&[binary(&[2]), afar(), binary(&[3]), afar(), binary(&[4]), afar()]).await;
    });
}

/// Whoever is far behind gets what has a number from elsewhere, until it is held and has been read to its end.
#[test]
fn what_is_read_elsewhere_passes_by_until_it_is_held_again() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await;
        let held = Subscription { held: true, on_gap: OnGap::Notice, ..wanting(Format::PLAIN, "a") };
        let piece = |text: &[u8]| frame(Opcode::Text, text);
        assert!(!bench.shard.hold(peer.key, &held.channel), "it is not there yet");
        bench.shard.subscribe(peer.key, &held).unwrap();
        let mut offset = 0;
        let mut publish = async || {
            offset += 1;
            bench.publish_as(offset, "a", &[offset as u8], None);
            bench.publish_as(0, "a", b"from afar", None);
            bench.hub.census().await;
        };
        publish().await;
        for _ in 0..2 {
            assert!(bench.shard.release(peer.key, &held.channel, &piece(b"piece"), u64::MAX, true));
            publish().await;
            assert!(bench.shard.hold(peer.key, &held.channel));
            publish().await;
        }
        assert!(bench.shard.release(peer.key, &held.channel, &piece(b"the last"), 4, true));
        publish().await;
        bench.hub.gap(None);
        let afar = || binary(b"from afar");
        let pieces = [piece(b"piece"), afar(), afar(), piece(b"piece"), afar(), afar()];
        peer.expect(&pieces).await;
        peer.expect(&[piece(b"the last"), binary(&[5]), afar(), binary(&[6]), afar(), piece(b"a")]).await;
    });
}

/// Who waits to be read to has nothing kept for it but what no history has.
#[test]
fn what_will_be_read_is_not_kept_until_it_is_held() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await;
        let held = Subscription { held: true, on_gap: OnGap::Lapse, ..wanting(Format::PLAIN, "a") };
        let mut offset = 0;
        let mut publish = async |payload: &[u8]| {
            offset += 1;
            bench.publish_as(offset, "a", payload, None);
            bench.hub.census().await;
        };
        bench.shard.defer(peer.key, &held.channel);
        bench.shard.subscribe(peer.key, &held).unwrap();
        publish(&[0; LIMIT / 2]).await;
        bench.publish_as(0, "a", b"from afar", None);
        bench.shard.defer(peer.key, &held.channel);
        for _ in 0..10 {
            publish(&[0; LIMIT / 2]).await;
        }
        assert!(bench.shard.hold(peer.key, &held.channel));
        publish(b"read").await;
        publish(b"kept").await;
        let read = frame(Opcode::Text, b"up to 12");
        assert!(bench.shard.release(peer.key, &held.channel, &read, 12, true));
        publish(b"new").await;
        peer.expect(&[read, binary(b"from afar"), binary(b"kept"), binary(b"new")]).await;
        // A gap ends it as it ends one that is held.
        bench.shard.defer(peer.key, &held.channel);
        bench.hub.gap(None);
        bench.hub.census().await;
        assert!(!bench.shard.hold(peer.key, &held.channel));
    });
}

#[test]
fn news_and_what_is_filtered_reach_those_who_want_them() {
    with_shard(settings(), async |bench| {
        let json = Format { encoding: Encoding::Json, carrier: Carrier::Frame };
        let delta = Format { encoding: Encoding::JsonDelta, carrier: Carrier::Deflated };
        let about = |topic: &str| Some(Arc::new([("topic".to_owned(), topic.to_owned())].into()));
        let node =
            FilterNode { key: "topic".into(), cmp: "eq".into(), val: "a".into(), ..Default::default() };
        let filter = Some(Rc::new(Filter::parse(node).unwrap()));
        let news = |format| Subscription { news: true, ..wanting(format, "a") };
        let mut told = bench.subscribed(news(json), None).await;
        let mut untold = bench.subscribed(wanting(json, "a"), None).await;
        let mut chooser = bench.subscribed(Subscription { filter, ..wanting(json, "a") }, None).await;
        let mut differing = bench.subscribed(news(delta), None).await;
        for (topic, payload) in [("b", &b"1"[..]), ("a", b"2"), ("c", b"3"), ("a", b"4")] {
            bench.deliver("a", b"news", |delivery| delivery.news = true);
            bench.deliver("a", payload, |delivery| delivery.tags = about(topic));
            bench.hub.census().await;
        }
        for (peer, all) in [
            (&mut told, &["news 1", "news 2", "news 3", "news 4"][..]),
            (&mut untold, &["1", "2", "3", "4"]),
            (&mut chooser, &["2", "4"]),
        ] {
            for visit in all {
                let messages = visit.split(' ').map(|payload| format!("{json:?}: {payload}"));
                let frames = messages.map(|message| frame(Opcode::Text, message.as_bytes()));
                let frames: Vec<_> = frames.collect();
                // Two of one visit share a frame.
                let bytes: usize = frames.iter().map(Bytes::len).sum();
                let mut found = vec![0; bytes - 1];
                match &frames[..] {
                    [only] => peer.expect(std::slice::from_ref(only)).await,
                    _ => drop(timeout(SOON, peer.stream.read_exact(&mut found)).await.unwrap().unwrap()),
                }
            }
        }
        // The news are no publication, so the first of those is whole all the same.
        let whole = |payload: &[u8]| written(delta.whole(), payload);
        differing.expect(&[whole(b"news"), whole(b"1"), written(delta, b"news"), written(delta, b"2")]).await;
        // After a gap the next delta may be to what never came.
        bench.hub.gap(None);
        bench.publish("a", b"5", None);
        differing.expect(&[b"news", &b"3"[..], b"news", b"4"].map(|payload| written(delta, payload))).await;
        differing.expect(&[whole(b"5")]).await;
        assert_eq!(bench.hub.subscribers(&Channel::new("a").unwrap()), 4);
        bench.shard.end(told.key, End::Kicked);
        assert_eq!(bench.hub.subscribers(&Channel::new("a").unwrap()), 3);
    });
}
