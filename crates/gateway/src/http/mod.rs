//! Everything that speaks HTTP: the handshake of a WebSocket, and the ordinary routes. What happens on
//! a connection after its handshake is the session's.

mod client;
mod door;
mod emulation;
mod endless;
mod events;
mod framing;
pub mod query;
mod rejection;
mod routes;
mod since;
mod streams;
mod upgrade;

pub use door::MayPublish;
pub use emulation::{Emulation, emulate, is_emulation};
pub use events::Events;
pub use framing::{Goes, judge};
pub use rejection::{Rejected, Rejection};
pub use routes::{internal, public};
pub use since::go_on;
pub use upgrade::{Handoff, Purpose, Terms, Upgrade, id_value, is_upgrade, upgrade};
