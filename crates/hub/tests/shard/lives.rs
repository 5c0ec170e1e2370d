//! How it is found out whether somebody is there, and how connections end that did nothing wrong.

use std::pin::pin;
use std::time::Duration;

use fanfare_hub::{Carrier, Encoding, End, Format, Heartbeat, Settings};
use fanfare_protocol::Channel;
use fanfare_websocket::{CloseCode, Opcode, close_frame, frame};
use tokio::time::timeout;

use crate::{binary, settings, with_shard};

#[test]
fn a_drain_writes_what_is_owed_and_then_says_goodbye() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        bench.publish("a", b"owed", None);
        bench.hub.census().await;
        bench.shard.drain(Duration::ZERO, End::Drained).await;
        let goodbye = close_frame(CloseCode::SERVICE_RESTART, "service restart");
        assert_eq!(peer.read_to_end().await, [binary(b"owed"), goodbye].concat());
        assert_eq!(*bench.heard.released.borrow(), [Channel::new("a").unwrap()]);
    });
}

#[test]
fn a_drain_ends_with_the_last_who_goes_by_itself() {
    with_shard(settings(), async |bench| {
        let peer = bench.peer("a", true, false).await;
        let mut drain = pin!(bench.shard.drain(Duration::from_secs(3600), End::Drained));
        assert!(timeout(Duration::from_millis(50), &mut drain).await.is_err(), "somebody is there");
        bench.shard.remove(peer.key);
        timeout(Duration::from_secs(60), drain).await.expect("nobody is there any more");
    });
}

/// What answers a goodbye leaves with the end of the stream, and before the reader lets go of the socket: closing it
/// with unread bytes in it would throw the words away.
#[test]
fn the_last_words_leave_with_the_end() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        bench.shard.end(peer.key, End::ClosedByClient(Some(CloseCode::NORMAL)));
        assert_eq!(peer.read_to_end().await, close_frame(CloseCode::NORMAL, ""));
        bench.shard.remove(peer.key);
    });
}

#[test]
fn silence_is_answered_with_pings_and_then_the_end() {
    let quick = Settings {
        ping_interval: Duration::from_millis(40),
        idle_timeout: Duration::from_millis(200),
        ..settings()
    };
    with_shard(quick, async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        let found = peer.read_to_end().await;
        let goodbye = close_frame(CloseCode::GOING_AWAY, "idle timeout");
        let pings = found.strip_suffix(&goodbye[..]).expect("the last frame says why");
        let ping = frame(Opcode::Ping, b"");
        assert!(!pings.is_empty() && pings.chunks(ping.len()).all(|chunk| chunk == ping), "{pings:?}");
    });
}

#[test]
fn a_kick_finds_its_connection() {
    with_shard(settings(), async |bench| {
        let (mut kicked, _stays) = (bench.peer("a", true, false).await, bench.peer("a", true, false).await);
        assert!(bench.hub.kick(kicked.id).await);
        assert!(!bench.hub.kick(kicked.id).await, "it is not open any more");
        assert_eq!(kicked.read_to_end().await, close_frame(CloseCode::POLICY, "kicked"));
        assert_eq!(bench.hub.census().await[0].connections, 1);
    });
}

#[test]
fn clients_that_answer_are_asked_and_others_told() {
    let quick = Settings {
        client_ping_interval: Duration::from_millis(100),
        pong_timeout: Duration::from_millis(50),
        stale_timeout: Duration::from_millis(200),
        ..settings()
    };
    with_shard(quick, async |bench| {
        let json = Format { encoding: Encoding::Json, carrier: Carrier::Frame };
        let ping = || frame(Opcode::Text, b"ping");
        // Whoever does not say who it is.
        let mut stale = bench.connected(json, Heartbeat::Answers, None).await;
        assert_eq!(stale.read_to_end().await, close_frame(CloseCode::POLICY, "stale"));
        // Whoever has said it, and waits for us, is not blamed for that; only when it has been answered.
        let mut waiting = bench.connected(json, Heartbeat::Answers, None).await;
        for _ in 0..2 {
            let mut silent = bench.connected(json, Heartbeat::Answers, None).await;
            let mut end = pin!(silent.read_to_end());
            while timeout(Duration::from_millis(20), &mut end).await.is_err() {
                bench.shard.excuse(waiting.key);
            }
        }
        assert!(!bench.shard.is_closing(waiting.key));
        assert_eq!(waiting.read_to_end().await, close_frame(CloseCode::POLICY, "stale"));
        let mut client = bench.connected(json, Heartbeat::Answers, None).await;
        assert!(!bench.shard.answered(client.key), "nobody has asked");
        bench.shard.introduce(client.key, Heartbeat::Answers);
        for _ in 0..4 {
            client.expect(&[ping()]).await;
            assert!(bench.shard.answered(client.key));
            assert!(!bench.shard.answered(client.key), "once is enough");
        }
        client.expect(&[ping()]).await;
        assert_eq!(client.read_to_end().await, close_frame(CloseCode::GOING_AWAY, "idle timeout"));
        let mut listener = bench.connected(json, Heartbeat::OneWay, None).await;
        listener.expect(&[ping(), ping(), ping()]).await;
        assert!(!bench.shard.is_closing(listener.key));
    });
}
