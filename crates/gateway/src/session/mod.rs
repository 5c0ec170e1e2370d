//! What all sessions have in common, how a socket is read and when others have their turn, and the session of the raw
//! endpoints. The Centrifuge protocol's stands in `centrifuge`.

pub mod backpressure;
pub mod inbound;
pub mod listening;
pub mod pace;
pub mod rate;
pub mod raw;
