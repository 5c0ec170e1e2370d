//! What is agreed on in a TLS handshake, what is none, and what comes too early or too late. What goes through it
//! afterwards is `tls`' business.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, timeout};

use crate::harness::{Certificates, DEADLINE, Frame, Instance, Socket, eventually, frame, throughout};
use crate::tls::{rejected, start};

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

/// TLS 1.2 lets a client shake hands anew on a connection that is there, over and over, each time for the price of a
/// signature. It is told that nobody does, by the alert that there is for that (RFC 5746), and nobody else notices.
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
    const MAY: Duration = Duration::from_secs(2);
    let flags = ["--workers", "1", "--handshake-timeout", "2s", "--header-timeout", "2s"];
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
        let start = Instant::now();
        let mut socket = Socket::connect(instance.address()).await;
        let _ = socket.write(first).await;
        let (mut ticks, mut rest) = (interval(Duration::from_millis(50)), then.chunks(1));
        let cut = async {
            while !socket.has_ended().await {
                ticks.tick().await;
                if let Some(byte) = rest.next() {
                    let _ = socket.write(byte).await;
                }
            }
        };
        timeout(DEADLINE, cut).await.unwrap_or_else(|_| panic!("{name} is not cut"));
        assert!(start.elapsed() >= MAY, "{name}: cut after {:?}", start.elapsed());
        assert!(then.is_empty() || rest.next().is_some(), "{name} has come to its end");
        eventually(name, async || rejected(&instance, "timeout").await == (done + 1) as f64).await;
    }
    // Agreed on, and then no request: it is the same handshake, and the same time.
    let mut silent = certificates.client(&["first"]).connect(instance.address()).await;
    silent.ended().await;
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
    // Whoever goes on all the same is not listened to for ever, be it that the kernel takes some of it first.
    let mut written = 0;
    while plain.write(&[b'x'; 64 << 10]).await.is_ok() {
        written += 64 << 10;
        assert!(written < 16 << 20, "{written} bytes were taken");
    }
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

/// Agreed on, and then TLS or the request breaks. hyper takes it for an end like any other.
#[tokio::test]
async fn what_breaks_before_the_first_request_is_counted() {
    #[derive(Debug, Clone, Copy)]
    enum Breaks {
        Record,
        End,
    }
    use Breaks::{End, Record};
    let certificates = Certificates::new();
    let (secure, plain) = (start(&certificates, &[]).await, Instance::start(&[]).await);
    let client = certificates.client(&["first"]);
    // What nobody sealed, as whoever changes bytes on the way makes of it.
    let record = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    let half = b"GET /ws/half HTTP/1.1\r\nHost";
    // (what was asked before, what happens then, as what it is counted)
    let rows: [(&[u8], Breaks, Option<&str>); 4] = [
        (b"", Record, Some("tls")),
        (half, Record, Some("tls")),
        (half, End, Some("abandoned")),
        // As a balancer does that looks whether it can be done.
        (b"", End, None),
    ];
    for speaking in [Some(&TLS13), Some(&TLS12), None] {
        let instance = if speaking.is_some() { &secure } else { &plain };
        for (asked, breaks, counted) in rows {
            if speaking.is_none() && matches!(breaks, Record) {
                continue;
            }
            let all = async || instance.metric("fanfare_handshakes_rejected_total", &[]).await;
            let before = (all().await, rejected(instance, counted.unwrap_or("tls")).await);
            let mut socket = match speaking {
                Some(version) => client.speaking(version).connect(instance.address()).await,
                None => Socket::connect(instance.address()).await,
            };
            socket.write(asked).await.unwrap();
            match breaks {
                Record => socket.write_beneath(&record).await,
                End => socket.shutdown().await,
            }
            let name = format!("{speaking:?}: {asked:?}, {breaks:?}");
            match counted {
                Some(reason) => {
                    eventually(&name, async || rejected(instance, reason).await == before.1 + 1.0).await;
                }
                None => {
                    // Whoever asks an instance without an address of its own for that is one of them.
                    let waiting = async || instance.metric("fanfare_unfinished_handshakes", &[]).await;
                    eventually(&name, async || waiting().await <= 1.0).await;
                    assert_eq!(all().await, before.0, "{name}");
                }
            }
        }
    }
}

/// A client that comes again is spared the signature, however many have come meanwhile, and whichever version it
/// speaks; but not once another certificate is shown: what it trusted then may have been replaced for a reason.
#[tokio::test]
async fn who_comes_again_is_spared_half_a_handshake() {
    // More than what a server remembers of its own accord.
    const OTHERS: usize = 300;
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let client = certificates.client(&["first"]);
    for version in [&TLS13, &TLS12] {
        let remembering = client.speaking(version).remembering();
        let kind = async || {
            // By the answer it has heard what it may remember.
            let socket = remembering.join(instance.address(), "again").await;
            socket.tls().get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(kind().await, HandshakeKind::Full, "{version:?}");
        assert_eq!(kind().await, HandshakeKind::Resumed, "{version:?}");
        for _ in 0..OTHERS {
            client.speaking(version).connect(instance.address()).await;
        }
        assert_eq!(kind().await, HandshakeKind::Resumed, "{version:?}");
        let read = async || instance.metric("fanfare_tls_reloads_total", &[("result", "loaded")]).await;
        let before = read().await;
        instance.signal("HUP").await;
        eventually("the certificate is read again", async || read().await > before).await;
        assert_eq!(kind().await, HandshakeKind::Full, "{version:?}");
    }
}

/// The last words of the handshake, the request and the first messages in one segment; and the first messages cut in
/// the middle of a record.
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
