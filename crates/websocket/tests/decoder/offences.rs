//! Every offence, by name, whole and byte by byte; and the borderline cases that are none.

use fanfare_websocket::{CloseCode, Decoder, Limits, Offence, Opcode, Role, close_frame, put_masked_frame};

use crate::{ROOMY, Seen, decode};

const SMALL: Limits = Limits { message: 200, fragments: 3 };

/// A client's frame with a mask of nothing, so that its payload can be read here.
fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short payload");
    let mut frame = match length {
        0..126 => vec![first, 0x80 | length],
        126.. => vec![first, 0x80 | 126, 0, length],
    };
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn check(stream: &[u8], seen: &[Seen], offence: Offence, code: CloseCode) {
    let expected = (seen.to_vec(), Some(offence));
    assert_eq!(decode(Role::Server, SMALL, [stream]), expected, "{stream:02x?}");
    assert_eq!(decode(Role::Server, SMALL, stream.chunks(1)), expected, "{stream:02x?} byte by byte");
    assert_eq!(offence.close_code(), code);
}

#[test]
fn a_header_that_breaks_the_protocol() {
    let rows: [(&[u8], Offence); 18] = [
        (&[0xc1, 0x80], Offence::ReservedBits),
        (&[0xa1, 0x80], Offence::ReservedBits),
        (&[0x91, 0x80], Offence::ReservedBits),
        (&[0xc9, 0x80], Offence::ReservedBits),
        (&[0x83, 0x80], Offence::ReservedOpcode(3)),
        (&[0x87, 0x80], Offence::ReservedOpcode(7)),
        (&[0x8b, 0x80], Offence::ReservedOpcode(11)),
        (&[0x0f, 0x80], Offence::ReservedOpcode(15)),
        (&[0x81, 0x00], Offence::Unmasked),
        (&[0x88, 0x00], Offence::Unmasked),
        (&[0x08, 0x80], Offence::FragmentedControl),
        (&[0x09, 0x80], Offence::FragmentedControl),
        (&[0x0a, 0x80], Offence::FragmentedControl),
        (&[0x89, 0xfe], Offence::ControlTooLong),
        (&[0x88, 0xff], Offence::ControlTooLong),
        (&[0x82, 0xfe, 0, 125], Offence::LengthNotMinimal(125)),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Offence::LengthNotMinimal(65_535)),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], Offence::LengthTopBit),
    ];
    for (header, offence) in rows {
        check(header, &[], offence, CloseCode::PROTOCOL_ERROR);
    }
    let expected = (vec![], Some(Offence::Masked));
    assert_eq!(decode(Role::Client, SMALL, [&[0x81, 0x80][..]]), expected);
}

#[test]
fn frames_out_of_order() {
    let ping = client(0x89, b"?");
    let pinged = Seen::Ping(b"?".to_vec());
    let rows = [
        (vec![client(0x80, b"")], vec![], Offence::NothingToContinue),
        (vec![client(0x00, b"a")], vec![], Offence::NothingToContinue),
        (
            vec![client(0x81, b"a"), client(0x80, b"b")],
            vec![Seen::Text("a".into())],
            Offence::NothingToContinue,
        ),
        (
            vec![client(0x01, b"a"), client(0x80, b"b"), client(0x80, b"c")],
            vec![Seen::Text("ab".into())],
            Offence::NothingToContinue,
        ),
        (vec![client(0x01, b"a"), client(0x81, b"b")], vec![], Offence::Interrupted),
        (vec![client(0x02, b""), client(0x01, b"")], vec![], Offence::Interrupted),
        (vec![client(0x02, b""), ping, client(0x82, b"")], vec![pinged], Offence::Interrupted),
    ];
    for (frames, seen, offence) in rows {
        check(&frames.concat(), &seen, offence, CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn close_frames_that_say_nonsense() {
    let check = |payload: &[u8], offence, code| check(&client(0x88, payload), &[], offence, code);
    check(b"\x03", Offence::CloseCodeCutShort, CloseCode::PROTOCOL_ERROR);
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        check(&code.to_be_bytes(), Offence::InvalidCloseCode(code), CloseCode::PROTOCOL_ERROR);
    }
    check(b"\x03\xe8\xce\xba\xed\xa0", Offence::InvalidCloseReason, CloseCode::INVALID_PAYLOAD);
}

#[test]
fn too_much() {
    let hundred = [b'x'; 100];
    let hundred_and_one = [b'x'; 101];
    let ping = client(0x89, &[b'?'; 125]);
    let pinged = Seen::Ping(vec![b'?'; 125]);
    let too_big = |size| Offence::TooBig { size, limit: 200 };
    let many = Offence::TooManyFragments { limit: 3 };
    // The last frames are headers alone: a claim is enough.
    let rows = [
        (client(0x81, &[b'x'; 201])[..8].to_vec(), vec![], too_big(201)),
        (vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![], too_big(65_536)),
        (
            [vec![0x02, 0x80, 0, 0, 0, 0, 0x80, 0xff, 0x7f], vec![0xff; 7], vec![0; 4]].concat(),
            vec![],
            too_big(i64::MAX as u64),
        ),
        (
            [client(0x02, &hundred), ping.clone(), client(0x80, &hundred_and_one)[..6].to_vec()].concat(),
            vec![pinged],
            too_big(201),
        ),
        (
            [client(0x01, &hundred), vec![0x80, 0xff, 0x7f], vec![0xff; 7], vec![0; 4]].concat(),
            vec![],
            too_big(i64::MAX as u64 + 100),
        ),
        ([client(0x02, b""), client(0, b""), client(0, b""), client(0x80, b"")].concat(), vec![], many),
        ([client(0x01, b"a"), client(0, b"b"), client(0, b"c"), client(0, b"d")].concat(), vec![], many),
    ];
    for (stream, seen, offence) in rows {
        let code = if offence == many { CloseCode::POLICY } else { CloseCode::TOO_BIG };
        check(&stream, &seen, offence, code);
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_before_its_frame_is_complete() {
    let prefix = "κόσμε".as_bytes();
    // A surrogate, and a code point beyond the last: Autobahn's cases 6.4.1 to 6.4.4.
    for (wrong, good) in
        [(&b"\xed\xa0\x80edited"[..], 1), (b"\xf4\x90\x80\x80", 1), (b"\xff", 0), (b"ok\x80", 2)]
    {
        let text = [prefix, wrong].concat();
        let first_wrong = 6 + prefix.len() + good;
        let whole = client(0x81, &text);
        check(&whole, &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        assert_eq!(decode(Role::Server, SMALL, whole[..first_wrong].chunks(1)), (vec![], None));
        assert_eq!(decode(Role::Server, SMALL, [&whole[..first_wrong]]), (vec![], None));
        check(&whole[..=first_wrong], &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        // In the first fragment, and in a later one, of a message that would go on.
        check(&client(0x01, &text), &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        let later = [client(0x01, prefix), client(0x00, wrong)].concat();
        check(&later, &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
    }
    for cut in 1..4 {
        let begun = &"🦀".as_bytes()[..cut];
        check(&client(0x81, begun), &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        let ended = [client(0x01, begun), client(0x80, b"")].concat();
        check(&ended, &[], Offence::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
    }
}

#[test]
fn what_is_only_just_lawful() {
    let split = "🦀".as_bytes();
    let rows = [
        (client(0x81, b""), Seen::Text(String::new())),
        (client(0x82, &[0xff; 200]), Seen::Binary(vec![0xff; 200])),
        (client(0x89, &[0xff; 125]), Seen::Ping(vec![0xff; 125])),
        (client(0x8a, b""), Seen::Pong(vec![])),
        (client(0x88, b""), Seen::Close(None, String::new())),
        (client(0x88, b"\x0f\xa0"), Seen::Close(Some(4000), String::new())),
        ([client(0x02, b""), client(0, b""), client(0x80, b"")].concat(), Seen::Binary(vec![])),
        ([client(0x02, &[1; 199]), client(0, &[1]), client(0x80, b"")].concat(), Seen::Binary(vec![1; 200])),
        (
            [client(0x01, &split[..1]), client(0, &split[1..3]), client(0x80, &split[3..])].concat(),
            Seen::Text("🦀".into()),
        ),
        (client(0x81, "\0\u{fffe}\u{10ffff}".as_bytes()), Seen::Text("\0\u{fffe}\u{10ffff}".into())),
    ];
    for (stream, seen) in rows {
        let expected = (vec![seen], None);
        assert_eq!(decode(Role::Server, SMALL, [&stream[..]]), expected);
        assert_eq!(decode(Role::Server, SMALL, stream.chunks(1)), expected);
    }
}

/// It must not be done, but a peer must not be able to make anything of it.
#[test]
fn a_decoder_used_after_an_offence_does_not_panic() {
    for first in 0..=u8::MAX {
        for second in [0x00, 0x80, 0x81, 0xfe, 0xff] {
            let mut decoder = Decoder::new(Role::Server);
            for byte in [first, second].into_iter().chain([0x83; 60]) {
                let _ = decoder.next(&mut &mut [byte][..], &SMALL);
            }
        }
    }
}

#[test]
fn a_client_reads_what_a_server_sends() {
    let close = close_frame(CloseCode::SERVICE_RESTART, "service restart");
    let seen = Seen::Close(Some(1012), "service restart".into());
    assert_eq!(decode(Role::Client, ROOMY, [&close[..]]), (vec![seen], None));
    let mut masked = Vec::new();
    put_masked_frame(&mut masked, Opcode::Text, b"masked", [1, 2, 3, 4]);
    assert_eq!(decode(Role::Client, ROOMY, [&masked[..]]), (vec![], Some(Offence::Masked)));
}
