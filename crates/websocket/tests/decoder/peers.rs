//! Random compressed conversations, with miniz_oxide, whose code shares nothing with ours, at the other end. It keeps
//! one stream for as long as there is context, as most peers do, where we begin a new one for each message.

use fanfare_websocket::deflate::{Agreed, Compressor, Inflater, Level};
use fanfare_websocket::{Decoder, Opcode, Role, put_masked_frame};
use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::deflate::{TAIL, frame};
use crate::oracle::{pieces, seen, small, wire_form};
use crate::{ROOMY, Seen, decode_by};

/// What one side says: mostly compressed, perhaps in fragments, with control frames between them.
#[derive(Clone, Debug)]
struct Saying {
    event: Seen,
    compressed: bool,
    cuts: Vec<prop::sample::Index>,
    between: Vec<Vec<u8>>,
}

fn saying() -> impl Strategy<Value = Saying> {
    let event = prop_oneof![2 => seen(), 3 => words()]
        .prop_filter("a close ends it", |event| !matches!(event, Seen::Close(..)));
    let cuts = vec(any::<prop::sample::Index>(), 0..4);
    (event, prop::bool::weighted(0.8), cuts, vec(small(), 0..3))
        .prop_map(|(event, compressed, cuts, between)| Saying { event, compressed, cuts, between })
}

/// Repetition over messages, which is what context is for.
pub(crate) fn words() -> impl Strategy<Value = Seen> {
    let word = prop_oneof!["[a-e]{1,9}", Just("price ".to_owned()), Just("κόσμε".to_owned())];
    vec(word, 0..60).prop_map(|words| Seen::Text(words.concat()))
}

fn agreed() -> impl Strategy<Value = Agreed> {
    let window = || prop::option::of(9..=15_u8);
    (any::<bool>(), any::<bool>(), window(), window()).prop_map(
        |(server, client, server_window, client_window)| Agreed {
            server_no_context_takeover: server,
            client_no_context_takeover: client,
            server_max_window_bits: server_window,
            client_max_window_bits: client_window,
        },
    )
}

/// One direction of a connection: whether the sender keeps context, and its window.
pub(crate) fn direction(role: Role, agreed: &Agreed) -> (bool, u8) {
    let (without, bits) = match role {
        Role::Server => (agreed.server_no_context_takeover, agreed.server_max_window_bits),
        Role::Client => (agreed.client_no_context_takeover, agreed.client_max_window_bits),
    };
    (!without, bits.unwrap_or(15))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn what_they_deflate_we_inflate(
        said in vec(saying(), 0..8),
        agreed in agreed(),
        level in 0..=9_u8,
        cuts in vec(any::<prop::sample::Index>(), 0..12),
        to_server in any::<bool>(),
    ) {
        let (from, to) = if to_server { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let (keeps_context, bits) = direction(from, &agreed);
        // Below 12 bits it does not keep to its window (miniz_oxide 0.9.1), unless it refers to nothing.
        let strategy = if bits < 12 { CompressionStrategy::HuffmanOnly } else { CompressionStrategy::Default };
        let fresh = || CompressorOxide::with_params(DataFormat::Raw, level, strategy, bits);
        let mut theirs = fresh();
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for Saying { event, compressed, cuts, between } in &said {
            let (opcode, mut payload) = wire_form(event);
            let compressed = *compressed && !opcode.is_control();
            if compressed {
                if !keeps_context {
                    theirs = fresh();
                }
                payload = their_message(&mut theirs, &payload);
            }
            let fragments = if opcode.is_control() { vec![&payload[..]] } else { pieces(&payload, cuts) };
            for (i, fragment) in fragments.iter().enumerate() {
                let last = i + 1 == fragments.len();
                let first = if i == 0 { opcode as u8 | u8::from(compressed) << 6 } else { 0 };
                put(&mut stream, to, first | u8::from(last) << 7, fragment);
                if !last && let Some(ping) = between.get(i) {
                    put(&mut stream, to, 0x89, ping);
                    expected.push(Seen::Ping(ping.clone()));
                }
            }
            expected.push(event.clone());
        }
        let mut decoder = Decoder::with_deflate(to, &agreed);
        let mut inflater = Inflater::new();
        let seen = decode_by(&mut decoder, &mut inflater, ROOMY, pieces(&stream, &cuts));
        prop_assert_eq!(seen, (expected, None));
        if !keeps_context {
            prop_assert_eq!(decoder.next_inflating(&mut &mut [][..], &ROOMY, &mut inflater), Ok(None));
            prop_assert_eq!((decoder.is_idle(), decoder.held_bytes()), (true, 0));
        }
    }

    #[test]
    fn what_we_deflate_they_inflate(
        said in vec(seen(), 0..8),
        agreed in agreed(),
        level in 1..=9_u8,
        from_server in any::<bool>(),
    ) {
        let (from, to) = if from_server { (Role::Server, Role::Client) } else { (Role::Client, Role::Server) };
        let (keeps_context, _) = direction(from, &agreed);
        let mut own = Compressor::for_connection(from, &agreed, Level::new(level).unwrap());
        let mut theirs = InflateState::new_boxed(DataFormat::Raw);
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for event in said {
            let (opcode, payload) = wire_form(&event);
            if opcode.is_control() {
                continue;
            }
            let deflated = put_compressed(&mut own, &mut stream, from, opcode, &payload);
            expected.push(event);
            let Some(deflated) = deflated else { continue };
            if !keeps_context {
                theirs = InflateState::new_boxed(DataFormat::Raw);
            }
            prop_assert_eq!(their_inflated(&mut theirs, &deflated), payload);
        }
        let mut decoder = Decoder::with_deflate(to, &agreed);
        let seen = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, [&stream[..]]);
        prop_assert_eq!(seen, (expected, None));
    }
}

/// Appends a frame as this side sends it, and returns its payload if that is compressed.
fn put_compressed(
    own: &mut Compressor,
    out: &mut Vec<u8>,
    from: Role,
    opcode: Opcode,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let start = out.len();
    match from {
        Role::Server => out.extend(own.compress_frame(opcode, payload)),
        Role::Client => own.put_masked_frame(out, opcode, payload, [0; 4]),
    }
    let frame = &out[start..];
    let extended = match frame[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if from == Role::Client { 4 } else { 0 };
    (frame[0] & 0x40 != 0).then(|| frame[2 + extended + mask..].to_vec())
}

fn put(stream: &mut Vec<u8>, to: Role, first: u8, payload: &[u8]) {
    let start = stream.len();
    match to {
        Role::Client => stream.extend(frame(first, payload)),
        Role::Server => {
            put_masked_frame(stream, Opcode::Binary, payload, [7, 0, 200, 31]);
            stream[start] = first;
        }
    }
}

/// Deflates, flushes and takes the tail off. A flush of nothing gives nothing, as it does in zlib.
pub(crate) fn their_message(theirs: &mut CompressorOxide, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() * 2 + 100];
    let result = miniz_oxide::deflate::stream::deflate(theirs, payload, &mut out, MZFlush::Sync);
    assert_eq!(result.bytes_consumed, payload.len());
    out.truncate(result.bytes_written);
    assert!(out.is_empty() || out.ends_with(TAIL), "{out:02x?}");
    out.truncate(out.len().saturating_sub(TAIL.len()));
    out
}

pub(crate) fn their_inflated(theirs: &mut InflateState, deflated: &[u8]) -> Vec<u8> {
    let mut input = &[deflated, TAIL].concat()[..];
    let mut inflated = Vec::new();
    loop {
        let mut out = [0; 4096];
        let result = inflate(theirs, input, &mut out, MZFlush::None);
        assert!(matches!(result.status, Ok(_) | Err(MZError::Buf)), "{result:?}");
        inflated.extend(&out[..result.bytes_written]);
        input = &input[result.bytes_consumed..];
        if input.is_empty() && result.bytes_written < out.len() {
            return inflated;
        }
    }
}
