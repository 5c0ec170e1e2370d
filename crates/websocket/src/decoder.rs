//! Frames become events: messages, and the control frames between them.
//!
//! The reader lends its bytes and the decoder works in them: a frame that is there as a whole is unmasked in place
//! and borrowed. Only what is incomplete is copied out and kept, so a connection with nothing under way owns
//! no memory but the decoder itself. Nothing is ever reserved for bytes that have not arrived.
//!
//! It does not remember that it has failed or that the peer has closed; its user stops then.

use crate::frame::{Header, Opcode};
use crate::utf8::Text;
use crate::{CloseCode, Offence, close, mask};

/// The side that decodes, and so whose frames must be masked (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads a client's frames, which must be masked.
    Server,
    /// Reads a server's frames, which must not be masked.
    Client,
}

/// What a message may cost. Passed with each call, since all connections share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a message, over all of its fragments.
    pub message: usize,
    /// The most fragments of a message. Bytes are not enough of a bound, because a fragment may be empty.
    pub fragments: u32,
}

/// What has arrived, complete and lawful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'e> {
    /// A text message.
    Text(&'e str),
    /// A binary message.
    Binary(&'e [u8]),
    /// A ping, to be answered with a pong of the same payload (RFC 6455 §5.5.2).
    Ping(&'e [u8]),
    /// A pong, asked for or not (RFC 6455 §5.5.3).
    Pong(&'e [u8]),
    /// The peer's last frame: its code, if it gave one, and its reason, which may be empty.
    Close(Option<CloseCode>, &'e str),
}

/// Decodes the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// Boxed, because most connections have nothing to keep at most times.
    kept: Option<Box<Kept>>,
}

/// The price of an idle connection.
const _: () = assert!(size_of::<Decoder>() <= 16);

impl Decoder {
    /// A decoder for the bytes after the handshake.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { role, kept: None }
    }

    /// The next event in `input`, from whose front the bytes of it are taken.
    ///
    /// `None` means that all of `input` is consumed and more is needed; so call it in a loop until then. Every byte
    /// is looked at once, however `input` was cut. The event borrows from `input`, where it was unmasked in place,
    /// or from the decoder, which lets go of it at the next call.
    ///
    /// # Errors
    ///
    /// The peer's [`Offence`]. After it, or after [`Event::Close`], the decoder must not be used any more: nothing
    /// that it returned then would mean anything.
    pub fn next<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'e>>, Offence> {
        self.let_go();
        loop {
            if self.kept.as_ref().is_none_or(|kept| kept.frame.is_none()) {
                let Some(header) = self.read_header(input)? else { return Ok(None) };
                self.admit(&header, limits)?;
                if let Some(payload) = take_whole(&header, input) {
                    return whole_event(header.opcode, payload).map(Some);
                }
                self.begin(&header);
            }
            let Some(kept) = &mut self.kept else { return Ok(None) };
            if !kept.fill(input)? {
                return Ok(None);
            }
            if kept.finished.is_some() {
                break;
            }
        }
        self.kept.as_ref().and_then(|kept| kept.finished.as_ref()).map(Finished::event).transpose()
    }

    /// Whether nothing of an incomplete frame or message is kept.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.has_nothing_incomplete())
    }

    /// How many bytes of memory the decoder holds beside itself, for what is incomplete.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| size_of::<Kept>() + kept.heap_bytes())
    }

    /// Frees what the last call lent out.
    fn let_go(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.finished = None;
            if kept.has_nothing_incomplete() {
                self.kept = None;
            }
        }
    }

    /// Takes a header from `input`, or keeps the beginning of one.
    fn read_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, Offence> {
        if let Some(kept) = &mut self.kept
            && kept.header_len > 0
        {
            return kept.continue_header(input, self.role);
        }
        if let Some((header, length)) = Header::read(input, self.role)? {
            *input = &mut std::mem::take(input)[length..];
            return Ok(Some(header));
        }
        if !input.is_empty() {
            // Shorter than a header, or it would have been one.
            let kept = self.kept.get_or_insert_default();
            kept.header[..input.len()].copy_from_slice(input);
            kept.header_len = input.len() as u8;
            *input = &mut [];
        }
        Ok(None)
    }

    /// Whether a frame with this header may come now, and is not too much, before any of it is kept.
    fn admit(&self, header: &Header, limits: &Limits) -> Result<(), Offence> {
        let message = self.kept.as_ref().and_then(|kept| kept.message.as_ref());
        let before = match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Offence::Interrupted),
            (Opcode::Continuation, None) => return Err(Offence::NothingToContinue),
            (Opcode::Text | Opcode::Binary, None) => 0,
            (Opcode::Continuation, Some(message)) => {
                if message.fragments >= limits.fragments {
                    return Err(Offence::TooManyFragments { limit: limits.fragments });
                }
                message.payload.len()
            }
        };
        let size = header.length.saturating_add(before as u64);
        if size > limits.message as u64 {
            return Err(Offence::TooBig { size, limit: limits.message });
        }
        Ok(())
    }

    /// Prepares for the payload of a frame that is to be kept.
    fn begin(&mut self, header: &Header) {
        let kept = self.kept.get_or_insert_default();
        match header.opcode {
            Opcode::Text => kept.message = Some(Message::new(Payload::Text(Text::default()))),
            Opcode::Binary => kept.message = Some(Message::new(Payload::Binary(Vec::new()))),
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        if let (Opcode::Continuation, Some(message)) = (header.opcode, &mut kept.message) {
            message.fragments += 1;
        }
        kept.frame = Some(Frame {
            opcode: header.opcode,
            last: header.last,
            mask: header.mask,
            // Admitted, so it fits the limit, which is a `usize`; or it is a control frame's.
            remaining: header.length as usize,
        });
    }
}

/// Takes, unmasked, the payload of a frame that needs nothing but itself, if all of it is there.
fn take_whole<'i>(header: &Header, input: &mut &'i mut [u8]) -> Option<&'i mut [u8]> {
    if header.opcode == Opcode::Continuation || !header.last {
        return None;
    }
    let payload = input.split_off_mut(..usize::try_from(header.length).ok()?)?;
    if let Some(mask) = header.mask {
        mask::apply(payload, mask);
    }
    Some(payload)
}

fn whole_event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Offence> {
    match opcode {
        Opcode::Text => {
            simdutf8::basic::from_utf8(payload).map(Event::Text).map_err(|_| Offence::InvalidUtf8)
        }
        // A continuation is never whole by itself; `take_whole` leaves it to its message.
        Opcode::Binary | Opcode::Continuation => Ok(Event::Binary(payload)),
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => close::read(payload).map(|(code, reason)| Event::Close(code, reason)),
    }
}

/// What a connection keeps while something is incomplete.
#[derive(Debug, Default)]
struct Kept {
    /// The beginning of a header.
    header: [u8; Header::MAX],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The message that its frames add to. Stays while control frames come between them.
    message: Option<Message>,
    /// The payload of a control frame, apart from the message around it.
    control: Vec<u8>,
    /// What the last call completed, and lends out until the next.
    finished: Option<Finished>,
}

#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    last: bool,
    /// Turned so that its first byte is for the next byte to come.
    mask: Option<[u8; 4]>,
    remaining: usize,
}

#[derive(Debug)]
struct Message {
    payload: Payload,
    fragments: u32,
}

#[derive(Debug)]
enum Payload {
    Text(Text),
    Binary(Vec<u8>),
}

#[derive(Debug)]
enum Finished {
    Text(String),
    Binary(Vec<u8>),
    Control(Opcode, Vec<u8>),
}

impl Kept {
    fn has_nothing_incomplete(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn heap_bytes(&self) -> usize {
        let message = match self.message.as_ref().map(|message| &message.payload) {
            None => 0,
            Some(Payload::Text(text)) => text.capacity(),
            Some(Payload::Binary(bytes)) => bytes.capacity(),
        };
        let finished = match &self.finished {
            None => 0,
            Some(Finished::Text(text)) => text.capacity(),
            Some(Finished::Binary(bytes) | Finished::Control(_, bytes)) => bytes.capacity(),
        };
        message + finished + self.control.capacity()
    }

    /// Takes byte after byte, at most twelve, until they make a header.
    fn continue_header(&mut self, input: &mut &mut [u8], role: Role) -> Result<Option<Header>, Offence> {
        while let Some(&mut byte) = input.split_off_first_mut() {
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            let read = Header::read(&self.header[..usize::from(self.header_len)], role);
            if !matches!(read, Ok(None)) {
                self.header_len = 0;
                return Ok(read?.map(|(header, _)| header));
            }
        }
        Ok(None)
    }

    /// Takes what there is of the frame's payload; true when that was all of it.
    fn fill(&mut self, input: &mut &mut [u8]) -> Result<bool, Offence> {
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
    fn new(payload: Payload) -> Self {
        Self { payload, fragments: 1 }
    }
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Offence> {
        match self {
            Self::Text(text) => text.push(piece),
            Self::Binary(bytes) => {
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Finished, Offence> {
        match self {
            Self::Text(text) => text.finish().map(Finished::Text),
            Self::Binary(bytes) => Ok(Finished::Binary(bytes)),
        }
    }
}

impl Finished {
    fn event(&self) -> Result<Event<'_>, Offence> {
        match self {
            Self::Text(text) => Ok(Event::Text(text)),
            Self::Binary(bytes) => Ok(Event::Binary(bytes)),
            Self::Control(opcode, payload) => whole_event(*opcode, payload),
        }
    }
}
