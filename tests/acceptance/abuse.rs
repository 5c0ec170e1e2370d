//! Clients that mean harm: whatever they send, the instance lives, stays within its bounds, and serves others.

use tokio::time::{Duration, Instant};

use crate::harness::{Client, Frame, Instance, Socket, eventually, fence, frame};

/// What one hostile client may cost while it lasts, beyond its message and its outbox.
const ALLOWANCE: f64 = 16e6;

struct Watched {
    instance: Instance,
    bystander: Client,
    memory: f64,
}

impl Watched {
    async fn start(flags: &[&str]) -> Self {
        let instance = Instance::start(flags).await;
        let mut bystander = Client::connect(instance.url("bystanders")).await;
        bystander.send("warm").await;
        bystander.next().await;
        let memory = instance.metric("process_resident_memory_bytes", &[]).await;
        Self { instance, bystander, memory }
    }

    /// It lives, has not grown, and serves others at once.
    async fn is_unharmed(&mut self, by: &str) {
        let start = Instant::now();
        self.bystander.send(by).await;
        assert_eq!(self.bystander.next().await, by.into());
        assert!(start.elapsed() < Duration::from_secs(1), "{by}: a bystander waited {:?}", start.elapsed());
        let memory = self.instance.metric("process_resident_memory_bytes", &[]).await;
        assert!(memory < self.memory + ALLOWANCE, "{by}: from {} to {memory} bytes", self.memory);
        assert!(self.instance.is_running());
    }
}

#[tokio::test]
async fn what_is_no_http_is_turned_away() {
    let mut watched = Watched::start(&["--header-timeout", "500ms", "--handshake-timeout", "1s"]).await;
    let mut rows: Vec<Vec<u8>> = vec![
        b"\0".repeat(100),
        b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /ws/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /ws/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n".to_vec(),
        b"GET /ws/x HTTP/1.1\r\nHost: x\r\nHost: y\r\n \r\n\r\n".to_vec(),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    rows.extend((0..50).map(|_| (0..random.usize(1..300)).map(|_| random.u8(..)).collect()));
    for row in rows {
        let mut socket = Socket::connect(watched.instance.address()).await;
        let _ = socket.write(&row).await;
        socket.ended().await;
    }
    watched.is_unharmed("noise").await;
}

/// Frames of random bytes after a proper handshake: each connection ends with a code for it, or goes on.
#[tokio::test]
async fn random_frames_end_only_their_own_connection() {
    let mut watched = Watched::start(&[]).await;
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..200 {
        let mut socket = Socket::join(watched.instance.address(), "noise").await;
        let noise: Vec<u8> = (0..random.usize(2..2000)).map(|_| random.u8(..)).collect();
        let _ = socket.write(&noise).await;
        socket.shutdown().await;
        let (code, _) = socket.closed().await;
        assert!([1000, 1002, 1006, 1007, 1009].contains(&code) || code >= 3000, "{code}");
    }
    watched.is_unharmed("noise").await;
    eventually("nothing of it stays", async || {
        watched.instance.metric("fanfare_connections", &[]).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_claimed_length_takes_no_memory() {
    let mut watched = Watched::start(&["--message-limit", "1MiB"]).await;
    let mut sockets = Vec::new();
    // Each claims a message of a mebibyte, half a gibibyte in all, and sends three bytes of it.
    let claim = [0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4, 5, 6, 7];
    for _ in 0..500 {
        let mut socket = Socket::join(watched.instance.address(), "claims").await;
        socket.write(&claim).await.unwrap();
        sockets.push(socket);
    }
    watched.is_unharmed("claims").await;
}

#[tokio::test]
async fn a_message_of_crumbs_is_one_message() {
    const CRUMBS: usize = 8000;
    let mut watched = Watched::start(&[]).await;
    let mut listener = Client::connect(watched.instance.url("crumbs")).await;
    let mut socket = Socket::join(watched.instance.address(), "crumbs?echo=false").await;
    let mut bytes = frame(Frame::TEXT, b"x", true);
    for _ in 2..CRUMBS {
        bytes.extend(frame(0, b"x", true));
        bytes.extend(frame(0, b"", true));
    }
    bytes.extend(frame(0x80, b"x", true));
    socket.write(&bytes).await.unwrap();
    assert_eq!(listener.next().await, "x".repeat(CRUMBS).as_str().into());
    watched.is_unharmed("crumbs").await;
    // One that never ends is ended, though it never grows.
    socket.write(&frame(Frame::TEXT, b"", true)).await.unwrap();
    let nothing = frame(0, b"", true).repeat(1000);
    for _ in 0..100 {
        let _ = socket.write(&nothing).await;
    }
    assert_eq!(socket.closed().await.0, 1008);
    watched.is_unharmed("nothing for ever").await;
}

/// Pings are answered, and whoever does not read the answers is cut like any slow consumer.
#[tokio::test]
async fn a_flood_of_pings_drowns_only_itself() {
    let mut watched = Watched::start(&["--outbox-limit", "256KiB"]).await;
    let mut socket = Socket::connect_narrow(watched.instance.address()).await;
    assert_eq!(socket.upgrade("pings", &[]).await.status, 101);
    let pings = frame(0x80 | Frame::PING, &[7; 125], true).repeat(100);
    let flood = async { while socket.write(&pings).await.is_ok() {} };
    // It either stops being read, or is cut; neither may cost anybody else anything.
    let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
    assert!(watched.instance.metric("fanfare_outbox_bytes", &[]).await <= 256.0 * 1024.0);
    watched.is_unharmed("pings").await;
}

#[tokio::test]
async fn coming_and_going_leaves_nothing() {
    let mut watched = Watched::start(&[]).await;
    let files = watched.instance.metric("process_open_fds", &[]).await;
    let churn = async |instance: &Instance, rounds: usize| {
        for round in 0..rounds {
            let mut socket = Socket::join(instance.address(), &format!("churn-{round}")).await;
            match round % 4 {
                0 => drop(socket.send(Frame::CLOSE, &1000_u16.to_be_bytes()).await),
                1 => socket.reset(),
                2 => drop(socket.send(Frame::TEXT, b"bye").await),
                _ => {}
            }
        }
    };
    churn(&watched.instance, 2000).await;
    let settled = async || {
        let metrics = watched.instance.metrics().await;
        metrics.value("fanfare_connections", &[]) == 1.0
            && metrics.value("fanfare_subscriptions", &[]) == 1.0
            && metrics.value("process_open_fds", &[]) <= files + 2.0
    };
    eventually("all have gone", settled).await;
    // A channel nobody is in is forgotten a second after the last has left.
    eventually("the channels are gone", async || {
        watched.instance.metric("fanfare_channels", &[]).await == 1.0
    })
    .await;
    let metrics = watched.instance.metrics().await;
    assert_eq!(metrics.value("fanfare_connections_opened_total", &[]), 2001.0);
    assert_eq!(metrics.value("fanfare_connections_closed_total", &[]), 2000.0);
    watched.is_unharmed("churn").await;
    let mut other = Client::connect(watched.instance.url("bystanders")).await;
    fence(&mut watched.bystander, &mut other).await;
}
