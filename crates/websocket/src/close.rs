//! Close codes, and the payload of a close frame in both directions.
//!
//! Only codes that may stand in a frame can be made here. 1005 and 1006, which mean "no code" and "no close frame",
//! are for interfaces that must put a number there; ours says `None`.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::Offence;
use crate::frame::{CONTROL_PAYLOAD, Opcode, frame};

/// Why a connection is closed, as a number that is valid on the wire (RFC 6455 §7.4, and the IANA registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// An endpoint goes away: a page is left, a connection has been idle for too long.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Data that does not fit its kind: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// The peer broke a rule of ours that has no code of its own.
    pub const POLICY: Self = Self(1008);
    /// A message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// The server restarts: come back after a random delay (IANA registry).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The server is overloaded: come back later (IANA registry).
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The code that a peer sent, or that an operator configured: 1000 to 1003, 1007 to 1014, 3000 to 4999.
    ///
    /// All others are reserved, and must not be sent (RFC 6455 §7.4.1, §7.4.2).
    #[must_use]
    pub const fn from_wire(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole close frame, as a server sends it. A reason of more than 123 bytes is cut before the character that
/// would not fit.
#[must_use]
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD - 2)];
    let mut payload = BytesMut::with_capacity(2 + reason.len());
    payload.put_u16(code.get());
    payload.put_slice(reason.as_bytes());
    frame(Opcode::Close, &payload)
}

/// Reads the payload of a close frame: nothing at all, or a code and a reason in UTF-8 (RFC 6455 §5.5.1).
pub(crate) fn read(payload: &[u8]) -> Result<(Option<CloseCode>, &str), Offence> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok((None, "")) } else { Err(Offence::CloseCodeCutShort) };
    };
    let code = u16::from_be_bytes(*code);
    let code = CloseCode::from_wire(code).ok_or(Offence::InvalidCloseCode(code))?;
    let reason = simdutf8::basic::from_utf8(reason).map_err(|_| Offence::InvalidCloseReason)?;
    Ok((Some(code), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_codes_cannot_be_made() {
        let valid = (0..=u16::MAX).filter(|&code| CloseCode::from_wire(code).is_some());
        let expected = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
        assert!(valid.eq(expected));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let rows = [
            (String::new(), 0),
            ("slow consumer".to_owned(), 13),
            ("x".repeat(123), 123),
            ("x".repeat(124), 123),
            ("x".repeat(122) + "é", 122),
            ("x".repeat(121) + "é", 123),
            ("🦀".repeat(40), 120),
        ];
        for (reason, kept) in rows {
            let frame = close_frame(CloseCode::POLICY, &reason);
            assert_eq!(frame[..2], [0x88, u8::try_from(kept + 2).unwrap()], "{reason}");
            assert_eq!(read(&frame[2..]), Ok((Some(CloseCode::POLICY), &reason[..kept])));
        }
    }

    #[test]
    fn a_payload_is_empty_or_a_code_and_a_reason() {
        let check = |payload: &[u8], expected| assert_eq!(read(payload), expected, "{payload:02x?}");
        check(b"", Ok((None, "")));
        check(b"\x03", Err(Offence::CloseCodeCutShort));
        check(b"\x03\xe8", Ok((Some(CloseCode::NORMAL), "")));
        check(b"\x03\xe8bye", Ok((Some(CloseCode::NORMAL), "bye")));
        check(b"\x03\xe8\xff", Err(Offence::InvalidCloseReason));
        check(b"\x03\xe8\xc3", Err(Offence::InvalidCloseReason));
        check(b"\x03\xed", Err(Offence::InvalidCloseCode(1005)));
        check(b"\x00\x00", Err(Offence::InvalidCloseCode(0)));
        check(b"\xff\xffbye", Err(Offence::InvalidCloseCode(65535)));
    }
}
