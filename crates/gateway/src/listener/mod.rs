//! Where connections come from: bound sockets, the loop that accepts, and the proxy's word for who is
//! there. It speaks no HTTP.

mod accept;
mod bind;
mod proxy;

pub use accept::{Accepted, accept};
pub use bind::{Listeners, raise_open_files};
pub use proxy::read_header;
