//! Those who do not read: what waits for them, what is dropped, and who is ended when memory runs out.

use std::rc::Rc;

use fanfare_hub::{End, Format, Heartbeat, Leaving, Shed, Subscription, WhenSlow};
use fanfare_protocol::Filter;
use fanfare_protocol::centrifuge::FilterNode;
use fanfare_websocket::{CloseCode, Limits, close_frame};

use crate::{LIMIT, binary, context, settings, wanting, with_shard};

#[test]
fn a_slow_consumer_is_cut_alone() {
    with_shard(settings(), async |bench| {
        let mut slow = bench.peer("a", true, false).await;
        let mut quick = bench.peer("a", true, false).await;
        let payload = vec![7; 60_000];
        let expected = binary(&payload);
        let mut sent = 0;
        while !bench.shard.is_closing(slow.key) {
            bench.publish("a", &payload, None);
            quick.expect(std::slice::from_ref(&expected)).await;
            sent += 1;
            assert!(sent < 2_000, "a socket that nobody reads takes no end of bytes");
        }
        let goodbye = close_frame(CloseCode::POLICY, "slow consumer");
        let found = slow.read_to_end().await;
        assert!(found.ends_with(&goodbye), "the last frame says why");
        let whole = found.len() - goodbye.len();
        assert_eq!(whole % expected.len(), 0, "no frame is cut in the middle");
        assert!(whole / expected.len() < sent);
        let census = bench.hub.census().await[0];
        assert_eq!((census.connections, census.outbox_bytes), (1, 0));
    });
}

#[test]
fn a_channel_may_drop_instead_of_cutting() {
    for when_slow in [WhenSlow::DropOldest, WhenSlow::KeepLatest] {
        for context in [None, Some(context())] {
            let case = format!("{when_slow:?}, with a context: {}", context.is_some());
            with_shard(settings(), async |bench| {
                // What is dropped must not be what a context goes on referring to.
                let wish = Subscription { when_slow, news: true, ..wanting(Format::PLAIN, "a") };
                let mut slow = bench.subscribed(wish, context).await;
                let mut sent = 0_u64;
                // Until far more was dropped than an outbox holds.
                while bench.shard.stats().dropped.read() < 200 {
                    bench.publish("a", &[&sent.to_be_bytes()[..], &[7; 60_000]].concat(), None);
                    // Whoever comes and goes takes no publication's place, and an answer finds room.
                    bench.deliver("a", b"news", |delivery| delivery.news = true);
                    bench.hub.census().await;
                    bench.shard.send(slow.key, &binary(&sent.to_be_bytes()));
                    sent += 1;
                    assert!(sent < 5_000 && !bench.shard.is_closing(slow.key), "{case}");
                }
                let (mut numbers, mut news, mut answers) = (Vec::new(), 0, 0);
                while answers < sent {
                    let payload = slow.payload().await;
                    match (payload.len(), payload.first_chunk()) {
                        (4, _) => news += 1,
                        (8, Some(number)) => {
                            assert_eq!(u64::from_be_bytes(*number), answers, "{case}");
                            answers += 1;
                        }
                        (60_008, Some(number)) => numbers.push(u64::from_be_bytes(*number)),
                        (other, _) => panic!("{case}: {other} bytes"),
                    }
                }
                assert_eq!(news, sent, "{case}: who comes and goes is not dropped");
                assert_eq!(numbers.last(), Some(&(sent - 1)), "{case}");
                assert!(numbers.is_sorted_by(|one, next| one < next), "{case}: {numbers:?}");
                assert_eq!(numbers.len() as u64 + bench.shard.stats().dropped.read(), sent, "{case}");
                // The rest is what waited: as much as fits, or the last one alone.
                let at_the_end =
                    numbers.iter().rev().zip((0..sent).rev()).take_while(|(got, want)| **got == *want);
                let at_the_end = at_the_end.count();
                assert_eq!(at_the_end == 1, when_slow == WhenSlow::KeepLatest, "{case}: {numbers:?}");
            });
        }
    }
}

/// What waits in a channel that may drop makes room for what may not be dropped.
#[test]
fn what_may_be_dropped_goes_before_the_connection_does() {
    with_shard(settings(), async |bench| {
        let wish = |when_slow, channel| Subscription { when_slow, ..wanting(Format::PLAIN, channel) };
        let slow = bench.subscribed(wish(WhenSlow::DropOldest, "a"), None).await;
        assert!(bench.shard.subscribe(slow.key, &wish(WhenSlow::Close, "b")).is_some());
        while bench.shard.stats().dropped.read() < 10 {
            bench.publish("a", &[7; 60_000], None);
            bench.hub.census().await;
        }
        // As much as an outbox holds finds room.
        for _ in 0..LIMIT / 60_014 - 1 {
            bench.publish("b", &[8; 60_000], None);
            bench.hub.census().await;
        }
        assert!(!bench.shard.is_closing(slow.key));
        bench.publish("b", &[8; 60_000], None);
        bench.publish("b", &[8; 60_000], None);
        bench.hub.census().await;
        assert!(bench.shard.is_closing(slow.key));
    });
}

/// Whoever was cut for what it asked for would ask for the same again.
#[test]
fn an_answer_may_be_larger_than_an_outbox() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        // More than the kernel takes for both ends.
        let answer = binary(&vec![1; 16 * LIMIT]);
        for _ in 0..2 {
            bench.shard.send(peer.key, &answer);
            bench.publish("a", b"behind it", None);
            peer.expect(&[answer.clone(), binary(b"behind it")]).await;
        }
        // But not a second one while the first waits.
        bench.shard.send(peer.key, &answer);
        assert!(!bench.shard.is_closing(peer.key));
        bench.shard.send(peer.key, &answer);
        assert!(bench.shard.is_closing(peer.key));
    });
}

/// Three do not read; what waits for them differs. Each step asks for a little and gets the largest.
#[test]
fn the_largest_are_ended_first_and_let_go_of_everything() {
    with_shard(settings(), async |bench| {
        let mut reader = bench.peer("small", true, false).await;
        let mut stalled = Vec::new();
        for channel in ["small", "large", "middle"] {
            stalled.push(bench.peer(channel, true, false).await);
        }
        // The first of each fills the socket, whatever the kernel lets it take; the rest waits.
        let piece = vec![7; 64 << 10];
        let outbox = async || bench.hub.census().await[0].outbox_bytes;
        for (channel, pieces) in [("small", 1), ("large", 8), ("middle", 4)] {
            let before = outbox().await;
            while outbox().await < before + (pieces << 16) {
                bench.publish(channel, &piece, None);
                if channel == "small" {
                    reader.expect(&[binary(&piece)]).await;
                }
            }
        }
        let ended = |reason: End| bench.shard.stats().closed[reason.index()].read();
        let mut last = outbox().await;
        for (count, peer) in [(1, 1), (2, 2), (3, 0)] {
            let shed = bench.hub.shed(1, Leaving::Wait).await;
            assert_eq!((shed.connections, ended(End::MemoryPressure)), (1, count));
            let now = outbox().await;
            assert!(now + shed.bytes as u64 / 2 < last, "{last} to {now}, of {} bytes", shed.bytes);
            assert!(bench.shard.is_closing(stalled[peer].key), "not the largest");
            last = now;
        }
        assert!(last < 3 * (17 << 10), "{last} bytes stay");
        // Those who were ended still hold the rest of a frame, and nobody else holds anything.
        let none = Shed::default();
        let shed = bench.hub.shed(usize::MAX, Leaving::Wait).await;
        assert_eq!(Shed { leaving: 0, ..shed }, none);
        assert!(shed.leaving as u64 >= last, "{shed:?}");
        assert_eq!(bench.hub.shed(usize::MAX, Leaving::Cut).await, none);
        assert_eq!((outbox().await, ended(End::MemoryPressure)), (0, 3));
        bench.publish("small", b"still here", None);
        reader.expect(&[binary(b"still here")]).await;
        assert!(!bench.shard.is_closing(reader.key));
    });
}

/// What one connection subscribes to, and gives up again; and how many are ended for it, if all are who may be.
#[test]
fn what_subscriptions_take_counts_and_the_first_does_not() {
    const MUCH: usize = 8 << 10;
    let filter = || {
        let vals = (0..100).map(|number| format!("{number:0>100}")).collect();
        let node = FilterNode { key: "tag".into(), cmp: "in".into(), vals, ..FilterNode::default() };
        Some(Rc::new(Filter::parse(node).expect("a filter")))
    };
    let long = |number: usize| wanting(Format::PLAIN, &format!("{number:x<250}"));
    let some = |count: usize| (0..count).map(long).collect::<Vec<_>>();
    // (what it is, what is subscribed to, how much of that is given up, how many are ended)
    let rows = [
        ("one", some(1), 0, 0),
        ("a few", some(4), 0, 0),
        ("more", some(9), 0, 1),
        ("and given up", some(40), 38, 0),
        ("one with a long filter", vec![Subscription { filter: filter(), ..long(0) }], 0, 1),
        ("one of which others keep much", vec![Subscription { beside: MUCH, ..long(0) }], 0, 1),
        ("and given up", vec![Subscription { beside: MUCH, filter: filter(), ..long(0) }], 1, 0),
    ];
    for (name, wanted, given_up, ended) in rows {
        with_shard(settings(), async |bench| {
            let peer = bench.connected(Format::PLAIN, Heartbeat::AnyFrame, None).await;
            for subscription in &wanted {
                assert!(bench.shard.subscribe(peer.key, subscription).is_some());
            }
            for subscription in &wanted[..given_up] {
                assert!(bench.shard.unsubscribe(peer.key, &subscription.channel));
            }
            let shed = bench.hub.shed(usize::MAX, Leaving::Wait).await;
            assert_eq!(shed.connections, ended, "{name}: {shed:?}");
            assert!(shed.leaving <= shed.bytes, "{name}: {shed:?}");
            assert_eq!(bench.hub.channels(), if ended > 0 { 0 } else { wanted.len() - given_up }, "{name}");
            assert_eq!(bench.hub.shed(usize::MAX, Leaving::Cut).await, Shed::default(), "{name}");
        });
    }
}

#[test]
fn an_unfinished_message_is_given_up_and_its_sender_told_why() {
    with_shard(settings(), async |bench| {
        let limits = Limits { message: 1 << 20, fragments: 10 };
        let mut peer = bench.peer("a", true, false).await;
        let mut other = bench.peer("a", true, false).await;
        let mut decoder = bench.shard.take_decoder(peer.key).expect("it has one");
        let mut begun = vec![0; 14 + (64 << 10)];
        begun[..14].copy_from_slice(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0x0F, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decoder.next(&mut &mut begun[..], &limits), Ok(None));
        let held = decoder.held_bytes();
        assert!(held >= 64 << 10);
        bench.shard.return_decoder(peer.key, decoder);
        let shed = bench.hub.shed(1, Leaving::Wait).await;
        assert_eq!((shed.connections, shed.bytes), (1, held));
        assert!(bench.shard.take_decoder(peer.key).is_none(), "what it had sent is still there");
        let goodbye = close_frame(CloseCode::TRY_AGAIN_LATER, "memory pressure");
        assert_eq!(peer.read_to_end().await, goodbye);
        assert_eq!(bench.hub.shed(usize::MAX, Leaving::Wait).await.connections, 0);
        bench.publish("a", b"still here", None);
        other.expect(&[binary(b"still here")]).await;
    });
}
