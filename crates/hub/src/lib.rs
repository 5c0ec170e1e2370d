//! One publication to every socket of this instance.
//!
//! A [`Hub`] is shared by all threads: it knows which workers have subscribers of a channel and puts
//! one event into the mailbox of each. A [`Shard`] belongs to one worker: it owns that worker's
//! connections and writes to their sockets. The hub never waits for a socket and knows no broker.

mod batch;
mod connection;
mod context;
mod directory;
mod end;
mod format;
mod labels;
mod mailbox;
mod outbox;
mod phrases;
mod placed;
mod pressure;
mod registry;
mod room;
mod shard;
mod socket;
mod stats;
mod subscription;
mod tls;
mod turns;
mod unmade;
mod vital;
mod wheel;

pub use context::Context;
pub use directory::{Audience, Workers};
pub use end::{End, Reason};
pub use format::{Carrier, Encoding, Format, Formats, Frame, Frames, Protocol};
pub use mailbox::{Bounds, Census, Delivery, Event, Hub, Inbox};
pub use phrases::Phrases;
pub use placed::Placed;
pub use pressure::{LITTLE, Leaving, Shed};
pub use registry::{DEFLATING, Heartbeat, Key, Opening, Settings};
pub use shard::{Observer, Shard};
pub use socket::Socket;
pub use stats::{Count, Stats};
pub use subscription::{OnGap, Subscription, WhenSlow};
pub use tls::{Tls, Toll};
pub use unmade::Unmade;
