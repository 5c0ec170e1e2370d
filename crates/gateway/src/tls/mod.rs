//! TLS at the clients' address: a certificate that can be replaced while connections go on, and the handshake. It ends
//! at HTTP and the hub, which are handed a stream like any other; `internal_listen` never speaks it.

mod certificate;
mod handshake;
mod reckoning;
mod renewal;

pub use handshake::{Handshake, TlsStream, refuse_plain_http, shake_hands};
pub use reckoning::Reckoning;
pub use renewal::LiveCertificate;
