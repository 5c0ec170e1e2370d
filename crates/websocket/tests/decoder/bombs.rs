//! Compressed messages that would do harm: what is refused, with which code, and that nothing grows on the way.

use fanfare_websocket::deflate::{Agreed, Compressor, Inflater, Level};
use fanfare_websocket::{CloseCode, Decoder, Event, Limits, Offence, Opcode, Role};
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide};
use proptest::prelude::*;

use crate::deflate::{PLAIN, TAKEOVER, frame, noise};
use crate::peers::their_message;
use crate::{ROOMY, Seen, decode_by};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A message of so many MiB of zeroes, in a KiB each.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut theirs = CompressorOxide::with_params(DataFormat::Raw, 9, CompressionStrategy::Default, 15);
    let mut block = their_message(&mut theirs, &vec![0; MIB]);
    block.extend([0, 0, 0xff, 0xff]);
    let mut bomb = block.repeat(mebibytes);
    bomb.truncate(bomb.len() - 4);
    bomb
}

fn refused(agreed: &Agreed, inflater: &mut Inflater, limits: Limits, stream: &[u8], by: usize) -> Offence {
    let mut decoder = Decoder::with_deflate(Role::Client, agreed);
    let (seen, offence) = decode_by(&mut decoder, inflater, limits, stream.chunks(by));
    assert_eq!(seen, []);
    offence.expect("it is refused")
}

/// It may be an eighth longer than what it may become, for bytes that do not compress, and no more is kept to see.
#[test]
fn the_unread_half_of_a_message_is_bounded_as_well() {
    const LIMIT: usize = 64 * KIB;
    const MOST: usize = LIMIT + LIMIT / 8 + 64;
    let limits = Limits { message: LIMIT, fragments: 8 };
    let over = Offence::TooBig { size: MOST as u64 + 1, limit: LIMIT };
    // (the sizes of its fragments, of which the last is not the message's end, and whether they are taken)
    let rows: [(&[usize], bool); 4] =
        [(&[MOST], true), (&[MOST + 1], false), (&[MOST - 1, 1], true), (&[MOST - 1, 2], false)];
    for (sizes, fits) in rows {
        let mut first = 0x42;
        let fragments = sizes.iter().map(|size| frame(std::mem::take(&mut first), &vec![0; *size]));
        let stream = fragments.collect::<Vec<_>>().concat();
        let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
        let (seen, offence) = decode_by(&mut decoder, &mut Inflater::new(), limits, [&stream[..]]);
        assert_eq!((seen, offence), (vec![], (!fits).then_some(over)), "{sizes:?}");
    }
}

#[test]
fn a_gibibyte_from_a_mebibyte_is_never_built() {
    let bomb = bomb(1024);
    assert!((900 * KIB..1100 * KIB).contains(&bomb.len()), "{} bytes", bomb.len());
    let (half, rest) = bomb.split_at(bomb.len() / 2);
    let whole = frame(0xc2, &bomb);
    let halves = [frame(0x42, half), frame(0x80, rest)].concat();
    let text = frame(0xc1, &bomb);
    for message in [MIB, 4 * MIB] {
        let limits = Limits { message, fragments: 8 };
        for agreed in [PLAIN, TAKEOVER] {
            for (stream, by) in [(&whole, whole.len()), (&whole, 4096), (&halves, 4096), (&text, text.len())]
            {
                let mut inflater = Inflater::new();
                let offence = refused(&agreed, &mut inflater, limits, stream, by);
                assert_eq!(offence, Offence::TooBig { size: message as u64 + 1, limit: message });
                assert_eq!(offence.close_code(), CloseCode::TOO_BIG);
                let held = inflater.held_bytes();
                assert!(held <= message + 4 * KIB, "{held} bytes for a limit of {message}");
            }
        }
    }
    // One that is itself too big is refused by its header.
    let limits = Limits { message: 64 * KIB, fragments: 8 };
    let mut inflater = Inflater::new();
    let offence = refused(&PLAIN, &mut inflater, limits, &whole[..10], 10);
    assert_eq!(offence, Offence::TooBig { size: bomb.len() as u64, limit: 64 * KIB });
    assert_eq!(inflater.held_bytes(), 0);
}

#[test]
fn the_limit_is_that_of_the_inflated_message_to_the_byte() {
    for (limit, payload) in
        [1, 100, 16 * KIB, 16 * KIB + 1, 64 * KIB, 100_000].map(|limit| (limit, noise(limit + 1)))
    {
        for level in [0, 1, 9] {
            let strategies =
                [CompressionStrategy::Default, CompressionStrategy::Fixed, CompressionStrategy::HuffmanOnly];
            for strategy in strategies {
                let limits = Limits { message: limit, fragments: 8 };
                let mut theirs = CompressorOxide::with_params(DataFormat::Raw, level, strategy, 15);
                let over = frame(0xc2, &their_message(&mut theirs, &payload));
                let mut theirs = CompressorOxide::with_params(DataFormat::Raw, level, strategy, 15);
                let under = frame(0xc2, &their_message(&mut theirs, &payload[..limit]));
                let mut inflater = Inflater::new();
                let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
                let seen = decode_by(&mut decoder, &mut inflater, limits, [&under[..]]);
                assert_eq!(seen, (vec![Seen::Binary(payload[..limit].to_vec())], None));
                let offence = refused(&PLAIN, &mut inflater, limits, &over, over.len());
                assert_eq!(offence, Offence::TooBig { size: limit as u64 + 1, limit });
            }
        }
    }
}

#[test]
fn what_is_not_deflate_is_refused() {
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        ("a reserved kind of block", vec![0x06]),
        ("a stored block whose lengths differ", vec![0x00, 0x05, 0x00, 0xfa, 0xfe, 1, 2, 3, 4, 5, 0]),
        ("a stored block cut short, which the tail does not complete", vec![0x00, 100, 0, !100, 0xff, b'a']),
        ("a final block that takes the tail for its data", vec![0x01, 5, 0, !5, 0xff, b'a']),
        ("a reference to what the sender must have forgotten", vec![0xf2, 0x00, 0x11, 0x00, 0x00]),
        ("noise", [&[6][..], &noise(200)].concat()),
        ("a tail that was not taken off", [hello, &[0, 0, 0xff, 0xff][..]].concat()),
        ("a zero too many", [hello, &[0][..]].concat()),
        ("something after a final block", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x07".to_vec()),
    ];
    rows.extend((1..hello.len()).map(|length| ("a message cut short", hello[..length].to_vec())));
    for (what, payload) in rows {
        for agreed in [PLAIN, TAKEOVER] {
            for first in [0xc1, 0xc2] {
                let stream = frame(first, &payload);
                let mut inflater = Inflater::new();
                let offence = refused(&agreed, &mut inflater, ROOMY, &stream, stream.len());
                assert_eq!(offence, Offence::CorruptDeflate, "{what}: {payload:02x?}");
                assert_eq!(offence.close_code(), CloseCode::INVALID_PAYLOAD);
                // The next connection does not notice.
                let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
                let seen = decode_by(&mut decoder, &mut inflater, ROOMY, [&frame(0xc1, hello)[..]]);
                assert_eq!(seen, (vec![Seen::Text("Hello".to_owned())], None), "after {what}");
            }
        }
    }
}

#[test]
fn references_end_at_the_window_that_was_agreed() {
    let text = noise(1500).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let level = Level::new(9).unwrap();
    let mut wide = Compressor::for_connection(Role::Server, &TAKEOVER, level);
    let first = wide.compress_frame(Opcode::Text, text.as_bytes());
    let second = wide.compress_frame(Opcode::Text, &text.as_bytes()[..1000]);
    for (bits, offence) in [(None, None), (Some(12), None), (Some(10), Some(Offence::CorruptDeflate))] {
        let mut decoder =
            Decoder::with_deflate(Role::Client, &Agreed { server_max_window_bits: bits, ..TAKEOVER });
        let (seen, refused) = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, [&first[..], &second[..]]);
        assert_eq!(refused, offence, "{bits:?} bits");
        assert_eq!(seen.len(), if offence.is_none() { 2 } else { 1 });
    }
}

#[test]
fn final_blocks_are_bounded() {
    let stream = |count: usize| frame(0xc1, &[&b"\x03\x00".repeat(count)[..], b"\x00"].concat());
    for agreed in [PLAIN, TAKEOVER] {
        let mut inflater = Inflater::new();
        let mut decoder = Decoder::with_deflate(Role::Client, &agreed);
        let seen = decode_by(&mut decoder, &mut inflater, ROOMY, [&stream(16)[..]]);
        assert_eq!(seen, (vec![Seen::Text(String::new())], None));
        let many = stream(17);
        let offence = refused(&agreed, &mut inflater, ROOMY, &many, many.len());
        assert_eq!(offence, Offence::TooManyFinalBlocks { limit: 16 });
        assert_eq!(offence.close_code(), CloseCode::POLICY);
    }
}

#[test]
fn text_is_refused_before_all_of_it_is_inflated() {
    let mut text = vec![b'a'; 900 * KIB];
    let invalid = |text: &[u8]| {
        let stream = Compressor::shared(Level::FASTEST).compress_frame(Opcode::Text, text);
        let mut inflater = Inflater::new();
        let offence = refused(&PLAIN, &mut inflater, ROOMY, &stream, stream.len());
        assert_eq!(offence, Offence::InvalidUtf8);
        assert_eq!(offence.close_code(), CloseCode::INVALID_PAYLOAD);
        inflater.held_bytes()
    };
    *text.last_mut().unwrap() = 0xff;
    assert!(invalid(&text) > 900 * KIB);
    text[1000] = 0xff;
    assert!(invalid(&text) <= 32 * KIB);
    assert!(invalid(&[&[b'a'; 100][..], &"🦀".as_bytes()[..3]].concat()) <= 32 * KIB);

    // A character may lie across any boundary within.
    for shift in 0..4 {
        let text = "a".repeat(shift) + &"🦀".repeat(20_000);
        let stream = Compressor::shared(Level::FASTEST).compress_frame(Opcode::Text, text.as_bytes());
        let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
        let seen = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, [&stream[..]]);
        assert!(seen == (vec![Seen::Text(text)], None), "shifted by {shift}");
    }
}

#[test]
fn a_connection_keeps_nothing_or_its_peers_window() {
    let mut inflater = Inflater::new();
    let payload = noise(600_000).iter().map(|byte| byte & 15).collect::<Vec<_>>();
    for (agreed, window) in [
        (PLAIN, 0),
        (TAKEOVER, 32 * KIB),
        (Agreed { client_max_window_bits: Some(10), ..TAKEOVER }, KIB),
        (Agreed { client_max_window_bits: Some(8), ..TAKEOVER }, 512),
    ] {
        let mut compressor = Compressor::for_connection(Role::Client, &agreed, Level::FASTEST);
        let mut decoder = Decoder::with_deflate(Role::Server, &agreed);
        assert!(size_of_val(&decoder) <= 16);
        assert_eq!(decoder.held_bytes(), 0);
        let mut sent = 0;
        for size in [0, 1, 100, 300, 5_000, 40_000, 600_000, 100] {
            let mut stream = Vec::new();
            compressor.put_masked_frame(&mut stream, Opcode::Binary, &payload[..size], [1, 2, 3, 4]);
            let mut input = &mut stream[..];
            let event = decoder.next_inflating(&mut input, &ROOMY, &mut inflater);
            assert!(event == Ok(Some(Event::Binary(&payload[..size]))), "{size} bytes");
            assert_eq!(decoder.next_inflating(&mut input, &ROOMY, &mut inflater), Ok(None));
            assert!(decoder.is_idle());
            sent += size;
            let most = if window == 0 { 0 } else { window.min(2 * sent) + 300 };
            assert!(decoder.held_bytes() <= most, "{} bytes, of {most}", decoder.held_bytes());
        }
    }
    // A big message does not stay in the memory that is shared, either.
    assert!(inflater.held_bytes() <= 256 * KIB, "{} bytes", inflater.held_bytes());
}

#[test]
fn half_a_compressed_message_keeps_its_compressed_bytes_only() {
    let stream = frame(0xc2, &bomb(1));
    for agreed in [PLAIN, TAKEOVER] {
        let mut inflater = Inflater::new();
        let mut decoder = Decoder::with_deflate(Role::Client, &agreed);
        let half = &stream[..stream.len() / 2];
        assert_eq!(decode_by(&mut decoder, &mut inflater, ROOMY, [half]), (vec![], None));
        assert!(!decoder.is_idle());
        assert!(decoder.held_bytes() <= half.len() + 300, "{} bytes", decoder.held_bytes());
        assert_eq!(inflater.held_bytes(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Whatever comes, it is an event within the limit or an offence, and the same however it was cut.
    #[test]
    fn anything_may_come(
        mut payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(bomb(1)),
            "[a-f]{0,900}".prop_map(|text| {
                let mut theirs = CompressorOxide::with_params(DataFormat::Raw, 9, CompressionStrategy::Default, 15);
                their_message(&mut theirs, text.as_bytes())
            }),
        ],
        harm in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        by in 1..300_usize,
        kind in 0..2_u8,
        context in any::<bool>(),
    ) {
        for (place, bits) in harm {
            let length = payload.len().max(1);
            if let Some(byte) = payload.get_mut(place.index(length)) {
                *byte ^= bits;
            }
        }
        let agreed = if context { TAKEOVER } else { PLAIN };
        let limits = Limits { message: 2000, fragments: 8 };
        let stream = [frame(0xc1 + kind, &payload), frame(0xc1, b"\xf2\x00\x11\x00\x00")].concat();
        let mut inflater = Inflater::new();
        let whole = decode_by(&mut Decoder::with_deflate(Role::Client, &agreed), &mut inflater, limits, [&stream[..]]);
        let cut = decode_by(&mut Decoder::with_deflate(Role::Client, &agreed), &mut inflater, limits, stream.chunks(by));
        prop_assert_eq!(&whole, &cut);
        prop_assert!(inflater.held_bytes() <= 16 * KIB);
        for seen in &whole.0 {
            match seen {
                Seen::Text(text) => prop_assert!(text.len() <= 2000),
                Seen::Binary(bytes) => prop_assert!(bytes.len() <= 2000),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
