//! A bad network between a broker and its Redis: connections that stay open and bring nothing, and slow ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Stands in front of a Redis.
pub struct Proxy {
    pub port: u16,
    weather: Arc<Weather>,
}

/// As with TCP, what is held back arrives once the weather is better, if the connection is still there.
struct Weather {
    /// Answers on connections that have subscribed are held back.
    subscribers_deaf: watch::Sender<bool>,
    /// What Redis publishes is lost, while it still answers: as if it had forgotten the subscriptions.
    forgetful: AtomicBool,
    /// Everything is held back on every connection; new ones are accepted.
    black_hole: watch::Sender<bool>,
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
            latency,
            rate,
        });
        let shared = weather.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, upstream, shared.clone()));
            }
        });
        Self { port, weather }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn deafen_subscribers(&self, deaf: bool) {
        self.weather.subscribers_deaf.send_replace(deaf);
    }

    pub fn forget_subscriptions(&self, on: bool) {
        self.weather.forgetful.store(on, SeqCst);
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

async fn pass_on(client: TcpStream, upstream: u16, weather: Arc<Weather>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let subscribed = AtomicBool::new(false);
    tokio::join!(
        one_way(client_reads, server_writes, &weather, |piece| {
            if piece.windows(9).any(|word| word == b"SUBSCRIBE") {
                subscribed.store(true, SeqCst);
            }
            false
        }),
        one_way(server_reads, client_writes, &weather, |_| subscribed.load(SeqCst)),
    );
}

/// Every piece arrives `latency` later, in order; if `can_be_deaf`, not before the subscribers hear again.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: &Weather,
    can_be_deaf: impl Fn(&[u8]) -> bool,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(weather.pieces());
    let read = async move {
        let mut buffer = vec![0; (weather.rate / 10).clamp(1000, 65536) as usize];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let _ = sender.send((Instant::now() + weather.latency, buffer[..count].to_vec())).await;
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            let (mut black_hole, mut deaf) =
                (weather.black_hole.subscribe(), weather.subscribers_deaf.subscribe());
            let _ = black_hole.wait_for(|on| !on).await;
            if can_be_deaf(&piece) {
                let _ = deaf.wait_for(|on| !on).await;
            }
            // With no more than a message a second, each is a piece of its own.
            if weather.forgetful.load(SeqCst) && piece.windows(9).any(|word| word == b"message\r\n") {
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
