//! What one client may take: each limit at its bound and one beyond, with bystanders who must not notice.

use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::harness::{
    Certificates, Client, DEADLINE, Frame, Instance, Said, Socket, eventually, fence, frame, request,
};

#[tokio::test]
async fn a_message_may_have_the_limit_and_no_byte_more() {
    const LIMIT: usize = 1000;
    let instance = Instance::start(&["--message-limit", "1000"]).await;
    let mut listener = Client::connect(instance.url("size")).await;
    // (the frames of one message, whether it is within the limit)
    let whole = |length| vec![frame(0x80 | Frame::BINARY, &vec![7; length], true)];
    let parts = |first, second| {
        vec![frame(Frame::BINARY, &vec![7; first], true), frame(0x80, &vec![7; second], true)]
    };
    let rows = [
        ("at the limit", whole(LIMIT), true),
        ("one beyond", whole(LIMIT + 1), false),
        ("two halves", parts(LIMIT / 2, LIMIT / 2), true),
        ("two halves and one", parts(LIMIT / 2, LIMIT / 2 + 1), false),
    ];
    for (name, frames, fits) in rows {
        let mut socket = Socket::join(instance.address(), "size?echo=false").await;
        socket.write(&frames.concat()).await.unwrap();
        if fits {
            assert_eq!(listener.next().await, Said::Binary(vec![7; LIMIT]), "{name}");
        } else {
            assert_eq!(socket.closed().await, (1009, "message too big".into()), "{name}");
        }
    }
    let mut other = Client::connect(instance.url("size?echo=false")).await;
    fence(&mut other, &mut listener).await;
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[("reason", "too_big")]).await, 2.0);
}

#[tokio::test]
async fn a_slow_consumer_is_cut_and_nobody_else_notices() {
    const SIZE: usize = 16 * 1024;
    let instance = Instance::start(&["--workers", "1", "--outbox-limit", "256KiB"]).await;
    let mut slow = Socket::connect_narrow(instance.address()).await;
    assert_eq!(slow.upgrade("flood", &[]).await.status, 101);
    let mut publisher = Client::connect(instance.url("flood?echo=false")).await;
    let mut bystander = Client::connect(instance.url("flood")).await;
    let mut neighbour = Client::connect(instance.url("elsewhere")).await;

    let mut slowest = Duration::ZERO;
    let mut published = 0;
    let cut = async || instance.metric("fanfare_slow_consumers_total", &[]).await == 1.0;
    while !cut().await {
        let start = Instant::now();
        publisher.send(Said::Binary(vec![published as u8; SIZE])).await;
        assert_eq!(bystander.next().await, Said::Binary(vec![published as u8; SIZE]));
        neighbour.send("me too").await;
        assert_eq!(neighbour.next().await, "me too".into());
        slowest = slowest.max(start.elapsed());
        published += 1;
        let outbox = instance.metric("fanfare_outbox_bytes", &[]).await;
        assert!(outbox <= 256.0 * 1024.0, "an outbox of {outbox} bytes");
        assert!(published < 2000, "never cut, after {published} messages of {SIZE} bytes");
    }
    assert!(published >= 16, "cut after {published} messages, before its outbox was full");
    assert!(slowest < Duration::from_secs(5), "bystanders waited {slowest:?}");
    // It can still read what was on its way, whole frames in order, and then why it was cut.
    let mut heard = 0;
    let end = loop {
        match slow.next_but_pings().await {
            Some(Frame { opcode: Frame::BINARY, payload }) => {
                assert_eq!(payload, vec![heard as u8; SIZE]);
                heard += 1;
            }
            other => break other,
        }
    };
    assert_eq!(end.expect("a close frame").close(), Some((1008, "slow consumer".into())));
    assert!(heard < published);
    instance.log().find("the slow consumer", |line| line["reason"] == "slow_consumer").await;
    eventually("nothing of it stays", async || {
        let metrics = instance.metrics().await;
        metrics.value("fanfare_outbox_bytes", &[]) == 0.0
            && metrics.value("fanfare_connections", &[]) == 3.0
            && metrics.value("fanfare_connections_closed_total", &[("reason", "slow_consumer")]) == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_connection_may_burst_and_then_keep_to_its_rate() {
    let instance = Instance::start(&["--message-rate", "5", "--message-burst", "10"]).await;
    let mut bystander = Client::connect(instance.url("rate")).await;
    let start = Instant::now();
    let mut greedy = Client::connect(instance.url("rate?echo=false")).await;
    for number in 0..10 {
        greedy.send(format!("{number}").as_str()).await;
        assert_eq!(bystander.next().await, Said::Text(number.to_string()));
    }
    // Four times its rate, on the whole, however busy the machine is: what is late is caught up with.
    let mut ticks = interval(Duration::from_millis(50));
    let is_cut = async || {
        instance.metric("fanfare_connections_closed_total", &[("reason", "rate_limited")]).await == 1.0
    };
    let cut = async {
        while greedy.try_send("more").await && !is_cut().await {
            ticks.tick().await;
        }
    };
    timeout(DEADLINE, cut).await.expect("it is cut at four times its rate");
    assert_eq!(greedy.closed().await, (1008, "rate limited".into()));
    let earned = 5.0 * start.elapsed().as_secs_f64();
    // The bucket is each connection's own.
    let mut other = Client::connect(instance.url("rate?echo=false")).await;
    for number in 0..10 {
        other.send(format!("other {number}").as_str()).await;
    }
    let mut heard = 0.0;
    while bystander.next().await != Said::Text("other 9".into()) {
        heard += 1.0;
    }
    // The others' nine are among them, in the place of the burst's ten.
    assert!(heard - 9.0 <= earned + 1.0, "{heard} are heard, and {earned} come from the rate");
    // And whoever keeps to the rate from there on, one in a fifth of a second, stays.
    let mut ticks = interval(Duration::from_millis(220));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    for number in 10..16 {
        ticks.tick().await;
        other.send(format!("other {number}").as_str()).await;
    }
    while bystander.next().await != Said::Text("other 15".into()) {}
}

#[tokio::test]
async fn an_instance_holds_so_many_connections() {
    let instance = Instance::start(&["--max-connections", "3", "--retry-after", "7s"]).await;
    let url = instance.url("full");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&url).await);
    }
    let answer = Client::try_connect(&url, &[]).await.err().expect("refused");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert_eq!(
        instance.metric("fanfare_handshakes_rejected_total", &[("reason", "instance_full")]).await,
        1.0
    );
    // Health and metrics are not connections, and a place that is left is free again.
    assert_eq!(instance.page("/livez").await.status, 200);
    clients.pop().unwrap().close().await;
    eventually("there is a place again", async || Client::try_connect(&url, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn half_a_body_keeps_nobody_out() {
    let rows =
        ["/connection/sse", "/connection/http_stream", "/connection/uni_sse", "/connection/uni_http_stream"];
    for (limit, status) in [("--max-connections", 503), ("--max-connections-per-address", 429)] {
        let instance = Instance::start(&[limit, "1"]).await;
        let mut halves = Vec::new();
        for path in rows {
            let mut socket = Socket::connect(instance.address()).await;
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 21\r\n\r\n{{");
            socket.write(head.as_bytes()).await.unwrap();
            halves.push(socket);
        }
        let waiting = async || instance.metric("fanfare_unfinished_handshakes", &[]).await;
        eventually("their bodies are waited for", async || waiting().await == rows.len() as f64).await;
        let _newcomer = Client::connect(instance.url("full")).await;
        // Whoever says all of it is counted as everybody else is.
        for mut socket in halves {
            socket.write(br#""id":1,"connect":{}}"#).await.unwrap();
            assert_eq!(socket.response().await.status, status, "{limit}");
        }
    }
}

#[tokio::test]
async fn an_address_holds_so_many_connections() {
    let flags = ["--max-connections-per-address", "2", "--trusted-proxies", "127.0.0.0/8"];
    let instance = Instance::start(&flags).await;
    let url = instance.url("addresses");
    let from = async |address: &str| Client::try_connect(&url, &[("x-forwarded-for", address)]).await;
    let mut first = vec![from("192.0.2.1").await.unwrap(), from("192.0.2.1").await.unwrap()];
    let answer = from("192.0.2.1").await.err().expect("refused");
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("5")));
    let _other = from("192.0.2.2").await.expect("another address");
    assert_eq!(
        instance.metric("fanfare_handshakes_rejected_total", &[("reason", "address_full")]).await,
        1.0
    );
    first.pop().unwrap().close().await;
    eventually("there is a place again", async || from("192.0.2.1").await.is_ok()).await;
}

/// Handshakes that were begun and left.
struct HalfOpen<'a> {
    instance: &'a Instance,
    /// How each begins.
    begun: &'a [u8],
    sockets: Vec<Socket>,
}

impl HalfOpen<'_> {
    /// One more, which is seen to be there before this returns.
    async fn one_more(&mut self, from: &str, header: &[u8]) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut socket = Socket::over(socket.connect(self.instance.address()).await.unwrap());
        socket.write(&[header, self.begun].concat()).await.unwrap();
        self.sockets.push(socket);
        let arrived = self.sockets.len() as f64;
        eventually("it waits", async || {
            let metrics = self.instance.metrics().await;
            let crowded = ["instance_crowded", "address_crowded"]
                .map(|reason| metrics.value("fanfare_handshakes_rejected_total", &[("reason", reason)]));
            metrics.value("fanfare_unfinished_handshakes", &[]) + crowded.iter().sum::<f64>() == arrived
        })
        .await;
    }

    /// Which of them have been cut.
    async fn cut(&mut self) -> Vec<usize> {
        let mut cut = Vec::new();
        for (place, socket) in self.sockets.iter_mut().enumerate() {
            if socket.has_ended().await {
                cut.push(place);
            }
        }
        cut
    }

    /// Waits until these have been cut, and sees that no others have.
    async fn are_cut(&mut self, expected: &[usize]) {
        for &place in expected {
            self.sockets[place].ended().await;
        }
        assert_eq!(self.cut().await, expected);
    }
}

/// Nothing but the bound cuts them: no deadline is near.
const PATIENT: [&str; 6] =
    ["--handshake-timeout", "5m", "--header-timeout", "5m", "--internal-listen", "127.0.0.1:0"];

/// Whoever has waited longest makes room, over all workers; those who speak are let in and stay, however many do not.
#[tokio::test]
async fn half_open_handshakes_make_room_for_each_other() {
    const MANY: usize = 300;
    let certificates = Certificates::new();
    let tls = certificates.flags("first");
    let bodies = [0, 1, 2].map(|place| half_a_body(SPOKEN[place]));
    for (begun, more) in [
        (&b""[..], None),
        (b"GET /ws/half HTTP/1.1\r\nHost:", None),
        (b"\x16\x03\x01", Some(&tls)),
        (&bodies[0], None),
        (&bodies[1], None),
        (&bodies[2], None),
    ] {
        let more = more.map(|flags| flags[2..].iter().map(String::as_str).collect::<Vec<_>>());
        let flags =
            [&PATIENT[..], &["--workers", "2", "--max-handshakes", "5"], &more.clone().unwrap_or_default()];
        let mut instance = Instance::start(&flags.concat()).await;
        let join = async || match more {
            None => Socket::join(instance.address(), "others").await,
            Some(_) => certificates.client(&["first"]).join(instance.address(), "others").await,
        };
        let mut bystander = join().await;
        let mut all = HalfOpen { instance: &instance, begun, sockets: Vec::new() };
        for _ in 0..7 {
            all.one_more("127.0.0.1", b"").await;
        }
        all.are_cut(&[0, 1]).await;
        // Who asks, however late it comes, is let in; the next of the others made room for it meanwhile.
        let mut late = join().await;
        all.are_cut(&[0, 1, 2]).await;
        for _ in 0..MANY {
            let mut socket = Socket::connect(instance.address()).await;
            let _ = socket.write(begun).await;
            all.sockets.push(socket);
        }
        let rejected = [("reason", "instance_crowded")];
        eventually("all but the last have made room", async || {
            let metrics = instance.metrics().await;
            metrics.value("fanfare_unfinished_handshakes", &[]) == 5.0
                && metrics.value("fanfare_handshakes_rejected_total", &rejected) == (MANY + 2) as f64
        })
        .await;
        assert_eq!(instance.metric("fanfare_handshakes_rejected_total", &[]).await, (MANY + 2) as f64);
        let mut last = join().await;
        bystander.send(Frame::TEXT, b"still here").await.unwrap();
        for socket in [&mut bystander, &mut late, &mut last] {
            assert_eq!(socket.next_but_pings().await.unwrap().payload, b"still here");
        }
        assert!(instance.is_running());
    }
}

/// Where clients that have no WebSocket speak.
const SPOKEN: [&str; 3] = ["/emulation", "/connection/http_stream", "/connection/sse"];

/// A request up to the first byte of its body.
fn half_a_body(path: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: half\r\nContent-Length: 100\r\n\r\n{{").into_bytes()
}

/// Whoever lets a body drip waits for as long as it does, and whoever has come to its end waits no more.
#[tokio::test]
async fn bodies_that_drip_make_room_for_each_other() {
    for path in SPOKEN {
        let flags = [&PATIENT[..], &["--max-handshakes", "3"]].concat();
        let instance = Instance::start(&flags).await;
        let begun = half_a_body(path);
        let mut all = HalfOpen { instance: &instance, begun: &begun, sockets: Vec::new() };
        for _ in 0..3 {
            all.one_more("127.0.0.1", b"").await;
        }
        for _ in 0..5 {
            all.sockets[0].write(b" ").await.unwrap();
            all.sockets[1].write(b" ").await.unwrap();
        }
        all.one_more("127.0.0.1", b"").await;
        all.are_cut(&[0]).await;
        // One is heard to its end, and answered.
        let rest = [&[b' '; 93][..], b"}"].concat();
        all.sockets[1].write(&rest).await.unwrap();
        let expected = if path == "/emulation" { 400 } else { 200 };
        assert_eq!(all.sockets[1].response().await.status, expected, "{path}");
        for counted in [&[("reason", "instance_crowded")][..], &[]] {
            let rejected = instance.metric("fanfare_handshakes_rejected_total", counted).await;
            assert_eq!(rejected, 1.0, "{path}");
        }
    }
}

/// An address has its own bound, if it is somebody's: a balancer's is not, be it that the PROXY protocol says whose
/// connection it is, or a request to come.
#[tokio::test]
async fn half_open_handshakes_of_one_address_make_room_for_each_other() {
    let proxied = |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
        header.extend([192, 0, 2, last, 127, 0, 0, 1, 0x1F, 0x90, 0x1F, 0x91]);
        header
    };
    let (first, other, none) = (proxied(1), proxied(2), Vec::new());
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a Vec<u8>)], &'a [usize]);
    // (flags, where each connects from and what it says before all else, which are cut)
    let (here, there) = (("127.0.0.1", &none), ("127.0.0.2", &none));
    let rows: [Row; 3] = [
        (&[], &[here, here, there, here, there, there, here], &[0, 1, 2]),
        (&["--trusted-proxies", "127.0.0.1"], &[here, here, there, here, there, there, here], &[2]),
        (
            &["--trusted-proxies", "127.0.0.1", "--proxy-protocol", "true"],
            &[
                ("127.0.0.1", &first),
                ("127.0.0.1", &first),
                ("127.0.0.1", &other),
                ("127.0.0.1", &first),
                here,
                here,
                here,
            ],
            &[0],
        ),
    ];
    for (more, comers, cut) in rows {
        let flags = [&PATIENT[..], &["--max-handshakes-per-address", "2"], more].concat();
        let instance = Instance::start(&flags).await;
        let mut all = HalfOpen { instance: &instance, begun: b"", sockets: Vec::new() };
        for (from, header) in comers {
            all.one_more(from, header).await;
        }
        all.are_cut(cut).await;
        let counted = [("reason", "address_crowded")];
        assert_eq!(instance.metric("fanfare_handshakes_rejected_total", &counted).await, cut.len() as f64);
        assert_eq!(instance.metric("fanfare_handshakes_rejected_total", &[]).await, cut.len() as f64);
    }
}

/// Open files run out because of sockets that never say anything. The instance goes on for those that are
/// there, does not spin, and takes new ones as soon as it can.
#[tokio::test]
async fn running_out_of_files_is_survived() {
    const FILES: u32 = 100;
    const OTHERS: u32 = 45;
    let mut instance = Instance::start_with_open_files(
        FILES,
        &["--workers", "1", "--header-timeout", "5m", "--handshake-timeout", "5m"],
    )
    .await;
    let mut client = Client::connect(instance.url("files")).await;
    // Those who say nothing get half of the files and no more, so others must have some, too.
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        others.push(Client::connect(instance.url("others")).await);
    }
    let mut flood = Vec::new();
    for _ in 0..2 * FILES {
        flood.push(Socket::connect(instance.address()).await);
    }
    instance.log().find("that files ran out", |line| line.to_string().to_lowercase().contains("files")).await;
    let (before, start) = (instance.cpu_time(), Instant::now());
    let mut ticks = interval(Duration::from_millis(100));
    for _ in 0..10 {
        ticks.tick().await;
        fence_alone(&mut client).await;
    }
    let (used, took) = (instance.cpu_time() - before, start.elapsed());
    assert!(used < took.mul_f64(0.45), "{used:?} of CPU in {took:?}");
    // Who comes now is told so.
    eventually("somebody is told", async || {
        let answer = request(instance.address(), "GET", "/livez", &[]).await;
        answer.is_ok_and(|answer| {
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
            assert!(answer.body.contains("no open file left"), "{answer:?}");
            true
        })
    })
    .await;
    drop(flood);
    eventually("served again", async || {
        request(instance.address(), "GET", "/livez", &[]).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let metrics = instance.metrics().await;
    assert!(metrics.value("fanfare_accept_errors_total", &[]) > 0.0);
    assert!(metrics.value("fanfare_handshakes_rejected_total", &[("reason", "out_of_files")]) > 0.0);
    assert!(metrics.value("process_max_fds", &[]) <= f64::from(FILES));
    fence_alone(&mut client).await;
    let mut late = Client::connect(instance.url("files")).await;
    fence(&mut client, &mut late).await;
    assert!(instance.is_running());
}

async fn fence_alone(client: &mut Client) {
    client.send("echo").await;
    assert_eq!(client.next().await, "echo".into());
}
