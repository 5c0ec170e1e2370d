//! TLS at the clients' address: frames go through it as they go without it, and so does everything else that stands
//! there.

use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Certificates, Frame, Instance, Socket, eventually, frame, run_to_end};

pub async fn start(certificates: &Certificates, more: &[&str]) -> Instance {
    let flags = certificates.flags("first");
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Instance::start(&flags).await
}

pub async fn rejected(instance: &Instance, reason: &str) -> f64 {
    instance.metric("fanfare_handshakes_rejected_total", &[("reason", reason)]).await
}

/// One says something, and the other hears it.
pub async fn speak(from: &mut Socket, to: &mut Socket, payload: &[u8]) {
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
    let instance =
        start(&certificates, &["--workers", "1", "--outbox-limit", "64MiB", "--idle-timeout", "10m"]).await;
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
        eventually("all of it has gone", async || instance.metric("fanfare_outbox_bytes", &[]).await == 0.0)
            .await;
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

/// The same for a client of the protocol, to which several messages are lines of one frame. A record is a write.
#[tokio::test]
async fn publications_in_the_protocol_share_a_frame_and_a_record() {
    const COUNT: usize = 20;
    let certificates = Certificates::new();
    let instance = start(&certificates, &["--workers", "1"]).await;
    let client = certificates.client(&["first"]);
    let mut listener = client.connect(instance.address()).await;
    assert_eq!(listener.upgrade_at("/connection/websocket", &[]).await.status, 101);
    let greeting = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}";
    listener.send(Frame::TEXT, greeting.as_bytes()).await.unwrap();
    let is_last = |frame: &Frame| String::from_utf8_lossy(&frame.payload).contains("\"id\":2");
    while !is_last(&listener.next_but_pings().await.unwrap()) {}
    let mut speaker = client.join(instance.address(), "a?echo=false").await;
    let before = listener.tls().get_ref().0.records();
    let burst = (0..COUNT).flat_map(|n| frame(0x80 | Frame::TEXT, n.to_string().as_bytes(), true));
    speaker.write(&burst.collect::<Vec<u8>>()).await.unwrap();
    let heard = listener.next_but_pings().await.unwrap();
    let lines: Vec<_> =
        (0..COUNT).map(|n| format!("{{\"push\":{{\"channel\":\"a\",\"pub\":{{\"data\":{n}}}}}}}")).collect();
    assert_eq!(String::from_utf8_lossy(&heard.payload), lines.join("\n"));
    assert_eq!(listener.tls().get_ref().0.records() - before, 1);
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
    // What comes after the end is no record of its, and nobody minds.
    let mut broken = client.join(instance.address(), "ends").await;
    broken.write(&frame(0x83, b"?", true)).await.unwrap();
    assert_eq!(broken.closed().await.0, 1002);
    broken.write_beneath(&[&b"\x17\x03\x03\x00\x28"[..], &[7; 40]].concat()).await;
    broken.ended_in_order().await.unwrap();
    drop(broken);
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
    drop(stays);
    assert_eq!(instance.ended().await.code(), Some(0));
}

/// The same where nothing, or not all, was asked for, and where the instance has waited long enough.
#[tokio::test]
async fn who_has_not_asked_for_all_is_told_goodbye_as_well() {
    let certificates = Certificates::new();
    let flags = ["--handshake-timeout", "4s", "--header-timeout", "4s"];
    let instance = start(&certificates, &flags).await;
    let client = certificates.client(&["first"]);
    let whole = "GET /instance HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = "POST /emulation HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";
    let mut all = Vec::new();
    for version in [&TLS13, &TLS12] {
        for asked in ["", "GET /inst", whole, &format!("{whole}GET /inst"), body] {
            for goes in [true, false] {
                let mut socket = client.speaking(version).connect(instance.address()).await;
                socket.write(asked.as_bytes()).await.unwrap();
                if goes {
                    socket.shutdown().await;
                }
                all.push((socket, format!("{version:?}: {asked:?}, {goes}")));
            }
        }
    }
    for (socket, name) in &mut all {
        socket.ended_in_order().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// A client that goes without a word has vanished, with TLS' farewell or without.
#[tokio::test]
async fn a_client_that_goes_is_seen_to_go() {
    let certificates = Certificates::new();
    let instance = start(&certificates, &[]).await;
    let client = certificates.client(&["first"]);
    let mut polite = client.join(instance.address(), "gone").await;
    polite.shutdown().await;
    polite.ended_in_order().await.expect("it is answered in kind");
    client.join(instance.address(), "gone").await.reset();
    drop(client.join(instance.address(), "gone").await);
    eventually("all are counted as vanished", async || {
        let vanished = [("reason", "vanished")];
        instance.metric("fanfare_connections_closed_total", &vanished).await == 3.0
    })
    .await;
    assert_eq!(instance.metric("fanfare_closing_connections", &[]).await, 0.0);
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
