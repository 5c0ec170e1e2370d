//! Attacks by mass: lawful frames, or the beginnings of such, as many and as fast as they are taken.

use std::io;

use super::assailant::{Assailant, BINARY, FIN, PING, PONG, TEXT, frame};
use super::{Answer, Blow, Counted, Field, Outcome};

/// How much is written at a time.
const PIECE: usize = 64 << 10;

/// The most that one connection writes, if the server lets it.
const MOST: usize = 16 << 20;

/// Writes `opening`, and then `unit` over and over, until the server ends the connection or `most` bytes are gone;
/// then what it was closed with.
fn flood(field: &Field, channel: &str, opening: &[u8], unit: &[u8], most: usize) -> io::Result<Answer> {
    let mut socket = Assailant::join(field, channel)?;
    let piece = unit.repeat(PIECE.div_ceil(unit.len()));
    let mut left = most;
    let mut taken = socket.write(field, opening);
    while taken && left > 0 && !field.is_over() {
        taken = socket.write(field, &piece);
        left = left.saturating_sub(piece.len());
    }
    Ok(socket.closed(field))
}

fn floods(
    field: &Field,
    rows: &[(&'static str, &[u8], Vec<u8>)],
    code: u16,
    reason: &'static str,
) -> io::Result<Outcome> {
    let mut blows = Vec::new();
    for (name, opening, unit) in rows {
        let got = flood(field, "hostile-flood?echo=false", opening, unit, MOST)?;
        blows.push(Blow::new(*name, Answer::Close(code), Counted::Closed(reason), got));
    }
    Ok(Outcome::of(blows))
}

pub(super) fn tiny_fragments(field: &Field) -> io::Result<Outcome> {
    let beginning = frame(TEXT, b"a");
    let rows = [
        ("a byte each", &beginning[..], frame(0, b"a")),
        ("nothing each", &beginning[..], frame(0, b"")),
        (
            "nothing each, pings between",
            &beginning[..],
            [frame(0, b"").repeat(100), frame(FIN | PING, b"")].concat(),
        ),
    ];
    floods(field, &rows, 1008, "protocol_error")
}

pub(super) fn endless_continuation(field: &Field) -> io::Result<Outcome> {
    let (text, binary) = (frame(TEXT, b"a"), frame(BINARY, b"a"));
    let rows = [
        ("text", &text[..], frame(0, &[b'a'; 4096])),
        ("binary", &binary[..], frame(0, &[0xFF; 4096])),
        ("small", &binary[..], frame(0, &[0xFF; 125])),
    ];
    floods(field, &rows, 1009, "too_big")
}

pub(super) fn pings(field: &Field) -> io::Result<Outcome> {
    control(field, PING)
}

pub(super) fn pongs(field: &Field) -> io::Result<Outcome> {
    control(field, PONG)
}

fn control(field: &Field, opcode: u8) -> io::Result<Outcome> {
    let beginning = frame(TEXT, b"a");
    let rows = [
        ("empty", &b""[..], frame(FIN | opcode, b"")),
        ("of 125 bytes", b"", frame(FIN | opcode, &[7; 125])),
        ("within a message", &beginning[..], frame(FIN | opcode, b"x")),
    ];
    floods(field, &rows, 1008, "rate_limited")
}

pub(super) fn publications(field: &Field) -> io::Result<Outcome> {
    let rows = [
        ("empty", &b""[..], frame(FIN | TEXT, b"")),
        ("of 64 bytes", b"", frame(FIN | TEXT, &[b'a'; 64])),
        ("of 4 KiB", b"", frame(FIN | BINARY, &[7; 4096])),
    ];
    floods(field, &rows, 1008, "rate_limited")
}

/// Connections that hold what they can of a server for three bytes each.
pub(super) fn claimed_messages(field: &Field) -> io::Result<Outcome> {
    let mut claims = Vec::new();
    for _ in 0..500 {
        let mut socket = Assailant::join(field, "hostile-claims")?;
        // 1 MiB of binary, of which three bytes come.
        socket.write(field, &[0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
        claims.push(socket);
        if field.is_over() {
            break;
        }
    }
    // All of them are there, and none was cut; then they vanish in the middle of their message.
    let blows = claims.iter_mut().map(|socket| {
        let got = if socket.has_ended() { Answer::Cut } else { Answer::Open };
        Blow::new("a claim", Answer::Open, Counted::Closed("vanished"), got)
    });
    Ok(Outcome::of(blows.collect()))
}

/// How many connections a subscribe flood opens at most.
const SUBSCRIPTIONS: usize = 2_000;

pub(super) fn subscriptions(field: &Field) -> io::Result<Outcome> {
    let (mut open, mut blows) = (Vec::new(), Vec::new());
    while open.len() < SUBSCRIPTIONS && !field.is_over() {
        let mut socket = Assailant::connect(field)?;
        let channel = format!("hostile-{}-{}", open.len(), "x".repeat(200));
        socket.write(field, super::assailant::handshake(field, &channel, "").as_bytes());
        match socket.answers(field) {
            Answer::Http(statuses) if statuses == [101] => open.push(socket),
            got => {
                let full = Answer::Http(vec![503]);
                blows.push(Blow::new("one too many", full, Counted::Rejected("instance_full"), got));
                break;
            }
        }
    }
    for mut socket in open {
        let got = socket.leave(field);
        blows.push(Blow::new(
            "a subscription",
            Answer::Close(1000),
            Counted::Closed("closed_by_client"),
            got,
        ));
    }
    Ok(Outcome::of(blows))
}
