//! Where connections come from: room for their files, bound sockets, the loop that accepts, the proxy's word for who is
//! there, and how the lines of a request end. It speaks no HTTP.

mod accept;
mod bind;
mod heads;
mod open_files;
mod proxy;

pub use accept::{Accepted, accept};
pub use bind::{Listeners, hold_within};
pub use heads::Heads;
pub use open_files::raise_open_files;
pub use proxy::read_header;
