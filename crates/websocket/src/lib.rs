//! WebSocket (RFC 6455, and compression by RFC 7692) for a server, and as much of a client as a load generator needs.
//!
//! Bytes come in and bytes go out: the crate never touches a socket, a clock or a task, and never allocates in
//! proportion to what a header merely claims. A server's frame is the same for every receiver, so it is encoded
//! once with [`frame()`] and shared; what a client sends goes through a [`Decoder`], which is 16 bytes and owns no
//! heap while nothing is incomplete, so that the buffer for reading can belong to the worker and not to each
//! connection.
//!
//! It does not answer anything by itself. Pong for ping, close for close, and what an [`Offence`] leads to are the
//! business of whoever owns the connection.

mod close;
mod decoder;
mod frame;
mod mask;
mod offence;
mod utf8;

pub mod client;
pub mod deflate;
pub mod handshake;

pub use close::{CloseCode, close_frame};
pub use decoder::{Decoder, Event, Limits, Role};
pub use frame::{Opcode, frame, frame_of, put_frame, put_masked_frame, take_apart};
pub use offence::Offence;
