//! A shard from outside: a hub that publishes, real sockets that receive. The peers here read raw
//! bytes; what a frame is, the codec's tests know.

#![expect(clippy::unwrap_used, reason = "a test that cannot get a socket has failed")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_hub::{Context, Delivery, Format, Frames, Hub, Member, Settings, Shard, Socket};
use fanfare_protocol::{Channel, ConnectionId};
use fanfare_websocket::deflate::{Compressor, Level, Offer, Policy};
use fanfare_websocket::{CloseCode, Opcode, Role, close_frame, frame};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

const LIMIT: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(5);

struct Bench {
    hub: Arc<Hub>,
    shard: Shard,
    released: Rc<RefCell<Vec<Channel>>>,
}

struct Peer {
    id: ConnectionId,
    stream: TcpStream,
    key: fanfare_hub::Key,
}

fn settings() -> Settings {
    Settings {
        ping_interval: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        close_timeout: Duration::from_millis(200),
    }
}

fn with_shard(settings: Settings, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (hub, mut inboxes) = Hub::new(1, |channel| frame(Opcode::Text, channel.as_str().as_bytes()));
        let released = Rc::<RefCell<Vec<Channel>>>::default();
        let heard = released.clone();
        let release = move |channel: &Channel| heard.borrow_mut().push(channel.clone());
        let shard = Shard::start(inboxes.remove(0), settings, metrics::Histogram::noop(), release);
        timeout(4 * SOON, test(Bench { hub, shard, released })).await.expect("the test ends");
    });
}

impl Bench {
    async fn peer(&self, channel: &str, echo: bool, notices: bool) -> Peer {
        self.peer_in(Format::Plain, channel, echo, notices, None).await
    }

    async fn peer_in(
        &self,
        format: Format,
        channel: &str,
        echo: bool,
        notices: bool,
        context: Option<Context>,
    ) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let id = ConnectionId::now_v7();
        let channel = Channel::new(channel).unwrap();
        let member = Member { id, channel, echo, notices, format, outbox_limit: LIMIT };
        let joined = self.shard.join(&member, context);
        Peer { id, stream, key: joined.open(Rc::new(Socket::new(accepted))) }
    }

    fn publish(&self, channel: &str, payload: &[u8], exclude: Option<ConnectionId>) {
        let channel = Channel::new(channel).unwrap();
        let audience = self.hub.audience(&channel);
        let frames = audience.formats.iter().map(|format| (format, written(format, payload)));
        let delivery = Delivery { frames: Frames::new(frames), exclude, published_at: 0 };
        self.hub.deliver(audience.workers, &channel, &delivery);
    }
}

impl Peer {
    async fn expect(&mut self, frames: &[Bytes]) {
        let expected = frames.concat();
        let mut found = vec![0; expected.len()];
        timeout(SOON, self.stream.read_exact(&mut found)).await.expect("in time").unwrap();
        assert!(found == expected, "{} bytes differ from what was expected", found.len());
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut found = Vec::new();
        // A cut is a reset; what came before it counts.
        let _ = timeout(SOON, self.stream.read_to_end(&mut found)).await.expect("in time");
        found
    }
}

fn binary(payload: &[u8]) -> Bytes {
    frame(Opcode::Binary, payload)
}

/// A frame that says which format it is in.
fn written(format: Format, payload: &[u8]) -> Bytes {
    match format {
        Format::Plain => binary(payload),
        other => frame(Opcode::Text, &[format!("{other:?}: ").as_bytes(), payload].concat()),
    }
}

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
fn everybody_gets_its_own_format() {
    with_shard(settings(), async |bench| {
        let formats = Format::ALL.repeat(2);
        let mut peers = Vec::new();
        for (n, format) in formats.iter().enumerate() {
            peers.push(bench.peer_in(*format, "a", n % 2 == 0, false, None).await);
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
        let mut late = bench.peer_in(Format::Deflated, "b", true, false, None).await;
        bench.publish("b", b"after", None);
        plain.expect(&[binary(b"between"), binary(b"after")]).await;
        late.expect(&[written(Format::Deflated, b"after")]).await;
    });
}

#[test]
fn a_context_of_its_own_is_kept_over_visits() {
    with_shard(settings(), async |bench| {
        let level = Level::new(6).unwrap();
        let agreed = Policy { server_context_takeover: true, ..Policy::default() }.answer(&Offer::default());
        let compressor = || Compressor::for_connection(Role::Server, &agreed.unwrap(), level);
        let context = Context::new(compressor(), 100);
        let mut alone = bench.peer_in(Format::Plain, "a", true, false, Some(context)).await;
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
fn a_flood_does_not_cut_a_client_that_keeps_up() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        // Far more than the socket and the outbox hold together, all queued before the first turn.
        let flood = vec![binary(&[7; 60_000]); 400];
        flood.iter().for_each(|_| bench.publish("a", &[7; 60_000], None));
        peer.expect(&flood).await;
        assert!(!bench.shard.is_closing(peer.key));
        assert_eq!(bench.hub.inbox_bytes(), 0);
    });
}

#[test]
fn what_is_published_before_the_handshake_is_answered_is_not_missed() {
    with_shard(settings(), async |bench| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let member = Member {
            id: ConnectionId::now_v7(),
            channel: Channel::lobby(),
            echo: true,
            notices: false,
            format: Format::Plain,
            outbox_limit: LIMIT,
        };
        let joined = bench.shard.join(&member, None);
        bench.publish("lobby", b"early", None);
        tokio::task::yield_now().await;
        joined.open(Rc::new(Socket::new(accepted)));
        let mut found = vec![0; 7];
        timeout(SOON, stream.read_exact(&mut found)).await.unwrap().unwrap();
        assert_eq!(found, binary(b"early"));
    });
}

#[test]
fn an_abandoned_handshake_leaves_nothing_behind() {
    with_shard(settings(), async |bench| {
        let member = Member {
            id: ConnectionId::now_v7(),
            channel: Channel::lobby(),
            echo: false,
            notices: false,
            format: Format::Plain,
            outbox_limit: LIMIT,
        };
        drop(bench.shard.join(&member, None));
        assert_eq!((bench.shard.len(), bench.hub.channels()), (0, 0));
        assert_eq!(*bench.released.borrow(), [Channel::lobby()]);
        assert_eq!(bench.shard.stats().opened.read(), 0);
    });
}

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
        let census = bench.hub.census().await[0].unwrap();
        assert_eq!((census.connections, census.outbox_bytes), (1, 0));
    });
}

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
fn a_drain_writes_what_is_owed_and_then_says_goodbye() {
    with_shard(settings(), async |bench| {
        let mut peer = bench.peer("a", true, false).await;
        bench.publish("a", b"owed", None);
        bench.hub.census().await;
        bench.shard.drain(Duration::ZERO, fanfare_hub::End::Drained).await;
        let goodbye = close_frame(CloseCode::SERVICE_RESTART, "service restart");
        assert_eq!(peer.read_to_end().await, [binary(b"owed"), goodbye].concat());
        assert_eq!(*bench.released.borrow(), [Channel::new("a").unwrap()]);
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
        assert_eq!(bench.hub.census().await[0].unwrap().connections, 1);
    });
}
