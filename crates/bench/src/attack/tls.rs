//! Attacks on TLS itself: handshakes that are begun and left, dripped, garbled or made for nothing, and records that no
//! client would send.

use std::io::{self, Write};

use rustls::ClientConnection;

use super::assailant::{Assailant, BINARY, FIN, frame, handshake};
use super::sockets::{cut_in_a_crowd, drip};
use super::way::begin;
use super::{Answer, Blow, Counted, Field, Outcome};
use crate::client::sys;

/// How many leave a handshake half done.
const HALF_DONE: usize = 3_000;

/// Of a record: its type, the version that all have, its length (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const ALERT: u8 = 21;
const CHANGE_CIPHER_SPEC: u8 = 20;

/// Alerts (RFC 8446, section 6): what is not a message, one that does not belong there, and nothing to agree on.
const DECODE: u8 = 50;
const UNEXPECTED: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;
/// What was not sealed with the key that was agreed on.
const BAD_RECORD: u8 = 20;

fn record(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let [high, low] = (length as u16).to_be_bytes();
    [&[kind, 3, 3, high, low][..], body].concat()
}

/// A lawful ClientHello, in its record.
fn hello(field: &Field) -> io::Result<Vec<u8>> {
    let secure = field.target.secure.as_ref().ok_or_else(|| io::Error::other("a wss:// URL is needed"))?;
    let (mut tls, mut bytes) = (begin(secure)?, Vec::new());
    tls.write_tls(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn half_done(field: &Field) -> io::Result<Outcome> {
    sys::raise_open_files()?;
    let hello = hello(field)?;
    let begun = record(HANDSHAKE, 16 << 10, &[1, 0, 0x3F, 0xFC, 3, 3]);
    let mut sockets = Vec::new();
    for number in 0..HALF_DONE {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::connect_plain(field)?;
        match number % 3 {
            0 => {}
            1 => drop(socket.write(field, &hello[..hello.len() / 2])),
            _ => drop(socket.write(field, &begun)),
        }
        sockets.push(socket);
    }
    let blows = sockets.iter_mut().map(|socket| cut_in_a_crowd(socket.alerted(field)));
    Ok(Outcome::of(blows.collect()))
}

pub(super) fn slow_hellos(field: &Field) -> io::Result<Outcome> {
    let sockets = (0..200).map(|_| Assailant::connect_plain(field)).collect::<io::Result<Vec<_>>>()?;
    drip(field, sockets, &hello(field)?)
}

/// Records that claim 16 KiB, and come a byte at a time, where a request belongs.
pub(super) fn slow_records(field: &Field) -> io::Result<Outcome> {
    let socket = || -> io::Result<Assailant> { Ok(Assailant::connect(field)?.beneath()) };
    let sockets = (0..200).map(|_| socket()).collect::<io::Result<Vec<_>>>()?;
    drip(field, sockets, &record(DATA, 16 << 10, &[0; 1_000]))
}

pub(super) fn garbage(field: &Field) -> io::Result<Outcome> {
    let hello = hello(field)?;
    let altered = |at: usize, byte: u8| {
        let mut bytes = hello.clone();
        bytes[at] = byte;
        bytes
    };
    let suites = |suites: &[u8]| {
        // Version, random, no session, these suites, no compression, no extensions.
        let body = [&[3, 3][..], &[7; 32], &[0, 0, suites.len() as u8], suites, &[1, 0, 0, 0]].concat();
        let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
        record(HANDSHAKE, message.len(), &message)
    };
    let endless = record(HANDSHAKE, 16 << 10, &[0; 16 << 10]);
    let mut rows = vec![
        ("zeros", vec![0; 100], Answer::Alert(DECODE)),
        ("a record of 64 KiB", record(HANDSHAKE, 0xFFFF, &[1; 100]), Answer::Alert(DECODE)),
        ("a record of nothing", record(HANDSHAKE, 0, &[]), Answer::Alert(DECODE)),
        ("a hundred records of nothing", record(HANDSHAKE, 0, &[]).repeat(100), Answer::Alert(DECODE)),
        ("a record of no known type", record(99, 5, b"hello"), Answer::Alert(DECODE)),
        ("data", record(DATA, 5, b"hello"), Answer::Alert(UNEXPECTED)),
        ("an alert", record(ALERT, 2, &[2, 40]), Answer::Cut),
        ("a thousand warnings", record(ALERT, 2, &[1, 90]).repeat(1_000), Answer::Cut),
        ("half an alert", record(ALERT, 1, &[2]), Answer::Alert(DECODE)),
        ("a change of ciphers", record(CHANGE_CIPHER_SPEC, 1, &[1]), Answer::Alert(UNEXPECTED)),
        ("another message than a hello", record(HANDSHAKE, 4, &[20, 0, 0, 0]), Answer::Alert(UNEXPECTED)),
        ("a hello of nothing", record(HANDSHAKE, 4, &[1, 0, 0, 0]), Answer::Alert(DECODE)),
        ("a hello whose sessions lie", altered(43, 0xFF), Answer::Alert(DECODE)),
        ("suites that nobody should speak", suites(&[0, 0x2F, 0, 5]), Answer::Alert(HANDSHAKE_FAILURE)),
        ("no suites", suites(&[]), Answer::Alert(DECODE)),
        ("SSL 2", b"\x80\x2E\x01\x03\x01\0\x15\0\0\0\x10".to_vec(), Answer::Alert(DECODE)),
        (
            "a message of 16 MiB",
            [
                record(HANDSHAKE, 16 << 10, &[&[1, 0xFF, 0xFF, 0xFF][..], &[0; (16 << 10) - 4]].concat()),
                endless.repeat(20),
            ]
            .concat(),
            Answer::Cut,
        ),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Answer::Http(vec![400])),
    ];
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..30 {
        // No beginning of HTTP.
        let bytes: Vec<u8> = [0x80].into_iter().chain((0..200).map(|_| random.u8(..))).collect();
        rows.push(("noise", bytes, Answer::Alert(DECODE)));
    }
    let mut blows = Vec::new();
    for (name, bytes, expected) in rows {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::connect_plain(field)?;
        socket.write(field, &bytes);
        let got = match expected {
            Answer::Http(_) => socket.answers(field),
            _ => socket.alerted(field),
        };
        blows.push(Blow::new(name, expected, Counted::Rejected("tls"), got));
    }
    Ok(Outcome::of(blows))
}

/// What is no record of theirs, on connections that are WebSockets.
pub(super) fn broken_records(field: &Field) -> io::Result<Outcome> {
    let rows = [
        ("a record that nobody sealed", record(DATA, 40, &[7; 40]), BAD_RECORD),
        ("a record of 64 KiB", record(DATA, 0xFFFF, &[7; 100]), DECODE),
        ("a record that is too short to be sealed", record(DATA, 3, &[7; 3]), BAD_RECORD),
        ("a record of no known type", record(99, 5, b"hello"), DECODE),
        ("another hello", hello(field)?, BAD_RECORD),
        ("an alert in the open", record(ALERT, 2, &[2, 40]), BAD_RECORD),
        ("frames in the open", frame(0x81, b"hello"), DECODE),
        ("a thousand changes of ciphers", record(CHANGE_CIPHER_SPEC, 1, &[1]).repeat(1_000), UNEXPECTED),
        ("noise", (0..400_u32).map(|number| (number * 193 % 251) as u8 | 0x80).collect(), DECODE),
    ];
    let mut blows = Vec::new();
    for (name, bytes, alert) in rows {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::join(field, "hostile-records")?;
        socket.write_beneath(field, &bytes);
        blows.push(Blow::new(name, Answer::Alert(alert), Counted::Closed("vanished"), socket.closed(field)));
    }
    Ok(Outcome::of(blows))
}

/// Asks for new keys, over and over, each of which the server has to make and to answer: in a row, and as many as may
/// stand in a row with a byte of a message behind them.
pub(super) fn key_updates(field: &Field) -> io::Result<Outcome> {
    const ALL: usize = 9_600;
    const IN_A_ROW: usize = 32;
    let message = frame(FIN | BINARY, &[0; ALL / IN_A_ROW]);
    // (how many, and how many in a row)
    let rows = [
        ("33 in a row", IN_A_ROW + 1, IN_A_ROW + 1, Answer::Cut, "vanished"),
        ("all in a row", ALL, ALL, Answer::Cut, "vanished"),
        ("a byte of a message behind 32", ALL, IN_A_ROW, Answer::Close(1008), "rate_limited"),
    ];
    let mut blows = Vec::new();
    for (name, all, in_a_row, expected, reason) in rows {
        let mut socket = Assailant::join(field, "hostile-keys")?;
        socket.with_tls(|tls: &mut ClientConnection| {
            // All of it is there before the first goes out.
            tls.set_buffer_limit(None);
            for byte in message.iter().take(all / in_a_row) {
                for _ in 0..in_a_row {
                    tls.refresh_traffic_keys().map_err(io::Error::other)?;
                }
                tls.writer().write_all(&[*byte])?;
            }
            Ok(())
        })?;
        socket.write_out(field);
        blows.push(Blow::new(name, expected, Counted::Closed(reason), socket.closed(field)));
    }
    Ok(Outcome::of(blows))
}

/// Shakes hands in full and goes, for as long as it is let.
pub(super) fn handshakes(field: &Field) -> io::Result<Outcome> {
    let end = sys::monotonic() + field.span.as_nanos() as u64;
    let mut blows = Vec::new();
    while sys::monotonic() < end && !field.is_over() {
        let mut socket = Assailant::connect(field)?;
        let mut counted = Counted::Nowhere;
        if blows.len() % 2 == 0 {
            socket.write(field, &handshake(field, "hostile-hands", "").as_bytes()[..20]);
            counted = Counted::Rejected("abandoned");
        }
        blows.push(Blow::new("a handshake", Answer::Open, counted, Answer::Open));
    }
    Ok(Outcome::of(blows))
}
