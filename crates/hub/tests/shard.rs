//! A shard from outside: a hub that publishes, real sockets that receive. The peers here read raw
//! bytes; what a frame is, the codec's tests know.

#![expect(clippy::unwrap_used, reason = "a test that cannot get a socket has failed")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_hub::{
    Bounds, Carrier, Context, Delivery, Encoding, End, Format, Frames, Heartbeat, Hub, Key, Leaving,
    Observer, OnGap, Opening, Phrases, Settings, Shard, Shed, Socket, Subscription, WhenSlow,
};
use fanfare_protocol::centrifuge::{DisconnectCode, FilterNode};
use fanfare_protocol::control::Uplink;
use fanfare_protocol::{Channel, ConnectionId, Control, Filter};
use fanfare_websocket::deflate::{Compressor, Level, Offer, Policy};
use fanfare_websocket::{CloseCode, Decoder, Limits, Opcode, Role, close_frame, frame};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

const LIMIT: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(5);

struct Bench {
    hub: Arc<Hub>,
    shard: Shard,
    heard: Heard,
}

/// What the shard told of its own accord.
#[derive(Clone, Default)]
struct Heard {
    released: Rc<RefCell<Vec<Channel>>>,
    lapsed: Rc<RefCell<Vec<(Key, Channel)>>>,
}

impl Observer for Heard {
    fn released(&self, channel: &Channel) {
        self.released.borrow_mut().push(channel.clone());
    }

    fn lapsed(&self, key: Key, channel: &Channel) {
        self.lapsed.borrow_mut().push((key, channel.clone()));
    }
}

const PHRASES: Phrases = Phrases {
    ping: |format| match format.encoding {
        Encoding::Raw => frame(Opcode::Ping, b""),
        _ => frame(Opcode::Text, b"ping"),
    },
    gap: |_, channel| Some(frame(Opcode::Text, channel.as_str().as_bytes())),
    ..Phrases::WEBSOCKET
};

struct Peer {
    id: ConnectionId,
    stream: TcpStream,
    key: Key,
}

fn settings() -> Settings {
    Settings {
        ping_interval: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        close_timeout: Duration::from_millis(200),
        client_ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(10),
        stale_timeout: Duration::from_secs(10),
        weigh_sockets: false,
    }
}

/// What messages are compressed with that refer to earlier ones.
fn compressor() -> Compressor {
    let agreed = Policy { server_context_takeover: true, ..Policy::default() }.answer(&Offer::default());
    Compressor::for_connection(Role::Server, &agreed.unwrap(), Level::new(6).unwrap())
}

/// Messages of less than a hundred bytes stay as they are.
fn context() -> Context {
    Context::new(compressor(), 100)
}

fn with_shard(settings: Settings, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (hub, mut inboxes) = Hub::new(1, Bounds::default(), PHRASES);
        let heard = Heard::default();
        let shard =
            Shard::start(inboxes.remove(0), settings, metrics::Histogram::noop(), heard.clone(), || 0);
        timeout(4 * SOON, test(Bench { hub, shard, heard })).await.expect("the test ends");
    });
}

impl Bench {
    async fn peer(&self, channel: &str, echo: bool, notices: bool) -> Peer {
        let on_gap = if notices { OnGap::Notice } else { OnGap::Nothing };
        self.subscribed(Subscription { echo, on_gap, ..wanting(Format::PLAIN, channel) }, None).await
    }

    async fn subscribed(&self, subscription: Subscription, context: Option<Context>) -> Peer {
        let peer = self.connected(subscription.format, Heartbeat::AnyFrame, context).await;
        assert!(self.shard.subscribe(peer.key, &subscription).is_some());
        peer
    }

    async fn connected(&self, format: Format, heartbeat: Heartbeat, context: Option<Context>) -> Peer {
        let (stream, accepted) = socket_pair().await;
        let id = ConnectionId::now_v7();
        let placed = self.shard.place(Opening { id, format, heartbeat, outbox_limit: LIMIT, context });
        Peer { id, stream, key: placed.open(Rc::new(Socket::new(accepted)), Decoder::new(Role::Server)) }
    }

    fn publish(&self, channel: &str, payload: &[u8], exclude: Option<ConnectionId>) {
        self.publish_as(0, channel, payload, exclude);
    }

    fn publish_as(&self, offset: u64, channel: &str, payload: &[u8], exclude: Option<ConnectionId>) {
        self.deliver(channel, payload, |delivery| (delivery.offset, delivery.exclude) = (offset, exclude));
    }

    /// What is `unsayable` is so but for the raw format.
    fn deliver(&self, channel: &str, payload: &[u8], change: impl FnOnce(&mut Delivery)) {
        let channel = Channel::new(channel).unwrap();
        let audience = self.hub.audience(&channel);
        let sayable = |format: &Format| *format == Format::PLAIN || payload != b"unsayable";
        let said = |format| (format, sayable(&format).then(|| written(format, payload)));
        let frames = Frames::new(audience.formats.iter().map(said));
        let mut delivery =
            Delivery { frames, exclude: None, published_at: 0, offset: 0, tags: None, news: false };
        change(&mut delivery);
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

    /// What the next frame holds, which is binary and not compressed.
    async fn payload(&mut self) -> Vec<u8> {
        let mut take = async |count: usize| {
            let mut taken = vec![0; count];
            timeout(SOON, self.stream.read_exact(&mut taken)).await.expect("in time").unwrap();
            taken
        };
        let head = take(2).await;
        assert_eq!(head[0], 0x82, "a whole binary message, as it is");
        let length = match head[1] {
            126 => take(2).await.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        take(length).await
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut found = Vec::new();
        // A cut is a reset; what came before it counts.
        let _ = timeout(SOON, self.stream.read_to_end(&mut found)).await.expect("in time");
        found
    }
}

async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream, listener.accept().await.unwrap().0)
}

fn wanting(format: Format, channel: &str) -> Subscription {
    Subscription::new(Channel::new(channel).unwrap(), format)
}

const DEFLATED: Format = Format::PLAIN.carried_by(Carrier::Deflated);

fn opening() -> Opening {
    let (format, heartbeat) = (Format::PLAIN, Heartbeat::AnyFrame);
    Opening { id: ConnectionId::now_v7(), format, heartbeat, outbox_limit: LIMIT, context: None }
}

fn binary(payload: &[u8]) -> Bytes {
    frame(Opcode::Binary, payload)
}

/// A frame that says which format it is in.
fn written(format: Format, payload: &[u8]) -> Bytes {
    match format {
        Format::PLAIN => binary(payload),
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
        let (mut stream, accepted) = socket_pair().await;
        let placed = bench.shard.place(opening());
        assert_eq!(bench.shard.subscribe(placed.key(), &wanting(Format::PLAIN, "lobby")), Some(true));
        bench.publish("lobby", b"early", None);
        tokio::task::yield_now().await;
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
        bench.shard.drain(Duration::ZERO, End::Drained).await;
        let goodbye = close_frame(CloseCode::SERVICE_RESTART, "service restart");
        assert_eq!(peer.read_to_end().await, [binary(b"owed"), goodbye].concat());
        assert_eq!(*bench.heard.released.borrow(), [Channel::new("a").unwrap()]);
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
        // After a gap the next difference may be to what never came.
        bench.hub.gap(None);
        bench.publish("a", b"5", None);
        differing.expect(&[b"news", &b"3"[..], b"news", b"4"].map(|payload| written(delta, payload))).await;
        differing.expect(&[whole(b"5")]).await;
        assert_eq!(bench.hub.subscribers(&Channel::new("a").unwrap()), 4);
        bench.shard.end(told.key, End::Kicked);
        assert_eq!(bench.hub.subscribers(&Channel::new("a").unwrap()), 3);
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
fn a_difference_follows_something_whole() {
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
        let answer = binary(&vec![1; 8 * LIMIT]);
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
        let outbox = async || bench.hub.census().await[0].unwrap().outbox_bytes;
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
