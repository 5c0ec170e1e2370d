//! Protobuf as short messages have it, written and read by hand.

use std::collections::BTreeMap;

/// Bytes as a field of a message, fewer than 128.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// A message's fields by their numbers: what is a number as one byte, and bytes.
pub fn fields(mut message: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut fields = BTreeMap::new();
    while !message.is_empty() {
        let (key, value) = (varint(&mut message), varint(&mut message));
        let taken = match key & 7 {
            0 => vec![value as u8],
            2 => {
                let (taken, rest) = message.split_at(value as usize);
                message = rest;
                taken.to_vec()
            }
            kind => panic!("a field of kind {kind}"),
        };
        fields.insert(key >> 3, taken);
    }
    fields
}

/// Takes one number off the front.
pub fn varint(from: &mut &[u8]) -> u64 {
    let end = from.iter().position(|byte| *byte < 0x80).unwrap();
    let (taken, rest) = from.split_at(end + 1);
    *from = rest;
    taken.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7F))
}
