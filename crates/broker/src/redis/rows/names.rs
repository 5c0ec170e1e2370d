//! The names of the keys in which rows are kept. What belongs to one channel or user has its name in braces, and what
//! belongs to all instances the word `instances`, so that a cluster keeps together what a script touches together.

use fanfare_protocol::Channel;
use uuid::Uuid;

use super::super::keys::Keys;

/// The keys of one installation.
pub(in crate::redis) struct Names {
    prefix: String,
}

/// Where rows of a lease can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Among the members of a channel.
    Channel(Channel),
    /// Among the connections of a user.
    User(String),
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Leases that hold, each with the time of its end.
    pub fn alive(&self) -> String {
        self.shared("alive")
    }

    /// Leases that have ended and whose rows are being removed.
    pub fn dying(&self) -> String {
        self.shared("dying")
    }

    /// The places of a lease.
    pub fn places(&self, lease: Uuid) -> String {
        self.shared(&format!("places:{lease}"))
    }

    /// Who removes the rows of a lease at the moment.
    pub fn reaper(&self, lease: Uuid) -> String {
        self.shared(&format!("reaper:{lease}"))
    }

    /// What the instance that has this lease says of itself.
    pub fn facts(&self, lease: Uuid) -> String {
        self.named("facts", &lease.to_string())
    }

    /// The channels of the instance that has this lease, with their subscribers.
    pub fn counts(&self, lease: Uuid) -> String {
        self.named("counts", &lease.to_string())
    }

    /// Leases that may not write members into a channel any more.
    pub fn fence(&self, channel: &Channel) -> String {
        self.named("fence", channel.as_str())
    }

    /// How many members of a channel are present under each lease that may write there.
    pub fn instances(&self, channel: &Channel) -> String {
        self.named("presence", channel.as_str())
    }

    /// How many members of a channel each user has.
    pub fn users(&self, channel: &Channel) -> String {
        self.named("users", channel.as_str())
    }

    /// Users who may be back in a channel.
    pub fn leaving(&self, channel: &Channel) -> String {
        self.named("leaving", channel.as_str())
    }

    /// The members of a channel under a lease.
    pub fn members(&self, channel: &Channel, lease: Uuid) -> String {
        self.named(&format!("members:{lease}"), channel.as_str())
    }

    /// Leases that may not claim connections for a user any more.
    pub fn user_fence(&self, user: &str) -> String {
        self.named("user-fence", user)
    }

    /// Leases that may claim connections for a user.
    pub fn admitted(&self, user: &str) -> String {
        self.named("admitted", user)
    }

    /// The connections of a user, each with its lease.
    pub fn claims(&self, user: &str) -> String {
        self.named("claims", user)
    }

    fn shared(&self, what: &str) -> String {
        self.named(what, "instances")
    }

    fn named(&self, what: &str, name: &str) -> String {
        Keys::tagged(&self.prefix, what, name)
    }
}

impl Place {
    /// How it is written down.
    pub fn encode(&self) -> String {
        match self {
            Self::Channel(channel) => format!("c{channel}"),
            Self::User(user) => format!("u{user}"),
        }
    }

    /// What was written down so; nothing, if it was not.
    pub fn read(written: &str) -> Option<Self> {
        match written.split_at_checked(1)? {
            ("c", name) => Channel::new(name).ok().map(Self::Channel),
            ("u", name) => Some(Self::User(name.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_together_is_kept_together() {
        let names = Names::new("fanfare");
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let tag = |key: &str| {
            let behind = key.split_once('{').expect("a brace").1;
            behind.split_once('}').expect("another").0.to_owned()
        };
        for name in ["lobby", "}", "}x", "\\}", "a}b", "{", "{}"] {
            let channel = Channel::new(name).expect("a name");
            let keys = [
                names.fence(&channel),
                names.instances(&channel),
                names.users(&channel),
                names.leaving(&channel),
                names.members(&channel, one),
                names.members(&channel, other),
            ];
            let first = tag(&keys[0]);
            assert!(!first.is_empty());
            assert!(keys.iter().all(|key| tag(key) == first), "{keys:?}");
        }
        for user in ["", "ann", "}"] {
            assert_eq!(tag(&names.user_fence(user)), tag(&names.claims(user)));
            assert_eq!(tag(&names.admitted(user)), tag(&names.claims(user)));
            assert!(!tag(&names.claims(user)).is_empty());
        }
        let shared =
            [names.alive(), names.dying(), names.places(one), names.places(other), names.reaper(one)];
        assert!(shared.iter().all(|key| tag(key) == "instances"), "{shared:?}");
    }

    #[test]
    fn places_are_read_again() {
        for place in [Place::Channel(Channel::lobby()), Place::User("ann".into()), Place::User(String::new())]
        {
            assert_eq!(Place::read(&place.encode()), Some(place));
        }
        for written in ["", "c", "x", "é"] {
            assert_eq!(Place::read(written), None, "{written}");
        }
    }
}
