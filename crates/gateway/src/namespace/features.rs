//! What one subscription has: its namespace's options, overridden by its token where that says something. It does not
//! know what the client asked for.

use super::{Offer, Options};
use crate::identity::Overrides;

/// The features of a subscription before its client's wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Whether it counts as presence.
    pub presence: bool,
    /// Whether its coming and going is told to others, and to it that of others.
    pub join_leave: Offer,
    /// Whether it knows its position.
    pub positioning: Offer,
    /// Whether it recovers what it has missed.
    pub recovery: Offer,
}

impl Options {
    /// What a subscription with these overrides has. What a token forces and the namespace cannot give stays off:
    /// nothing recovers without history.
    pub fn features(&self, overrides: &Overrides) -> Features {
        let forced = |ours: Offer, forced: Option<bool>| match forced {
            Some(true) => Offer::Force,
            Some(false) if ours == Offer::Force => Offer::Allow,
            _ => ours,
        };
        let history = |offer: Offer| if self.history_size.is_some() { offer } else { Offer::Off };
        let events = match (overrides.join_leave, self.join_leave) {
            (Some(false), _) => Offer::Off,
            (Some(true), Offer::Off) => Offer::Allow,
            (_, ours) => ours,
        };
        Features {
            presence: overrides.presence.unwrap_or(self.presence),
            join_leave: if events == Offer::Off {
                Offer::Off
            } else {
                forced(events, overrides.force_push_join_leave)
            },
            positioning: history(forced(self.positioning, overrides.force_positioning)),
            recovery: history(forced(self.recovery, overrides.force_recovery)),
        }
    }
}
