//! Attacks by what a message becomes when it is inflated, on connections that have agreed on permessage-deflate.

use std::io;
use std::sync::LazyLock;

use flate2::{Compress, Compression, FlushCompress};

use super::assailant::{Assailant, BINARY, FIN, PING, TEXT, frame, handshake};
use super::frames::{Shot, shot};
use super::{Answer, Blow, Counted, Field, Outcome};

/// The instance must offer compression.
pub(super) const FLAGS: &[&str] =
    &["--compression", "true", "--message-limit", "1MiB", "--outbox-limit", "4MiB"];

/// The bit of a message's first frame that says that it is compressed (RFC 7692 §6).
const DEFLATED: u8 = 0x40;

/// Made once: to make a bomb takes far longer than to send it, and who sends many has them ready.
static ARSENAL: LazyLock<Vec<Shot>> = LazyLock::new(arsenal);

pub(super) fn bombs(field: &Field) -> io::Result<Outcome> {
    let mut blows = Vec::new();
    for Shot { name, bytes, code, reason } in ARSENAL.iter() {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::connect(field)?;
        let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        socket.write(field, handshake(field, "hostile-bombs?echo=false", offer).as_bytes());
        let mut got = socket.answers(field);
        if got == Answer::Http(vec![101]) {
            socket.write(field, bytes);
            got = socket.closed(field);
        }
        blows.push(Blow::new(name.clone(), Answer::Close(*code), Counted::Closed(reason), got));
    }
    Ok(Outcome::of(blows))
}

fn arsenal() -> Vec<Shot> {
    let bomb = zeros(1 << 30);
    let small = zeros(64 << 20);
    let first = |opcode: u8| FIN | DEFLATED | opcode;
    let big = |name: &'static str, bytes| shot(name, bytes, 1009, "too_big");
    let corrupt =
        |name: &'static str, data: &[u8]| shot(name, frame(first(BINARY), data), 1007, "protocol_error");
    let wrong = |name: &'static str, bytes| shot(name, bytes, 1002, "protocol_error");
    let (half, rest) = small.split_at(small.len() / 2);
    let crumbs = small.chunks(16).map(|crumb| frame(0, crumb)).collect::<Vec<_>>().concat();
    // A message leaves out the end of its flush (RFC 7692 §7.2.1).
    let mut text = deflated(b"caf\xC3\x28");
    text.truncate(text.len() - 4);
    vec![
        big("a gigabyte in a megabyte", frame(first(BINARY), &bomb[..(1 << 20).min(bomb.len())])),
        big("a gigabyte in a megabyte and more", frame(first(TEXT), &bomb)),
        big("64 megabytes in 64 kilobytes", frame(first(TEXT), &small)),
        big("64 megabytes in two", [frame(DEFLATED | BINARY, half), frame(FIN, rest)].concat()),
        big("64 megabytes in crumbs", [frame(DEFLATED | TEXT, b""), crumbs, frame(FIN, b"")].concat()),
        big("a byte too many", frame(first(BINARY), &zeros((1 << 20) + 1))),
        // Each ends the DEFLATE stream and says nothing; a message may have several (RFC 7692 §7.2.3.4).
        shot(
            "17 ends",
            frame(first(BINARY), &[&[3, 0].repeat(17)[..], &[0]].concat()),
            1008,
            "protocol_error",
        ),
        shot("ends without end", frame(first(BINARY), &[3, 0].repeat(60_000)), 1008, "protocol_error"),
        corrupt("a kind of block that there is not", &[0x07; 16]),
        corrupt("noise", &noise()),
        corrupt("a stored block whose length is denied", &[0, 5, 0, 5, 0, 1, 2, 3, 4, 5]),
        // A match of three bytes at a distance of one, with nothing before it: 1, 01, 0000001, 00000.
        corrupt("a reference to nothing", &[0x03, 0x02]),
        shot("text that inflates to no UTF-8", frame(first(TEXT), &text), 1007, "invalid_utf8"),
        wrong("a compressed continuation", [frame(BINARY, b"a"), frame(FIN | DEFLATED, b"b")].concat()),
        wrong("a compressed ping", frame(first(PING), b"")),
        wrong("another reserved bit", frame(FIN | DEFLATED | 0x20 | TEXT, &text)),
    ]
}

/// DEFLATE data of so many zeros. Behind a full flush, what was written can be written again.
fn zeros(size: usize) -> Vec<u8> {
    const PIECE: usize = 4 << 20;
    let piece = deflated(&vec![0; PIECE.min(size)]);
    let mut all = piece.repeat(size / PIECE.min(size));
    if size > PIECE && !size.is_multiple_of(PIECE) {
        all.extend(deflated(&vec![0; size % PIECE]));
    }
    all
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(bytes.len() / 100 + 1024);
    deflate
        .compress_vec(bytes, &mut out, FlushCompress::Full)
        .expect("there is room, and nothing can be wrong");
    out
}

/// Random bytes whose first are no block.
fn noise() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    std::iter::once(0xFF).chain((0..1_000).map(|_| random.u8(..))).collect()
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    #[test]
    fn bombs_are_what_they_say() {
        for size in [5, 4 << 20, (4 << 20) + 1, 64 << 20] {
            let data = zeros(size);
            let mut inflate = Decompress::new(false);
            let mut out = Vec::with_capacity(size + 1);
            inflate.decompress_vec(&data, &mut out, FlushDecompress::None).unwrap();
            assert_eq!((out.len(), inflate.total_in()), (size, data.len() as u64));
        }
        assert!(zeros(1 << 30).len() < 1 << 21);
    }
}
