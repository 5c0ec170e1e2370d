//! What is said between clients and instances: channels, publications, and the envelope in which
//! one instance hands a publication to the others. It never does I/O.

mod channel;
mod envelope;
mod publication;

pub use channel::{Channel, ChannelError};
pub use envelope::{Envelope, EnvelopeError, Opened};
pub use publication::{ConnectionId, Kind, Publication, now_micros};
