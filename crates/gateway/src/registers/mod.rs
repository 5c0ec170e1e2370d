//! Who is here, to be looked up: for all threads the users of the instance's connections, and the sessions that are
//! spoken to by requests; for each worker its own sessions of the client protocol, with what has come for them. What is
//! to be done with whoever is found, or with what has come, is not known here.

mod mail;
mod sessions;
mod users;

pub use mail::{Letter, MOST_LETTERS, Mail, Roster};
pub use sessions::{Seat, Sessions};
pub use users::Users;
