//! Who is here, for all threads to look up: the users of the instance's connections, and the sessions that are spoken
//! to by requests. What is to be done with whoever is found is not known here.

mod sessions;
mod users;

pub use sessions::{Seat, Sessions};
pub use users::Users;
