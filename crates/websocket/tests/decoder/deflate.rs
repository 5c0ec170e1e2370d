//! Compressed messages, byte by byte: those of RFC 7692, and what may and may not be in ours.

use fanfare_websocket::deflate::{Agreed, Compressor, Inflater, Level, Offer, Policy, Shared};
use fanfare_websocket::{Decoder, Offence, Opcode, Role, put_masked_frame};
use flate2::{Decompress, FlushDecompress};

use crate::{ROOMY, Seen, decode_by};

pub(crate) const PLAIN: Agreed = Agreed {
    server_no_context_takeover: true,
    client_no_context_takeover: true,
    server_max_window_bits: None,
    client_max_window_bits: None,
};
pub(crate) const TAKEOVER: Agreed =
    Agreed { server_no_context_takeover: false, client_no_context_takeover: false, ..PLAIN };

/// Bytes that do not compress.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    std::iter::repeat_with(|| random.u8(..)).take(size).collect()
}

/// A server's frame, for which nothing is too wrong.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(length as u8),
        Ok(length) => frame.extend([&[126][..], &length.to_be_bytes()].concat()),
        Err(_) => frame.extend([&[127][..], &(payload.len() as u64).to_be_bytes()].concat()),
    }
    frame.extend(payload);
    frame
}

#[test]
fn messages_are_those_of_the_rfc() {
    let hello = Seen::Text("Hello".to_owned());
    let check = |agreed: &Agreed, frames: &[&[u8]], expected: &[Seen]| {
        let stream = frames.concat();
        for size in 1..=stream.len() {
            let mut decoder = Decoder::with_deflate(Role::Client, agreed);
            let seen = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, stream.chunks(size));
            assert_eq!(seen, (expected.to_vec(), None), "{frames:02x?} by {size}");
        }
    };
    // §7.2.3.1, in one frame and in two.
    let first = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";
    check(&PLAIN, &[first], std::slice::from_ref(&hello));
    check(&PLAIN, &[b"\x41\x03\xf2\x48\xcd", b"\x80\x04\xc9\xc9\x07\x00"], std::slice::from_ref(&hello));
    // §7.2.3.2: again without context, and with.
    check(&PLAIN, &[first, first], &[hello.clone(), hello.clone()]);
    check(&TAKEOVER, &[first, b"\xc1\x05\xf2\x00\x11\x00\x00"], &[hello.clone(), hello.clone()]);
    // §7.2.3.3: a block that is not compressed.
    check(&PLAIN, &[b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"], std::slice::from_ref(&hello));
    // §7.2.3.4: a final block. The context goes on after it.
    let last = b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00";
    check(&PLAIN, &[last], std::slice::from_ref(&hello));
    check(&TAKEOVER, &[last, b"\xc1\x05\xf2\x00\x11\x00\x00"], &[hello.clone(), hello.clone()]);
    // §7.2.3.5: two blocks.
    let two = b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00";
    check(&PLAIN, &[two], std::slice::from_ref(&hello));
    // §7.2.3.6: an empty message.
    check(&PLAIN, &[b"\xc1\x01\x00"], &[Seen::Text(String::new())]);
    // A message may be compressed or not, each for itself.
    check(
        &TAKEOVER,
        &[first, b"\x82\x01\x07", b"\xc1\x05\xf2\x00\x11\x00\x00"],
        &[hello.clone(), Seen::Binary(vec![7]), hello.clone()],
    );
}

#[test]
fn what_others_send_against_the_rfc_and_nobody_is_hurt_by() {
    for (payload, expected) in [
        // zlib flushes nothing to nothing, and that without its tail is nothing.
        (&b""[..], ""),
        // A final block, and nothing after it.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00", "Hello"),
        // Two streams, the second of which refers to the first.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x00\x11\x00\x00", "HelloHello"),
    ] {
        for agreed in [PLAIN, TAKEOVER] {
            let mut decoder = Decoder::with_deflate(Role::Client, &agreed);
            let seen = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, [&frame(0xc1, payload)[..]]);
            assert_eq!(seen, (vec![Seen::Text(expected.to_owned())], None), "{payload:02x?}");
        }
    }
}

#[test]
fn we_send_what_the_rfc_sends() {
    let level = Level::new(6).unwrap();
    let mut own = Compressor::for_connection(Role::Server, &TAKEOVER, level);
    assert_eq!(own.compress_frame(Opcode::Text, b"Hello")[..], *b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00");
    assert_eq!(own.compress_frame(Opcode::Text, b"Hello")[..], *b"\xc1\x05\xf2\x00\x11\x00\x00");
    assert_eq!(own.compress_frame(Opcode::Binary, b"")[..], *b"\xc2\x01\x00");
    assert_eq!(own.compress_frame(Opcode::Text, b"Hello")[..], *b"\xc1\x04\x02\x13\x00\x00");
}

#[test]
fn what_does_not_shrink_is_sent_plain_where_there_is_no_context() {
    let noise = noise(1000);
    for level in 1..=9 {
        let mut shared = Compressor::shared(Level::new(level).unwrap());
        for payload in [&b""[..], b"Hello", &noise] {
            assert_eq!(shared.compress_frame(Opcode::Binary, payload), frame(0x82, payload), "level {level}");
            let mut theirs = Vec::new();
            put_masked_frame(&mut theirs, Opcode::Binary, payload, [1, 2, 3, 4]);
            let mut ours = Vec::new();
            shared.put_masked_frame(&mut ours, Opcode::Binary, payload, [1, 2, 3, 4]);
            assert_eq!(ours, theirs);
        }
        assert_eq!(shared.compress_frame(Opcode::Text, &[b'a'; 100])[0], 0xc1);
    }
    assert_eq!((Level::new(0), Level::new(10), Level::new(1)), (None, None, Some(Level::FASTEST)));
}

#[test]
#[should_panic(expected = "Ping cannot be compressed")]
fn control_frames_cannot_be_compressed() {
    let _ = Compressor::shared(Level::FASTEST).compress_frame(Opcode::Ping, b"?");
}

#[test]
fn reserved_bits_mean_something_only_at_the_beginning_of_a_message() {
    let begun = frame(0x41, b"\xf2\x48");
    let rows = [
        (frame(0xc9, b""), true),
        (frame(0xca, b""), true),
        (frame(0xc8, b""), true),
        ([begun.clone(), frame(0xc0, b"\xcd")].concat(), true),
        ([begun.clone(), frame(0x40, b"\xcd")].concat(), true),
        (frame(0xe1, b""), true),
        (frame(0xd2, b""), true),
        (frame(0xa1, b""), true),
        (frame(0xc3, b""), true),
        ([begun, frame(0x89, b"")].concat(), false),
    ];
    for (stream, refused) in rows {
        for size in [1, stream.len()] {
            let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
            let (_, offence) = decode_by(&mut decoder, &mut Inflater::new(), ROOMY, stream.chunks(size));
            assert_eq!(offence, refused.then_some(Offence::ReservedBits), "{stream:02x?}");
        }
    }
    // Without an inflater nothing can be made of it, though it was agreed on.
    let mut decoder = Decoder::with_deflate(Role::Client, &PLAIN);
    let mut stream = frame(0xc1, b"\x00");
    assert_eq!(decoder.next(&mut &mut stream[..], &ROOMY), Err(Offence::ReservedBits));
}

#[test]
fn nothing_refers_to_more_than_the_window() {
    // Repeats at every distance, so that a compressor takes as much as it is given.
    let mut payload = noise(40_000);
    for distance in (100..40_000).step_by(97) {
        payload.extend_from_within(payload.len() - distance..payload.len() - distance + 40);
        payload.extend(&noise(distance)[distance - 9..]);
    }
    for level in 1..=9 {
        for bits in 9..=15 {
            let offer = Offer { server_max_window_bits: Some(bits), ..Offer::default() };
            let policy = Policy { server_context_takeover: true, ..Policy::default() };
            let agreed = policy.answer(&offer).unwrap();
            let mut own = Compressor::for_connection(Role::Server, &agreed, Level::new(level).unwrap());
            let window = 1 << bits;
            let mut strict = Decompress::new_with_window_bits(false, bits);
            for payload in [&payload[..], &payload[..window], &payload] {
                let frame = own.compress_frame(Opcode::Binary, payload);
                assert_eq!(frame[0], 0xc2);
                let skip = if frame[1] == 126 { 4 } else { 10 };
                let inflated = inflate_strictly(&mut strict, &[&frame[skip..], TAIL].concat());
                assert!(inflated == payload, "level {level}, {bits} bits");
            }

            let agreed = Policy::default().answer(&offer).unwrap();
            let level = Level::new(level).unwrap();
            let (mut shared, near) = match agreed.shared() {
                Some(Shared::Widely) => (Compressor::shared(level), window),
                Some(Shared::Narrowly) => (Compressor::shared_narrowly(level), 1 << 9),
                None => panic!("{agreed} shares no frames"),
            };
            // Near enough for all that share its window, and then again from too far away.
            let (near, far) = (&payload[..near / 4], &payload[near / 4..near + near / 2]);
            let repeated = [near, near, near, near, far, near].concat();
            let frame = shared.compress_frame(Opcode::Binary, &repeated);
            assert_eq!(frame[0], 0xc2);
            let skip = if frame[1] == 126 { 4 } else { 10 };
            let mut strict = Decompress::new_with_window_bits(false, bits);
            assert!(inflate_strictly(&mut strict, &[&frame[skip..], TAIL].concat()) == repeated);
        }
    }
}

#[test]
fn context_slides_over_many_messages() {
    for bits in 9..=15 {
        let agreed = Agreed { client_max_window_bits: Some(bits), ..TAKEOVER };
        let mut own = Compressor::for_connection(Role::Client, &agreed, Level::new(9).unwrap());
        let mut decoder = Decoder::with_deflate(Role::Server, &agreed);
        let mut inflater = Inflater::new();
        let said = noise(1 << (bits + 1));
        let size = said.len() / 10;
        for start in (0..said.len() - size).step_by(size / 2) {
            // Half of each message is in the one before it.
            let message = &said[start..start + size];
            let mut stream = Vec::new();
            own.put_masked_frame(&mut stream, Opcode::Binary, message, [9, 8, 7, 6]);
            assert!(start == 0 || stream.len() < size * 3 / 4, "{bits} bits, from {start}: {}", stream.len());
            let seen = decode_by(&mut decoder, &mut inflater, ROOMY, [&stream[..]]);
            assert!(seen == (vec![Seen::Binary(message.to_vec())], None), "{bits} bits, from {start}");
        }
    }
}

/// Inflates byte by byte, so that nothing but the window is there to refer to.
fn inflate_strictly(inflate: &mut Decompress, mut deflated: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let (taken, made) = (inflate.total_in(), inflate.total_out());
        let mut byte = [0];
        inflate.decompress(deflated, &mut byte, FlushDecompress::None).expect("nothing is too far back");
        deflated = &deflated[(inflate.total_in() - taken) as usize..];
        if inflate.total_out() == made && deflated.is_empty() {
            return out;
        }
        out.extend(&byte[..(inflate.total_out() - made) as usize]);
    }
}

/// What a flush ends with.
pub(crate) const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
