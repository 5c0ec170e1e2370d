//! Telling other instances what to do about clients that they may have. Nothing is kept for an instance that is not
//! there, and nobody waits for what an instance does about it.

use fanfare_protocol::Control;
use uuid::Uuid;

use crate::{Away, Pending};

/// The way of control messages.
pub trait ControlBus {
    /// Sends a message. Registered by the call itself: messages of one instance reach every relay in the order of the
    /// calls. The future says what came of it, within the broker's deadline; what a relay does with it nobody learns.
    ///
    /// What goes to every instance reaches this one as well: also while the bus is away, when the error says that the
    /// others did not get it and will not.
    fn control(&self, target: Target, message: Control) -> Pending<'static, Result<(), Unsent>>;
}

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Every instance, this one included.
    All,
    /// One, by its id; it may be this one.
    Instance(Uuid),
}

/// Why a message may not have reached whom it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The bus is away. The message will not be sent later; if the bus went away just now, it may have been sent.
    #[error(transparent)]
    Away(#[from] Away),
    /// More messages wait than may.
    #[error("too many control messages wait to be sent; try again")]
    Busy,
    /// Nobody with this id listens.
    #[error("instance {0} is not there")]
    Nobody(Uuid),
}
