//! The names of Redis channels and keys. Nothing else in the crate puts one together or takes one apart.
//!
//! All keys of a channel have its name in braces, so that a cluster keeps them on one node.

use fanfare_protocol::Channel;
use uuid::Uuid;

/// The Redis channels of one lane.
pub(super) struct Keys {
    prefix: String,
    channels: String,
    instances: String,
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
    Instance,
    Canary,
}

impl Keys {
    /// Those of one installation; the canary is the origin's own.
    pub fn new(prefix: &str, origin: Uuid) -> Self {
        Self {
            prefix: prefix.to_owned(),
            channels: format!("{prefix}:channel:"),
            instances: format!("{prefix}:instance:"),
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

    /// Where a channel's publications are kept.
    pub fn stream(&self, channel: &Channel) -> String {
        self.of("stream", channel)
    }

    /// Where it is written how far a channel has counted.
    pub fn top(&self, channel: &Channel) -> String {
        self.of("top", channel)
    }

    /// Where it is written how far this share of what an origin appends has come.
    pub fn mark(&self, origin: Uuid, share: u64) -> String {
        format!("{}:sent:{origin}:{share}", self.prefix)
    }

    /// The same for one channel, beside its other keys.
    pub fn channel_mark(&self, origin: Uuid, channel: &Channel) -> String {
        let mut name = self.of("sent", channel);
        name.push(':');
        name.push_str(origin.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        name
    }

    /// Where the result of an append with this key is kept.
    pub fn result(&self, channel: &Channel, key: &str) -> String {
        let mut name = self.of("result", channel);
        name.push(':');
        name.push_str(key);
        name
    }

    /// `prefix:what:{channel}`.
    pub fn of(&self, what: &str, channel: &Channel) -> String {
        Self::tagged(&self.prefix, what, channel.as_str())
    }

    /// `prefix:what:{name}`.
    pub fn tagged(prefix: &str, what: &str, name: &str) -> String {
        // Empty braces would be none to a cluster: the first brace of a name is kept from closing them.
        let kept = if name.is_empty() || name.starts_with(['}', '\\']) { "\\" } else { "" };
        format!("{prefix}:{what}:{{{kept}{name}}}")
    }

    /// Heard by one lane of one instance: what others tell it alone.
    pub fn instance(&self, instance: Uuid) -> String {
        format!("{}{instance}", self.instances)
    }

    /// What a message came through; nothing for a name that was never subscribed to.
    pub fn read(&self, name: &str) -> Option<Key> {
        if let Some(channel) = name.strip_prefix(&self.channels) {
            return Channel::new(channel).ok().map(Key::Channel);
        }
        if name == self.canary {
            return Some(Key::Canary);
        }
        if name.starts_with(&self.instances) {
            return Some(Key::Instance);
        }
        (name == self.control).then_some(Key::Control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_channel_share_what_stands_in_braces() {
        let keys = Keys::new("fanfare", Uuid::nil());
        for (name, tagged) in [
            ("news", "{news}"),
            ("a:b", "{a:b}"),
            ("}x", "{\\}x}"),
            ("\\}x", "{\\\\}x}"),
            ("{}", "{{}}"),
            ("a}b", "{a}b}"),
        ] {
            let channel = Channel::new(name).expect("a name");
            assert_eq!(keys.stream(&channel), format!("fanfare:stream:{tagged}"));
            assert_eq!(keys.top(&channel), format!("fanfare:top:{tagged}"));
            let mark = format!("fanfare:sent:{tagged}:00000000-0000-0000-0000-000000000000");
            assert_eq!(keys.channel_mark(Uuid::nil(), &channel), mark);
            assert_eq!(keys.result(&channel, "key"), format!("fanfare:result:{tagged}:key"));
            let tag = tagged[1..].split('}').next().expect("a part");
            assert!(!tag.is_empty(), "a cluster would spread them");
        }
    }

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
            ("fanfare:instance:00000000-0000-0000-0000-000000000000", Some(Key::Instance)),
            ("fanfare:canary:00000000-0000-0000-0000-000000000000", Some(Key::Canary)),
            ("fanfare:canary:other", None),
            ("other:channel:lobby", None),
        ];
        for (name, expected) in rows {
            assert_eq!(keys.read(name), expected, "{name}");
        }
    }
}
