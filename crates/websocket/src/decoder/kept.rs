//! What a connection keeps: frames and messages whose end has not arrived.
//!
//! It never judges a frame; the decoder has admitted it.

use super::Role;
use crate::deflate::{History, Kind};
use crate::frame::{Coding, Header, Opcode};
use crate::utf8::Text;
use crate::{Offence, mask};

/// Empty but for the history of a peer with context takeover, while nothing is incomplete.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The beginning of a header.
    pub(super) header: [u8; Header::MAX],
    pub(super) header_len: u8,
    /// The frame whose payload is arriving.
    pub(super) frame: Option<Frame>,
    /// The message that its frames add to. Stays while control frames come between them.
    pub(super) message: Option<Message>,
    /// The payload of a control frame, apart from the message around it.
    control: Vec<u8>,
    /// What the last call completed, and lends out until the next.
    pub(super) finished: Option<Finished>,
    /// What the next compressed message may refer to; only with context takeover, and from the first such message on.
    /// Boxed, because few peers have it and whoever has half a frame has the rest of this.
    pub(super) history: Option<Box<History>>,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) last: bool,
    /// Turned so that its first byte is for the next byte to come.
    pub(super) mask: Option<[u8; 4]>,
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Message {
    payload: Payload,
    pub(super) fragments: u32,
}

#[derive(Debug)]
enum Payload {
    Text(Text),
    Binary(Vec<u8>),
    /// Inflated when it is complete, and not before.
    Deflated(Kind, Vec<u8>),
}

#[derive(Debug)]
pub(super) enum Finished {
    Text(String),
    Binary(Vec<u8>),
    Deflated(Kind, Vec<u8>),
    Control(Opcode, Vec<u8>),
}

impl Kept {
    pub(super) fn has_nothing_incomplete(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let message = match self.message.as_ref().map(|message| &message.payload) {
            None => 0,
            Some(Payload::Text(text)) => text.capacity(),
            Some(Payload::Binary(bytes) | Payload::Deflated(_, bytes)) => bytes.capacity(),
        };
        let finished = match &self.finished {
            None => 0,
            Some(Finished::Text(text)) => text.capacity(),
            Some(Finished::Binary(bytes) | Finished::Deflated(_, bytes) | Finished::Control(_, bytes)) => {
                bytes.capacity()
            }
        };
        let history = self.history.as_ref().map_or(0, |history| size_of::<History>() + history.capacity());
        message + finished + self.control.capacity() + history
    }

    /// Takes byte after byte, at most twelve, until they make a header.
    pub(super) fn continue_header(
        &mut self,
        input: &mut &mut [u8],
        role: Role,
        deflate: bool,
    ) -> Result<Option<Header>, Offence> {
        while let Some(&mut byte) = input.split_off_first_mut() {
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            let read = Header::read(&self.header[..usize::from(self.header_len)], role, deflate);
            if !matches!(read, Ok(None)) {
                self.header_len = 0;
                return Ok(read?.map(|(header, _)| header));
            }
        }
        Ok(None)
    }

    /// Takes what there is of the frame's payload; true when that was all of it.
    pub(super) fn fill(&mut self, input: &mut &mut [u8]) -> Result<bool, Offence> {
        let Some(frame) = &mut self.frame else { return Ok(false) };
        let size = frame.remaining.min(input.len());
        let piece = input.split_off_mut(..size).unwrap_or_default();
        if let Some(mask) = &mut frame.mask {
            mask::apply(piece, *mask);
            *mask = mask::after(*mask, size);
        }
        frame.remaining -= size;
        if frame.opcode.is_control() {
            self.control.extend_from_slice(piece);
        } else if let Some(message) = &mut self.message {
            message.payload.push(piece)?;
        }
        if frame.remaining > 0 {
            return Ok(false);
        }
        let Frame { opcode, last, .. } = *frame;
        self.frame = None;
        self.finished = if opcode.is_control() {
            Some(Finished::Control(opcode, std::mem::take(&mut self.control)))
        } else if last {
            self.message.take().map(|message| message.payload.finish()).transpose()?
        } else {
            None
        };
        Ok(true)
    }
}

impl Message {
    /// A message of which nothing has arrived but the header of its first frame.
    pub(super) fn new(kind: Kind, coding: Coding) -> Self {
        let payload = match (coding, kind) {
            (Coding::Plain, Kind::Text) => Payload::Text(Text::default()),
            (Coding::Plain, Kind::Binary) => Payload::Binary(Vec::new()),
            (Coding::Deflated, kind) => Payload::Deflated(kind, Vec::new()),
        };
        Self { payload, fragments: 1 }
    }

    pub(super) fn coding(&self) -> Coding {
        match self.payload {
            Payload::Text(_) | Payload::Binary(_) => Coding::Plain,
            Payload::Deflated(..) => Coding::Deflated,
        }
    }

    /// How many bytes have arrived.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Deflated(_, bytes) => bytes.len(),
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Offence> {
        match self {
            Self::Text(text) => text.push(piece),
            Self::Binary(bytes) | Self::Deflated(_, bytes) => {
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Finished, Offence> {
        match self {
            Self::Text(text) => text.finish().map(Finished::Text),
            Self::Binary(bytes) => Ok(Finished::Binary(bytes)),
            Self::Deflated(kind, bytes) => Ok(Finished::Deflated(kind, bytes)),
        }
    }
}
