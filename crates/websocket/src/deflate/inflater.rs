//! Messages are inflated, each as a whole and into memory that is lent out.
//!
//! What a connection keeps between messages is at most its [`History`], so one inflater serves all connections of a
//! worker, and a connection that agreed on no context takeover costs nothing. Compressed bytes wait for the end of
//! their message before they are inflated: half a message would hold 40 KiB of an inflater's state, for a byte.
//!
//! It never makes more than a byte beyond the limit, whatever it is given.

use flate2::{Decompress, FlushDecompress, Status};

use super::{NARROWEST, RETAINED, WIDEST};
use crate::{Event, Offence};

/// Whether a message is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
}

/// Inflates the messages of any number of connections, one after the other. It takes no memory before the first
/// compressed message, so it costs nothing to who never meets one.
#[derive(Default)]
pub struct Inflater {
    inflate: Option<Decompress>,
    /// All of it initialised; a message is in the front of it.
    out: Vec<u8>,
}

impl Inflater {
    /// An inflater that holds no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { inflate: None, out: Vec::new() }
    }

    /// How many bytes the buffer for inflated messages has; the rest of an inflater is some 40 KiB.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Inflates one message of at most `limit` bytes. `history` is there if the peer keeps context.
    pub(crate) fn message(
        &mut self,
        kind: Kind,
        deflated: &[u8],
        mut history: Option<&mut History>,
        limit: usize,
    ) -> Result<Event<'_>, Offence> {
        if self.out.len() > RETAINED {
            self.out = Vec::new();
        }
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        let before = history.as_ref().map_or(&[][..], |history| &history.bytes);
        let run = Run { inflate, out: &mut self.out, filled: 0, valid: 0, kind, limit };
        let length = run.all(deflated, before)?;
        let message = &self.out[..length];
        if let Some(history) = &mut history {
            history.add(message);
        }
        match kind {
            Kind::Text => {
                simdutf8::basic::from_utf8(message).map(Event::Text).map_err(|_| Offence::InvalidUtf8)
            }
            Kind::Binary => Ok(Event::Binary(message)),
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}

/// The inflating of one message.
struct Run<'r> {
    inflate: &'r mut Decompress,
    out: &'r mut Vec<u8>,
    filled: usize,
    /// So many bytes of text are known to be UTF-8.
    valid: usize,
    kind: Kind,
    limit: usize,
}

impl Run<'_> {
    /// Inflates the whole message and returns its length. `before` is what it may refer to.
    fn all(mut self, mut deflated: &[u8], before: &[u8]) -> Result<usize, Offence> {
        if deflated.is_empty() {
            // It should be one zero byte (RFC 7692 §7.2.3.6), but zlib makes nothing of a flush that has nothing to
            // flush, and who takes the tail off that sends nothing.
            return Ok(0);
        }
        let mut final_blocks = 0;
        loop {
            self.restart(before)?;
            if !self.feed(&mut deflated)? {
                break;
            }
            // A final block ends its stream, and the message may go on with the next (RFC 7692 §7.2.3.4). Where
            // it does not, not even with the header of an empty block as it should, nothing is missing.
            if deflated.is_empty() {
                return Ok(self.filled);
            }
            final_blocks += 1;
            if final_blocks > FINAL_BLOCKS {
                return Err(Offence::TooManyFinalBlocks { limit: FINAL_BLOCKS });
            }
        }
        let mut end = &END[..];
        if self.feed(&mut end)? && end.is_empty() { Ok(self.filled) } else { Err(Offence::CorruptDeflate) }
    }

    /// Begins a stream that may refer to what came before, in earlier messages and in this one.
    fn restart(&mut self, before: &[u8]) -> Result<(), Offence> {
        self.inflate.reset(false);
        for context in [before, &self.out[..self.filled]] {
            if !context.is_empty() {
                let context = last(context, 1 << WIDEST);
                self.inflate.set_dictionary(context).map_err(|_| Offence::CorruptDeflate)?;
            }
        }
        Ok(())
    }

    /// Inflates all of `input`, or up to the end of its stream; true if that was reached.
    fn feed(&mut self, input: &mut &[u8]) -> Result<bool, Offence> {
        loop {
            let end = self.room();
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut self.out[self.filled..end], FlushDecompress::None)
                .map_err(|_| Offence::CorruptDeflate)?;
            let taken = (self.inflate.total_in() - taken) as usize;
            *input = &input[taken..];
            self.filled += (self.inflate.total_out() - made) as usize;
            if self.filled > self.limit {
                return Err(Offence::TooBig { size: self.filled as u64, limit: self.limit });
            }
            match status {
                Status::StreamEnd => return Ok(true),
                // More may come of what has been taken already.
                Status::Ok | Status::BufError if self.filled == end => self.check_text()?,
                Status::Ok | Status::BufError if input.is_empty() => return Ok(false),
                Status::Ok => {}
                Status::BufError => return Err(Offence::CorruptDeflate),
            }
        }
    }

    /// Makes room for the next step, and returns its end: at least one byte, and at most one beyond the limit.
    fn room(&mut self) -> usize {
        let most = self.limit.saturating_add(1);
        if self.out.len() == self.filled {
            let size = (2 * self.filled).max(STEP).min(most);
            self.out.reserve_exact(size - self.filled);
            self.out.resize(size, 0);
        }
        (self.filled + STEP).min(self.out.len()).min(most)
    }

    /// Refuses text as soon as a step of it is wrong. A message that took one step is looked at only once, at its end.
    fn check_text(&mut self) -> Result<(), Offence> {
        if self.kind == Kind::Binary {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.out[self.valid..self.filled]) {
            Ok(_) => self.valid = self.filled,
            Err(error) if error.error_len().is_some() => return Err(Offence::InvalidUtf8),
            Err(error) => self.valid += error.valid_up_to(),
        }
        Ok(())
    }
}

/// What a peer with context takeover may refer to: the end of its last messages.
///
/// Kept instead of an inflater, since it grows with what the peer has sent, to its window and not beyond, and since
/// a final block ends an inflater's stream but not the context.
#[derive(Debug)]
pub(crate) struct History {
    bytes: Vec<u8>,
    window: usize,
}

impl History {
    pub(crate) fn new(window_bits: u8) -> Self {
        // 9 at least: an old zlib that is told to use 8 uses 9.
        Self { bytes: Vec::new(), window: 1 << window_bits.max(NARROWEST) }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn add(&mut self, message: &[u8]) {
        let message = last(message, self.window);
        let kept = self.bytes.len().min(self.window - message.len());
        self.bytes.drain(..self.bytes.len() - kept);
        let needed = kept + message.len();
        if self.bytes.capacity() < needed {
            self.bytes.reserve_exact((2 * kept).clamp(needed, self.window) - kept);
        }
        self.bytes.extend_from_slice(message);
    }
}

fn last(bytes: &[u8], count: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(count)..]
}

/// The tail that the sender took off, and a final block with nothing in it. Where a message ends as it should, this
/// ends the stream, exactly; so what was cut short does not pass for a message.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// As much as is inflated before the text of it is looked at.
const STEP: usize = 16 * 1024;

/// The most final blocks within a message. Two bytes make one, for which the window is copied: up to 1.1 µs each, so a
/// message costs no more with them than a few without. Who sends any at all sends one.
const FINAL_BLOCKS: u32 = 16;
