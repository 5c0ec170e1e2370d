//! What is published arrives, whole and in order, and each channel has its turn.

use std::io::Read;
use std::rc::Rc;

use bytes::Bytes;
use fanfare_hub::{Bounds, Format, Socket};
use fanfare_protocol::control::Uplink;
use fanfare_protocol::{Channel, Control};
use fanfare_websocket::{Decoder, Opcode, Role, frame};
use tokio::io::AsyncReadExt;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::{Peer, SOON, binary, opening, settings, socket_pair, wanting, with_shard};

#[test]
fn one_turn_with_many_frames_arrives_whole_and_in_order() {
    with_shard(settings(), async |bench| {
        let mut peers = [bench.peer("a", true, false).await, bench.peer("a", false, false).await];
        let mut other = bench.peer("b", true, false).await;
        let payloads: Vec<Vec<u8>> =
            (0..60_u8).map(|n| vec![n; if n % 9 == 0 { 20_000 } else { usize::from(n) }]).collect();
        for (n, payload) in payloads.iter().enumerate() {
            bench.publish("a", payload, (n % 2 == 0).then_some(peers[1].id));
        }
        bench.publish("b", b"elsewhere", None);
        let all: Vec<_> = payloads.iter().map(|payload| binary(payload)).collect();
        let odd: Vec<_> = all.iter().skip(1).step_by(2).cloned().collect();
        peers[0].expect(&all).await;
        peers[1].expect(&odd).await;
        other.expect(&[binary(b"elsewhere")]).await;
    });
}

#[test]
fn much_in_one_channel_waits_while_others_have_their_turn() {
    const CROWD: usize = 40;
    const MUCH: usize = 200;
    with_shard(settings(), async |bench| {
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            crowd.push(bench.peer("a", true, true).await);
        }
        let mut other = bench.peer("b", true, false).await;
        let all: Vec<_> = (0..MUCH).map(|n| vec![n as u8; 4 << 10]).collect();
        all.iter().for_each(|payload| bench.publish("a", payload, None));
        bench.hub.gap(Some(vec![Channel::new("a").unwrap()]));
        all.iter().for_each(|payload| bench.publish("a", payload, None));
        let waiting = bench.hub.inbox_bytes();
        bench.publish("b", b"elsewhere", None);
        other.expect(&[binary(b"elsewhere")]).await;
        let delivered = bench.shard.stats().deliveries.read();
        assert!(delivered < (CROWD * MUCH * 3 / 2) as u64, "{delivered} came first");
        // What has not been taken up yet holds publishers back.
        assert!(bench.hub.inbox_bytes() > waiting / 4, "{} of {waiting}", bench.hub.inbox_bytes());
        let frames: Vec<_> = all.iter().map(|payload| binary(payload)).collect();
        for peer in &mut crowd {
            // The gap was told where it was.
            peer.expect(&frames).await;
            peer.expect(&[frame(Opcode::Text, b"a")]).await;
            peer.expect(&frames).await;
        }
        assert_eq!(bench.hub.inbox_bytes(), 0);
    });
}

/// Whoever comes and goes while a round is under way gets what it is owed, and nothing of others' is written for that.
#[test]
fn who_leaves_finishes_nobody_elses_round() {
    const CROWD: usize = 600;
    with_shard(settings(), async |bench| {
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            crowd.push(bench.peer("a", true, false).await);
        }
        let channel = Channel::new("a").unwrap();
        let delivered = || bench.shard.stats().deliveries.read() as usize;
        bench.publish("a", b"first", None);
        while delivered() == 0 {
            yield_now().await;
        }
        // Some whom the round has passed, and some whom it has not; each gives its place to another.
        let mut gone = Vec::new();
        for (at, ends) in [(0, false), (500, false), (40, true), (CROWD - 4, true), (300, false)] {
            let before = delivered();
            let peer = crowd.remove(at);
            match ends {
                true => bench.shard.remove(peer.key),
                false => assert!(bench.shard.unsubscribe(peer.key, &channel)),
            }
            assert!(delivered() <= before + 2, "{} came first", delivered() - before);
            gone.push(peer);
        }
        assert!(delivered() < CROWD - 100, "the round is under way");
        let mut late = bench.peer("a", true, false).await;
        bench.publish("a", b"last", None);
        for peer in &mut gone {
            peer.expect(&[binary(b"first")]).await;
        }
        for peer in &mut crowd {
            peer.expect(&[binary(b"first"), binary(b"last")]).await;
        }
        late.expect(&[binary(b"last")]).await;
    });
}

#[test]
fn what_waits_in_a_deserted_channel_is_forgotten() {
    with_shard(settings(), async |bench| {
        let peer = bench.peer("a", true, false).await;
        (0..100).for_each(|n| bench.publish("a", &vec![n; 4 << 10], None));
        let mut other = bench.peer("b", true, false).await;
        bench.publish("b", b"elsewhere", None);
        other.expect(&[binary(b"elsewhere")]).await;
        bench.shard.remove(peer.key);
        bench.publish("b", b"again", None);
        other.expect(&[binary(b"again")]).await;
        bench.publish("b", b"and again", None);
        other.expect(&[binary(b"and again")]).await;
        assert_eq!(bench.hub.inbox_bytes(), 0, "it would hold publishers back for ever");
    });
}

/// To keep up is to take what has been written before there is more: this client does, however busy the machine is,
/// since the worker has no turn while it waits for what is on its way.
#[test]
fn a_flood_does_not_cut_a_client_that_keeps_up() {
    with_shard(settings(), async |bench| {
        let Peer { stream, key, .. } = bench.peer("a", true, false).await;
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // Far more than the socket and the outbox hold together, all queued before the first turn.
        let flood = vec![binary(&[7; 60_000]); 400];
        flood.iter().for_each(|_| bench.publish("a", &[7; 60_000], None));
        let flood = flood.concat();
        let mut found = Vec::with_capacity(flood.len());
        while found.len() < flood.len() {
            let written = bench.shard.stats().bytes_out.read() as usize;
            // The worker counts as its next turn begins.
            let waiting = bench.hub.census().await[0].outbox_bytes as usize;
            assert!(!bench.shard.is_closing(key), "cut after {} bytes", found.len());
            let taken = found.len();
            found.resize(written.saturating_sub(waiting).max(taken), 0);
            stream.read_exact(&mut found[taken..]).expect("what was written comes");
        }
        assert!(found == flood);
        assert_eq!(bench.hub.inbox_bytes(), 0);
    });
}

#[test]
fn what_is_published_before_the_handshake_is_answered_is_not_missed() {
    with_shard(settings(), async |bench| {
        let (mut stream, accepted) = socket_pair().await;
        let placed = bench.shard.place(opening());
        assert_eq!(bench.shard.subscribe(placed.key(), &wanting(Format::PLAIN, "lobby")), Some(true));
        bench.publish("lobby", b"early", None);
        yield_now().await;
        placed.open(Rc::new(Socket::new(accepted)), Decoder::new(Role::Server));
        let mut found = vec![0; 7];
        timeout(SOON, stream.read_exact(&mut found)).await.unwrap().unwrap();
        assert_eq!(found, binary(b"early"));
    });
}

#[test]
fn an_abandoned_handshake_leaves_nothing_behind() {
    with_shard(settings(), async |bench| {
        let placed = bench.shard.place(opening());
        assert!(bench.shard.subscribe(placed.key(), &wanting(Format::PLAIN, "lobby")).is_some());
        drop(placed);
        assert_eq!((bench.shard.len(), bench.hub.channels()), (0, 0));
        assert_eq!(*bench.heard.released.borrow(), [Channel::lobby()]);
        assert_eq!(bench.shard.stats().opened[0].read(), 0);
    });
}

/// What clients say by requests holds publishers back as their publications do.
#[test]
fn what_clients_say_elsewhere_counts_while_it_waits() {
    const SIZE: usize = 1 << 20;
    with_shard(settings(), async |bench| {
        let data = Bytes::from(vec![7; SIZE]);
        let said = || Control::Uplink(Uplink { session: "s".to_owned(), data: data.clone() });
        let pressed = Bounds::default().pressed;
        for count in 1..=pressed / SIZE {
            assert!(!bench.hub.pressed(), "{count}");
            bench.hub.control_at(0, said());
            assert!((count * SIZE..count * (SIZE + 1024)).contains(&bench.hub.inbox_bytes()));
        }
        assert!(bench.hub.pressed());
        timeout(SOON, bench.hub.relieved()).await.expect("the worker deals with it");
        bench.hub.census().await;
        assert_eq!(bench.hub.inbox_bytes(), 0);
    });
}
