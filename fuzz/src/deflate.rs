//! Compressed messages, both ways, with miniz_oxide at the other end, whose code shares nothing with ours.
//!
//! What comes is inflated to the same bytes, or refused by both; never to more than the limit, and never into more
//! memory than that. What we deflate is inflated again, by us and by it, in no wider a window than was agreed.
//!
//! An input is a byte of switches, of which the first says which way; then a byte of the limit or of the level; then
//! messages, as `Input::parts` has them.

use std::cell::RefCell;

use fanfare_websocket::deflate::{Agreed, Compressor, Level, Shared};
use fanfare_websocket::{Limits, Offence, Opcode, Role};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::Input;
use crate::decoder::{Outcome, Seen, agreed, decode};

const DEFLATING: u8 = 1;
const CONTEXT: u8 = 1 << 1;
const TEXT: u8 = 1 << 2;
const WINDOW: u8 = 0b111 << 3;
const CLIENT: u8 = 1 << 6;

const LIMITS: [usize; 8] = [0, 1, 100, 512, 1000, 16 * 1024, 16 * 1024 + 1, 60_000];
const ROOMY: Limits = Limits { message: 1 << 20, fragments: 8 };

/// What a flush ends with (RFC 7692 §7.2.1).
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
/// An empty block that is the last.
const FINAL: &[u8] = &[1, 0, 0, 0xff, 0xff];
/// As many final blocks as a message may have.
const FINAL_BLOCKS: usize = 16;

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    let switches = input.byte();
    let number = usize::from(input.byte());
    let parts = input.parts();
    let agreed = agreed(switches & CONTEXT != 0, 8 + (switches & WINDOW) / 8);
    if switches & DEFLATING == 0 {
        check_inflating(&agreed, switches & TEXT != 0, LIMITS[number % LIMITS.len()], &parts);
    } else {
        let level = Level::new((number % 9 + 1) as u8).expect("1 to 9");
        let from = if switches & CLIENT == 0 { Role::Server } else { Role::Client };
        check_deflating(from, &agreed, level, &parts);
        check_shared(&agreed, level, &parts);
    }
}

/// These payloads as compressed messages of a server, for which a limit holds.
fn check_inflating(agreed: &Agreed, text: bool, limit: usize, payloads: &[&[u8]]) {
    let mut theirs = Reference::new(agreed);
    let mut expected = Vec::new();
    let mut refused = false;
    for payload in payloads {
        match theirs.message(payload, limit) {
            Some(bytes) if !text => expected.push(Seen::Binary(bytes)),
            Some(bytes) if std::str::from_utf8(&bytes).is_ok() => {
                expected.push(Seen::Text(String::from_utf8(bytes).expect("just seen")));
            }
            _ => {
                refused = true;
                break;
            }
        }
    }
    let first = if text { 0xc1 } else { 0xc2 };
    let stream = payloads.iter().flat_map(|payload| frame(first, payload)).collect::<Vec<_>>();
    // Of the limit there is more for what is compressed, so that miniz_oxide sees all that we do.
    let ours = decode(Role::Client, Some(agreed), Limits { message: limit, fragments: 8 }, [&stream[..]]);
    if let Outcome { events, offence: Some(Offence::TooBig { size, .. }), .. } = &ours
        && *size > limit as u64 + 1
    {
        // Refused by its header, without a look at it.
        assert_eq!(events[..], expected[..events.len()]);
        return;
    }
    assert_eq!(ours.events, expected);
    assert_eq!(ours.offence.is_some(), refused, "{:?}", ours.offence);
}

/// Inflates as we should: history, final blocks, an end that is one, and the limit.
struct Reference {
    history: Vec<u8>,
    window: usize,
}

impl Reference {
    fn new(agreed: &Agreed) -> Self {
        let bits = agreed.server_max_window_bits.unwrap_or(15);
        Self { history: Vec::new(), window: if agreed.server_no_context_takeover { 0 } else { 1 << bits } }
    }

    fn message(&mut self, deflated: &[u8], limit: usize) -> Option<Vec<u8>> {
        if deflated.is_empty() {
            return Some(Vec::new());
        }
        let input = [deflated, TAIL, FINAL].concat();
        let mut out = self.history.clone();
        let start = out.len();
        out.resize(start + limit + 1, 0);
        let (mut taken, mut made, mut final_blocks) = (0, start, 0);
        while final_blocks <= FINAL_BLOCKS {
            let (status, consumed, written) = decompress(
                &mut DecompressorOxide::new(),
                &input[taken..],
                &mut out,
                made,
                TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
            );
            (taken, made) = (taken + consumed, made + written);
            if status != TINFLStatus::Done || made - start > limit {
                return None;
            }
            if taken == deflated.len() || taken == input.len() {
                let message = out[start..made].to_vec();
                let history = &out[..made];
                self.history = history[history.len().saturating_sub(self.window)..].to_vec();
                return Some(message);
            }
            if taken > deflated.len() {
                return None;
            }
            final_blocks += 1;
        }
        None
    }
}

/// These payloads as messages of one side, with a compressor of its own.
fn check_deflating(from: Role, agreed: &Agreed, level: Level, payloads: &[&[u8]]) {
    let mut own = Compressor::for_connection(from, agreed, level);
    let (context, bits, to) = match from {
        Role::Server => (!agreed.server_no_context_takeover, agreed.server_max_window_bits, Role::Client),
        Role::Client => (!agreed.client_no_context_takeover, agreed.client_max_window_bits, Role::Server),
    };
    let mut theirs = Ring::new(bits.unwrap_or(15));
    let mut stream = Vec::new();
    for payload in payloads {
        let start = stream.len();
        match from {
            Role::Server => stream.extend(own.compress_frame(Opcode::Binary, payload)),
            Role::Client => own.put_masked_frame(&mut stream, Opcode::Binary, payload, [0; 4]),
        }
        if !context {
            theirs = Ring::new(bits.unwrap_or(15));
        }
        theirs.check(&stream[start..], payload);
    }
    let seen = decode(to, Some(agreed), ROOMY, [&stream[..]]);
    let expected = payloads.iter().map(|payload| Seen::Binary(payload.to_vec())).collect::<Vec<_>>();
    assert_eq!((seen.events, seen.offence), (expected, None));
}

thread_local! {
    /// Whatever they have compressed before, as a worker's.
    static SHARED: RefCell<Option<(Level, Compressor, Compressor)>> = const { RefCell::new(None) };
}

/// Frames for everybody are understood by who says so, whatever came before.
fn check_shared(agreed: &Agreed, level: Level, payloads: &[&[u8]]) {
    let Some(by) = agreed.shared() else { return };
    SHARED.with_borrow_mut(|shared| {
        let (_, wide, narrow) = match shared {
            Some(shared) if shared.0 == level => shared,
            _ => shared.insert((level, Compressor::shared(level), Compressor::shared_narrowly(level))),
        };
        let shared = match by {
            Shared::Widely => wide,
            Shared::Narrowly => narrow,
        };
        for payload in payloads {
            let frame = shared.compress_frame(Opcode::Binary, payload);
            Ring::new(agreed.server_max_window_bits.unwrap_or(15)).check(&frame, payload);
        }
    });
}

/// Inflates with a window of its size, and with nothing beyond it to refer to.
struct Ring {
    inflater: DecompressorOxide,
    window: Vec<u8>,
    place: usize,
}

impl Ring {
    fn new(bits: u8) -> Self {
        Self { inflater: DecompressorOxide::new(), window: vec![0; 1 << bits.max(9)], place: 0 }
    }

    /// Takes a frame apart, and holds its payload against what went in.
    fn check(&mut self, frame: &[u8], payload: &[u8]) {
        let extended = match frame[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if frame[1] & 0x80 == 0 { 0 } else { 4 };
        let body = &frame[2 + extended + mask..];
        if frame[0] & 0x40 == 0 {
            assert_eq!(body, payload, "not compressed");
        } else {
            assert_eq!(self.inflated(body), payload, "inflated by miniz_oxide");
        }
    }

    fn inflated(&mut self, deflated: &[u8]) -> Vec<u8> {
        let input = [deflated, TAIL].concat();
        let mut taken = 0;
        let mut out = Vec::new();
        loop {
            let (status, consumed, written) = decompress(
                &mut self.inflater,
                &input[taken..],
                &mut self.window,
                self.place,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            taken += consumed;
            out.extend_from_slice(&self.window[self.place..self.place + written]);
            self.place = (self.place + written) % self.window.len();
            match status {
                TINFLStatus::NeedsMoreInput => return out,
                TINFLStatus::HasMoreOutput => {}
                _ => panic!("{status:?} after {} bytes", out.len()),
            }
        }
    }
}

/// A server's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(length as u8),
        Ok(length) => frame.extend([&[126][..], &length.to_be_bytes()].concat()),
        Err(_) => frame.extend([&[127][..], &(payload.len() as u64).to_be_bytes()].concat()),
    }
    frame.extend(payload);
    frame
}

/// Rows of what it is, the switches, the limit or level, and the messages.
#[rustfmt::skip]
const SEEDS: &[(&str, u8, u8, &[&[u8]])] = &[
    // RFC 7692 §7.2.3.
    ("hello", TEXT, 2, &[b"\xf2\x48\xcd\xc9\xc9\x07\x00"]),
    ("hello, and hello again by reference", TEXT | CONTEXT, 2, &[b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"\xf2\x00\x11\x00\x00"]),
    ("hello again without context", TEXT, 2, &[b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"\xf2\x00\x11\x00\x00"]),
    ("hello, stored", TEXT, 2, &[b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"]),
    ("a final block, and context after it", TEXT | CONTEXT, 2, &[b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"\xf2\x00\x11\x00\x00"]),
    ("two blocks", TEXT, 2, &[b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"]),
    ("an empty message", 0, 2, &[b"\x00"]),
    ("nothing at all", 0, 2, &[b""]),
    ("two streams, the second of which refers to the first", 0, 2, &[b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x00\x11\x00\x00"]),
    ("a final block that takes the tail for its data", 0, 2, &[b"\x01\x05\x00\xfa\xffa"]),
    ("a tail that was not taken off", 0, 2, &[b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff"]),
    ("a message cut short", 0, 2, &[b"\xf2\x48\xcd"]),
    ("a reserved kind of block", 0, 2, &[b"\x06"]),
    ("a thousand zeroes, of which 512 are allowed", 0, 3, &[b"\x62\x60\x18\x05\xa3\x60\x14\x8c\x54\x00\x00"]),
    ("dynamic codes", 0, 5, &[b"\x04\xc0\x81\x0c\x00\x00\x00\xc2\xb0\xde\xe6\xaf\xf8\xb1\x4d\x01\x00\x00\xff\xff"]),
    ("hello twice from a server", DEFLATING | CONTEXT | WINDOW, 5, &[b"Hello", b"Hello"]),
    ("hello twice from a client, in the narrowest window", DEFLATING | CONTEXT | CLIENT, 5, &[b"Hello", b"Hello"]),
    ("nothing, and then something", DEFLATING | CONTEXT | WINDOW, 8, &[b"", b"price price price"]),
    ("without context, which may be shared", DEFLATING | WINDOW, 0, &[b"price price price", b"a"]),
];

/// The table, as inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let row = |&(name, switches, number, messages): &(_, u8, u8, &[&[u8]])| {
        let mut input = vec![switches, number, messages.len() as u8 - 1];
        input.extend(messages[..messages.len() - 1].iter().map(|message| message.len() as u8));
        input.extend(messages.concat());
        (name, input)
    };
    SEEDS.iter().map(row).collect()
}
