//! One of the places that a user has over all instances (`max_connections_per_user`). Whoever
//! holds one has a connection; how many are held the broker knows.

use std::sync::Arc;

use fanfare_broker::Claim;
use fanfare_protocol::ConnectionId;

use crate::identity::User;
use crate::instance::Instance;

/// Why a connection has claimed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoClaim {
    /// The user has as many connections as it may have.
    Full,
    /// It seems so, but some of them may have gone with their instance: there may be room soon.
    InDoubt,
}

/// A place that is held, or may be: it is given back when this is dropped.
pub struct Claimed {
    instance: Arc<Instance>,
    user: User,
    connection: ConnectionId,
}

impl Claimed {
    /// Takes a place for a connection; none where they are not counted.
    ///
    /// # Errors
    ///
    /// When all of the user's are taken, or may be.
    pub async fn take(
        instance: &Arc<Instance>,
        user: &User,
        connection: ConnectionId,
    ) -> Result<Option<Box<Self>>, NoClaim> {
        let limit = instance.config.max_connections_per_user.filter(|_| !user.is_anonymous());
        let Some(limit) = limit else { return Ok(None) };
        // From here on: the client may go while it waits, and what was asked for is to be given back then.
        let claimed = Box::new(Self { instance: instance.clone(), user: user.clone(), connection });
        match instance.broker.claim(user.as_str(), connection, limit.get()).await {
            Claim::Full => Err(NoClaim::Full),
            Claim::InDoubt => Err(NoClaim::InDoubt),
            // While the bus is away, nobody knows; to turn everybody away would be worse.
            Claim::Held | Claim::Unproven(_) => Ok(Some(claimed)),
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.instance.broker.give_back(self.user.as_str(), self.connection);
    }
}
