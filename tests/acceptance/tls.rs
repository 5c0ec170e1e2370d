//! TLS at the clients' address: what is agreed on, that frames go through it as they go without it, and that the
//! certificate can be replaced under connections that go on.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, timeout};

use crate::harness::{
    Certificates, DEADLINE, Frame, Instance, Socket, certificate, eventually, frame, openssl,
    refused_to_start, run_to_end, throughout,
};

async fn start(certificates: &Certificates, more: &[&str]) -> Instance {
    let flags = certificates.flags("first");
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Instance::start(&flags).await
}

async fn rejected(instance: &Instance, reason: &str) -> f64 {
    instance.metric("fanfare_handshakes_rejected_total", &[("reason", reason)]).await
}

async fn reloads(instance: &Instance, result: &str) -> f64 {
    instance.metric("fanfare_tls_reloads_total", &[("result", result)]).await
}

/// One says something, and the other hears it.
async fn speak(from: &mut Socket, to: &mut Socket, payload: &[u8]) {
    from.send(Frame::BINARY, payload).await.unwrap();
    let expected = Frame { opcode: Frame::BINARY, payload: payload.to_vec() };
    assert_eq!(to.next_but_pings().await, Some(expected));
}

#[tokio::test]
async fn messages_of_every_size_go_both_ways() {
    let certificates = Certificates::new();
    let flags = ["--message-limit", "1MiB", "--outbox-limit", "4MiB"];
    let instance = start(&certificates, &flags).await;
    for version in [&TLS13, &TLS12] {
        let client = certificates.client(&["first"]).speaking(version);
        let mut speaker = client.join(instance.address(), "sizes?echo=false").await;
        let mut listener = client.join(instance.address(), "sizes").await;
        for size in [0, 1, 125, 126, 16_380, 16_384, 65_535, 65_536, 200_000, 1 << 20] {
            let payload: Vec<u8> = (0..size).map(|n| b'a' + (n % 23) as u8).collect();
            for opcode in [Frame::TEXT, Frame::BINARY] {
                speaker.send(opcode, &payload).await.unwrap();
                let heard = listener.next_but_pings().await.unwrap();
                assert_eq!(heard.opcode, opcode, "{size}");
                assert!(heard.payload == payload, "{version:?}: {size} bytes came otherwise than they went");
            }
        }
        speaker.send(Frame::PING, b"there?").await.unwrap();
        let pong = Frame { opcode: Frame::PONG, payload: b"there?".to_vec() };
        assert_eq!(speaker.next_but_pings().await, Some(pong));
    }
}

#[tokio::test]
async fn a_burst_that_fills_the_socket_arrives_whole_and_in_order() {
    const SIZE: usize = 20_000;
    const MESSAGES: u32 = 800;
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1", "--outbox-limit", "64MiB"]).await;
    let client = certificates.client(&["first"]);
    for version in [&TLS13, &TLS12] {
        let mut slow = client.speaking(version).narrow().join(instance.address(), "burst").await;
        let mut speaker = client.join(instance.address(), "burst?echo=false").await;
        let payload = |number: u32| [number.to_be_bytes().to_vec(), vec![number as u8; SIZE]].concat();
        for number in 0..MESSAGES {
            speaker.send(Frame::BINARY, &payload(number)).await.unwrap();
        }
        eventually("most of it waits for the one who does not read", async || {
            instance.metric("fanfare_outbox_bytes", &[]).await > f64::from(MESSAGES / 2) * SIZE as f64
        })
        .await;
        for number in 0..MESSAGES {
            let frame = slow.next_but_pings().await.expect("it is not cut");
            assert!(frame.payload == payload(number), "{version:?}: message {number} is not the next");
        }
        speak(&mut speaker, &mut slow, b"and on it goes").await;
        assert_eq!(instance.metric("fanfare_outbox_bytes", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn a_slow_consumer_is_cut_with_its_reason() {
    const SIZE: usize = 16 * 1024;
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1", "--outbox-limit", "256KiB"]).await;
    let client = certificates.client(&["first"]);
    let mut slow = client.narrow().join(instance.address(), "flood").await;
    let mut speaker = client.join(instance.address(), "flood?echo=false").await;
    let mut bystander = client.join(instance.address(), "flood").await;
    let mut published = 0;
    while instance.metric("fanfare_slow_consumers_total", &[]).await == 0.0 {
        speak(&mut speaker, &mut bystander, &vec![published as u8; SIZE]).await;
        published += 1;
        let outbox = instance.metric("fanfare_outbox_bytes", &[]).await;
        assert!(outbox <= 256.0 * 1024.0, "an outbox of {outbox} bytes");
        assert!(published < 2000, "never cut");
    }
    let mut heard = 0;
    let end = loop {
        match slow.next_but_pings().await {
            Some(Frame { opcode: Frame::BINARY, payload }) => {
                assert!(payload == vec![heard as u8; SIZE], "message {heard} is not whole");
                heard += 1;
            }
            other => break other,
        }
    };
    assert_eq!(end.expect("a close frame").close(), Some((1008, "slow consumer".into())));
    assert!(heard < published);
    slow.ended_in_order().await.expect("TLS is ended in order, too");
}

/// A burst for one connection is a few records, not one for each frame.
#[tokio::test]
async fn small_frames_share_records() {
    const MESSAGES: usize = 2000;
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1"]).await;
    let client = certificates.client(&["first"]);
    let mut listener = client.join(instance.address(), "records").await;
    let mut speaker = client.join(instance.address(), "records?echo=false").await;
    speak(&mut speaker, &mut listener, b"ready").await;
    let before = listener.tls().get_ref().0.records();
    let burst: Vec<u8> =
        (0..MESSAGES).flat_map(|n| frame(0x81, format!("{n:04}").as_bytes(), true)).collect();
    speaker.write(&burst).await.unwrap();
    for number in 0..MESSAGES {
        assert_eq!(listener.next_but_pings().await.unwrap().payload, format!("{number:04}").as_bytes());
    }
    let records = listener.tls().get_ref().0.records() - before;
    assert!(records <= MESSAGES / 20, "{MESSAGES} frames came in {records} records");
}

/// Whoever ends it: the frame that says so comes first, then TLS' own farewell, then FIN.
#[tokio::test]
async fn every_end_is_in_order() {
    let certificates = Certificates::new();
    let flags = ["--drain-delay", "0s", "--drain-window", "100ms"];
    let mut instance = start(&certificates, &flags).await;
    let client = certificates.client(&["first"]);
    let goodbye = frame(0x88, &1000_u16.to_be_bytes(), true);
    let rows: [(&str, &[u8], u16); 3] = [
        ("the client closes", &goodbye, 1000),
        ("a reserved opcode", &frame(0x83, b"?", true), 1002),
        ("text of no UTF-8", &frame(0x81, b"\xFF", true), 1007),
    ];
    for version in [&TLS13, &TLS12] {
        for (name, bytes, code) in rows {
            let mut socket = client.speaking(version).join(instance.address(), "ends").await;
            socket.write(bytes).await.unwrap();
            assert_eq!(socket.closed().await.0, code, "{name}");
            socket.ended_in_order().await.unwrap_or_else(|error| panic!("{version:?}: {name}: {error}"));
        }
    }
    let mut stays = client.join(instance.address(), "ends").await;
    eventually("the others have gone", async || {
        instance.metric("fanfare_connections", &[]).await == 1.0
            && instance.metric("fanfare_closing_connections", &[]).await == 0.0
    })
    .await;
    instance.signal("TERM").await;
    assert_eq!(stays.closed().await, (1012, "service restart".into()));
    stays.send(Frame::CLOSE, &1012_u16.to_be_bytes()).await.unwrap();
    stays.ended_in_order().await.unwrap();
    assert_eq!(instance.ended().await.code(), Some(0));
}

/// A client that goes without a word has vanished, with TLS' farewell or without.
#[tokio::test]
async fn a_client_that_goes_is_seen_to_go() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let client = certificates.client(&["first"]);
    let mut polite = client.join(instance.address(), "gone").await;
    polite.shutdown().await;
    client.join(instance.address(), "gone").await.reset();
    drop(client.join(instance.address(), "gone").await);
    eventually("all are counted as vanished", async || {
        let vanished = [("reason", "vanished")];
        instance.metric("fanfare_connections_closed_total", &vanished).await == 3.0
    })
    .await;
    assert_eq!(instance.metric("fanfare_closing_connections", &[]).await, 0.0);
}

/// What openssl's own client asks for.
const ASK: &str = "GET /ws/openssl HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// It, with these arguments.
fn start_s_client(address: SocketAddr, arguments: &[&str]) -> Child {
    Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed")
}

/// The same: it joins, says hello, and waits to hear it.
async fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    let mut child = start_s_client(address, &[&["-quiet"], arguments].concat());
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // One that is refused is gone before it has read this.
    let _ = input.write_all(&[ASK.as_bytes(), &frame(0x81, b"hello", true)].concat()).await;
    let mut printed = Vec::new();
    let talk = async {
        while !printed.ends_with(b"\x81\x05hello") && output.read_buf(&mut printed).await.unwrap() > 0 {}
    };
    timeout(DEADLINE, talk).await.unwrap_or_else(|_| panic!("{arguments:?} ends in time"));
    String::from_utf8_lossy(&printed).into_owned()
}

#[tokio::test]
async fn modern_versions_and_suites_and_no_others() {
    let certificates = Certificates::new();
    certificates.make_with("second", &["-newkey", "rsa:2048", "-days", "2"]);
    let flags = certificates.flags("second");
    let rsa = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ecdsa = start(&certificates, &[]).await;
    // (arguments, whether it is spoken)
    let rows: &[(&[&str], bool)] = &[
        (&["-tls1_3"], true),
        (&["-tls1_2"], true),
        (&["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], true),
        (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
        (&["-tls1_2", "-cipher", "ECDHE+AESGCM"], true),
        (&["-tls1_2", "-cipher", "ECDHE+CHACHA20"], true),
        (&["-alpn", "http/1.1"], true),
        (&["-tls1_3", "-groups", "P-256"], true),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
        // No ephemeral key, no AEAD, no authentication, and finite fields.
        (&["-tls1_2", "-cipher", "kRSA+AESGCM"], false),
        (&["-tls1_2", "-cipher", "ECDHE+AES+SHA256:ECDHE+AES+SHA"], false),
        (&["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"], false),
        (&["-tls1_2", "-cipher", "kDHE+AESGCM"], false),
        (&["-alpn", "h2"], false),
    ];
    for instance in [&ecdsa, &rsa] {
        let mut refused = 0.0;
        for (arguments, spoken) in rows {
            let printed = s_client(instance.address(), arguments).await;
            assert_eq!(printed.starts_with("HTTP/1.1 101"), *spoken, "{arguments:?}: {printed}");
            assert_eq!(printed.ends_with("\u{5}hello"), *spoken, "{arguments:?}: {printed}");
            refused += f64::from(u8::from(!spoken));
            eventually("it is counted", async || rejected(instance, "tls").await == refused).await;
        }
    }
}

/// TLS 1.2 lets a client shake hands anew on a connection that is there, over and over, each time for the price of a signature. It
/// is told that nobody does, by the alert that there is for that (RFC 5746), and nobody else notices.
#[tokio::test]
async fn nobody_renegotiates() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1"]).await;
    let mut bystander = certificates.client(&["first"]).join(instance.address(), "openssl").await;
    let mut child = start_s_client(instance.address(), &["-tls1_2"]);
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    input.write_all(ASK.as_bytes()).await.unwrap();
    let mut printed = Vec::new();
    let mut printed_by_then = async |end: &[u8]| {
        while !printed.windows(end.len()).any(|window| window == end) {
            let read = timeout(DEADLINE, output.read_buf(&mut printed)).await;
            let read = read.unwrap_or_else(|_| panic!("{:?} comes in time", end.escape_ascii().to_string()));
            assert!(read.unwrap() > 0, "{}", printed.escape_ascii());
        }
    };
    printed_by_then(b"fanfare-connection").await;
    bystander.send(Frame::TEXT, b"before").await.unwrap();
    printed_by_then(b"\x81\x06before").await;
    // A line of one R is its command for that.
    input.write_all(b"R\n").await.unwrap();
    let ended = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends in time").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    eventually("it has gone", async || {
        let gone = [("reason", "vanished")];
        instance.metric("fanfare_connections_closed_total", &gone).await == 1.0
    })
    .await;
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[]).await, 1.0);
    assert_eq!(instance.metric("fanfare_handshakes_rejected_total", &[]).await, 0.0);
    assert_eq!(bystander.next_but_pings().await.unwrap().payload, b"before");
    bystander.send(Frame::TEXT, b"after").await.unwrap();
    assert_eq!(bystander.next_but_pings().await.unwrap().payload, b"after");
}

#[tokio::test]
async fn http_1_1_is_agreed_on() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let client = certificates.client(&["first"]);
    // (what is offered, what is agreed on, if they agree)
    let rows: [(&[&str], Option<Option<&str>>); 4] = [
        (&[], Some(None)),
        (&["http/1.1"], Some(Some("http/1.1"))),
        (&["h2", "http/1.1"], Some(Some("http/1.1"))),
        (&["h2"], None),
    ];
    for (offered, agreed) in rows {
        let socket = client.offering(offered).try_connect(instance.address()).await;
        match (socket, agreed) {
            (Ok(socket), Some(agreed)) => {
                assert_eq!(
                    socket.tls().get_ref().1.alpn_protocol(),
                    agreed.map(str::as_bytes),
                    "{offered:?}"
                );
            }
            (Err(_), None) => {}
            (socket, _) => panic!("{offered:?}: {:?}", socket.map(|_| "agreed")),
        }
    }
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let socket = client.speaking(version).connect(instance.address()).await;
        assert_eq!(socket.tls().get_ref().1.protocol_version(), Some(expected));
    }
}

/// What a client of rustls says first.
fn client_hello(certificates: &Certificates) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection(certificates).write_tls(&mut bytes).unwrap();
    bytes
}

fn connection(certificates: &Certificates) -> ClientConnection {
    let config = certificates.client(&["first"]).config();
    ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap()
}

#[tokio::test]
async fn a_handshake_that_dawdles_is_cut() {
    let certificates = Certificates::new();
    let flags = ["--workers", "1", "--handshake-timeout", "1s", "--header-timeout", "1s"];
    let instance = start(&certificates, &flags).await;
    let hello = client_hello(&certificates);
    let half = &hello[..hello.len() / 2];
    // (how it dawdles: at once, then one byte more of this every 50 ms)
    let rows: [(&str, &[u8], &[u8]); 5] = [
        ("says nothing", b"", b""),
        ("stops in the middle of its hello", half, b""),
        ("drips its hello", b"", &hello),
        ("does not answer", &hello, b""),
        ("claims a long message", b"\x16\x03\x01\x40\x00\x01\x00\xFF\xFF", b""),
    ];
    let mut bystander = certificates.client(&["first"]).join(instance.address(), "others").await;
    for (done, (name, first, then)) in rows.into_iter().enumerate() {
        let mut socket = Socket::connect(instance.address()).await;
        let start = Instant::now();
        socket.write(first).await.unwrap();
        let (mut ticks, mut then) = (interval(Duration::from_millis(50)), then.chunks(1));
        while start.elapsed() < Duration::from_secs(3) {
            ticks.tick().await;
            let dripped = match then.next() {
                Some(byte) => socket.write(byte).await.is_ok(),
                None => true,
            };
            if !dripped || socket.has_ended().await {
                break;
            }
        }
        let took = start.elapsed();
        assert!((800..2500).contains(&took.as_millis()), "{name}: cut after {took:?}");
        eventually(name, async || rejected(&instance, "timeout").await == (done + 1) as f64).await;
    }
    // Agreed on, and then no request: it is the same handshake, and the same time.
    let mut silent = certificates.client(&["first"]).connect(instance.address()).await;
    assert!(silent.ended().await < Duration::from_millis(2500));
    eventually("no request", async || rejected(&instance, "timeout").await == 6.0).await;
    bystander.send(Frame::TEXT, b"still here").await.unwrap();
    assert_eq!(bystander.next_but_pings().await.unwrap().payload, b"still here");
    assert_eq!(rejected(&instance, "tls").await, 0.0);
}

#[tokio::test]
async fn what_is_no_handshake_is_told_and_counted() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let mut hello = client_hello(&certificates);
    hello[20] ^= 1;
    hello.truncate(hello.len() - 1);
    hello[3..5].copy_from_slice(&40_u16.to_be_bytes());
    // (what is said, whether an alert (21) is the answer)
    let rows: [(&str, &[u8], bool); 3] = [
        ("garbage", &[0x80; 64], true),
        ("a record that is too long", b"\x16\x03\x01\xFF\xFF", true),
        ("a hello of nonsense", &hello, true),
    ];
    for (done, (name, bytes, alert)) in rows.into_iter().enumerate() {
        let mut stream = TcpStream::connect(instance.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // What it did not read may turn the end into a reset; the answer came before.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it ends in time");
        assert_eq!(answer.first() == Some(&21), alert, "{name}: {answer:?}");
        eventually(name, async || rejected(&instance, "tls").await == (done + 1) as f64).await;
    }
    // A client that speaks plain HTTP.
    let mut plain = Socket::connect(instance.address()).await;
    let answer = plain.upgrade("plain", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("text/plain; charset=utf-8")));
    eventually("plain HTTP", async || rejected(&instance, "tls").await == 4.0).await;
    // A client that trusts another certificate says so and goes.
    certificates.make("second");
    assert!(certificates.client(&["second"]).try_connect(instance.address()).await.is_err());
    eventually("not trusted", async || rejected(&instance, "tls").await == 5.0).await;
    // A balancer that only looks whether the port is open is no handshake at all.
    drop(TcpStream::connect(instance.address()).await.unwrap());
    certificates.client(&["first"]).join(instance.address(), "fine").await;
    throughout(Duration::from_millis(200), "it is not counted", async || {
        rejected(&instance, "tls").await == 5.0 && rejected(&instance, "timeout").await == 0.0
    })
    .await;
}

/// The last words of the handshake, the request and the first messages in one segment; and the first messages cut in the
/// middle of a record.
#[tokio::test]
async fn nothing_that_comes_early_is_lost() {
    const MESSAGES: u32 = 40;
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1"]).await;
    let client = certificates.client(&["first"]);
    let mut listener = client.join(instance.address(), "early").await;
    for (round, cut) in [0, 1, 7, 700, 20_000].into_iter().enumerate() {
        let mut tls = connection(&certificates);
        let mut stream = TcpStream::connect(instance.address()).await.unwrap();
        while tls.is_handshaking() {
            let mut bytes = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut bytes).unwrap();
            }
            stream.write_all(&bytes).await.unwrap();
            let mut answer = vec![0; 4096];
            let read = timeout(DEADLINE, stream.read(&mut answer)).await.expect("an answer in time").unwrap();
            let mut answer = &answer[..read];
            while !answer.is_empty() {
                tls.read_tls(&mut answer).unwrap();
                tls.process_new_packets().unwrap();
            }
        }
        // The client's Finished has not been sent yet.
        let head = "GET /ws/early?echo=false HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        tls.writer().write_all(head.as_bytes()).unwrap();
        for number in 0..MESSAGES {
            tls.writer().write_all(&frame(0x82, &[number as u8; 1000], true)).unwrap();
        }
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        let (first, rest) = bytes.split_at(bytes.len() - cut);
        stream.write_all(first).await.unwrap();
        let mut heard = 0;
        while cut == 0 && heard < MESSAGES {
            assert_eq!(
                listener.next_but_pings().await.unwrap().payload,
                [heard as u8; 1000],
                "round {round}"
            );
            heard += 1;
        }
        stream.write_all(rest).await.unwrap();
        for number in heard..MESSAGES {
            assert_eq!(
                listener.next_but_pings().await.unwrap().payload,
                [number as u8; 1000],
                "round {round}"
            );
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_dropping_a_connection() {
    let certificates = Certificates::new();
    let names = ["first", "second", "third"];
    certificates.make("second");
    certificates.make("third");
    let copy = |name: &str| {
        for ending in ["crt", "key"] {
            std::fs::copy(
                certificates.path(&format!("{name}.{ending}")),
                certificates.path(&format!("used.{ending}")),
            )
            .unwrap();
        }
    };
    copy("first");
    let flags = certificates.flags("used");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let client = certificates.client(&names);
    let shown = async |name: &str| {
        let socket = client.connect(instance.address()).await;
        let seen = socket.tls().get_ref().1.peer_certificates().unwrap()[0].clone();
        seen == certificate(&certificates.path(&format!("{name}.crt")))
    };
    assert!(shown("first").await);
    let mut speaker = client.join(instance.address(), "reload?echo=false").await;
    let mut listener = client.join(instance.address(), "reload").await;
    for (count, (name, signal)) in [("second", Some("HUP")), ("third", None)].into_iter().enumerate() {
        copy(name);
        if let Some(signal) = signal {
            instance.signal(signal).await;
        }
        eventually(name, async || shown(name).await).await;
        assert_eq!(reloads(&instance, "loaded").await, (count + 1) as f64);
        speak(&mut speaker, &mut listener, name.as_bytes()).await;
        let mut fresh = client.join(instance.address(), "reload?echo=false").await;
        speak(&mut fresh, &mut listener, b"from one who saw the new one").await;
    }
    // Kubernetes swaps a link above the files, which are new ones with old times.
    assert_eq!(reloads(&instance, "failed").await, 0.0);
    let expiry = instance.metric("fanfare_tls_certificate_expiry_timestamp_seconds", &[]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((expiry - now - 2.0 * 86_400.0).abs() < 3600.0, "expires in {} s", expiry - now);
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[("reason", "vanished")]).await, 2.0);
}

/// Pairs that are no good: (name, what stands in the certificate's and in the key's file, which key is to blame, what the
/// line says).
type BadPair = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>, &'static str, &'static str);

fn bad_pairs(certificates: &Certificates) -> Vec<BadPair> {
    certificates.make("other");
    let read = |file: &str| std::fs::read(certificates.path(file)).unwrap();
    let (good, key, other) = (read("first.crt"), read("first.key"), read("other.key"));
    let (locked, old) = (certificates.path("locked.key"), certificates.path("old.key"));
    let plain = certificates.path("first.key").display().to_string();
    openssl(&["pkcs8", "-topk8", "-in", &plain, "-passout", "pass:x", "-out", &locked.display().to_string()]);
    openssl(&["ec", "-aes128", "-in", &plain, "-passout", "pass:x", "-out", &old.display().to_string()]);
    let curve = certificates.make_with("curve", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let broken = String::from_utf8(good.clone()).unwrap().replacen("MII", "M!I", 1);
    let none = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let (good_pair, good_key) = (Some(good), Some(key));
    vec![
        ("no certificate file", None, good_key.clone(), "tls_cert", "cannot read"),
        ("no key file", good_pair.clone(), None, "tls_key", "cannot read"),
        ("text for a certificate", text("hello"), good_key.clone(), "tls_cert", "is not a PEM file"),
        ("text for a key", good_pair.clone(), text("hello"), "tls_key", "is not a PEM file"),
        ("nothing for a certificate", text(""), good_key.clone(), "tls_cert", "is not a PEM file"),
        ("a key for a certificate", good_key.clone(), good_key.clone(), "tls_cert", "has no certificate"),
        ("a certificate for a key", good_pair.clone(), good_pair.clone(), "tls_key", "has no private key"),
        ("broken PEM", text(&broken), good_key.clone(), "tls_cert", "broken PEM"),
        ("PEM of something else", text(none), good_key, "tls_cert", "has a certificate that is none"),
        (
            "the key of another",
            good_pair.clone(),
            Some(other),
            "tls_key",
            "is not that of the first certificate",
        ),
        ("a locked key", good_pair.clone(), Some(read("locked.key")), "tls_key", "needs a password"),
        ("a locked key, old form", good_pair, Some(read("old.key")), "tls_key", "needs a password"),
        (
            "a curve that is not spoken",
            Some(std::fs::read(curve.0).unwrap()),
            Some(std::fs::read(curve.1).unwrap()),
            "tls_key",
            "cannot be used",
        ),
    ]
}

fn put(certificates: &Certificates, file: &str, text: Option<&[u8]>) {
    match text {
        Some(text) => drop(certificates.write(file, text)),
        // It may not be there.
        None => drop(std::fs::remove_file(certificates.path(file))),
    }
}

#[tokio::test]
async fn a_bad_pair_is_one_line_at_the_start() {
    let certificates = Certificates::new();
    let flags = certificates.flags("bad");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for (name, certificate, key, blamed, says) in bad_pairs(&certificates) {
        put(&certificates, "bad.crt", certificate.as_deref());
        put(&certificates, "bad.key", key.as_deref());
        let (code, printed) = refused_to_start(None, &flags, &[]).await;
        assert_eq!(code, Some(2), "{name}: {printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{name}: {printed}");
        let flag = blamed.replace('_', "-");
        for word in [&format!("`{blamed}` (--{flag})"), says, "bad."] {
            assert!(printed.contains(word), "{name}: {word:?} in {printed}");
        }
    }
    // Both or neither.
    for (given, missing) in [("--tls-cert", "tls_key"), ("--tls-key", "tls_cert")] {
        let (code, printed) = refused_to_start(None, &[given, "first.crt"], &[]).await;
        assert!(code == Some(2) && printed.contains(missing) && printed.lines().count() == 1, "{printed}");
    }
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_one_in_use() {
    let certificates = Certificates::new();
    let read = |file: &str| std::fs::read(certificates.path(file)).unwrap();
    let (good, key) = (read("first.crt"), read("first.key"));
    put(&certificates, "used.crt", Some(&good));
    put(&certificates, "used.key", Some(&key));
    let flags = certificates.flags("used");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let client = certificates.client(&["first"]);
    let mut stays = client.join(instance.address(), "bad").await;
    let pairs = bad_pairs(&certificates);
    for (done, (name, certificate, key, _, says)) in pairs.into_iter().enumerate() {
        put(&certificates, "used.crt", certificate.as_deref());
        put(&certificates, "used.key", key.as_deref());
        instance.signal("HUP").await;
        eventually(name, async || reloads(&instance, "failed").await > done as f64).await;
        let logged = |line: &serde_json::Value| line["level"] == "ERROR" && line.to_string().contains(says);
        instance.log().find(name, logged).await;
        client.join(instance.address(), "bad?echo=false").await;
    }
    // The last one is looked at every second, and is an error once.
    let failed = reloads(&instance, "failed").await;
    throughout(Duration::from_millis(2500), "an old error is no news", async || {
        reloads(&instance, "failed").await == failed
    })
    .await;
    put(&certificates, "used.crt", Some(&good));
    put(&certificates, "used.key", Some(&key));
    eventually("it is good again", async || reloads(&instance, "loaded").await == 1.0).await;
    stays.send(Frame::TEXT, b"still here").await.unwrap();
    assert_eq!(stays.next_but_pings().await.unwrap().payload, b"still here");
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning() {
    let certificates = Certificates::new();
    let (crt, key) = (certificates.path("first.crt"), certificates.path("first.key"));
    let old = certificates.path("old.crt");
    let (crt, key, old) = (crt.display().to_string(), key.display().to_string(), old.display().to_string());
    openssl(&["x509", "-in", &crt, "-signkey", &key, "-days", "0", "-out", &old]);
    std::fs::copy(certificates.path("first.key"), certificates.path("old.key")).unwrap();
    let flags = certificates.flags("old");
    let instance = Instance::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let warned =
        |line: &serde_json::Value| line["level"] == "WARN" && line.to_string().contains("has expired");
    instance.log().find("that it has expired", warned).await;
    let expiry = instance.metric("fanfare_tls_certificate_expiry_timestamp_seconds", &[]).await;
    assert!(expiry > 1e9, "{expiry}");
}

#[tokio::test]
async fn a_hangup_without_tls_ends_nothing() {
    let mut instance = Instance::start(&[]).await;
    instance.signal("HUP").await;
    instance.log().find("nothing to read", |line| line.to_string().contains("SIGHUP")).await;
    assert!(instance.is_running());
    assert_eq!(instance.page("/livez").await.status, 200);
}

#[tokio::test]
async fn a_health_check_speaks_tls_where_the_instance_does() {
    let certificates = Certificates::new();
    let file = |name: &str| certificates.path(name).display().to_string();
    let (crt, key) = (file("first.crt"), file("first.key"));
    let proxied = ["--proxy-protocol", "true", "--trusted-proxies", "127.0.0.1"];
    for more in [&[][..], &proxied] {
        let flags = [&["--tls-cert", &crt, "--tls-key", &key], more].concat();
        let mut instance = Instance::start(&flags).await;
        let address = instance.address().to_string();
        let mut variables = vec![("FANFARE_LISTEN", address.as_str()), ("FANFARE_TLS_CERT", &crt)];
        variables.push(("FANFARE_TLS_KEY", &key));
        if !more.is_empty() {
            variables.extend([("FANFARE_PROXY_PROTOCOL", "true"), ("FANFARE_TRUSTED_PROXIES", "127.0.0.1")]);
        }
        let healthy =
            async |flag: &str| run_to_end(&["healthcheck", flag], &variables).await.status.success();
        eventually("it is ready", async || healthy("--ready").await).await;
        instance.kill().await;
        assert!(!healthy("--ready").await);
    }
}

/// What does not know of TLS works as without it: origins, forwarded addresses, the PROXY header, ordinary pages.
#[tokio::test]
async fn what_stands_on_http_stands_on_tls() {
    let certificates = Certificates::new();
    let flags = ["--trusted-proxies", "127.0.0.1", "--max-connections-per-address", "1"];
    let instance = start(&certificates, &flags).await;
    let client = certificates.client(&["first"]);
    let ask = async |headers: &[(&str, &str)]| {
        let mut socket = client.connect(instance.address()).await;
        let status = socket.upgrade("http", headers).await.status;
        (socket, status)
    };
    // The Host is fanfare.test.
    let rows =
        [("https://fanfare.test", 101), ("https://elsewhere.test", 403), ("https://fanfare.test:8443", 403)];
    for (last, (origin, status)) in rows.into_iter().enumerate() {
        let address = format!("192.0.2.{last}");
        let asked = ask(&[("origin", origin), ("x-forwarded-for", &address)]).await;
        assert_eq!(asked.1, status, "{origin}");
    }
    let _first = ask(&[("x-forwarded-for", "198.51.100.1")]).await;
    assert_eq!(ask(&[("x-forwarded-for", "198.51.100.1")]).await.1, 429);
    assert_eq!(ask(&[("x-forwarded-for", "198.51.100.2")]).await.1, 101);
    let mut page = client.connect(instance.address()).await;
    for path in ["/", "/page.js", "/instance"] {
        page.write(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let answer = page.response().await;
        assert_eq!(answer.status, 200, "{path}");
        page.skip(answer.header("content-length").unwrap().parse().unwrap()).await;
    }

    let flags = [&flags[..], &["--proxy-protocol", "true"]].concat();
    let instance = start(&certificates, &flags).await;
    let through = async |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec();
        header.extend([192, 0, 2, last, 127, 0, 0, 1, 0x1F, 0x90, 0x1F, 0x91]);
        let mut stream = TcpStream::connect(instance.address()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut socket = client.shake_hands(stream).await.unwrap();
        let status = socket.upgrade("proxied", &[]).await.status;
        (socket, status)
    };
    let _first = through(1).await;
    assert_eq!(through(1).await.1, 429);
    assert_eq!(through(2).await.1, 101);
    // TLS without the header is no PROXY header.
    assert!(client.try_connect(instance.address()).await.is_err());
    eventually("no header", async || rejected(&instance, "proxy_header").await == 1.0).await;
}

/// The auditor over TLS: nothing is lost, doubled or out of order; and it is not content with any certificate unasked.
#[tokio::test]
async fn the_auditor_speaks_tls() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let url = format!("wss://{}/ws/audited", instance.address());
    let run = [
        "bench",
        "fanout",
        &url,
        "--subscribers",
        "50",
        "--rate",
        "100",
        "--duration",
        "1s",
        "--warmup",
        "100ms",
    ];
    let sound = run_to_end(&[&run[..], &["--insecure", "--json"]].concat(), &[]).await;
    let report = String::from_utf8_lossy(&sound.stdout);
    assert!(sound.status.success(), "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let audit = &report["audit"];
    assert!(audit["delivered_once"].as_u64() >= Some(5000) && audit["lost_silent"] == 0, "{report}");
    let idle = ["bench", "idle", &url, "--connections", "50", "--insecure"];
    assert!(run_to_end(&idle, &[]).await.status.success());
    let unknown = run_to_end(&run, &[]).await;
    let said = String::from_utf8_lossy(&unknown.stdout) + String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("certificate"), "{said}");
}
