//! The decoder through its public face: what it refuses, what it keeps, and what an independent implementation
//! makes of the same bytes.

mod bombs;
mod conversations;
mod deflate;
mod memory;
mod offences;
mod oracle;
mod peers;

use fanfare_websocket::deflate::Inflater;
use fanfare_websocket::{CloseCode, Decoder, Event, Limits, Offence, Role};

/// An event that has outlived its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
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

/// All events of a stream that arrives in these pieces, until a close frame or an offence, and that offence.
fn decode<'p>(
    role: Role,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<Seen>, Option<Offence>) {
    decode_by(&mut Decoder::new(role), &mut Inflater::new(), limits, pieces)
}

fn decode_by<'p>(
    decoder: &mut Decoder,
    inflater: &mut Inflater,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<Seen>, Option<Offence>) {
    let mut seen = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_owned();
        let mut input = &mut piece[..];
        loop {
            match decoder.next_inflating(&mut input, &limits, inflater) {
                Ok(None) => break,
                Ok(Some(event)) => seen.push(Seen::from(event)),
                Err(offence) => return (seen, Some(offence)),
            }
            if let Some(Seen::Close(..)) = seen.last() {
                return (seen, None);
            }
        }
        assert!(input.is_empty(), "{} bytes were left", input.len());
    }
    (seen, None)
}

/// Enough for every test that is not about limits.
const ROOMY: Limits = Limits { message: 1 << 20, fragments: 1 << 10 };
