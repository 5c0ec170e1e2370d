//! The parameters of permessage-deflate, as they are offered and as they are agreed on (RFC 7692 §7.1).
//!
//! Names are compared as they are registered, in lower case. What one side should grant the other is not known here,
//! only what it may say.

use std::fmt;

use http::HeaderValue;

use super::grammar::{self, Extension, Parameter};
use super::{NARROWEST, WIDEST};

/// What a client offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Asks the server to keep no context.
    pub server_no_context_takeover: bool,
    /// Says that the client will keep no context.
    pub client_no_context_takeover: bool,
    /// Asks the server for a window of at most so many bits.
    pub server_max_window_bits: Option<u8>,
    /// Says that the client can be limited, and that its window has at most so many bits. 15 is written without a
    /// value, as browsers do.
    pub client_max_window_bits: Option<u8>,
}

impl Offer {
    /// The value of the request's header `Sec-WebSocket-Extensions`.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("an offer is ASCII")
    }

    /// Reads the answer of a server to this offer; `None` if it is not one that a server may give (RFC 7692 §5.1 and
    /// §7.1), or one whose window our client cannot deflate with.
    pub(crate) fn agreed(&self, answer: &[u8]) -> Option<Agreed> {
        let mut list = grammar::extensions(answer)?;
        let extension = list.pop().filter(|extension| list.is_empty() && extension.name == NAME)?;
        let answer = Self::read_parameters(&extension.parameters, None)?;
        let server_held = match (self.server_max_window_bits, answer.server_max_window_bits) {
            (Some(asked), Some(answered)) => answered <= asked,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let client_held = match (self.client_max_window_bits, answer.client_max_window_bits) {
            (Some(offered), Some(answered)) => (NARROWEST..=offered).contains(&answered),
            (None, Some(_)) => false,
            (_, None) => true,
        };
        let context_held = answer.server_no_context_takeover || !self.server_no_context_takeover;
        (server_held && client_held && context_held).then_some(Agreed {
            server_no_context_takeover: answer.server_no_context_takeover,
            client_no_context_takeover: answer.client_no_context_takeover || self.client_no_context_takeover,
            server_max_window_bits: answer.server_max_window_bits,
            client_max_window_bits: answer.client_max_window_bits.or(self.client_max_window_bits),
        })
    }

    /// `None` for another extension, and for an offer that must be declined.
    pub(super) fn read(extension: &Extension<'_>) -> Option<Self> {
        if extension.name != NAME {
            return None;
        }
        Self::read_parameters(&extension.parameters, Some(WIDEST))
    }

    /// `without_value` is what a client's window without a value means: nothing is wrong with it in an offer.
    fn read_parameters(parameters: &[Parameter<'_>], without_value: Option<u8>) -> Option<Self> {
        let mut offer = Self::default();
        for (name, value) in parameters {
            let is_new = match (*name, value) {
                (SERVER_CONTEXT, None) => !std::mem::replace(&mut offer.server_no_context_takeover, true),
                (CLIENT_CONTEXT, None) => !std::mem::replace(&mut offer.client_no_context_takeover, true),
                (SERVER_WINDOW, Some(value)) => {
                    offer.server_max_window_bits.replace(window_bits(value)?).is_none()
                }
                (CLIENT_WINDOW, value) => {
                    let bits = value.as_deref().map_or(without_value, window_bits)?;
                    offer.client_max_window_bits.replace(bits).is_none()
                }
                _ => false,
            };
            if !is_new {
                return None;
            }
        }
        Some(offer)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_switches(f, self.server_no_context_takeover, self.client_no_context_takeover)?;
        write_window(f, SERVER_WINDOW, self.server_max_window_bits)?;
        match self.client_max_window_bits {
            Some(WIDEST) => write!(f, "; {CLIENT_WINDOW}"),
            bits => write_window(f, CLIENT_WINDOW, bits),
        }
    }
}

/// What a server and a client have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The server's messages do not refer to earlier ones.
    pub server_no_context_takeover: bool,
    /// The client's messages do not refer to earlier ones.
    pub client_no_context_takeover: bool,
    /// The window of the server's messages, 9 to 15 bits; `None` is 15, and was not spoken of.
    pub server_max_window_bits: Option<u8>,
    /// The window of the client's messages, 8 to 15 bits; `None` is 15, and was not spoken of.
    pub client_max_window_bits: Option<u8>,
}

impl Agreed {
    /// The value of the answer's header `Sec-WebSocket-Extensions`.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("an answer is ASCII")
    }

    /// Of which of the compressors that work for many receivers this one understands the frames: they refer to nothing
    /// earlier, and to nothing further back than its window reaches. `None` if it needs one of its own, for all of its
    /// messages.
    #[must_use]
    pub fn shared(&self) -> Option<Shared> {
        match self.server_max_window_bits {
            _ if !self.server_no_context_takeover => None,
            None | Some(WIDEST) => Some(Shared::Widely),
            Some(_) => Some(Shared::Narrowly),
        }
    }
}

/// A compressor that works for many receivers, by its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// [`super::Compressor::shared`].
    Widely,
    /// [`super::Compressor::shared_narrowly`].
    Narrowly,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_switches(f, self.server_no_context_takeover, self.client_no_context_takeover)?;
        write_window(f, SERVER_WINDOW, self.server_max_window_bits)?;
        write_window(f, CLIENT_WINDOW, self.client_max_window_bits)
    }
}

fn write_switches(f: &mut fmt::Formatter<'_>, server: bool, client: bool) -> fmt::Result {
    f.write_str(NAME)?;
    if server {
        write!(f, "; {SERVER_CONTEXT}")?;
    }
    if client {
        write!(f, "; {CLIENT_CONTEXT}")?;
    }
    Ok(())
}

fn write_window(f: &mut fmt::Formatter<'_>, name: &str, bits: Option<u8>) -> fmt::Result {
    bits.map_or(Ok(()), |bits| write!(f, "; {name}={bits}"))
}

/// "a decimal integer value without leading zeroes between 8 to 15, inclusive" (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

const NAME: &str = "permessage-deflate";
const SERVER_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_CONTEXT: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_only_the_answers_to_its_offer() {
        let bare = Offer::default();
        let browser = Offer { client_max_window_bits: Some(15), ..bare };
        let strict = Offer {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: Some(10),
            client_max_window_bits: Some(12),
        };
        assert_eq!(bare.header_value(), "permessage-deflate");
        assert_eq!(browser.header_value(), "permessage-deflate; client_max_window_bits");
        assert_eq!(
            strict.header_value(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=12"
        );

        let rows = [
            (bare, "", true),
            (
                bare,
                "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
                true,
            ),
            (bare, "; client_max_window_bits=15", false),
            (bare, "; unknown", false),
            (bare, "; server_no_context_takeover; server_no_context_takeover", false),
            (bare, ", permessage-deflate", false),
            (bare, ";", false),
            (browser, "; client_max_window_bits=9", true),
            (browser, "; client_max_window_bits", false),
            (browser, "; client_max_window_bits=8", false),
            (
                strict,
                "; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=12",
                true,
            ),
            (strict, "; server_no_context_takeover; server_max_window_bits=11", false),
            (strict, "; server_no_context_takeover", false),
            (strict, "; server_max_window_bits=10", false),
            (
                strict,
                "; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=13",
                false,
            ),
        ];
        for (offer, answer, good) in rows {
            let agreed = offer.agreed(format!("permessage-deflate{answer}").as_bytes());
            assert_eq!(agreed.is_some(), good, "{offer} answered {answer}");
        }
        assert_eq!(bare.agreed(b"foo"), None);
        assert_eq!(bare.agreed(b""), None);
    }
}
