//! Messages are deflated, each into one whole frame.
//!
//! A compressor takes a third of a MiB. So the one that a worker shares is worth having, and one for a connection is
//! a price: it is paid only by those who agreed on context takeover.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

use super::{Agreed, NARROWEST, RETAINED, TAIL, WIDEST};
use crate::Role;
use crate::frame::{Coding, Opcode, frame, put_frame_of, put_masked_frame, put_masked_frame_of, take_apart};

/// How hard to try: 1, the fastest, to 9, the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// The fastest.
    pub const FASTEST: Self = Self(1);

    /// `None` if `level` is not in 1 to 9.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        match level {
            1..=9 => Some(Self(level)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Deflates messages, with the context of those before it or without any.
pub struct Compressor {
    deflate: Compress,
    takes_over: bool,
    /// The message last deflated. Kept for its memory, which the next one uses again.
    deflated: Vec<u8>,
}

impl Compressor {
    /// One for all connections that agreed on no context takeover, and on nothing narrower than the widest window.
    #[must_use]
    pub fn shared(level: Level) -> Self {
        Self::with(level, WIDEST, false)
    }

    /// One for all connections that agreed on no context takeover, whatever their window: the narrowest that there is.
    #[must_use]
    pub fn shared_narrowly(level: Level) -> Self {
        Self::with(level, NARROWEST, false)
    }

    /// One for the messages of one connection, which are those of a server or a client.
    #[must_use]
    pub fn for_connection(role: Role, agreed: &Agreed, level: Level) -> Self {
        let (window, without_context) = match role {
            Role::Server => (agreed.server_max_window_bits, agreed.server_no_context_takeover),
            Role::Client => (agreed.client_max_window_bits, agreed.client_no_context_takeover),
        };
        Self::with(level, window.unwrap_or(WIDEST), !without_context)
    }

    /// One whole frame as a server sends it, final and not masked. It is compressed (RSV1), or plain if that makes it
    /// no longer and the receiver's context is not touched: each message is free to be either (RFC 7692 §6).
    ///
    /// # Panics
    ///
    /// When `opcode` is not text or binary: nothing else can be compressed.
    #[must_use]
    pub fn compress_frame(&mut self, opcode: Opcode, payload: &[u8]) -> Bytes {
        if self.deflate(opcode, payload) { self.take_frame(opcode) } else { frame(opcode, payload) }
    }

    /// The same for a message that others get as it is: `plain` is its whole frame, as [`frame`] made it.
    ///
    /// # Panics
    ///
    /// When it is no such frame.
    #[must_use]
    pub fn compress_again(&mut self, plain: &Bytes) -> Bytes {
        let (opcode, payload) = take_apart(plain);
        if self.deflate(opcode, payload) { self.take_frame(opcode) } else { plain.clone() }
    }

    /// Appends one whole frame as a client sends it: as [`Compressor::compress_frame`] makes it, and masked.
    ///
    /// # Panics
    ///
    /// As [`Compressor::compress_frame`] does.
    pub fn put_masked_frame(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
        if !self.deflate(opcode, payload) {
            return put_masked_frame(out, opcode, payload, mask);
        }
        put_masked_frame_of(out, opcode, Coding::Deflated, &self.deflated, mask);
        self.release();
    }

    fn with(level: Level, window_bits: u8, takes_over: bool) -> Self {
        let level = Compression::new(u32::from(level.0));
        let deflate = Compress::new_with_window_bits(level, false, window_bits.max(NARROWEST));
        Self { deflate, takes_over, deflated: Vec::new() }
    }

    /// Deflates into `deflated`; false if the payload had better be sent as it is.
    fn deflate(&mut self, opcode: Opcode, payload: &[u8]) -> bool {
        assert!(matches!(opcode, Opcode::Text | Opcode::Binary), "{opcode:?} cannot be compressed");
        self.deflated.clear();
        if payload.is_empty() {
            // A flush that has nothing to flush writes nothing, not even its tail.
            self.deflated.push(EMPTY);
            return self.takes_over;
        }
        if !self.takes_over {
            self.deflate.reset();
        }
        let start = self.deflate.total_in();
        // In bytes that do not compress, level 1 makes nine bits of eight.
        self.deflated.reserve(payload.len() + payload.len() / 8 + 64);
        loop {
            let done = (self.deflate.total_in() - start) as usize;
            self.deflate
                .compress_vec(&payload[done..], &mut self.deflated, FlushCompress::Sync)
                .expect("a deflater in a lawful state takes any input");
            if self.deflated.len() < self.deflated.capacity() {
                break;
            }
            self.deflated.reserve(payload.len() / 8 + 64);
        }
        debug_assert!(self.deflated.ends_with(&TAIL), "a flush ends with an empty block");
        self.deflated.truncate(self.deflated.len() - TAIL.len());
        self.takes_over || self.deflated.len() < payload.len()
    }

    fn take_frame(&mut self, opcode: Opcode) -> Bytes {
        let mut out = BytesMut::new();
        put_frame_of(&mut out, opcode, Coding::Deflated, &self.deflated);
        self.release();
        out.freeze()
    }

    fn release(&mut self) {
        if self.deflated.capacity() > RETAINED {
            self.deflated = Vec::new();
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("takes_over", &self.takes_over).finish_non_exhaustive()
    }
}

/// The empty message: the header of an empty block, whose rest is the tail (RFC 7692 §7.2.3.6).
const EMPTY: u8 = 0x00;
