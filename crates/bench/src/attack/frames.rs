//! Attacks that break RFC 6455 after a proper handshake, each with a few bytes and a connection of its own.

use std::borrow::Cow;
use std::io;

use super::assailant::{Assailant, BINARY, CLOSE, FIN, PING, PONG, TEXT, frame, unmasked as frame_unmasked};
use super::{Answer, Blow, Counted, Field, Outcome};

/// Where they say it.
const CHANNEL: &str = "hostile-frames?echo=false";

/// Bytes after the handshake, with the close code for them and the reason under which it is counted.
pub(super) struct Shot {
    /// As the report calls it.
    pub(super) name: Cow<'static, str>,
    /// What is sent, frames and all that is wrong with them.
    pub(super) bytes: Vec<u8>,
    /// The Close code that must come back.
    pub(super) code: u16,
    /// The label of `fanfare_connections_closed_total` under which it must be counted.
    pub(super) reason: &'static str,
}

/// One of them.
pub(super) fn shot(
    name: impl Into<Cow<'static, str>>,
    bytes: Vec<u8>,
    code: u16,
    reason: &'static str,
) -> Shot {
    Shot { name: name.into(), bytes, code, reason }
}

/// One that breaks the protocol.
fn wrong(name: impl Into<Cow<'static, str>>, bytes: Vec<u8>) -> Shot {
    shot(name, bytes, 1002, "protocol_error")
}

fn fire(field: &Field, shots: Vec<Shot>) -> io::Result<Outcome> {
    let mut blows = Vec::new();
    for Shot { name, bytes, code, reason } in shots {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::join(field, CHANNEL)?;
        socket.write(field, &bytes);
        let got = socket.closed(field);
        blows.push(Blow::new(name, Answer::Close(code), Counted::Closed(reason), got));
    }
    Ok(Outcome::of(blows))
}

/// A header with a length in eight bytes, and a little of what it claims.
fn claim(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xFF][..], &length.to_be_bytes(), &[1, 2, 3, 4], b"abc"].concat()
}

pub(super) fn huge_lengths(field: &Field) -> io::Result<Outcome> {
    let mut shots = Vec::new();
    for first in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
        let named = |what: &str| format!("{what} in a frame that begins with {first:#04x}");
        for length in [1 << 62, i64::MAX as u64] {
            shots.push(shot(named(&length.to_string()), claim(first, length), 1009, "too_big"));
        }
        for length in [1 << 63, (1 << 63) + 1, u64::MAX] {
            shots.push(wrong(named(&length.to_string()), claim(first, length)));
        }
        shots.push(wrong(named("5, in eight bytes"), claim(first, 5)));
        shots.push(wrong(named("65,535, in eight bytes"), claim(first, 65_535)));
        shots.push(wrong(
            named("125, in two bytes"),
            [&[first, 0xFE, 0, 125, 1, 2, 3, 4][..], b"abc"].concat(),
        ));
    }
    for opcode in [CLOSE, PING, PONG] {
        shots.push(wrong(format!("2^63 in a frame of opcode {opcode}"), claim(FIN | opcode, 1 << 63)));
    }
    let continued = [frame(TEXT, b"a"), claim(FIN, i64::MAX as u64)].concat();
    shots.push(shot("2^63 - 1 in a continuation", continued, 1009, "too_big"));
    let overflowing = [frame(TEXT, b"a"), claim(0, u64::MAX >> 1)].concat();
    shots.push(shot("a sum beyond 2^63", overflowing, 1009, "too_big"));
    fire(field, shots)
}

pub(super) fn unmasked(field: &Field) -> io::Result<Outcome> {
    let mut shots = Vec::new();
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        shots.push(wrong(format!("opcode {opcode}"), frame_unmasked(FIN | opcode, b"")));
        shots
            .push(wrong(format!("opcode {opcode} with two bytes"), frame_unmasked(FIN | opcode, &[3, 0xE8])));
    }
    shots.push(wrong("a header and nothing else", vec![FIN | TEXT, 5]));
    shots.push(wrong("after a masked beginning", [frame(TEXT, b"a"), frame_unmasked(FIN, b"b")].concat()));
    shots.push(wrong("a long one", frame_unmasked(FIN | BINARY, &[7; 70_000])));
    fire(field, shots)
}

pub(super) fn reserved_bits(field: &Field) -> io::Result<Outcome> {
    let mut shots = Vec::new();
    for bits in 1..8_u8 {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            let name = format!("bits {bits:03b} on opcode {opcode}");
            shots.push(wrong(name, frame(FIN | bits << 4 | opcode, b"")));
        }
        let continued = [frame(TEXT, b"a"), frame(FIN | bits << 4, b"b")].concat();
        shots.push(wrong(format!("bits {bits:03b} on a continuation"), continued));
    }
    fire(field, shots)
}

pub(super) fn reserved_opcodes(field: &Field) -> io::Result<Outcome> {
    let mut shots = Vec::new();
    for opcode in (3..8).chain(11..16) {
        shots.push(wrong(format!("opcode {opcode}"), frame(FIN | opcode, b"hello")));
        shots.push(wrong(format!("opcode {opcode}, not final"), frame(opcode, b"")));
        let within = [frame(TEXT, b"a"), frame(FIN | opcode, b"b")].concat();
        shots.push(wrong(format!("opcode {opcode} within a message"), within));
    }
    fire(field, shots)
}

pub(super) fn fragmented_control(field: &Field) -> io::Result<Outcome> {
    let mut shots = Vec::new();
    for opcode in [CLOSE, PING, PONG] {
        shots.push(wrong(format!("the beginning of opcode {opcode}"), frame(opcode, b"")));
        let both = [frame(opcode, b"ab"), frame(FIN, b"cd")].concat();
        shots.push(wrong(format!("opcode {opcode} in two"), both));
        shots.push(wrong(format!("opcode {opcode} of 126 bytes"), frame(FIN | opcode, &[b'a'; 126])));
        shots.push(wrong(format!("opcode {opcode} of 70,000 bytes"), frame(FIN | opcode, &[b'a'; 70_000])));
    }
    shots.push(wrong("the end of nothing", frame(FIN, b"")));
    shots.push(wrong("the middle of nothing", frame(0, b"")));
    shots.push(wrong("a message in a message", [frame(TEXT, b"a"), frame(FIN | BINARY, b"b")].concat()));
    shots.push(wrong("a beginning in a message", [frame(BINARY, b"a"), frame(BINARY, b"b")].concat()));
    let twice = [frame(TEXT, b"a"), frame(FIN, b"b"), frame(FIN, b"c")].concat();
    shots.push(wrong("an end after the end", twice));
    fire(field, shots)
}

/// Each begins with a byte that no client may send first, so that the answer is known.
pub(super) fn random(field: &Field) -> io::Result<Outcome> {
    let mut random = fastrand::Rng::with_seed(11);
    let shots = (0..100).map(|number| {
        let mut bytes: Vec<u8> = (0..random.usize(2..2000)).map(|_| random.u8(..)).collect();
        bytes[0] |= 0x30;
        wrong(format!("noise {number}"), bytes)
    });
    fire(field, shots.collect())
}

pub(super) fn split_utf8(field: &Field) -> io::Result<Outcome> {
    let rows: [(&str, &[u8]); 10] = [
        ("a continuation byte alone", b"abc\x80"),
        ("a code point cut short by the end", b"abc\xF0\x9F\xA6"),
        ("a code point cut short by a letter", b"abc\xE2\x82a"),
        ("an overlong slash", b"\xC0\xAF"),
        ("an overlong slash in three bytes", b"\xE0\x80\xAF"),
        ("an overlong slash in four bytes", b"\xF0\x80\x80\xAF"),
        ("a surrogate", b"\xED\xA0\x80x"),
        ("beyond the last code point", b"\xF4\x90\x80\x80"),
        ("a lead byte that nothing has", b"\xF5\x80\x80\x80"),
        ("a byte that is never", b"x\xFFx"),
    ];
    let mut shots = Vec::new();
    let invalid = |name, bytes| shot(name, bytes, 1007, "invalid_utf8");
    for (name, text) in rows {
        for cut in 1..text.len() {
            let (first, last) = text.split_at(cut);
            let bytes = [frame(TEXT, first), frame(FIN | PING, b"!"), frame(FIN, last)].concat();
            shots.push(invalid(format!("{name}, cut after {cut}"), bytes));
        }
        let mut crumbs = frame(TEXT, b"");
        text.iter().for_each(|byte| crumbs.extend(frame(0, &[*byte])));
        crumbs.extend(frame(FIN, b""));
        shots.push(invalid(format!("{name}, a byte a fragment"), crumbs));
        shots.push(invalid(format!("{name}, whole"), frame(FIN | TEXT, text)));
    }
    fire(field, shots)
}

pub(super) fn bad_closes(field: &Field) -> io::Result<Outcome> {
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload);
    let mut shots = Vec::new();
    let codes = [0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1099, 1100, 2000, 2999, 5000, 32_768, 65_535];
    for code in codes {
        shots.push(wrong(format!("code {code}"), close(&code.to_be_bytes())));
        shots.push(wrong(
            format!("code {code} and a reason"),
            close(&[&code.to_be_bytes()[..], b"why"].concat()),
        ));
    }
    shots.push(wrong("half a code", close(&[3])));
    shots.push(wrong("a reason of 124 bytes", close(&[&[3, 0xE8][..], &[b'a'; 124]].concat())));
    for (name, reason) in [
        ("no UTF-8", &b"\xC3\x28"[..]),
        ("half a code point", b"ok \xF0\x9F"),
        ("a surrogate", b"\xED\xA0\x80"),
    ] {
        let bytes = close(&[&[3, 0xE8][..], reason].concat());
        shots.push(shot(format!("a reason of {name}"), bytes, 1007, "protocol_error"));
    }
    fire(field, shots)
}

pub(super) fn data_after_close(field: &Field) -> io::Result<Outcome> {
    let close = frame(FIN | CLOSE, &1000_u16.to_be_bytes());
    let after = [
        ("messages", frame(FIN | TEXT, b"from the grave").repeat(1000)),
        ("pings", frame(FIN | PING, b"still there?").repeat(1000)),
        ("another close", frame(FIN | CLOSE, &4000_u16.to_be_bytes())),
        ("a broken close", frame(FIN | CLOSE, &1005_u16.to_be_bytes())),
        ("what is no frame", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)),
        ("a megabyte", frame(FIN | BINARY, &[7; 60_000]).repeat(17)),
    ];
    let shots =
        after.map(|(name, bytes)| shot(name, [close.clone(), bytes].concat(), 1000, "closed_by_client"));
    fire(field, shots.into())
}
