//! permessage-deflate (RFC 7692) from outside: what is agreed on, what travels, and that nobody notices who else
//! is compressed. What is received is inflated by an implementation that is not Fanfare's.

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, deflate::compress_to_vec};
use tokio::net::TcpStream;

use crate::harness::{
    Certificates, Client, Frame, Instance, Said, Socket, eventually, fence, frame, run_to_end,
};

const OFFER: &str = "permessage-deflate; client_max_window_bits";

#[tokio::test]
async fn offers_are_answered_within_the_configuration() {
    const NONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    // (flags, offer, answer)
    let rows: &[(&[&str], &str, Option<&str>)] = &[
        (&[], OFFER, None),
        (&["--compression"], "", None),
        (&["--compression"], "permessage-bzip2", None),
        (&["--compression"], OFFER, Some(NONE)),
        (&["--compression"], "permessage-deflate; unknown, permessage-deflate", Some(NONE)),
        (
            &["--compression"],
            "permessage-deflate; server_max_window_bits=9",
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
            ),
        ),
        (
            &["--compression", "--compression-context", "client"],
            OFFER,
            Some("permessage-deflate; server_no_context_takeover"),
        ),
        (
            &["--compression", "--compression-context", "server"],
            OFFER,
            Some("permessage-deflate; client_no_context_takeover"),
        ),
        (&["--compression", "--compression-context", "both"], OFFER, Some("permessage-deflate")),
        (
            &["--compression", "--compression-context", "both"],
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            Some(NONE),
        ),
    ];
    for (flags, offer, expected) in rows {
        let instance = Instance::start(flags).await;
        let mut socket = Socket::connect(instance.address()).await;
        let answer = socket.upgrade("offers", &[("Sec-WebSocket-Extensions", offer)]).await;
        assert_eq!(answer.status, 101, "{flags:?} {offer}");
        assert_eq!(answer.header("sec-websocket-extensions"), *expected, "{flags:?} {offer}");
    }
    let instance = Instance::start(&["--compression"]).await;
    let mut socket = Socket::connect(instance.address()).await;
    let answer = socket.upgrade("offers", &[("Sec-WebSocket-Extensions", "permessage-deflate; =9")]).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn an_idle_connection_keeps_no_more_memory_for_it() {
    const CONNECTIONS: &str = "2000";
    let kib = async |offer: &[&str]| {
        let instance = Instance::start(&["--compression"]).await;
        let (pid, url) = (instance.pid().to_string(), instance.url("idle"));
        let idle = ["bench", "idle", &url, "--connections", CONNECTIONS, "--pid", &pid, "--json"];
        let output = run_to_end(&[&idle, offer].concat(), &[]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["kib_per_connection"].as_f64().unwrap()
    };
    let (plain, compressed) = (kib(&[]).await, kib(&["--compression"]).await);
    assert!(compressed < plain + 1.0, "{compressed} KiB, and {plain} without compression");
}

/// A receiver with an inflater of its own.
struct Receiver {
    name: &'static str,
    socket: Socket,
    inflater: Box<InflateState>,
    keeps_context: bool,
}

impl Receiver {
    async fn join(mut socket: Socket, name: &'static str, offer: &str) -> Self {
        let answer = socket.upgrade("mixed", &[("Sec-WebSocket-Extensions", offer)]).await;
        let agreed = answer.header("sec-websocket-extensions").unwrap_or_default();
        let keeps_context = !agreed.contains("server_no_context_takeover");
        Self { name, socket, inflater: InflateState::new_boxed(DataFormat::Raw), keeps_context }
    }

    /// What is said next, as far as it is text.
    async fn text(&mut self) -> String {
        match self.next().await.1 {
            Said::Text(text) => text,
            Said::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// The next message: as it came, and as it was meant.
    async fn next(&mut self) -> (Frame, Said) {
        let frame = self.socket.next_but_pings().await.expect("a message comes");
        let payload = if frame.opcode & Frame::DEFLATED == 0 {
            frame.payload.clone()
        } else {
            if !self.keeps_context {
                self.inflater.reset(DataFormat::Raw);
            }
            let input = [&frame.payload[..], &[0, 0, 0xFF, 0xFF]].concat();
            let mut output = vec![0; 1 << 20];
            let inflated = inflate(&mut self.inflater, &input, &mut output, MZFlush::Sync);
            assert_eq!(inflated.bytes_consumed, input.len(), "{}: {:?}", self.name, inflated.status);
            output.truncate(inflated.bytes_written);
            output
        };
        let said = match frame.opcode & !Frame::DEFLATED {
            Frame::TEXT => Said::Text(String::from_utf8(payload).unwrap()),
            Frame::BINARY => Said::Binary(payload),
            other => panic!("{}: opcode {other}", self.name),
        };
        (frame, said)
    }
}

#[tokio::test]
async fn everybody_gets_every_message_however_it_is_compressed() {
    mixed(None).await;
    mixed(Some(&Certificates::new())).await;
}

/// With these, over TLS.
async fn mixed(certificates: Option<&Certificates>) {
    let more = certificates.map(|certificates| certificates.flags("first")).unwrap_or_default();
    let flags = ["--compression", "--compression-context", "both", "--compression-threshold", "100"];
    let flags: Vec<&str> = flags.into_iter().chain(more.iter().map(String::as_str)).collect();
    let instance = Instance::start(&flags).await;
    let connect = async || {
        let stream = TcpStream::connect(instance.address()).await.unwrap();
        match certificates {
            Some(certificates) => certificates.client(&["first"]).agree(stream).await.unwrap(),
            None => stream.into(),
        }
    };
    let join = async |name, offer: &str| Receiver::join(Socket::over(connect().await), name, offer).await;
    let without = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let narrow = format!("{without}; server_max_window_bits=9");
    let mut receivers = vec![
        join("plain", "").await,
        join("shared", without).await,
        join("shared as well", without).await,
        join("narrow", &narrow).await,
        join("alone", OFFER).await,
    ];
    let publisher = Client::try_over(connect().await, &instance.url("mixed?echo=false"), &[]).await;
    let mut publisher = publisher.unwrap_or_else(|answer| panic!("{answer:?}"));
    let mut random = fastrand::Rng::with_seed(7);
    let sentence = r#"{"kind":"position","id":7,"text":"the same words, and the same words again"}"#;
    let messages: Vec<(Said, bool)> = vec![
        ("short".into(), false),
        (sentence.repeat(10).as_str().into(), true),
        (sentence.repeat(10).as_str().into(), true),
        (Said::Binary(sentence.repeat(700).into_bytes()), true),
        // What does not compress is sent as it is, unless a context has taken it in.
        (Said::Binary((0..500).map(|_| random.u8(..)).collect()), false),
        (sentence.repeat(3).as_str().into(), true),
    ];
    let mut deflated_once = 0;
    for (said, compresses) in &messages {
        publisher.send(said.clone()).await;
        let mut frames = Vec::new();
        for receiver in &mut receivers {
            let (frame, heard) = receiver.next().await;
            assert!(heard == *said, "{}", receiver.name);
            frames.push(frame);
        }
        assert_eq!(frames[0].opcode & Frame::DEFLATED, 0);
        assert_eq!(frames[1], frames[2], "both get the very same bytes");
        for frame in &frames[1..4] {
            assert_eq!(frame.opcode & Frame::DEFLATED != 0, *compresses, "{said:?}");
            assert!(!compresses || frame.payload.len() < frames[0].payload.len() / 2);
        }
        if frames[0].payload.len() >= 100 {
            deflated_once += 2 * frames[0].payload.len();
        }
    }
    let metric = async |name| instance.metric(name, &[]).await;
    // Once in the wide window and once in the narrow one, however many receivers; a context counts elsewhere.
    assert_eq!(metric("fanfare_deflated_payload_bytes_total").await, deflated_once as f64);
    assert!(metric("fanfare_deflated_frame_bytes_total").await < deflated_once as f64 / 2.0);
    assert_eq!(metric("fanfare_compressed_subscriptions").await, 4.0);
    assert_eq!(metric("fanfare_subscriptions").await, 6.0);
}

/// Six subscribers who each want another encoding or window make six times the work, and nobody else waits for all of
/// it: what is said behind it elsewhere is heard before the last of the six.
#[tokio::test]
async fn a_large_publication_in_many_formats_lets_others_go_first() {
    const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
    let instance = Instance::start(&["--compression", "--workers", "1"]).await;
    let wide = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let narrow = format!("{wide}; server_max_window_bits=9");
    let join = async |name, path: &str, offer: &str| {
        let mut socket = Socket::connect(instance.address()).await;
        let headers = [("Sec-WebSocket-Extensions", offer)];
        assert_eq!(socket.upgrade_at(path, &headers).await.status, 101, "{name}");
        Receiver { name, socket, inflater: InflateState::new_boxed(DataFormat::Raw), keeps_context: false }
    };
    // Connects, subscribes to these channels, and has been answered.
    let subscribed = async |receiver: &mut Receiver, channels: &[&str]| {
        let mut said = CONNECT.to_owned();
        for (number, channel) in (2..).zip(channels) {
            said += &format!("\n{{\"id\":{number},\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
        }
        receiver.socket.send(Frame::TEXT, said.as_bytes()).await.unwrap();
        while !receiver.text().await.contains(&format!("\"id\":{}", channels.len() + 1)) {}
    };
    let mut receivers = Vec::new();
    for offer in [wide, &narrow] {
        receivers.push(join("raw", "/ws/large", offer).await);
        let mut json = join("json", "/connection/websocket", offer).await;
        subscribed(&mut json, &["large"]).await;
        let mut protobuf = join("protobuf", "/connection/websocket?format=protobuf", offer).await;
        // Its commands 1, to connect, and 2, to subscribe to "large", each behind its length.
        let said = b"\x04\x08\x01\x22\x00\x0b\x08\x02\x2a\x07\x0a\x05large";
        protobuf.socket.send(Frame::BINARY, said).await.unwrap();
        receivers.extend([json, protobuf]);
    }
    eventually("all six are subscribed", async || instance.metric("fanfare_subscriptions", &[]).await == 6.0)
        .await;
    let mut watcher = join("watcher", "/connection/websocket", &narrow).await;
    subscribed(&mut watcher, &["large", "small"]).await;

    let large = format!("\"{}\"", "words and words ".repeat(3_750));
    let publish = |id, channel, data: &str| {
        format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{data}}}}}"#)
    };
    let said = [CONNECT, &publish(2, "large", &large), &publish(3, "small", "1")].join("\n");
    let mut publisher = join("publisher", "/connection/websocket", "").await;
    publisher.socket.send(Frame::TEXT, said.as_bytes()).await.unwrap();
    let first = watcher.text().await;
    assert!(first.contains(r#""channel":"small""#), "{} bytes come first", first.len());
    assert!(watcher.text().await.contains(&large));
    for receiver in &mut receivers {
        // In Protobuf the answers come first.
        while !receiver.text().await.contains(&large) {}
    }
    let made = instance.metric("fanfare_deflated_payload_bytes_total", &[]).await / large.len() as f64;
    assert!((6.0..7.0).contains(&made), "each is made once, and not {made}");
}

/// A compressed message as a client sends it.
fn deflated(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = compress_to_vec(payload, 6);
    // It ends with a final block, after which a lawful sender puts an empty one (RFC 7692 section 7.2.3.4).
    bytes.push(0);
    frame(0x80 | Frame::DEFLATED | opcode, &bytes, true)
}

#[tokio::test]
async fn what_a_client_compresses_others_hear_as_it_was() {
    let instance = Instance::start(&["--compression", "--message-limit", "10000"]).await;
    let mut listener = Client::connect(instance.url("up")).await;
    let mut socket = Socket::connect(instance.address()).await;
    assert_eq!(socket.upgrade("up?echo=false", &[("Sec-WebSocket-Extensions", OFFER)]).await.status, 101);
    let text = "words and words and words ".repeat(300);
    socket.write(&deflated(Frame::TEXT, text.as_bytes())).await.unwrap();
    assert_eq!(listener.next().await, text.as_str().into());
    let bytes = vec![7; 10_000];
    socket.write(&deflated(Frame::BINARY, &bytes)).await.unwrap();
    assert_eq!(listener.next().await, Said::Binary(bytes));
    socket.write(&frame(0x80 | Frame::TEXT, b"not compressed", true)).await.unwrap();
    assert_eq!(listener.next().await, "not compressed".into());

    // (what is sent, the Close code that it leads to, the reason that is counted)
    let rows = [
        ("one byte too large once inflated", deflated(Frame::BINARY, &[7; 10_001]), 1009, "too_big"),
        ("a bomb", deflated(Frame::BINARY, &vec![0; 9 << 20]), 1009, "too_big"),
        ("text that is not UTF-8", deflated(Frame::TEXT, &[0xFF; 200]), 1007, "invalid_utf8"),
        ("nonsense", frame(0xC1, &[0xFF; 20], true), 1007, "protocol_error"),
    ];
    for (name, bytes, code, reason) in rows {
        let before = instance.metric("fanfare_connections_closed_total", &[("reason", reason)]).await;
        let mut socket = Socket::connect(instance.address()).await;
        let headers = [("Sec-WebSocket-Extensions", OFFER)];
        assert_eq!(socket.upgrade("up?echo=false", &headers).await.status, 101);
        socket.write(&bytes).await.unwrap();
        assert_eq!(socket.closed().await.0, code, "{name}");
        let after = instance.metric("fanfare_connections_closed_total", &[("reason", reason)]).await;
        assert_eq!(after, before + 1.0, "{name}");
    }
    let mut socket = Socket::join(instance.address(), "up?echo=false").await;
    socket.write(&deflated(Frame::TEXT, b"nobody agreed on this")).await.unwrap();
    assert_eq!(socket.closed().await.0, 1002);
    let mut other = Client::connect(instance.url("up?echo=false")).await;
    fence(&mut other, &mut listener).await;
}

/// Without a context nothing of a message is kept once it has gone, on either side.
#[tokio::test]
async fn what_was_compressed_is_not_kept() {
    const CONNECTIONS: u32 = 500;
    let text = "words that come again, and words that do not come again ".repeat(70);
    let kib = async |offer: &[(&str, &str)]| {
        let instance = Instance::start(&["--compression"]).await;
        let said = match offer {
            [] => frame(0x80 | Frame::TEXT, text.as_bytes(), true),
            _ => deflated(Frame::TEXT, text.as_bytes()),
        };
        let mut sockets = Vec::new();
        let mut before = 0.0;
        for number in 0..2 * CONNECTIONS {
            if number == CONNECTIONS {
                // What the first of them had the allocator take is no part of what one keeps.
                before = instance.metric("process_resident_memory_bytes", &[]).await;
            }
            let mut socket = Socket::connect(instance.address()).await;
            assert_eq!(socket.upgrade(&format!("kept-{number}"), offer).await.status, 101);
            for _ in 0..3 {
                socket.write(&said).await.unwrap();
                let heard = socket.next_but_pings().await.unwrap();
                let is_small = heard.payload.len() < text.len() / 4;
                assert_eq!(
                    (heard.opcode & Frame::DEFLATED != 0, is_small),
                    (!offer.is_empty(), !offer.is_empty())
                );
            }
            sockets.push(socket);
        }
        let after = instance.metric("process_resident_memory_bytes", &[]).await;
        (after - before) / f64::from(CONNECTIONS) / 1024.0
    };
    let (plain, compressed) = (kib(&[]).await, kib(&[("Sec-WebSocket-Extensions", OFFER)]).await);
    assert!(compressed < plain + 1.0, "{compressed} KiB, and {plain} without compression");
}

#[tokio::test]
async fn the_level_says_how_hard_it_is_tried() {
    let mut random = fastrand::Rng::with_seed(7);
    let words: Vec<String> = (0..400).map(|_| (0..6).map(|_| random.lowercase()).collect()).collect();
    let text = (0..4_000).map(|_| words[random.usize(..400)].as_str()).collect::<Vec<_>>().join(" ");
    let mut sizes = Vec::new();
    for level in ["1", "9"] {
        let instance = Instance::start(&["--compression", "--compression-level", level]).await;
        let mut receiver = Receiver::join(Socket::connect(instance.address()).await, "listener", OFFER).await;
        let mut publisher = Client::connect(instance.url("mixed?echo=false")).await;
        publisher.send(text.as_str()).await;
        let (frame, said) = receiver.next().await;
        assert!(said == text.as_str().into(), "level {level}");
        sizes.push(frame.payload.len());
    }
    assert!(sizes.is_sorted_by(|less, more| less > more), "bytes at levels 1 and 9: {sizes:?}");
}
