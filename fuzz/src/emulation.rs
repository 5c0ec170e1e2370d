//! The body of a request to `/emulation`. Whatever it is, it is one request or an offence; what was read is read
//! again out of either encoding, as what it was. What is said in it is frames, and another target's: see
//! `centrifuge`.
//!
//! An input's first byte says how the rest is read: as JSON (even), or as Protobuf (odd).

use fanfare_protocol::centrifuge::{EmulationRequest, Encoding};

use crate::Input;
use crate::centrifuge::quoted_words;

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    let encoding = if input.byte() & 1 == 0 { Encoding::Json } else { Encoding::Protobuf };
    let Ok(request) = EmulationRequest::read(encoding, input.0) else { return };
    let EmulationRequest { node, session, data } = &request;
    // Nothing is in it that was not sent.
    assert!(node.len() + session.len() + data.len() <= input.0.len(), "{request:?}");
    let again = EmulationRequest::read(Encoding::Protobuf, &protobuf(&request));
    assert_eq!(again.as_ref(), Ok(&request));
    match str::from_utf8(data) {
        Ok(text) => {
            let written =
                format!("{{\"node\":{},\"session\":{},\"data\":{}}}", json(node), json(session), json(text));
            let again = EmulationRequest::read(Encoding::Json, written.as_bytes());
            assert_eq!(again.as_ref(), Ok(&request), "{written}");
        }
        Err(_) => assert_eq!(encoding, Encoding::Protobuf, "a string of JSON is text"),
    }
}

/// In the encoding's own terms: for each field its number and kind, its length, its bytes.
fn protobuf(EmulationRequest { node, session, data }: &EmulationRequest) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, bytes) in [(1, node.as_bytes()), (2, session.as_bytes()), (3, &data[..])] {
        out.push(number << 3 | 2);
        let mut length = bytes.len();
        while length > 0x7F {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
    }
    out
}

/// A string (RFC 8259, section 7).
fn json(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..' ' => out += &format!("\\u{:04x}", u32::from(character)),
            _ => out.push(character),
        }
    }
    out + "\""
}

#[rustfmt::skip]
const SEEDS: &[(&str, u8, &[u8])] = &[
    ("a call", 0, br#"{"node":"3575c2cb-5b4c-4b8e-9f0e-000000000001","session":"s","data":"{\"id\":2,\"rpc\":{\"method\":\"x\"}}"}"#),
    ("two commands, and a pong", 0, br#"{"session":"s","node":"n","data":"{\"id\":2,\"publish\":{\"channel\":\"a\",\"data\":{}}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"a\"}}\n{}"}"#),
    ("nothing said", 0, br#"{"node":"n","session":"s","data":""}"#),
    ("null", 0, br#"{"node":null,"session":null,"data":null}"#),
    ("no fields", 0, b"{}"),
    ("an unknown field", 0, br#"{"node":"n","more":[{"a":1}],"data":"{}"}"#),
    ("a field twice", 0, br#"{"node":"n","node":"m","data":"{}"}"#),
    ("data that is no string", 0, br#"{"node":"n","session":"s","data":{"id":2}}"#),
    ("escapes", 0, br#"{"node":"\u00e9\ud83d\ude00","session":"\"\\\/","data":"\t\u0000\u001f"}"#),
    ("half a pair", 0, br#"{"node":"\ud83d","session":"s","data":"{}"}"#),
    ("an array", 0, br#"["n","s","{}"]"#),
    ("more behind it", 0, b"{\"node\":\"n\"} {}"),
    ("no JSON", 0, b"{\"node\":"),
    ("no text", 0, b"{\"node\":\"\xff\"}"),
    ("a call in Protobuf", 1, b"\x0a\x01n\x12\x01s\x1a\x0a\x09\x08\x02\x5a\x05\x12\x03x\x0a\x00"),
    ("two commands in Protobuf", 1, b"\x0a\x01n\x12\x01s\x1a\x0d\x0b\x08\x02\x3a\x07\x0a\x01a\x12\x02{}\x00"),
    ("an unknown field in Protobuf", 1, b"\x0a\x01n\x22\x03abc\x2a\x02\x08\x01\x30\x05"),
    ("a field twice in Protobuf", 1, b"\x0a\x01n\x0a\x02mm"),
    ("a length that is not there", 1, b"\x1a\xff\xff\xff\xff\x0f\x00"),
    ("a field of another kind", 1, b"\x08\x01"),
    ("a name that is no text", 1, b"\x0a\x01\xff"),
];

/// The table, as inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    SEEDS.iter().map(|&(name, kind, bytes)| (name, [&[kind], bytes].concat())).collect()
}

/// The names of fields.
pub fn words() -> Vec<String> {
    quoted_words(SEEDS)
}
