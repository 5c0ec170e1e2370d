//! Protobuf by hand, from the description of the wire format, so that no test trusts the library that it tests.

/// One field: its number, and its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(u64),
    Bytes(Vec<u8>),
}

/// The bytes of a message.
pub fn message(fields: &[(u32, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in fields {
        match value {
            Value::Int(int) => {
                varint(&mut out, u64::from(*number) << 3);
                varint(&mut out, *int);
            }
            Value::Bytes(bytes) => {
                varint(&mut out, u64::from(*number) << 3 | 2);
                varint(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// The fields of a message, in the order in which they come.
pub fn fields(mut bytes: &[u8]) -> Vec<(u32, Value)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Int(read_varint(&mut bytes)),
            2 => {
                let length = read_varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.push(((key >> 3) as u32, value));
    }
    fields
}

/// Messages with their lengths before them.
pub fn frame(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        varint(&mut out, message.len() as u64);
        out.extend_from_slice(message);
    }
    out
}

/// The messages of a frame.
pub fn unframe(mut frame: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while !frame.is_empty() {
        let length = read_varint(&mut frame) as usize;
        let (message, rest) = frame.split_at(length);
        frame = rest;
        messages.push(message.to_vec());
    }
    messages
}

pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole varint");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// Shorthand for a field that holds bytes, text or a message.
pub fn bytes(number: u32, value: impl AsRef<[u8]>) -> (u32, Value) {
    (number, Value::Bytes(value.as_ref().to_vec()))
}

/// Shorthand for a field that holds a number or a bool.
pub fn int(number: u32, value: u64) -> (u32, Value) {
    (number, Value::Int(value))
}
