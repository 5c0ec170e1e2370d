//! What is said between clients and instances: channels, publications, presence, and the envelope and the control
//! message in which one instance hands something to the others. It never does I/O.

mod channel;
pub mod control;
mod envelope;
mod filter;
mod position;
mod presence;
mod publication;
mod section;

pub mod centrifuge;
pub mod delta;
pub mod payload;

pub use channel::{Channel, ChannelError};
pub use control::Control;
pub use envelope::{Bundle, Envelope, EnvelopeError, JOINED_HEADER, LEFT_HEADER, Opened};
pub use filter::{Filter, FilterError, TagsError, check_tags};
pub use position::{Epoch, Position};
pub use presence::{Member, PresenceChange};
pub use publication::{ConnectionId, Info, Kind, Publication, Tags, now_micros};
