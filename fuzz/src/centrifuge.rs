//! The Centrifuge client protocol. Whatever a client's or a server's frame is, it is messages or an offence; what was
//! read is written so that it is read again. A patch gives what it was made for, and none makes more than the limit.
//!
//! An input's first byte says what follows: frames of commands (0, 1) or of replies (2, 3), in JSON (even) or Protobuf
//! (odd); two payloads, the first of them counted (4); or a payload, counted, and a patch (5).

use fanfare_protocol::centrifuge::client::{put_command, replies};
use fanfare_protocol::centrifuge::{Command, Encoding, Format};
use fanfare_protocol::delta;

use crate::Input;

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    let kind = input.byte() % 6;
    let encoding = if kind & 1 == 0 { Encoding::Json } else { Encoding::Protobuf };
    match kind {
        0 | 1 => check_commands(encoding, input.0),
        2 | 3 => check_replies(encoding, input.0),
        4 => {
            let (before, after) = (input.bytes(), input.0);
            let patch = delta::create(before, after);
            assert_eq!(delta::apply(before, &patch, after.len()).as_deref(), Ok(after));
            assert!(std::str::from_utf8(after).is_err() || std::str::from_utf8(&patch).is_ok());
        }
        _ => {
            let (before, patch) = (input.bytes(), input.0);
            if let Ok(made) = delta::apply(before, patch, 1000) {
                assert!(made.len() <= 1000);
            }
        }
    }
}

fn check_commands(encoding: Encoding, frame: &[u8]) {
    let mut ended = false;
    for command in encoding.commands(frame) {
        assert!(!ended, "there is nothing after an offence");
        let Ok(command) = command else {
            ended = true;
            continue;
        };
        let written = write(encoding, &command);
        let again = encoding.commands(&written).collect::<Vec<_>>();
        let [Ok(read)] = &again[..] else { panic!("{again:?} from {}", written.escape_ascii()) };
        assert_eq!(write(encoding, read), written);
        // A pong has no number when it is written, whatever it had, and line breaks are left out of JSON: an LF cannot
        // stand in a command, which ends with it, but a CR can.
        if command.request.name() != "pong" && !(encoding == Encoding::Json && frame.contains(&b'\r')) {
            assert_eq!(*read, command, "{}", written.escape_ascii());
        }
    }
}

fn write(encoding: Encoding, command: &Command) -> Vec<u8> {
    let mut written = Vec::new();
    put_command(encoding, &mut written, command).expect("what was read can be written");
    written
}

fn check_replies(encoding: Encoding, frame: &[u8]) {
    let formats =
        if encoding == Encoding::Json { &[Format::Json, Format::UniJson][..] } else { &[Format::Protobuf] };
    for format in formats {
        let read = replies(*format, frame).collect::<Vec<_>>();
        assert!(read.iter().rev().skip(1).all(Result::is_ok), "there is nothing after an offence");
    }
}

#[rustfmt::skip]
const SEEDS: &[(&str, u8, &[u8])] = &[
    ("connect and a call", 0, b"{\"id\":1,\"connect\":{\"token\":\"t\",\"subs\":{\"a\":{\"recover\":true,\"epoch\":\"e\",\"offset\":3}}}}\n{\"id\":2,\"rpc\":{\"method\":\"x\",\"data\":{\"a\":[1]}}}"),
    ("subscribe, publish, and a pong", 0, b"{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"tf\":{\"op\":\"and\",\"nodes\":[{\"key\":\"k\",\"cmp\":\"in\",\"vals\":[\"v\"]}]}}}\n{\"id\":2,\"publish\":{\"channel\":\"a\",\"data\":{}}}\n{}"),
    ("history and presence", 0, b"{\"id\":1,\"history\":{\"channel\":\"a\",\"limit\":-1,\"since\":{\"offset\":1,\"epoch\":\"e\"}}}\n{\"id\":2,\"presence\":{\"channel\":\"a\"}}\n{\"id\":3,\"presence_stats\":{\"channel\":\"a\"}}"),
    ("a line break in a payload", 0, b"{\"id\":2,\"rpc\":{\"method\":\"x\",\"data\":{\"a\"\r:[1]}}}"),
    ("send, refresh, leave", 0, b"{\"send\":{\"data\":1}}\n{\"id\":1,\"refresh\":{\"token\":\"t\"}}\n{\"id\":2,\"sub_refresh\":{\"channel\":\"a\",\"token\":\"t\"}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"a\"}}"),
    ("a command to do nothing", 0, b"{\"id\":1}"),
    ("an empty line", 0, b"{}\n\n{}"),
    ("no JSON", 0, b"{\"id\":"),
    ("connect in Protobuf", 1, b"\x07\x08\x01\x22\x03\x0a\x01t"),
    ("publish in Protobuf", 1, b"\x0b\x08\x02\x3a\x07\x0a\x01a\x12\x02{}"),
    ("a pong in Protobuf", 1, b"\x00"),
    ("a length that is not there", 1, b"\xff\xff\xff\xff\x0f\x08"),
    ("a reply and a push", 2, b"{\"id\":1,\"connect\":{\"client\":\"c\",\"ping\":25,\"pong\":true}}\n{\"push\":{\"channel\":\"a\",\"pub\":{\"data\":{\"n\":2},\"offset\":43}}}"),
    ("an error, and a ping", 2, b"{\"id\":2,\"error\":{\"code\":108,\"message\":\"not available\"}}\n{}"),
    ("a push to one who only listens", 2, b"{\"channel\":\"a\",\"join\":{\"info\":{\"client\":\"c\",\"user\":\"u\"}}}"),
    ("a reply in Protobuf", 3, b"\x07\x08\x01\x2a\x03\x0a\x01c"),
    ("two payloads that are alike", 4, b"\x20{\"price\":1,\"name\":\"long enough\"}{\"price\":2,\"name\":\"long enough\"}"),
    ("a patch", 5, b"\x0bhello world5\n5@6,3A4BCD;"),
];

/// The table, as inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    SEEDS.iter().map(|&(name, kind, bytes)| (name, [&[kind], bytes].concat())).collect()
}

/// The names of fields.
pub fn words() -> Vec<String> {
    quoted_words(SEEDS)
}

/// What stands in quotes in these seeds.
pub(crate) fn quoted_words(seeds: &[(&str, u8, &'static [u8])]) -> Vec<String> {
    let texts = seeds.iter().filter_map(|&(_, _, bytes)| std::str::from_utf8(bytes).ok());
    let mut words = texts.flat_map(|text| text.split('"').skip(1).step_by(2)).collect::<Vec<_>>();
    words.sort_unstable();
    words.dedup();
    words.into_iter().filter(|word| word.len() > 1).map(|word| format!("\"{word}\":")).collect()
}
