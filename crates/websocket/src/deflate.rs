//! Compressed messages: the extension permessage-deflate (RFC 7692).
//!
//! In the handshake a client makes offers and the server's [`Policy`] takes the first that suits it, which gives the
//! [`Agreed`] parameters of a connection. Messages to be sent go through a [`Compressor`]: one for a whole worker,
//! whose frames know nothing of earlier messages and so are the same for every receiver, or one for a connection
//! that agreed on more. Messages received are inflated by the [`crate::Decoder`] with the worker's [`Inflater`].
//!
//! It does not decide which messages are worth compressing: that is the sender's business, frame by frame.

mod compressor;
mod grammar;
mod inflater;
mod negotiation;
mod parameters;

pub use compressor::{Compressor, Level};
pub use inflater::Inflater;
pub(crate) use inflater::{History, Kind};
pub use negotiation::{Policy, negotiate};
pub use parameters::{Agreed, Offer, Shared};

/// What a flush ends with, and what is taken from the end of a message and put back (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The window that DEFLATE has unless something smaller is agreed: 32 KiB.
const WIDEST: u8 = 15;

/// The narrowest window that zlib deflates with: 512 bytes.
const NARROWEST: u8 = 9;

/// The most bytes that a buffer shared by connections keeps, after a message that needed more.
const RETAINED: usize = 256 * 1024;
