//! Everything that speaks HTTP: the handshake of a WebSocket, and the ordinary routes. What happens on
//! a connection after its handshake is the session's.

mod centrifuge;
mod door;
mod emulation;
mod endless;
mod events;
mod framing;
mod handshake;
mod metrics;
mod origin;
mod raw;
mod rejection;
mod routes;
mod since;
mod streams;
mod websocket;

pub use emulation::{emulate, is_emulation, tally as emulation_tally};
pub use events::Events;
pub use framing::{Goes, judge};
pub use handshake::{Handoff, Purpose, Upgrade, is_upgrade, upgrade};
pub use rejection::Rejection;
pub use routes::{internal, public};
pub use since::go_on;
pub use websocket::id_value;
