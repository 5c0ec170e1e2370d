//! Every known attack. How each is carried out is said beside others of its kind.

use std::time::Duration;

use super::{Attack, Outcome, compressed, floods, frames, names, requests, smuggling, sockets, tls};

/// Every attack.
pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "huge-lengths",
        does: "claims lengths of up to 2^64 - 1, and lengths in more bytes than they need",
        bound: "message_limit; nothing is reserved for what is claimed",
        act: frames::huge_lengths,
        ..PLAIN
    },
    Attack {
        name: "claimed-messages",
        does: "500 connections claim a message of the limit each, and send three bytes of it",
        bound: "memory only for what has arrived",
        flags: &["--message-limit", "1MiB", "--outbox-limit", "4MiB"],
        act: floods::claimed_messages,
        ..PLAIN
    },
    Attack {
        name: "unmasked-frames",
        does: "sends frames of every kind without a mask",
        bound: "RFC 6455, section 5.1",
        act: frames::unmasked,
        ..PLAIN
    },
    Attack {
        name: "reserved-bits",
        does: "sets reserved bits on frames of every kind",
        bound: "RFC 6455, section 5.2",
        act: frames::reserved_bits,
        ..PLAIN
    },
    Attack {
        name: "reserved-opcodes",
        does: "sends opcodes that nothing defines",
        bound: "RFC 6455, section 5.2",
        act: frames::reserved_opcodes,
        ..PLAIN
    },
    Attack {
        name: "fragmented-control",
        does: "fragments control frames, makes them too long, and breaks the order of fragments",
        bound: "RFC 6455, sections 5.4 and 5.5",
        act: frames::fragmented_control,
        ..PLAIN
    },
    Attack {
        name: "random-frames",
        does: "sends random bytes where frames belong",
        bound: "RFC 6455",
        act: frames::random,
        ..PLAIN
    },
    Attack {
        name: "tiny-fragments",
        does: "sends a message in a million fragments, of a byte each and of none",
        bound: "16,384 fragments a message",
        act: floods::tiny_fragments,
        ..PLAIN
    },
    Attack {
        name: "endless-continuation",
        does: "continues a message for ever",
        bound: "message_limit",
        act: floods::endless_continuation,
        ..PLAIN
    },
    Attack {
        name: "ping-flood",
        does: "sends pings as fast as they are taken, large and empty, and reads no pong",
        bound: "control_rate",
        act: floods::pings,
        ..PLAIN
    },
    Attack {
        name: "pong-flood",
        does: "sends pongs as fast as they are taken, large and empty",
        bound: "control_rate",
        act: floods::pongs,
        ..PLAIN
    },
    Attack {
        name: "split-utf8",
        does: "sends text that is no UTF-8, cut at every place, with pings between",
        bound: "RFC 6455, section 8.1",
        act: frames::split_utf8,
        ..PLAIN
    },
    Attack {
        name: "bad-closes",
        does: "closes with codes that must not be sent, half a code, and reasons that are no text or too long",
        bound: "RFC 6455, sections 5.5.1 and 7.4",
        act: frames::bad_closes,
        ..PLAIN
    },
    Attack {
        name: "data-after-close",
        does: "goes on with messages, pings and closes after its close frame",
        bound: "nothing is heard after a close frame",
        act: frames::data_after_close,
        ..PLAIN
    },
    Attack {
        name: "compression-bombs",
        does: "sends messages that inflate to a gigabyte, streams without end, and what is no DEFLATE",
        bound: "message_limit, before it is built",
        flags: compressed::FLAGS,
        act: compressed::bombs,
        ..PLAIN
    },
    Attack {
        name: "header-bombs",
        does: "sends a megabyte of header, thousands of headers, a megabyte of path",
        bound: "16 KiB and 100 headers a request",
        act: requests::header_bombs,
        ..PLAIN
    },
    Attack {
        name: "slow-headers",
        does: "200 connections send their handshake a byte at a time",
        bound: "header_timeout",
        flags: &["--header-timeout", "1s", "--handshake-timeout", "2s"],
        act: sockets::slow_headers,
        ..PLAIN
    },
    Attack {
        name: "half-open-handshakes",
        does: "5,000 connections send half a handshake, and wait",
        bound: "max_handshakes, header_timeout",
        flags: &["--header-timeout", "2s", "--handshake-timeout", "3s"],
        // What hyper keeps for a request that is arriving, and the task around it.
        allowance: 5_000 * (20 << 10),
        act: sockets::half_open,
        ..PLAIN
    },
    Attack {
        name: "pipelined-requests",
        does: "sends requests in one piece, before and after the upgrade",
        bound: "one answer each, in order, and none after the upgrade",
        act: requests::pipelined,
        ..PLAIN
    },
    Attack {
        name: "request-smuggling",
        does: "hides a request in each shape that an intermediary could see otherwise",
        bound: "RFC 9112, section 11.2: one answer, and the end",
        act: smuggling::shapes,
        ..PLAIN
    },
    Attack {
        name: "no-http",
        does: "sends what is no HTTP: TLS, HTTP/2, noise",
        bound: "RFC 9112",
        act: requests::no_http,
        ..PLAIN
    },
    Attack {
        name: "absurd-handshakes",
        does: "sends handshakes with absurd Sec-WebSocket- and other headers",
        bound: "RFC 6455, section 4.2.1; RFC 7692, section 7.1",
        // Without it nothing is negotiated.
        flags: &["--compression", "true"],
        act: requests::absurd_handshakes,
        ..PLAIN
    },
    Attack {
        name: "stopped-readers",
        does: "20 subscribers of a flooded channel read nothing",
        bound: "outbox_limit",
        flags: &["--outbox-limit", "256KiB"],
        allowance: 20 * (512 << 10) + (16 << 20),
        act: sockets::stopped_readers,
        ..PLAIN
    },
    Attack {
        name: "dripping-readers",
        does: "20 subscribers of a flooded channel read a byte at a time",
        bound: "outbox_limit",
        flags: &["--outbox-limit", "256KiB"],
        allowance: 20 * (512 << 10) + (16 << 20),
        act: sockets::dripping_readers,
        ..PLAIN
    },
    Attack {
        name: "vanished-sockets",
        does: "100 sockets vanish without FIN",
        bound: "idle_timeout",
        flags: &["--ping-interval", "200ms", "--idle-timeout", "600ms", "--close-timeout", "200ms"],
        act: sockets::vanished,
        ..PLAIN
    },
    Attack {
        name: "subscribe-flood",
        does: "opens connections, each in a channel of its own, for as long as it is let in",
        bound: "max_connections",
        flags: &["--max-connections", "500"],
        act: floods::subscriptions,
        ..PLAIN
    },
    Attack {
        name: "publish-flood",
        does: "publishes as fast as it is taken",
        bound: "message_rate",
        flags: &["--message-rate", "2000"],
        act: floods::publications,
        ..PLAIN
    },
    Attack {
        name: "nasty-names",
        does: "asks for channels whose names are too long, no text, or mean something to somebody else",
        bound: "1 to 255 bytes of UTF-8",
        act: names::nasty,
        ..PLAIN
    },
    Attack {
        name: "churn",
        does: "1,000 connections a second come and go, each in one of five ways",
        bound: "nothing stays",
        lasts: Some(Duration::from_secs(60)),
        act: sockets::churn,
        ..PLAIN
    },
    Attack {
        name: "tls-half-done",
        does: "3,000 connections leave their TLS handshake half done: nothing, half a hello, 16 KiB claimed",
        bound: "max_handshakes, handshake_timeout",
        flags: &["--max-handshakes", "2000", "--handshake-timeout", "2s", "--header-timeout", "2s"],
        act: tls::half_done,
        ..TLS
    },
    Attack {
        name: "tls-slow-hellos",
        does: "200 connections send their ClientHello a byte at a time",
        bound: "handshake_timeout",
        flags: &["--handshake-timeout", "2s", "--header-timeout", "2s"],
        act: tls::slow_hellos,
        ..TLS
    },
    Attack {
        name: "tls-slow-records",
        does: "200 connections claim a record of 16 KiB, and send it a byte at a time",
        bound: "header_timeout",
        flags: &["--header-timeout", "1s", "--handshake-timeout", "2s"],
        act: tls::slow_records,
        ..TLS
    },
    Attack {
        name: "tls-garbage",
        does: "begins with what is no ClientHello, or with one that nobody can agree with",
        bound: "RFC 8446; 64 KiB of a handshake message",
        act: tls::garbage,
        ..TLS
    },
    Attack {
        name: "tls-broken-records",
        does: "sends records that are not sealed, too large, or of no type, on a WebSocket",
        bound: "RFC 8446, section 5",
        act: tls::broken_records,
        ..TLS
    },
    Attack {
        name: "tls-key-updates",
        does: "asks for new keys 9,600 times, in a row and with a byte between every 32",
        bound: "32 in a row; control_rate",
        act: tls::key_updates,
        ..TLS
    },
    Attack {
        name: "tls-handshakes",
        does: "shakes hands in full, as fast as it can, and goes",
        bound: "one handshake at a time on each worker, between whose steps others have their turn",
        act: tls::handshakes,
        ..TLS
    },
];

/// What most attacks have in common.
const PLAIN: Attack = Attack {
    name: "",
    does: "",
    bound: "",
    flags: &[],
    allowance: 16 << 20,
    needs_tls: false,
    lasts: None,
    act: |_| Ok(Outcome::default()),
};

/// What those on TLS have in common.
const TLS: Attack = Attack { needs_tls: true, ..PLAIN };
