//! A bad network between a broker and its Redis: connections that stay open and bring nothing, and slow ones. Or only
//! some connections are bad, which are told apart by what was said over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Stands in front of a Redis.
pub struct Proxy {
    pub port: u16,
    /// Where new connections lead to.
    upstream: Arc<AtomicU16>,
    weather: Arc<Weather>,
    lines: Arc<Mutex<Vec<Arc<Line>>>>,
}

/// One connection of the broker.
pub struct Line {
    /// What has come from the broker, whether or not it was passed on.
    said: Mutex<Vec<u8>>,
    way: watch::Sender<Way>,
    subscribed: AtomicBool,
    /// By the broker.
    closed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Answers are held back.
    Mute,
    /// Everything is held back.
    Shut,
    /// Open, until the broker says these words; then they and everything behind them is held back.
    Until(&'static str),
    /// Nothing will pass any more: both ends are told.
    Cut,
}

impl Line {
    pub fn has_said(&self, words: &str) -> bool {
        contains(&self.said.lock(), words)
    }

    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub fn mute(&self) {
        self.way.send_replace(Way::Mute);
    }

    pub fn shut(&self) {
        self.way.send_replace(Way::Shut);
    }

    pub fn open_until(&self, words: &'static str) {
        self.way.send_replace(Way::Until(words));
    }

    pub fn is_shut(&self) -> bool {
        *self.way.borrow() == Way::Shut
    }

    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// Whether the broker has closed it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    fn hear(&self, piece: &[u8]) {
        self.said.lock().extend_from_slice(piece);
        if contains(piece, "SUBSCRIBE") {
            self.subscribed.store(true, SeqCst);
        }
    }

    async fn let_through(&self, speaker: Speaker, piece: &[u8]) {
        let said = |words| speaker == Speaker::Broker && contains(piece, words);
        self.way.send_if_modified(|way| {
            let ends = matches!(way, Way::Until(words) if said(words));
            if ends {
                *way = Way::Shut;
            }
            ends
        });
        let passes = |way: &Way| match way {
            Way::Open | Way::Until(_) => true,
            Way::Mute => speaker == Speaker::Broker,
            Way::Shut | Way::Cut => false,
        };
        let _ = self.way.subscribe().wait_for(passes).await;
    }
}

fn contains(piece: &[u8], words: &str) -> bool {
    piece.windows(words.len()).any(|window| window == words.as_bytes())
}

/// As with TCP, what is held back arrives once the weather is better, if the connection is still there.
struct Weather {
    /// Answers on connections that have subscribed are held back.
    subscribers_deaf: watch::Sender<bool>,
    /// What Redis publishes is lost, while it still answers: as if it had forgotten the subscriptions.
    forgetful: AtomicBool,
    /// Everything is held back on every connection; new ones are accepted.
    black_hole: watch::Sender<bool>,
    /// New connections are shut.
    shut: AtomicBool,
    latency: Duration,
    /// Bytes a second and direction, for each connection.
    rate: u32,
}

impl Proxy {
    pub async fn start(upstream: u16, latency: Duration) -> Self {
        Self::narrow(upstream, latency, u32::MAX).await
    }

    pub async fn narrow(upstream: u16, latency: Duration, rate: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let weather = Arc::new(Weather {
            subscribers_deaf: watch::Sender::new(false),
            forgetful: AtomicBool::new(false),
            black_hole: watch::Sender::new(false),
            shut: AtomicBool::new(false),
            latency,
            rate,
        });
        let lines = Arc::new(Mutex::new(Vec::new()));
        let upstream = Arc::new(AtomicU16::new(upstream));
        let (to, shared, all) = (upstream.clone(), weather.clone(), lines.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let way = if shared.shut.load(SeqCst) { Way::Shut } else { Way::Open };
                let (said, way) = (Mutex::default(), watch::Sender::new(way));
                let (subscribed, closed) = (AtomicBool::new(false), AtomicBool::new(false));
                let line = Arc::new(Line { said, way, subscribed, closed });
                all.lock().push(line.clone());
                tokio::spawn(pass_on(client, to.load(SeqCst), shared.clone(), line));
            }
        });
        Self { port, upstream, weather, lines }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// New connections lead to another Redis; the others stay where they are.
    pub fn lead_to(&self, upstream: u16) {
        self.upstream.store(upstream, SeqCst);
    }

    pub fn deafen_subscribers(&self, deaf: bool) {
        self.weather.subscribers_deaf.send_replace(deaf);
    }

    pub fn forget_subscriptions(&self, on: bool) {
        self.weather.forgetful.store(on, SeqCst);
    }

    /// All connections that there have been, in their order.
    pub fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.lock().clone()
    }

    /// The one over which these words were said.
    pub fn line_that_said(&self, words: &str) -> Arc<Line> {
        let lines = self.lines();
        let mut those = lines.iter().filter(|line| line.has_said(words));
        let line = those.next().expect("somebody has said that");
        assert!(those.next().is_none(), "it was said over several connections");
        line.clone()
    }

    /// New connections are accepted, and then nothing passes.
    pub fn shut_new_lines(&self, on: bool) {
        self.weather.shut.store(on, SeqCst);
    }

    pub fn black_hole(&self, on: bool) {
        self.weather.black_hole.send_replace(on);
    }
}

impl Weather {
    /// How many pieces may be under way: a distant line holds many, a narrow one few.
    fn pieces(&self) -> usize {
        if self.rate < u32::MAX { 1 } else { 1 << 16 }
    }
}

async fn pass_on(client: TcpStream, upstream: u16, weather: Arc<Weather>, line: Arc<Line>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let both = async {
        tokio::join!(
            one_way(Speaker::Broker, client_reads, server_writes, &weather, &line),
            one_way(Speaker::Redis, server_reads, client_writes, &weather, &line),
        )
    };
    let mut way = line.way.subscribe();
    tokio::select! {
        _ = both => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Broker,
    Redis,
}

/// Every piece arrives `latency` later, in order, and not before it is let through.
async fn one_way(
    speaker: Speaker,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: &Weather,
    line: &Line,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(weather.pieces());
    let read = async move {
        let mut buffer = vec![0; (weather.rate / 10).clamp(1000, 65536) as usize];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if speaker == Speaker::Broker {
                line.hear(&buffer[..count]);
            }
            let _ = sender.send((Instant::now() + weather.latency, buffer[..count].to_vec())).await;
        }
        if speaker == Speaker::Broker {
            line.closed.store(true, SeqCst);
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            let (mut black_hole, mut deaf) =
                (weather.black_hole.subscribe(), weather.subscribers_deaf.subscribe());
            let _ = black_hole.wait_for(|on| !on).await;
            if speaker == Speaker::Redis && line.subscribed.load(SeqCst) {
                let _ = deaf.wait_for(|on| !on).await;
            }
            line.let_through(speaker, &piece).await;
            // With no more than a message a second, each is a piece of its own.
            if weather.forgetful.load(SeqCst) && contains(&piece, "message\r\n") {
                continue;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
            if weather.rate < u32::MAX {
                tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / f64::from(weather.rate)))
                    .await;
            }
        }
    };
    tokio::join!(read, write);
}
