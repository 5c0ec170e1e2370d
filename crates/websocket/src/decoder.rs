//! Frames become events: messages, and the control frames between them.
//!
//! The reader lends its bytes and the decoder works in them: a frame that is there as a whole is unmasked in place
//! and borrowed. Only what is incomplete is copied out and kept, so a connection with nothing under way owns
//! no memory but the decoder itself, and the window of a peer with context takeover. Nothing is ever reserved for
//! bytes that have not arrived. A compressed message is inflated into the memory of an [`Inflater`], which all
//! connections share.
//!
//! It does not remember that it has failed or that the peer has closed; its user stops then.

mod kept;

use kept::{Finished, Frame, Kept, Message};

use crate::deflate::{Agreed, History, Inflater, Kind};
use crate::frame::{Coding, Header, Opcode};
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
    /// The most bytes of a message, over all of its fragments, and inflated if it is compressed.
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
    deflate: Deflate,
    /// Boxed, because most connections have nothing to keep at most times.
    kept: Option<Box<Kept>>,
}

/// The price of an idle connection.
const _: () = assert!(size_of::<Decoder>() <= 16);

/// Whether the peer may send compressed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deflate {
    Refused,
    /// Messages that refer to nothing but themselves.
    WithoutContext,
    /// Messages that may refer to the last bytes of earlier ones, in a window of so many bits.
    WithContext(u8),
}

impl Decoder {
    /// A decoder for the bytes after the handshake, of a connection that has agreed on no extension.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { role, deflate: Deflate::Refused, kept: None }
    }

    /// A decoder for the bytes after a handshake that agreed on permessage-deflate. To be read with
    /// [`Decoder::next_inflating`].
    #[must_use]
    pub fn with_deflate(role: Role, agreed: &Agreed) -> Self {
        let (without_context, window_bits) = match role {
            Role::Server => (agreed.client_no_context_takeover, agreed.client_max_window_bits),
            Role::Client => (agreed.server_no_context_takeover, agreed.server_max_window_bits),
        };
        let deflate = if without_context {
            Deflate::WithoutContext
        } else {
            Deflate::WithContext(window_bits.unwrap_or(15))
        };
        Self { role, deflate, kept: None }
    }

    /// The next event in `input`, from whose front the bytes of it are taken, of a connection without compression:
    /// [`Decoder::next_inflating`] without an inflater. Compressed messages are refused.
    ///
    /// # Errors
    ///
    /// As [`Decoder::next_inflating`].
    pub fn next<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'e>>, Offence> {
        self.advance(input, limits, None)
    }

    /// The next event in `input`, from whose front the bytes of it are taken.
    ///
    /// `None` means that all of `input` is consumed and more is needed; so call it in a loop until then. Every byte
    /// is looked at once, however `input` was cut. The event borrows from `input`, where it was unmasked in place,
    /// or from the decoder, which lets go of it at the next call, or from the inflater, which any connections may
    /// share: between calls there is nothing in it that anybody needs.
    ///
    /// # Errors
    ///
    /// The peer's [`Offence`]. After it, or after [`Event::Close`], the decoder must not be used any more: nothing
    /// that it returned then would mean anything.
    pub fn next_inflating<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        inflater: &'e mut Inflater,
    ) -> Result<Option<Event<'e>>, Offence> {
        self.advance(input, limits, Some(inflater))
    }

    #[inline]
    fn advance<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        inflater: Option<&'e mut Inflater>,
    ) -> Result<Option<Event<'e>>, Offence> {
        let Some(found) = self.find(input, limits)? else { return Ok(None) };
        let (kind, deflated, history) = match found {
            Found::Whole(event) => return Ok(Some(event)),
            Found::Deflated(kind, payload) => (kind, payload, self.history()),
            Found::Kept => {
                let Some(Kept { finished: Some(finished), history, .. }) = self.kept.as_deref_mut() else {
                    return Ok(None);
                };
                match finished {
                    Finished::Text(text) => return Ok(Some(Event::Text(text))),
                    Finished::Binary(bytes) => return Ok(Some(Event::Binary(bytes))),
                    Finished::Control(opcode, payload) => return whole_event(*opcode, payload).map(Some),
                    Finished::Deflated(kind, bytes) => (*kind, &bytes[..], history.as_deref_mut()),
                }
            }
        };
        let inflater = inflater.ok_or(Offence::ReservedBits)?;
        inflater.message(kind, deflated, history, limits.message).map(Some)
    }

    /// Reads on until something is complete.
    fn find<'i>(&mut self, input: &mut &'i mut [u8], limits: &Limits) -> Result<Option<Found<'i>>, Offence> {
        self.let_go();
        loop {
            if self.kept.as_ref().is_none_or(|kept| kept.frame.is_none()) {
                let Some(header) = self.read_header(input)? else { return Ok(None) };
                self.admit(&header, limits)?;
                if let Some(payload) = take_whole(&header, input) {
                    return match header.coding {
                        Coding::Plain => whole_event(header.opcode, payload).map(Found::Whole).map(Some),
                        Coding::Deflated => Ok(Some(Found::Deflated(kind_of(header.opcode), payload))),
                    };
                }
                self.begin(&header);
            }
            let Some(kept) = &mut self.kept else { return Ok(None) };
            if !kept.fill(input)? {
                return Ok(None);
            }
            if kept.finished.is_some() {
                return Ok(Some(Found::Kept));
            }
        }
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

    /// What a compressed message may refer to, if anything; begun with the first of them.
    fn history(&mut self) -> Option<&mut History> {
        let Deflate::WithContext(window_bits) = self.deflate else { return None };
        let kept = self.kept.get_or_insert_default();
        Some(kept.history.get_or_insert_with(|| Box::new(History::new(window_bits))))
    }

    /// Frees what the last call lent out.
    fn let_go(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.finished = None;
            if kept.has_nothing_incomplete() && kept.history.is_none() {
                self.kept = None;
            }
        }
    }

    /// Takes a header from `input`, or keeps the beginning of one.
    fn read_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, Offence> {
        let deflate = self.deflate != Deflate::Refused;
        if let Some(kept) = &mut self.kept
            && kept.header_len > 0
        {
            return kept.continue_header(input, self.role, deflate);
        }
        if let Some((header, length)) = Header::read(input, self.role, deflate)? {
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
        let (before, coding) = match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Offence::Interrupted),
            (Opcode::Continuation, None) => return Err(Offence::NothingToContinue),
            (Opcode::Text | Opcode::Binary, None) => (0, header.coding),
            (Opcode::Continuation, Some(message)) => {
                if message.fragments >= limits.fragments {
                    return Err(Offence::TooManyFragments { limit: limits.fragments });
                }
                (message.len(), message.coding())
            }
        };
        let most = match coding {
            Coding::Plain => limits.message,
            // Bytes that do not compress become more: by an eighth, in the worst of encodings that is in use.
            Coding::Deflated => limits.message.saturating_add(limits.message / 8 + 64),
        };
        let size = header.length.saturating_add(before as u64);
        if size > most as u64 {
            return Err(Offence::TooBig { size, limit: limits.message });
        }
        Ok(())
    }

    /// Prepares for the payload of a frame that is to be kept.
    fn begin(&mut self, header: &Header) {
        if header.coding == Coding::Deflated {
            self.history();
        }
        let kept = self.kept.get_or_insert_default();
        match (header.opcode, &mut kept.message) {
            (Opcode::Text | Opcode::Binary, message) => {
                *message = Some(Message::new(kind_of(header.opcode), header.coding));
            }
            (Opcode::Continuation, Some(message)) => message.fragments += 1,
            _ => {}
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

/// Where what is complete is to be found.
enum Found<'i> {
    /// In the input, and ready.
    Whole(Event<'i>),
    /// In the input, a message to be inflated.
    Deflated(Kind, &'i [u8]),
    /// In what was kept.
    Kept,
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

fn kind_of(opcode: Opcode) -> Kind {
    if opcode == Opcode::Text { Kind::Text } else { Kind::Binary }
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
