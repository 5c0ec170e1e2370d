//! One client of a relay, and many of them on one thread: where it connects to, what it speaks, and what its bytes
//! mean. What a message is worth is not known here.

pub mod body;
pub mod connection;
pub mod speech;
pub mod stream;
pub mod swarm;
pub mod sys;
pub mod target;
pub mod transport;
pub mod uplink;
