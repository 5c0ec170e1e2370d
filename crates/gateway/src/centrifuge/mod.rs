//! The session of a connection that speaks the Centrifuge client protocol, version 2: what its commands do and how
//! they are answered. It knows no HTTP and reads no socket but through [`crate::session::inbound`]; what a right or a
//! token is worth is asked of [`crate::namespace`] and [`crate::identity`].
//!
//! One connection's commands are handled one after the other, and what the instance has for it of its own accord, its
//! [`Mail`](crate::registers::Mail), comes between two of them, or while one waits for the client. So nothing here has
//! to be guarded against a command that overtakes another. Publications do not come by here: the hub writes those.

mod alarm;
mod claimed;
mod commands;
mod connect;
mod control;
mod dialect;
mod making;
mod owner;
mod plan;
mod publish;
mod reading;
mod session;
mod subscribe;
mod subscriptions;

pub use claimed::NoClaim;
pub use dialect::{Dialect, Words, words};
pub use owner::Owner;
pub use session::Session;
