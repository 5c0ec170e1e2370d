//! How many connections a user may have, over all instances. Who the user is, and what becomes of a connection that
//! is one too many, is for others to say.

use fanfare_protocol::ConnectionId;

use crate::Pending;

/// The connections of each user, counted together.
pub trait Claims {
    /// Claims one of the user's `limit` places for a connection. The claim holds until it is given back or the
    /// instance's lease has ended; claiming again for the same connection changes nothing. Where other instances hold
    /// what stands in the way, this waits until they are known to live, for half a lease at most.
    fn claim<'a>(&'a self, user: &'a str, connection: ConnectionId, limit: u32) -> Pending<'a, Claim>;

    /// Gives the place back. Nothing happens if there was no claim.
    fn give_back(&self, user: &str, connection: ConnectionId);
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The place is the connection's.
    Held,
    /// All places are taken, by connections of living instances; nothing is claimed.
    Full,
    /// All places are taken, but some by an instance that may have died: nothing is claimed, and there may be room
    /// soon.
    InDoubt,
    /// The bus is away, so that nobody knows. The place is the connection's: it counts as soon as the bus is back, even
    /// if there are too many then.
    Unproven(crate::Away),
}
