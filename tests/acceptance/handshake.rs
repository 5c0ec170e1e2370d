//! Who gets in: what a handshake must say, from which page and address, and how long it may take.

use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use crate::harness::{Client, DEADLINE, Instance, LoadBalancer, Response, Socket, eventually, request};

async fn rejected(instance: &Instance, reason: &str) -> f64 {
    instance.metric("fanfare_handshakes_rejected_total", &[("reason", reason)]).await
}

/// What is refused, and as what it is counted, is in `hostile`; here, what the answer tells a client to do.
#[tokio::test]
async fn a_refusal_says_what_is_expected() {
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::connect(instance.address()).await;
    socket
        .write(b"GET /ws/old HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n")
        .await
        .unwrap();
    let answer = socket.response().await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")));
    // RFC 9110, section 7.8: one without the other means nothing.
    assert_eq!(
        (answer.header("upgrade"), answer.header("connection")),
        (Some("websocket"), Some("close, upgrade"))
    );
    socket.ended().await;
    let post = request(instance.address(), "POST", "/ws/bad", &[]).await.unwrap();
    assert_eq!((post.status, post.header("allow")), (405, Some("GET")));
    assert_eq!(request(instance.address(), "GET", "/nothing", &[]).await.unwrap().status, 404);
}

/// Words in `Connection` and `Upgrade` are lists, and letters may be of either case (RFC 6455 section 4.2.1).
#[tokio::test]
async fn an_unusual_handshake_is_one() {
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::connect(instance.address()).await;
    let text = "GET /ws/odd HTTP/1.1\r\nhost: x\r\nupgrade: WebSocket\r\nconnection: keep-alive, uPGRADE\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-protocol: chat, superchat\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n";
    socket.write(text.as_bytes()).await.unwrap();
    let answer = socket.response().await;
    assert_eq!(answer.status, 101);
    // Nothing was agreed that is not spoken.
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn pages_of_other_hosts_stay_outside() {
    let patterns = ["--allowed-origins", "https://app.example.com,https://*.example.org"];
    // (flags, Origin, whether it gets in); the Host is fanfare.test
    let rows: [(&[&str], Option<&str>, bool); 14] = [
        (&[], None, true),
        (&[], Some("http://fanfare.test"), true),
        (&[], Some("https://fanfare.test"), true),
        (&[], Some("http://evil.test"), false),
        (&[], Some("http://fanfare.test.evil.test"), false),
        (&[], Some("null"), false),
        (&patterns, None, true),
        (&patterns, Some("https://app.example.com"), true),
        (&patterns, Some("https://a.example.org"), true),
        (&patterns, Some("http://app.example.com"), false),
        (&patterns, Some("https://app.example.com.evil.test"), false),
        (&patterns, Some("http://fanfare.test"), false),
        (&["--allowed-origins", "*"], Some("http://evil.test"), true),
        (&["--allowed-origins", "*"], Some("null"), true),
    ];
    for (flags, origin, gets_in) in rows {
        let instance = Instance::start(flags).await;
        let headers: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        let answer = Socket::connect(instance.address()).await.upgrade("origin", &headers).await;
        assert_eq!(answer.status, if gets_in { 101 } else { 403 }, "{flags:?} {origin:?}");
        assert_eq!(rejected(&instance, "origin").await == 0.0, gets_in, "{flags:?} {origin:?}");
    }
    // Two, of which somebody on the way may have judged the other.
    let instance = Instance::start(&[]).await;
    for both in [["http://fanfare.test", "http://evil.test"], ["http://fanfare.test"; 2]] {
        let headers = both.map(|origin| ("Origin", origin));
        let answer = Socket::connect(instance.address()).await.upgrade("origin", &headers).await;
        assert_eq!(answer.status, 403, "{both:?}");
    }
}

#[tokio::test]
async fn an_address_is_believed_from_proxies_only() {
    let limit = ["--max-connections-per-address", "1"];
    let trusting = [limit[0], limit[1], "--trusted-proxies", "127.0.0.1"];
    // (trusts this machine, X-Forwarded-For of the first and the second, whether they count as one)
    let rows = [
        (false, "192.0.2.1", "192.0.2.2", true),
        (true, "192.0.2.1", "192.0.2.2", false),
        (true, "192.0.2.1", "192.0.2.1", true),
        // What a client wrote itself stands left of what the proxy added.
        (true, "10.9.9.9, 192.0.2.1", "10.8.8.8, 192.0.2.1", true),
        (true, "192.0.2.1, 127.0.0.1", "192.0.2.2, 127.0.0.1", false),
        (true, "2001:db8::1", "2001:db8:1::1", false),
    ];
    for (trusts, first, second, same) in rows {
        let instance = Instance::start(if trusts { &trusting } else { &limit }).await;
        let url = instance.url("proxied");
        let _held = Client::try_connect(&url, &[("X-Forwarded-For", first)]).await.unwrap();
        let second_got_in = Client::try_connect(&url, &[("X-Forwarded-For", second)]).await;
        let status = second_got_in.err().map(|answer| answer.status);
        assert_eq!(status, same.then_some(429), "{trusts} {first} {second}");
    }
}

/// Version 2 of the PROXY protocol: signature, PROXY over TCP/IPv4, source 192.0.2.`last`.
fn proxy_header(last: u8) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
    bytes.extend([192, 0, 2, last, 127, 0, 0, 1, 0x1F, 0x90, 0x1F, 0x91]);
    bytes
}

#[tokio::test]
async fn the_proxy_protocol_says_who_comes() {
    let flags = [
        "--proxy-protocol",
        "true",
        "--trusted-proxies",
        "127.0.0.1",
        "--max-connections-per-address",
        "1",
        "--internal-listen",
        "127.0.0.1:0",
    ];
    let instance = Instance::start(&flags).await;
    let join = async |last: u8| -> (Socket, Response) {
        let mut socket = Socket::connect(instance.address()).await;
        socket.write(&proxy_header(last)).await.unwrap();
        let answer = socket.upgrade("proxied", &[]).await;
        (socket, answer)
    };
    let first = join(1).await;
    assert_eq!(first.1.status, 101);
    assert_eq!(join(1).await.1.status, 429);
    let other = join(2).await;
    assert_eq!(other.1.status, 101);

    // Without the header, or with a broken one, the connection is cut.
    for bytes in [&b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"] {
        let mut socket = Socket::connect(instance.address()).await;
        socket.write(bytes).await.unwrap();
        socket.ended().await;
    }
    assert_eq!(rejected(&instance, "proxy_header").await, 2.0);
}

/// Each as what it is, as where no proxy is spoken to: a port that is only looked at is nothing.
#[tokio::test]
async fn what_is_no_proxy_header_is_counted_as_what_it_is() {
    let start = async |patience: &str| {
        let proxy = ["--workers", "1", "--proxy-protocol", "true", "--trusted-proxies", "127.0.0.1"];
        let times = ["--handshake-timeout", patience, "--header-timeout", patience];
        Instance::start(&[&proxy[..], &times, &["--internal-listen", "127.0.0.1:0"]].concat()).await
    };
    // Nobody who goes is waited for, and nothing else ends who stays.
    let (patient, hasty) = (start("5m").await, start("200ms").await);
    let header = proxy_header(1);
    // (what comes, whether the client goes then, as what it is counted)
    let rows: [(&[u8], bool, Option<&str>); 6] = [
        (b"", true, None),
        (&header[..1], true, Some("proxy_header")),
        (&header[..20], true, Some("proxy_header")),
        (b"", false, Some("timeout")),
        (&header[..12], false, Some("timeout")),
        (&header[..20], false, Some("timeout")),
    ];
    let mut expected = [[0.0; 2]; 2];
    for (bytes, goes, counted) in rows {
        let (instance, expected) =
            if goes { (&patient, &mut expected[0]) } else { (&hasty, &mut expected[1]) };
        let mut socket = Socket::connect(instance.address()).await;
        // Whoever is late finds that it is over already.
        let written = socket.write(bytes).await;
        assert!(written.is_ok() || !goes, "{written:?}");
        if goes {
            socket.shutdown().await;
        }
        socket.ended().await;
        for (reason, expected) in ["proxy_header", "timeout"].into_iter().zip(expected) {
            *expected += if counted == Some(reason) { 1.0 } else { 0.0 };
            let as_it_is = async || rejected(instance, reason).await == *expected;
            eventually(&format!("{bytes:?} {goes}: {expected} of {reason}"), as_it_is).await;
        }
    }
}

#[tokio::test]
async fn a_real_proxy_speaks_the_proxy_protocol() {
    let flags =
        ["--proxy-protocol", "true", "--trusted-proxies", "127.0.0.1", "--internal-listen", "127.0.0.1:0"];
    let instance = Instance::start(&flags).await;
    let balancer = LoadBalancer::start(&[&instance], "send-proxy-v2").await;
    let mut client = Client::connect(balancer.url("proxied")).await;
    client.send("through").await;
    assert_eq!(client.next().await, "through".into());
}

/// The handshake as a whole may take longer than anybody waits here, so it is the headers' own time that ends these.
#[tokio::test]
async fn headers_take_no_longer_than_they_may() {
    const MAY: Duration = Duration::from_millis(400);
    let flags = ["--header-timeout", "400ms", "--handshake-timeout", "5m"];
    let instance = Instance::start(&flags).await;
    // (how it dawdles: at once, then this again every 50 ms)
    let rows: [(&str, &[u8], &[u8]); 3] = [
        ("says nothing", b"", b""),
        ("stops in the middle", b"GET /ws/slow HTTP/1.1\r\nHost: x\r\n", b""),
        ("drips", b"GET /ws/slow HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
    ];
    for (done, (name, first, then)) in rows.into_iter().enumerate() {
        let start = Instant::now();
        let mut socket = Socket::connect(instance.address()).await;
        let _ = socket.write(first).await;
        let mut ticks = interval(Duration::from_millis(50));
        let cut = async {
            while then.is_empty() || socket.write(then).await.is_ok() {
                ticks.tick().await;
                if socket.has_ended().await {
                    break;
                }
            }
        };
        timeout(DEADLINE, cut).await.unwrap_or_else(|_| panic!("{name} is not cut"));
        assert!(start.elapsed() >= MAY, "{name}: cut after {:?}", start.elapsed());
        let counted = (done + 1) as f64;
        eventually(name, async || rejected(&instance, "timeout").await == counted).await;
    }
    // Those who were in stay in.
    assert!(Client::try_connect(&instance.url("fast"), &[]).await.is_ok());
}

/// Of what has asked, the rest is waited for until the handshake's time is over; then it is told why.
#[tokio::test]
async fn a_body_takes_no_longer_than_the_handshake_may() {
    let flags = ["--header-timeout", "3s", "--handshake-timeout", "3s"];
    let instance = Instance::start(&flags).await;
    for (done, path) in ["/connection/http_stream", "/connection/sse"].into_iter().enumerate() {
        let mut socket = Socket::connect(instance.address()).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{");
        socket.write(head.as_bytes()).await.unwrap();
        assert_eq!(socket.response().await.status, 408, "{path}");
        socket.ended().await;
        eventually(path, async || rejected(&instance, "timeout").await == (done + 1) as f64).await;
    }
    let mut socket = Socket::connect(instance.address()).await;
    socket.write(b"POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").await.unwrap();
    assert_eq!(socket.response().await.status, 408);
    socket.ended().await;
    let late = async || instance.metric("fanfare_emulation_requests_total", &[("outcome", "timeout")]).await;
    eventually("/emulation", async || late().await == 1.0).await;
}

/// A browser or a scraper keeps its connection for a while and then asks for nothing more.
#[tokio::test]
async fn a_kept_connection_that_falls_silent_is_no_rejected_handshake() {
    let flags = ["--header-timeout", "3s", "--handshake-timeout", "3s"];
    let instance = Instance::start(&flags).await;
    let mut socket = Socket::connect(instance.address()).await;
    socket.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(socket.response().await.status, 200);
    socket.ended().await;
    assert_eq!(rejected(&instance, "timeout").await, 0.0);
}

/// A balancer keeps its connections for minutes; whoever comes by one has as much time as by a new one.
#[tokio::test]
async fn a_kept_connection_has_the_handshakes_time_for_each_request() {
    const MAY: Duration = Duration::from_secs(4);
    let flags = ["--header-timeout", "4s", "--handshake-timeout", "4s"];
    let instance = Instance::start(&flags).await;
    let (start, mut socket) = (Instant::now(), Socket::connect(instance.address()).await);
    let mut ticks = interval(Duration::from_millis(50));
    while start.elapsed() <= MAY {
        ticks.tick().await;
        socket.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let answer = socket.response().await;
        assert_eq!(answer.status, 200);
        socket.skip(answer.header("content-length").unwrap().parse().unwrap()).await;
    }
    // A body in two pieces has to be waited for.
    socket
        .write(
            b"POST /connection/sse HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n",
        )
        .await
        .unwrap();
    assert_eq!(socket.response().await.status, 100, "it is read");
    socket.write(b"{\"connect\":{}}").await.unwrap();
    assert_eq!(socket.response().await.status, 200);
    // Nor does one that was kept lose the way to a WebSocket.
    let mut socket = Socket::connect(instance.address()).await;
    socket.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = socket.response().await;
    socket.skip(answer.header("content-length").unwrap().parse().unwrap()).await;
    assert_eq!(socket.upgrade("kept", &[]).await.status, 101);
}

/// Nobody holds a connection of HTTP for ever, however busy it is with it: after a minute the next answer is the last.
#[tokio::test]
async fn a_connection_asks_for_a_minute_and_not_for_ever() {
    const MINUTE: Duration = Duration::from_secs(60);
    let instance = Instance::start(&["--header-timeout", "10s", "--handshake-timeout", "10s"]).await;
    let (start, mut socket) = (Instant::now(), Socket::connect(instance.address()).await);
    let mut ticks = interval(Duration::from_millis(100));
    while start.elapsed() < 2 * MINUTE {
        ticks.tick().await;
        if socket.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.is_err() || socket.has_ended().await
        {
            break;
        }
        let answer = socket.response().await;
        assert_eq!(answer.status, 200);
        socket.skip(answer.header("content-length").unwrap().parse().unwrap()).await;
        if answer.header("connection") == Some("close") {
            break;
        }
    }
    let took = start.elapsed();
    assert!(took >= MINUTE && took < MINUTE * 3 / 2, "{took:?}");
    socket.ended().await;
    assert_eq!(instance.metric("fanfare_handshakes_rejected_total", &[]).await, 0.0);
}

/// A hundred requests in one piece would be a hundred answers in one turn of the worker's, while everybody else waits.
#[tokio::test]
async fn requests_in_one_piece_are_answered_one_after_the_other() {
    const REQUESTS: u32 = 200;
    let instance = Instance::start(&[]).await;
    let mut socket = Socket::connect(instance.address()).await;
    let start = Instant::now();
    socket.write(&b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS as usize)).await.unwrap();
    for _ in 0..REQUESTS {
        let answer = socket.response().await;
        assert_eq!(answer.status, 200);
        socket.skip(answer.header("content-length").unwrap().parse().unwrap()).await;
    }
    // A millisecond after each but the first of what came together, which is never less, however busy the machine is;
    // and they came in a few pieces at most.
    assert!(start.elapsed() >= Duration::from_millis(180), "{:?}", start.elapsed());
}
