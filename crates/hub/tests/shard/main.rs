//! A shard from outside: a hub that publishes, real sockets that receive. The peers here read raw
//! bytes; what a frame is, the codec's tests know.

#![expect(clippy::unwrap_used, reason = "a test that cannot get a socket has failed")]

mod deliveries;
mod formats;
mod lives;
mod making;
mod slow;
mod subscriptions;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_hub::{
    Bounds, Carrier, Context, Delivery, Encoding, Format, Frames, Heartbeat, Hub, Inbox, Key, Observer,
    OnGap, Opening, Phrases, Settings, Shard, Socket, Subscription,
};
use fanfare_protocol::{Channel, ConnectionId};
use fanfare_websocket::deflate::{Compressor, Level, Offer, Policy};
use fanfare_websocket::{Decoder, Opcode, Role, frame};
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
    // First pings are spread over the interval, and what they come between is compared byte by byte.
    Settings {
        ping_interval: Duration::from_secs(24 * 3600),
        idle_timeout: Duration::from_secs(48 * 3600),
        close_timeout: Duration::from_millis(200),
        client_ping_interval: Duration::from_secs(24 * 3600),
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
    let (hub, mut inboxes) = Hub::new(1, Bounds::default(), PHRASES);
    on_worker(hub, inboxes.remove(0), settings, test);
}

/// Runs a worker of the hub on this thread for as long as the test goes on.
fn on_worker(hub: Arc<Hub>, inbox: Inbox, settings: Settings, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let heard = Heard::default();
        let shard = Shard::start(inbox, settings, metrics::Histogram::noop(), heard.clone(), || 0);
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
