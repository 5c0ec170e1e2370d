//! Every end of a connection: what the client is told, what is counted, what is logged, and that nothing of
//! it stays. All the ways to break the protocol are in `hostile`.

use crate::harness::{Client, Frame, Instance, Socket, eventually, frame, request};

/// One end: how the instance is set, what the client does, and what must come of it.
struct Row {
    name: &'static str,
    flags: &'static [&'static str],
    act: Act,
    /// The close frame that the client gets; 1006 is none.
    told: (u16, &'static str),
    reason: &'static str,
}

enum Act {
    Write(Vec<u8>),
    /// Answers no ping and says nothing.
    Nothing,
    Reset,
    Fin,
    /// An operator ends it, by the id that the handshake's answer named.
    Kick,
    /// The instance gets this signal.
    Signal(&'static str),
}

/// A client's frame, whole and masked.
fn masked(opcode: u8, payload: &[u8]) -> Act {
    Act::Write(frame(0x80 | opcode, payload, true))
}

fn raw(bytes: &[u8]) -> Act {
    Act::Write(bytes.to_vec())
}

fn rows() -> Vec<Row> {
    let row = |name, act, told, reason| Row { name, flags: &[], act, told, reason };
    let client = "closed_by_client";
    let wrong = "protocol_error";
    vec![
        row("normal close", masked(Frame::CLOSE, &[0x03, 0xE8]), (1000, ""), client),
        row("going away", masked(Frame::CLOSE, &[0x03, 0xE9]), (1001, ""), client),
        row("a code of its own", masked(Frame::CLOSE, b"\x0F\xA0bye"), (4000, ""), client),
        row("close without a code", masked(Frame::CLOSE, b""), (1000, ""), client),
        row("reset", Act::Reset, (1006, ""), "vanished"),
        row("end without a close", Act::Fin, (1006, ""), "vanished"),
        row("unmasked", raw(&frame(0x81, b"hello", false)), (1002, "protocol error"), wrong),
        row("text of no UTF-8", masked(Frame::TEXT, b"\xC3\x28"), (1007, "invalid UTF-8"), "invalid_utf8"),
        Row {
            name: "too big",
            flags: &["--message-limit", "1KiB"],
            act: masked(Frame::BINARY, &[0; 1025]),
            told: (1009, "message too big"),
            reason: "too_big",
        },
        Row {
            name: "too many messages",
            flags: &["--message-rate", "1"],
            act: Act::Write(frame(0x80 | Frame::TEXT, b"again", true).repeat(10)),
            told: (1008, "rate limited"),
            reason: "rate_limited",
        },
        Row {
            name: "silence",
            flags: &["--ping-interval", "100ms", "--idle-timeout", "300ms"],
            act: Act::Nothing,
            told: (1001, "idle timeout"),
            reason: "timed_out",
        },
        Row {
            name: "kick",
            flags: &["--internal-listen", "127.0.0.1:0"],
            act: Act::Kick,
            told: (1008, "kicked"),
            reason: "kicked",
        },
        Row {
            name: "drain",
            flags: &["--drain-delay", "0s", "--drain-window", "200ms"],
            act: Act::Signal("TERM"),
            told: (1012, "service restart"),
            reason: "drained",
        },
        Row {
            name: "interrupt",
            flags: &["--drain-delay", "0s", "--drain-window", "200ms"],
            act: Act::Signal("INT"),
            told: (1012, "service restart"),
            reason: "drained",
        },
    ]
}

#[tokio::test]
async fn every_end_is_told_counted_and_logged() {
    for row in rows() {
        check(row).await;
    }
}

async fn check(Row { name, flags, act, told, reason }: Row) {
    let mut instance = Instance::start(flags).await;
    let mut socket = Socket::connect(instance.address()).await;
    let answer = socket.upgrade("ends", &[]).await;
    let mut signalled = false;
    match act {
        Act::Write(bytes) => socket.write(&bytes).await.unwrap(),
        Act::Nothing => {}
        Act::Reset => {
            socket.reset();
            socket = Socket::connect(instance.address()).await;
            socket.shutdown().await;
        }
        Act::Fin => socket.shutdown().await,
        Act::Kick => {
            let path = format!("/connections/{}", answer.header("fanfare-connection").unwrap());
            let outside = request(instance.address(), "DELETE", &path, &[]).await.unwrap();
            assert_eq!(outside.status, 404, "clients can kick: {outside:?}");
            let kicked = request(instance.internal_address(), "DELETE", &path, &[]).await.unwrap();
            assert_eq!(kicked.status, 200, "{kicked:?}");
        }
        Act::Signal(signal) => {
            signalled = true;
            instance.signal(signal).await;
        }
    }
    let (code, says) = socket.closed().await;
    assert_eq!((code, says.as_str()), told, "{name}");
    socket.shutdown().await;
    socket.ended().await;

    instance.log().find(&format!("{name}: {reason}"), |line| line["reason"] == reason).await;
    if signalled {
        assert!(instance.ended().await.success(), "{name}");
        return;
    }
    eventually(&format!("{name} leaves nothing behind"), async || {
        let metrics = instance.metrics().await;
        metrics.value("fanfare_connections_closed_total", &[("reason", reason)]) == 1.0
            && metrics.value("fanfare_connections_closed_total", &[]) == 1.0
            && metrics.value("fanfare_connections_opened_total", &[]) == 1.0
            && ["fanfare_connections", "fanfare_worker_connections", "fanfare_subscriptions"]
                .iter()
                .all(|gauge| metrics.value(gauge, &[]) == 0.0)
            && metrics.value("fanfare_outbox_bytes", &[]) == 0.0
            && metrics.value("fanfare_inbox_bytes", &[]) == 0.0
    })
    .await;
}

/// What a client says just before it goes is still said.
#[tokio::test]
async fn last_words_are_heard() {
    let instance = Instance::start(&[]).await;
    let mut listener = Client::connect(instance.url("words")).await;
    let mut bytes = frame(0x80 | Frame::TEXT, b"last words", true);
    bytes.extend(frame(0x80 | Frame::CLOSE, &[0x03, 0xE8], true));
    // What comes after a close frame is not heard (RFC 6455 section 5.5.1).
    bytes.extend(frame(0x80 | Frame::TEXT, b"from the grave", true));
    let mut socket = Socket::join(instance.address(), "words?echo=false").await;
    socket.write(&bytes).await.unwrap();
    assert_eq!(socket.closed().await.0, 1000);
    assert_eq!(listener.next().await, "last words".into());
    let mut other = Client::connect(instance.url("words")).await;
    other.send("next").await;
    assert_eq!(listener.next().await, "next".into());
}

/// A client that answers no close is not waited for longer than `close_timeout`.
#[tokio::test]
async fn an_unanswered_close_ends_in_time() {
    let flags = ["--message-rate", "1", "--close-timeout", "300ms", "--idle-timeout", "10m"];
    let instance = Instance::start(&flags).await;
    let mut socket = Socket::join(instance.address(), "close").await;
    socket.write(&frame(0x80 | Frame::TEXT, b"again", true).repeat(10)).await.unwrap();
    assert_eq!(socket.closed().await.0, 1008);
    // Without that it would be as long as `idle_timeout`.
    socket.ended().await;
    eventually("the connection is gone", async || {
        instance.metric("fanfare_connections", &[("protocol", "raw")]).await == 0.0
    })
    .await;
}
