//! The header of a frame (RFC 6455 §5.2), in both directions, and whole frames for sending.
//!
//! What is sent is always one final frame: we never fragment. The rules that span frames are the decoder's.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Offence, Role, mask};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// More of the message that a text or binary frame began.
    Continuation = 0,
    /// A text message, or its beginning.
    Text = 1,
    /// A binary message, or its beginning.
    Binary = 2,
    /// The last frame that its sender sends.
    Close = 8,
    /// To be answered with a pong of the same payload.
    Ping = 9,
    /// Answers a ping, or says unasked that its sender is alive.
    Pong = 10,
}

impl Opcode {
    /// Close, ping or pong: frames that may stand between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0b1000 != 0
    }

    const fn from_wire(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// One whole frame as a server sends it: final and not masked.
///
/// # Panics
///
/// When a control frame's payload is longer than 125 bytes. What a decoder returned never is, so a ping's payload
/// can be sent back as it came.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + payload.len());
    put_frame(&mut out, opcode, payload);
    out.freeze()
}

/// The same around a payload that is not needed any more: what is large is not copied.
///
/// # Panics
///
/// As [`frame`] does.
#[must_use]
pub fn frame_of(opcode: Opcode, mut payload: Vec<u8>) -> Bytes {
    // Less than this is copied, so that it keeps no more than it takes.
    const LARGE: usize = 64 << 10;
    if payload.len() < LARGE {
        return frame(opcode, &payload);
    }
    let mut header = BytesMut::with_capacity(HEADER);
    put_header(&mut header, opcode, Coding::Plain, payload.len(), 0);
    payload.reserve_exact(header.len());
    payload.splice(..0, header);
    payload.shrink_to_fit();
    payload.into()
}

/// Appends one whole frame as a server sends it: final and not masked.
///
/// # Panics
///
/// As [`frame`] does.
pub fn put_frame(out: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    put_frame_of(out, opcode, Coding::Plain, payload);
}

pub(crate) fn put_frame_of(out: &mut BytesMut, opcode: Opcode, coding: Coding, payload: &[u8]) {
    out.reserve(HEADER + payload.len());
    put_header(out, opcode, coding, payload.len(), 0);
    out.put_slice(payload);
}

/// The opcode and payload of a whole frame that [`frame`] made.
///
/// # Panics
///
/// When it is no such frame.
#[must_use]
pub fn take_apart(frame: &[u8]) -> (Opcode, &[u8]) {
    let header = Header::read(frame, Role::Client, false).expect("a server's frame is lawful");
    let (header, length) = header.expect("a whole frame has a header");
    (header.opcode, &frame[length..])
}

/// Appends one whole frame as a client sends it: final, and masked with `mask`, which in a real client is random
/// for each frame (RFC 6455 §5.3).
///
/// # Panics
///
/// As [`frame`] does.
pub fn put_masked_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    put_masked_frame_of(out, opcode, Coding::Plain, payload, mask);
}

pub(crate) fn put_masked_frame_of(
    out: &mut Vec<u8>,
    opcode: Opcode,
    coding: Coding,
    payload: &[u8],
    mask: [u8; 4],
) {
    out.reserve(HEADER + mask.len() + payload.len());
    put_header(out, opcode, coding, payload.len(), MASKED);
    out.put_slice(&mask);
    let start = out.len();
    out.put_slice(payload);
    mask::apply(&mut out[start..], mask);
}

/// What the payload of a text or binary frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    /// Of a message that permessage-deflate has compressed, of which this is the first frame (RFC 7692 §6).
    Deflated,
}

fn put_header(out: &mut impl BufMut, opcode: Opcode, coding: Coding, length: usize, masked: u8) {
    assert!(!opcode.is_control() || length <= CONTROL_PAYLOAD, "a control frame of {length} bytes");
    let coding = if coding == Coding::Deflated { DEFLATED } else { 0 };
    out.put_u8(FINAL | coding | opcode as u8);
    if length < usize::from(LENGTH_16) {
        out.put_u8(masked | length as u8);
    } else if let Ok(length) = u16::try_from(length) {
        out.put_u8(masked | LENGTH_16);
        out.put_u16(length);
    } else {
        out.put_u8(masked | LENGTH_64);
        out.put_u64(length as u64);
    }
}

/// The header of a frame that was received, lawful in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: Opcode,
    pub(crate) last: bool,
    pub(crate) coding: Coding,
    pub(crate) mask: Option<[u8; 4]>,
    /// What the header claims, and nothing else: the payload's length in bytes.
    pub(crate) length: u64,
}

impl Header {
    /// The most bytes that a header can have.
    pub(crate) const MAX: usize = HEADER + 4;

    /// Reads the header at the beginning of `bytes`, and says how many bytes it has; `None` when more are needed.
    ///
    /// The first two bytes are judged without waiting for the others. `role` is the side that reads, and `deflate`
    /// whether it has agreed on permessage-deflate, which gives RSV1 a meaning: on the first frame of a message, and
    /// on no other (RFC 7692 §6.1).
    pub(crate) fn read(bytes: &[u8], role: Role, deflate: bool) -> Result<Option<(Self, usize)>, Offence> {
        let Some((&[first, second], mut rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let opcode = first & OPCODE;
        let coding = match first & RESERVED {
            0 => Coding::Plain,
            DEFLATED if deflate && matches!(opcode, TEXT | BINARY) => Coding::Deflated,
            _ => return Err(Offence::ReservedBits),
        };
        let opcode = Opcode::from_wire(opcode).ok_or(Offence::ReservedOpcode(opcode))?;
        let last = first & FINAL != 0;
        let masked = second & MASKED != 0;
        match (role, masked) {
            (Role::Server, false) => return Err(Offence::Unmasked),
            (Role::Client, true) => return Err(Offence::Masked),
            (Role::Server, true) | (Role::Client, false) => {}
        }
        let short = second & !MASKED;
        if opcode.is_control() {
            if !last {
                return Err(Offence::FragmentedControl);
            }
            if usize::from(short) > CONTROL_PAYLOAD {
                return Err(Offence::ControlTooLong);
            }
        }
        let Some(length) = read_length(short, &mut rest)? else { return Ok(None) };
        let mask = if masked {
            let Some((mask, after)) = rest.split_first_chunk() else { return Ok(None) };
            rest = after;
            Some(*mask)
        } else {
            None
        };
        Ok(Some((Self { opcode, last, coding, mask, length }, bytes.len() - rest.len())))
    }
}

/// Reads the longer forms of a length, where the seven bits announce one.
fn read_length(short: u8, rest: &mut &[u8]) -> Result<Option<u64>, Offence> {
    let (length, least) = match short {
        LENGTH_16 => {
            let Some((length, after)) = rest.split_first_chunk() else { return Ok(None) };
            *rest = after;
            (u64::from(u16::from_be_bytes(*length)), u64::from(LENGTH_16))
        }
        LENGTH_64 => {
            let Some((length, after)) = rest.split_first_chunk() else { return Ok(None) };
            *rest = after;
            (u64::from_be_bytes(*length), 1 << 16)
        }
        _ => return Ok(Some(u64::from(short))),
    };
    if length < least {
        return Err(Offence::LengthNotMinimal(length));
    }
    if length > i64::MAX as u64 {
        return Err(Offence::LengthTopBit);
    }
    Ok(Some(length))
}

const FINAL: u8 = 0b1000_0000;
const RESERVED: u8 = 0b0111_0000;
const DEFLATED: u8 = 0b0100_0000;
const OPCODE: u8 = 0b0000_1111;
const TEXT: u8 = Opcode::Text as u8;
const BINARY: u8 = Opcode::Binary as u8;
const MASKED: u8 = 0b1000_0000;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The longest header without a mask: two bytes and a 64-bit length.
const HEADER: usize = 10;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub(crate) const CONTROL_PAYLOAD: usize = 125;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_the_fewest_bytes() {
        let rows: [(usize, &[u8]); 7] = [
            (0, &[0x82, 0]),
            (1, &[0x82, 1]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (70_000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]),
        ];
        for (length, header) in rows {
            let payload = vec![7; length];
            let frame = frame(Opcode::Binary, &payload);
            assert_eq!(frame[..header.len()], *header);
            assert_eq!(frame[header.len()..], payload);

            let mut masked = Vec::new();
            put_masked_frame(&mut masked, Opcode::Binary, &payload, [1, 2, 3, 4]);
            let expected = Header {
                opcode: Opcode::Binary,
                last: true,
                coding: Coding::Plain,
                mask: Some([1, 2, 3, 4]),
                length: length as u64,
            };
            assert_eq!(Header::read(&masked, Role::Server, false), Ok(Some((expected, header.len() + 4))));
            let expected = Header { mask: None, ..expected };
            assert_eq!(Header::read(&frame, Role::Client, false), Ok(Some((expected, header.len()))));
            for cut in 0..header.len() {
                assert_eq!(Header::read(&frame[..cut], Role::Client, false), Ok(None));
            }
        }
    }

    /// The examples of RFC 6455 §5.7.
    #[test]
    fn frames_are_those_of_the_rfc() {
        assert_eq!(frame(Opcode::Text, b"Hello")[..], *b"\x81\x05Hello");
        assert_eq!(frame(Opcode::Ping, b"Hello")[..], *b"\x89\x05Hello");
        let mut out = b"before".to_vec();
        put_masked_frame(&mut out, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(out, b"before\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }

    #[test]
    #[should_panic(expected = "a control frame of 126 bytes")]
    fn a_control_frame_too_long_is_not_sent() {
        let _ = frame(Opcode::Ping, &[0; 126]);
    }
}
