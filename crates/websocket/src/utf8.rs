//! Text that arrives in pieces which know nothing of code points.
//!
//! Each byte is validated once, when it arrives, and wrong text is refused at the first byte that makes it wrong
//! (RFC 6455 §8.1 allows to wait for the end of the message; then a client could make us keep what is lost already).
//! Nothing is ever replaced or repaired.

use crate::Offence;

/// The text so far, and the beginning of a code point whose end has not arrived.
#[derive(Debug, Default)]
pub(crate) struct Text {
    valid: String,
    /// At most three bytes: a fourth makes a code point or an offence.
    begun: [u8; 4],
    begun_len: u8,
}

impl Text {
    /// Adds the next bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Offence> {
        while self.begun_len > 0 {
            let Some(byte) = bytes.split_off_first() else { return Ok(()) };
            self.continue_code_point(*byte)?;
        }
        let rest = match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => {
                self.valid.push_str(text);
                return Ok(());
            }
            Err(error) if error.error_len().is_some() => return Err(Offence::InvalidUtf8),
            Err(error) => bytes.split_off(error.valid_up_to()..).unwrap_or_default(),
        };
        self.valid.push_str(simdutf8::compat::from_utf8(bytes).map_err(|_| Offence::InvalidUtf8)?);
        self.begun[..rest.len()].copy_from_slice(rest);
        self.begun_len = rest.len() as u8;
        Ok(())
    }

    /// The whole text, which must not end within a code point.
    pub(crate) fn finish(self) -> Result<String, Offence> {
        if self.begun_len == 0 { Ok(self.valid) } else { Err(Offence::InvalidUtf8) }
    }

    /// How many bytes have been added.
    pub(crate) fn len(&self) -> usize {
        self.valid.len() + usize::from(self.begun_len)
    }

    /// How many bytes of memory the text holds.
    pub(crate) fn capacity(&self) -> usize {
        self.valid.capacity()
    }

    fn continue_code_point(&mut self, byte: u8) -> Result<(), Offence> {
        let end = usize::from(self.begun_len) + 1;
        self.begun[end - 1] = byte;
        match std::str::from_utf8(&self.begun[..end]) {
            Ok(character) => {
                self.valid.push_str(character);
                self.begun_len = 0;
            }
            Err(error) if error.error_len().is_some() => return Err(Offence::InvalidUtf8),
            Err(_) => self.begun_len += 1,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<String, Offence> {
        let mut text = Text::default();
        for piece in pieces {
            text.push(piece)?;
        }
        text.finish()
    }

    #[test]
    fn text_may_be_cut_anywhere() {
        let whole = "κόσμε, a crab: 🦀, an end: \u{10ffff}\u{d7ff}\u{e000}".repeat(4);
        for size in 1..=whole.len() {
            assert_eq!(
                assemble(whole.as_bytes().chunks(size)).as_ref(),
                Ok(&whole),
                "pieces of {size} bytes"
            );
        }
    }

    #[test]
    fn wrong_text_is_refused_at_its_first_wrong_byte() {
        // How many bytes of each are still the beginning of some text.
        let rows: [(&[u8], usize); 10] = [
            (b"abc\x80", 3),               // a continuation byte alone
            (b"\xc0\xaf", 0),              // an overlong slash
            (b"\xce\xba\xed\xa0\x80x", 3), // a surrogate
            (b"\xe0\x80\xaf", 1),          // overlong in three bytes
            (b"\xf0\x8f\xbf\xbf", 1),      // overlong in four bytes
            (b"\xf4\x90\x80\x80", 1),      // beyond U+10FFFF
            (b"\xf5\x80\x80\x80", 0),      // no code point begins so
            (b"\xf0\x9f\xa6x", 3),         // a code point cut short by another
            (b"\xfe", 0),
            (b"\xff", 0),
        ];
        for (bytes, good) in rows {
            for size in 1..=bytes.len() {
                assert_eq!(assemble(bytes.chunks(size)), Err(Offence::InvalidUtf8), "{bytes:x?} by {size}");
            }
            let mut text = Text::default();
            for byte in &bytes[..good] {
                assert_eq!(text.push(&[*byte]), Ok(()), "{bytes:x?}");
            }
            assert_eq!(text.push(&bytes[good..=good]), Err(Offence::InvalidUtf8), "{bytes:x?}");
        }
    }

    #[test]
    fn text_must_not_end_within_a_code_point() {
        for cut in 1..4 {
            assert_eq!(assemble([&"🦀".as_bytes()[..cut]]), Err(Offence::InvalidUtf8));
        }
    }
}
