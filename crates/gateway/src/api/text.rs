//! JSON as it is answered: written once, in pieces, so that what is large is neither measured before nor moved while it
//! grows. What it says is for others.

use std::convert::Infallible;
use std::io;

use axum::body::Body;
use futures_util::stream;
use serde::Serialize;

/// The largest piece. An ordinary answer is one that has grown to what it needed.
const PIECE: usize = 64 << 10;

/// What somebody is answered.
#[derive(Debug, Default)]
pub struct Text {
    /// All of them full but the last.
    pieces: Vec<Vec<u8>>,
}

impl Text {
    /// This, as JSON.
    pub fn of(value: &impl Serialize) -> Self {
        let mut text = Self::default();
        serde_json::to_writer(&mut text, value).expect("what is answered can be written");
        text
    }

    /// In bytes.
    pub fn length(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// To be sent; each piece is freed when it has been.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::iter(self.pieces.into_iter().map(Ok::<_, Infallible>)))
    }
}

impl io::Write for Text {
    /// Takes what fits into a piece.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_full = |piece: &Vec<u8>| piece.len() == PIECE;
        if self.pieces.last().is_none_or(is_full) {
            // Only the first grows: behind it there is much.
            let room = if self.pieces.is_empty() { 0 } else { PIECE };
            self.pieces.push(Vec::with_capacity(room));
        }
        let piece = self.pieces.last_mut().expect("there is one");
        let taken = bytes.len().min(PIECE - piece.len());
        piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::Serializer;

    use super::*;

    /// A string that counts how often it is written.
    struct Counted(String, Cell<usize>);

    impl Serialize for Counted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.1.set(self.1.get() + 1);
            serializer.serialize_str(&self.0)
        }
    }

    #[test]
    fn an_answer_is_written_once_and_takes_what_it_needs() {
        for length in [0, 1, 100, PIECE - 3, PIECE - 2, PIECE - 1, PIECE, 100 * PIECE + 7] {
            let counted = Counted("x".repeat(length), Cell::default());
            let text = Text::of(&counted);
            assert_eq!(counted.1.get(), 1, "{length}");
            assert_eq!(text.length(), length + 2);
            let takes: usize = text.pieces.iter().map(Vec::capacity).sum();
            assert!(takes <= (2 * length + 16).min(length + 2 + PIECE), "{length}: {takes}");
            assert_eq!(text.pieces.concat(), serde_json::to_vec(&counted).unwrap(), "{length}");
        }
    }
}
