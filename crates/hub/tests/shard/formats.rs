//! Each member gets what is published in its own format.

use bytes::Bytes;
use fanfare_hub::{Carrier, Encoding, End, Format, Heartbeat, Subscription};
use fanfare_protocol::centrifuge::DisconnectCode;
use fanfare_websocket::{CloseCode, Opcode, close_frame, frame};

use crate::{DEFLATED, binary, compressor, context, settings, wanting, with_shard, written};

#[test]
fn everybody_gets_its_own_format() {
    with_shard(settings(), async |bench| {
        let narrowly = Format::PLAIN.carried_by(Carrier::DeflatedNarrowly);
        let formats = [Format::PLAIN, DEFLATED, narrowly].repeat(2);
        let mut peers = Vec::new();
        for (n, format) in formats.iter().enumerate() {
            let subscription = Subscription { echo: n % 2 == 0, ..wanting(*format, "a") };
            peers.push(bench.subscribed(subscription, None).await);
        }
        let payloads: Vec<Vec<u8>> = (0..60_u8).map(|n| vec![n; usize::from(n)]).collect();
        for (n, payload) in payloads.iter().enumerate() {
            bench.publish("a", payload, peers.get(n).map(|peer| peer.id));
        }
        for (n, (peer, format)) in peers.iter_mut().zip(&formats).enumerate() {
            let mut expected: Vec<_> = payloads.iter().map(|payload| written(*format, payload)).collect();
            // Those who want no echo do not get what was theirs.
            if n % 2 == 1 {
                expected.remove(n);
            }
            peer.expect(&expected).await;
        }
        // Who wants what nobody wanted before gets what comes from then on.
        bench.publish("b", b"before", None);
        let mut plain = bench.peer("b", true, false).await;
        bench.publish("b", b"between", None);
        let mut late = bench.subscribed(wanting(DEFLATED, "b"), None).await;
        bench.publish("b", b"after", None);
        plain.expect(&[binary(b"between"), binary(b"after")]).await;
        late.expect(&[written(DEFLATED, b"after")]).await;
    });
}

#[test]
fn a_context_of_its_own_is_kept_over_visits() {
    with_shard(settings(), async |bench| {
        let mut alone = bench.subscribed(wanting(Format::PLAIN, "a"), Some(context())).await;
        let mut other = bench.peer("a", true, false).await;
        let (small, large) = (vec![1; 50], b"the same, and again ".repeat(20));
        let mut reference = compressor();
        for visit in 0..3 {
            for payload in [&large, &small, &large] {
                bench.publish("a", payload, None);
            }
            let mut deflated = || reference.compress_frame(Opcode::Binary, &large);
            let expected = [deflated(), binary(&small), deflated()];
            assert!(visit == 0 || expected[0].len() < 20, "it refers to the visit before");
            alone.expect(&expected).await;
            other.expect(&[binary(&large), binary(&small), binary(&large)]).await;
        }
    });
}

#[test]
fn what_cannot_be_said_ends_those_to_whom_it_was_to_be_said() {
    with_shard(settings(), async |bench| {
        let json = Format { encoding: Encoding::Json, carrier: Carrier::Frame };
        let mut plain = bench.peer("a", true, false).await;
        let mut peer = bench.subscribed(wanting(json, "a"), None).await;
        let mut late = bench.connected(json, Heartbeat::AnyFrame, None).await;
        let held = Subscription { held: true, ..wanting(json, "a") };
        bench.shard.subscribe(late.key, &held).unwrap();
        for payload in [b"1", &b"unsayable"[..], b"2"] {
            bench.publish("a", payload, None);
        }
        plain.expect(&[b"1", &b"unsayable"[..], b"2"].map(binary)).await;
        let why = DisconnectCode::InappropriateProtocol;
        let code = CloseCode::from_wire(why.code() as u16).unwrap();
        let all = [written(json, b"1"), close_frame(code, why.text())].concat();
        assert_eq!(peer.read_to_end().await, all);
        assert!(!bench.shard.is_closing(late.key));
        bench.shard.release(late.key, &held.channel, &Bytes::new(), 0, true);
        assert_eq!(late.read_to_end().await, all);
        let ended = &bench.shard.stats().closed[End::Disconnected(why).index()];
        assert_eq!(ended.read(), 2);
    });
}

#[test]
fn a_delta_follows_something_whole() {
    with_shard(settings(), async |bench| {
        let delta = Format { encoding: Encoding::JsonDelta, carrier: Carrier::Deflated };
        let mut first = bench.subscribed(wanting(delta, "a"), None).await;
        bench.publish("a", b"1", None);
        bench.publish("a", b"2", None);
        bench.hub.census().await;
        let mut second = bench.subscribed(wanting(delta, "a"), None).await;
        bench.publish("a", b"3", None);
        first.expect(&[written(delta.whole(), b"1"), written(delta, b"2"), written(delta, b"3")]).await;
        second.expect(&[written(delta.whole(), b"3")]).await;
    });
}

#[test]
fn messages_of_a_client_protocol_share_a_frame() {
    with_shard(settings(), async |bench| {
        let json = Format { encoding: Encoding::Json, carrier: Carrier::Frame };
        let mut peer = bench.subscribed(wanting(json, "a"), None).await;
        for payload in [b"1", b"2", b"3"] {
            bench.publish("a", payload, None);
        }
        let message = |number| format!("{json:?}: {number}");
        let all = [1, 2, 3].map(message).join("\n");
        peer.expect(&[frame(Opcode::Text, all.as_bytes())]).await;
    });
}
