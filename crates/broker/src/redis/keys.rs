//! The names of Redis channels. Nothing else in the crate puts one together or takes one apart.

use fanfare_protocol::Channel;
use uuid::Uuid;

/// The Redis channels of one lane.
pub(super) struct Keys {
    channels: String,
    /// Heard by every lane of every instance: what instances tell each other.
    pub control: String,
    /// Heard by this lane alone, to learn whether the bus brings back what it was given.
    pub canary: String,
}

/// What a Redis channel's name turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    Channel(Channel),
    Control,
    Canary,
}

impl Keys {
    pub fn new(prefix: &str, origin: Uuid) -> Self {
        Self {
            channels: format!("{prefix}:channel:"),
            control: format!("{prefix}:control"),
            canary: format!("{prefix}:canary:{origin}"),
        }
    }

    /// The Redis channel of a channel.
    pub fn channel(&self, channel: &Channel) -> String {
        let mut key = String::with_capacity(self.channels.len() + channel.as_str().len());
        self.write_channel(channel, &mut key);
        key
    }

    /// The same, into a string that is used again and again.
    pub fn write_channel(&self, channel: &Channel, key: &mut String) {
        key.clear();
        key.push_str(&self.channels);
        key.push_str(channel.as_str());
    }

    /// What a message came through; nothing for a name that was never subscribed to.
    pub fn read(&self, name: &str) -> Option<Key> {
        if let Some(channel) = name.strip_prefix(&self.channels) {
            return Channel::new(channel).ok().map(Key::Channel);
        }
        if name == self.canary {
            return Some(Key::Canary);
        }
        (name == self.control).then_some(Key::Control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_and_taken_apart() {
        let keys = Keys::new("fanfare", Uuid::nil());
        let lobby = Channel::lobby();
        assert_eq!(keys.channel(&lobby), "fanfare:channel:lobby");
        let rows = [
            ("fanfare:channel:lobby", Some(Key::Channel(lobby))),
            ("fanfare:channel:a:b", Some(Key::Channel(Channel::new("a:b").expect("a name")))),
            ("fanfare:channel:", None),
            ("fanfare:control", Some(Key::Control)),
            ("fanfare:canary:00000000-0000-0000-0000-000000000000", Some(Key::Canary)),
            ("fanfare:canary:other", None),
            ("other:channel:lobby", None),
        ];
        for (name, expected) in rows {
            assert_eq!(keys.read(name), expected, "{name}");
        }
    }
}
