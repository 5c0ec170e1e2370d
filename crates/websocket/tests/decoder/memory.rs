//! What a connection costs: nothing while it is idle, and never more than what has arrived.

use fanfare_websocket::{Decoder, Event, Limits, Opcode, Role, put_masked_frame};

use crate::ROOMY;

fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_masked_frame(&mut out, opcode, payload, [0x9a, 0x3c, 0x71, 0x05]);
    out
}

#[test]
fn whole_frames_are_borrowed_and_leave_nothing_behind() {
    let mut bytes = [
        masked(Opcode::Text, &[b'a'; 300]),
        masked(Opcode::Ping, b"?"),
        masked(Opcode::Binary, &[b'b'; 70_000]),
    ]
    .concat();
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new(Role::Server);
    let mut input = &mut bytes[..];
    let mut lengths = Vec::new();
    while let Some(event) = decoder.next(&mut input, &ROOMY).unwrap() {
        let payload = match event {
            Event::Text(text) => text.as_bytes(),
            Event::Binary(bytes) | Event::Ping(bytes) => bytes,
            other => panic!("{other:?}"),
        };
        assert!(range.contains(&payload.as_ptr()), "the payload was copied");
        lengths.push(payload.len());
        assert_eq!((decoder.is_idle(), decoder.held_bytes()), (true, 0));
    }
    assert_eq!(lengths, [300, 1, 70_000]);
}

#[test]
fn a_frame_that_arrived_whole_is_borrowed_even_if_its_header_did_not() {
    let mut decoder = Decoder::new(Role::Server);
    let mut bytes = masked(Opcode::Binary, &[7; 500]);
    let (mut head, mut rest) = bytes.split_at_mut(3);
    assert_eq!(decoder.next(&mut head, &ROOMY), Ok(None));
    assert!(!decoder.is_idle());
    let range = rest.as_ptr_range();
    let Ok(Some(Event::Binary(payload))) = decoder.next(&mut rest, &ROOMY) else { panic!("a message") };
    assert!(range.contains(&payload.as_ptr()), "the payload was copied");
    assert_eq!(decoder.next(&mut rest, &ROOMY), Ok(None));
    assert_eq!((decoder.is_idle(), decoder.held_bytes()), (true, 0));
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_claimed() {
    let limits = Limits { message: usize::MAX, fragments: 8 };
    for opcode in [0x81, 0x01, 0x82, 0x02] {
        let mut decoder = Decoder::new(Role::Server);
        let mut bytes = vec![opcode, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, b'x'];
        assert_eq!(decoder.next(&mut &mut bytes[..], &limits), Ok(None));
        assert!(decoder.held_bytes() < 300, "{} bytes for one", decoder.held_bytes());
        for arrived in (1000..20_000).step_by(1000) {
            assert_eq!(decoder.next(&mut &mut vec![b'x'; 1000][..], &limits), Ok(None));
            assert!(decoder.held_bytes() < 2 * arrived + 300, "{} bytes for {arrived}", decoder.held_bytes());
        }
    }
}

#[test]
fn after_an_incomplete_message_nothing_is_kept() {
    for opcode in [Opcode::Text, Opcode::Binary, Opcode::Ping, Opcode::Close] {
        let payload = if opcode == Opcode::Close { &b"\x03\xe8bye"[..] } else { &[b'x'; 100] };
        let mut decoder = Decoder::new(Role::Server);
        let mut bytes = masked(opcode, payload);
        let (before, after) = bytes.split_at_mut(9);
        assert_eq!(decoder.next(&mut &mut before[..], &ROOMY), Ok(None));
        assert!(!decoder.is_idle() && decoder.held_bytes() > 0);
        let mut input = after;
        assert!(decoder.next(&mut input, &ROOMY).unwrap().is_some());
        assert!(decoder.is_idle(), "only the event is held now");
        assert!(decoder.held_bytes() > 0);
        assert_eq!(decoder.next(&mut input, &ROOMY), Ok(None));
        assert_eq!((decoder.is_idle(), decoder.held_bytes()), (true, 0));
    }
}

#[test]
fn between_fragments_the_decoder_is_not_idle() {
    let mut decoder = Decoder::new(Role::Server);
    let mut bytes = masked(Opcode::Text, b"half");
    bytes[0] &= 0x7f;
    bytes.extend(masked(Opcode::Pong, b"now"));
    let mut input = &mut bytes[..];
    assert_eq!(decoder.next(&mut input, &ROOMY), Ok(Some(Event::Pong(b"now"))));
    assert_eq!(decoder.next(&mut input, &ROOMY), Ok(None));
    assert!(!decoder.is_idle());

    // A control frame in two pieces is kept beside the message, and not longer than it is lent.
    let before = decoder.held_bytes();
    let mut ping = masked(Opcode::Ping, &[b'?'; 125]);
    let (first, mut second) = ping.split_at_mut(50);
    assert_eq!(decoder.next(&mut &mut first[..], &ROOMY), Ok(None));
    assert_eq!(decoder.next(&mut second, &ROOMY), Ok(Some(Event::Ping(&[b'?'; 125]))));
    assert_eq!(decoder.next(&mut second, &ROOMY), Ok(None));
    assert_eq!(decoder.held_bytes(), before);

    let mut end = masked(Opcode::Continuation, b" done");
    assert_eq!(decoder.next(&mut &mut end[..], &ROOMY), Ok(Some(Event::Text("half done"))));
}
