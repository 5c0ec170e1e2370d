//! The frame decoder. However a stream is cut into pieces, it gives the same events and the same offence; what is held
//! is bounded by what has arrived and by the limits; what was decoded is decoded again from what we encode of it; and
//! where there is no compression, tungstenite makes the same of the stream.
//!
//! An input is a byte of switches, the message limit (an index), the limit of fragments, a counted list of lengths of
//! pieces, and the stream.

use fanfare_websocket::deflate::{Agreed, Compressor, Inflater, Level};
use fanfare_websocket::{
    CloseCode, Decoder, Event, Limits, Offence, Opcode, Role, put_frame, put_masked_frame,
};

use crate::{Input, tungstenite};

/// An event that has outlived its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// What a whole stream came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub events: Vec<Seen>,
    pub offence: Option<Offence>,
    /// Whether nothing of it waits for more.
    pub idle: bool,
}

const CLIENT: u8 = 1;
const DEFLATE: u8 = 1 << 1;
const CONTEXT: u8 = 1 << 2;
const WINDOW: u8 = 0b111 << 3;

const MESSAGE_LIMITS: [usize; 8] = [0, 1, 125, 126, 1000, 1 << 16, 100_000, 1 << 20];
const ROOMY: Limits = Limits { message: 1 << 22, fragments: 1 << 10 };

/// More than any allocation rounds up, and the fixed part of what a decoder keeps.
const SLACK: usize = 512;

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    let switches = input.byte();
    let limits = Limits {
        message: MESSAGE_LIMITS[usize::from(input.byte()) % MESSAGE_LIMITS.len()],
        fragments: input.byte().into(),
    };
    let lengths = input.bytes();
    let stream = input.0;
    let role = if switches & CLIENT == 0 { Role::Server } else { Role::Client };
    let agreed =
        (switches & DEFLATE != 0).then(|| agreed(switches & CONTEXT != 0, 8 + (switches & WINDOW) / 8));

    let whole = decode(role, agreed.as_ref(), limits, [stream]);
    assert_eq!(decode(role, agreed.as_ref(), limits, stream.chunks(1)), whole, "byte by byte");
    assert_eq!(decode(role, agreed.as_ref(), limits, pieces(stream, lengths)), whole, "by {lengths:?}");

    check_encoding(role, agreed.as_ref(), &whole.events);
    if agreed.is_none() {
        tungstenite::check(role, limits, stream, &whole);
    }
}

/// The same in both directions.
pub fn agreed(context: bool, window_bits: u8) -> Agreed {
    Agreed {
        server_no_context_takeover: !context,
        client_no_context_takeover: !context,
        server_max_window_bits: Some(window_bits.max(9)),
        client_max_window_bits: Some(window_bits),
    }
}

/// Decodes until a close frame, an offence or the end, and watches the memory.
pub fn decode<'p>(
    role: Role,
    agreed: Option<&Agreed>,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Outcome {
    let mut decoder = agreed.map_or(Decoder::new(role), |agreed| Decoder::with_deflate(role, agreed));
    let window = match agreed {
        Some(Agreed { client_no_context_takeover: false, client_max_window_bits: Some(bits), .. }) => {
            1 << bits.max(&9)
        }
        _ => 0,
    };
    let mut inflater = Inflater::new();
    let mut events = Vec::new();
    let mut arrived = 0;
    // A compressed message may be an eighth longer than the limit, before it is known to be too long.
    let most = limits.message + limits.message / 8 + 64 + 125;
    for piece in pieces {
        arrived += piece.len();
        let mut piece = piece.to_owned();
        let mut input = &mut piece[..];
        loop {
            let next = decoder.next_inflating(&mut input, &limits, &mut inflater);
            let next = next.map(|event| event.map(Seen::from));
            let held = decoder.held_bytes();
            assert!(held <= SLACK + 2 * arrived.min(most) + window, "{held} bytes are held of {arrived}");
            let lent = inflater.held_bytes();
            assert!(lent <= limits.message + SLACK, "{lent} bytes were inflated");
            match next {
                Ok(None) => break,
                Ok(Some(event)) => events.push(event),
                Err(offence) => return Outcome { events, offence: Some(offence), idle: false },
            }
            match events.last() {
                Some(Seen::Close(..)) => return Outcome { events, offence: None, idle: false },
                Some(Seen::Text(text)) => assert!(text.len() <= limits.message),
                Some(Seen::Binary(bytes)) => assert!(bytes.len() <= limits.message),
                _ => {}
            }
        }
        assert!(input.is_empty(), "{} bytes were left", input.len());
    }
    Outcome { events, offence: None, idle: decoder.is_idle() }
}

/// Cuts a stream into pieces of these lengths, over and over.
fn pieces<'s>(mut stream: &'s [u8], lengths: &[u8]) -> Vec<&'s [u8]> {
    let mut pieces = Vec::new();
    // Of zeroes alone the end would never come.
    let lengths = if lengths.iter().all(|&length| length == 0) { &[7] } else { lengths };
    for &length in lengths.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let length = usize::from(length).min(stream.len());
        pieces.push(stream.split_off(..length).unwrap_or_default());
    }
    pieces
}

/// What the other side encodes of these events decodes to them.
fn check_encoding(role: Role, agreed: Option<&Agreed>, events: &[Seen]) {
    if events.is_empty() {
        return;
    }
    let (sender, level) = match role {
        Role::Server => (Role::Client, Level::FASTEST),
        Role::Client => (Role::Server, Level::FASTEST),
    };
    let mut compressor = agreed.map(|agreed| Compressor::for_connection(sender, agreed, level));
    let mut stream = Vec::new();
    for event in events {
        let (opcode, payload) = event.wire_form();
        let mask = [payload.len() as u8, 0, 0xff, 0x55];
        match (sender, &mut compressor) {
            (Role::Client, Some(compressor)) if !opcode.is_control() => {
                compressor.put_masked_frame(&mut stream, opcode, &payload, mask);
            }
            (Role::Server, Some(compressor)) if !opcode.is_control() => {
                stream.extend(compressor.compress_frame(opcode, &payload));
            }
            (Role::Client, _) => put_masked_frame(&mut stream, opcode, &payload, mask),
            (Role::Server, _) => {
                let mut out = bytes::BytesMut::new();
                put_frame(&mut out, opcode, &payload);
                stream.extend(out);
            }
        }
    }
    let again = decode(role, agreed, ROOMY, [&stream[..]]);
    assert_eq!((&again.events[..], again.offence), (events, None), "encoded and decoded again");
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Event::Close(code, reason) => Self::Close(code.map(CloseCode::get), reason.to_owned()),
        }
    }
}

impl Seen {
    fn wire_form(&self) -> (Opcode, Vec<u8>) {
        match self {
            Self::Text(text) => (Opcode::Text, text.clone().into_bytes()),
            Self::Binary(bytes) => (Opcode::Binary, bytes.clone()),
            Self::Ping(bytes) => (Opcode::Ping, bytes.clone()),
            Self::Pong(bytes) => (Opcode::Pong, bytes.clone()),
            Self::Close(None, _) => (Opcode::Close, Vec::new()),
            Self::Close(Some(code), reason) => {
                (Opcode::Close, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
            }
        }
    }
}

/// What it is, the four fields before the stream, and the stream.
type Seed = (&'static str, u8, u8, u8, &'static [u8], &'static [u8]);

#[rustfmt::skip]
const SEEDS: &[Seed] = &[
    // RFC 6455 §5.7.
    ("hello, masked", 0, 4, 8, b"", b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
    ("hello, of a server", CLIENT, 4, 8, b"\x01", b"\x81\x05Hello"),
    ("hello in two fragments", CLIENT, 4, 8, b"\x03\x01", b"\x01\x03Hel\x80\x02lo"),
    ("a ping and its pong", CLIENT, 4, 8, b"\x06", b"\x89\x05Hello\x8a\x05Hello"),
    ("a ping between fragments", 0, 4, 8, b"\x05", b"\x01\x82\0\0\0\0ab\x89\x81\0\0\0\0?\x80\x81\0\0\0\0c"),
    ("a length of 16 bits", CLIENT, 4, 8, b"\x80", &with_payload(*b"\x82\x7e\x00\x80")),
    ("a length of 64 bits, and nothing of it", CLIENT, 7, 8, b"", b"\x82\x7f\0\0\0\0\0\x01\0\0"),
    ("a length of 2^63", CLIENT, 7, 8, b"", b"\x82\x7f\x80\0\0\0\0\0\0\0"),
    ("a length in more bytes than it needs", CLIENT, 7, 8, b"", b"\x82\x7e\0\x05Hello"),
    ("a code point over three fragments", CLIENT, 4, 8, b"", b"\x01\x01\xf0\x00\x02\x9f\xa6\x80\x01\x80"),
    ("a surrogate, which is no UTF-8", CLIENT, 4, 8, b"", b"\x81\x03\xed\xa0\x80"),
    ("a close with a code and a reason", CLIENT, 4, 8, b"", b"\x88\x05\x03\xe8bye"),
    ("a close with half a code", CLIENT, 4, 8, b"", b"\x88\x01\x03"),
    ("a close with a code that only the IANA knows", CLIENT, 4, 8, b"", b"\x88\x02\x03\xf6"),
    ("more fragments than the limit", CLIENT, 4, 2, b"", b"\x02\x01a\x00\x01b\x80\x01c"),
    ("a message longer than the limit", CLIENT, 1, 8, b"", b"\x82\x02ab"),
    ("fragments longer than the limit", CLIENT, 2, 8, b"", &with_payload(*b"\x02\x01a\x80\x7d")),
    ("a continuation of nothing", CLIENT, 4, 8, b"", b"\x80\x01a"),
    ("a message inside of another", CLIENT, 4, 8, b"", b"\x01\x01a\x81\x01b"),
    ("a fragmented ping", CLIENT, 4, 8, b"", b"\x09\x01a"),
    ("a reserved opcode", CLIENT, 4, 8, b"", b"\x83\x01a"),
    ("a reserved bit", CLIENT, 4, 8, b"", b"\xa1\x01a"),
    ("no mask", 0, 4, 8, b"", b"\x81\x01a"),
    ("a mask too many", CLIENT, 4, 8, b"", b"\x81\x81\0\0\0\0a"),
    // RFC 7692 §7.2.3.
    ("hello, compressed", CLIENT | DEFLATE, 4, 8, b"", b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"),
    ("hello, compressed, in two fragments", CLIENT | DEFLATE, 4, 8, b"\x02", b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00"),
    ("hello, and hello again by reference", CLIENT | DEFLATE | CONTEXT, 4, 8, b"\x05", b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\xc1\x05\xf2\x00\x11\x00\x00"),
    ("hello, stored", CLIENT | DEFLATE, 4, 8, b"", b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
    ("hello in a final block, and a plain message", CLIENT | DEFLATE | CONTEXT, 4, 8, b"", b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x81\x01a"),
    ("an empty compressed message", CLIENT | DEFLATE | CONTEXT | WINDOW, 4, 8, b"", b"\xc1\x01\x00"),
    ("hello, compressed and masked", DEFLATE | CONTEXT, 4, 8, b"\x04", b"\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\x00"),
    ("compressed noise", DEFLATE, 4, 8, b"", b"\xc2\x84\0\0\0\0\x06\x07\x08\x09"),
    ("a compressed message that only inflating makes too long", CLIENT | DEFLATE, 2, 8, b"", b"\xc2\x05\x4a\x1c\xb9\x00\x00"),
];

/// A header, and 128 bytes.
const fn with_payload<const N: usize>(header: [u8; N]) -> [u8; 132] {
    let mut bytes = [b'x'; 132];
    let mut i = 0;
    while i < N {
        bytes[i] = header[i];
        i += 1;
    }
    bytes
}

/// The table, as inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let row = |&(name, switches, message, fragments, lengths, stream): &Seed| {
        let fields = [switches, message, fragments, lengths.len() as u8];
        (name, [&fields, lengths, stream].concat())
    };
    SEEDS.iter().map(row).collect()
}
