//! Values of the keys that are for clients of the Centrifuge protocol. Whether a namespace is there is a rule's
//! business.

use fanfare_protocol::{Channel, ChannelError};

use super::namespaces::NamespaceName;
use super::value::{Hint, Kind, Value, string};

/// Which channel is a user's own: what stands before the user's name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalChannel(Option<String>);

impl PersonalChannel {
    /// Its namespace, if it is in one.
    pub fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The channel of this user.
    ///
    /// # Errors
    ///
    /// When the user's name is too long for one.
    pub fn of(&self, user: &str) -> Result<Channel, ChannelError> {
        Channel::personal(self.namespace(), user)
    }
}

impl Value for PersonalChannel {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str = r##""#", or a namespace before it such as "personal:#""##;

    fn parse(text: &str) -> Result<Self, Hint> {
        match text.strip_suffix('#') {
            Some("") => Ok(Self(None)),
            Some(prefix) => {
                let name = prefix.strip_suffix(':').ok_or(None)?;
                NamespaceName::parse(name).map_err(Some)?;
                Ok(Self(Some(name.to_owned())))
            }
            None => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        let namespace = self.0.as_ref().map(|name| format!("{name}:"));
        Some(string(&format!("{}#", namespace.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_a_users_name() {
        for (text, channel) in [
            ("#", Some("#ann")),
            ("personal:#", Some("personal:#ann")),
            ("", None),
            ("personal", None),
            ("personal#", None),
            (":#", None),
            ("a b:#", None),
        ] {
            let read = PersonalChannel::parse(text).ok();
            let found = read.as_ref().map(|personal| personal.of("ann").unwrap().as_str().to_owned());
            assert_eq!(found.as_deref(), channel, "{text}");
            assert_eq!(read.and_then(|personal| personal.to_toml()), channel.map(|_| format!("{text:?}")));
        }
    }
}
