//! The name of a channel, parsed once at the edge. It knows nothing of who may join one.

use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// A channel's name: 1 to 255 bytes of UTF-8. Cloning shares the name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a name is not a channel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nothing stands where the name belongs.
    #[error("a channel name is empty; expected 1 to {} bytes of UTF-8", Channel::MAX_BYTES)]
    Empty,
    /// The name has this many bytes.
    #[error("a channel name has {0} bytes; expected 1 to {max} bytes of UTF-8", max = Channel::MAX_BYTES)]
    TooLong(usize),
    /// The decoded bytes are not UTF-8.
    #[error("a channel name is not UTF-8; expected 1 to {} bytes of UTF-8", Channel::MAX_BYTES)]
    NotUtf8,
}

impl Channel {
    /// The longest name, in bytes after percent-decoding.
    pub const MAX_BYTES: usize = 255;

    /// The channel that `/ws` joins.
    pub fn lobby() -> Self {
        Self(Arc::from("lobby"))
    }

    /// Takes a name as it is.
    pub fn new(name: &str) -> Result<Self, ChannelError> {
        match name.len() {
            0 => Err(ChannelError::Empty),
            bytes if bytes > Self::MAX_BYTES => Err(ChannelError::TooLong(bytes)),
            _ => Ok(Self(Arc::from(name))),
        }
    }

    /// Takes a name out of a request's path: percent-decoded (RFC 3986 section 2.1), then as `new`.
    pub fn from_path(segment: &str) -> Result<Self, ChannelError> {
        let name = percent_decode_str(segment).decode_utf8().map_err(|_| ChannelError::NotUtf8)?;
        Self::new(&name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `:`, without the `$` of a private channel; nothing where there is no `:`, or only
    /// behind a `#`: there it is a part of a user's name, such as `urn:1`. Whether such a namespace exists is for
    /// others to say.
    pub fn namespace(&self) -> Option<&str> {
        let (before, _) = self.0.split_once(':').filter(|(before, _)| !before.contains('#'))?;
        Some(before.strip_prefix('$').unwrap_or(before))
    }

    /// Whether the name begins with `$`, and so asks for a subscription token.
    pub fn is_private(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The users after the first `#`, separated by commas; nothing where there is no `#`. A channel is limited to them
    /// only where its namespace says so. After the first, because a user may be called `x#bob`, and the channel of that
    /// one is not bob's.
    pub fn users(&self) -> Option<impl Iterator<Item = &str>> {
        self.0.split_once('#').map(|(_, users)| users.split(','))
    }

    /// Whether the name lets a user in: it names this one, or nobody. Who has no name is never named, not even by `a#`.
    pub fn names(&self, user: &str) -> bool {
        self.users().is_none_or(|mut users| !user.is_empty() && users.any(|named| named == user))
    }

    /// Whose personal channel it is, where those of this namespace, or of none, are personal: all that stands behind
    /// the `#` of `namespace:#user` or `#user`. It is one name, whatever is in it.
    pub fn personal_user(&self, namespace: Option<&str>) -> Option<&str> {
        let name = match namespace {
            Some(namespace) => self.0.strip_prefix(namespace)?.strip_prefix(':')?,
            None => &self.0,
        };
        name.strip_prefix('#')
    }

    /// A user's personal channel, in a namespace or in none.
    pub fn personal(namespace: Option<&str>, user: &str) -> Result<Self, ChannelError> {
        match namespace {
            Some(namespace) => Self::new(&format!("{namespace}:#{user}")),
            None => Self::new(&format!("#{user}")),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_bounded() {
        let long = "x".repeat(256);
        let full = "é".repeat(127) + "x";
        let rows: &[(&str, Result<&str, ChannelError>)] = &[
            ("lobby", Ok("lobby")),
            ("chat%3Aroom%201", Ok("chat:room 1")),
            ("%C3%A9", Ok("é")),
            ("a%2Fb", Ok("a/b")),
            ("%00", Ok("\0")),
            ("100%", Ok("100%")),
            ("", Err(ChannelError::Empty)),
            ("%FF", Err(ChannelError::NotUtf8)),
            (&full, Ok(&full)),
            (&long, Err(ChannelError::TooLong(256))),
        ];
        for (segment, expected) in rows {
            let got = Channel::from_path(segment);
            assert_eq!(got.as_ref().map(Channel::as_str), expected.as_ref().map(|s| *s), "{segment}");
        }
    }

    #[test]
    fn a_name_says_its_namespace_and_its_users() {
        type Row<'a> = (&'a str, Option<&'a str>, bool, Option<&'a [&'a str]>);
        let rows: &[Row] = &[
            ("lobby", None, false, None),
            ("chat:room", Some("chat"), false, None),
            ("chat:a:b", Some("chat"), false, None),
            (":room", Some(""), false, None),
            ("chat:", Some("chat"), false, None),
            ("$room", None, true, None),
            ("$chat:room", Some("chat"), true, None),
            ("$:room", Some(""), true, None),
            ("$$chat:room", Some("$chat"), true, None),
            ("chat:$room", Some("chat"), false, None),
            ("dialog#12,42", None, false, Some(&["12", "42"])),
            ("chat:#7", Some("chat"), false, Some(&["7"])),
            ("#7", None, false, Some(&["7"])),
            ("a#1#2,3", None, false, Some(&["1#2", "3"])),
            ("a#", None, false, Some(&[""])),
            ("a#1,", None, false, Some(&["1", ""])),
            ("a#b:c", None, false, Some(&["b:c"])),
            ("chat:a#b:c", Some("chat"), false, Some(&["b:c"])),
        ];
        for (name, namespace, private, users) in rows {
            let channel = Channel::new(name).unwrap();
            assert_eq!(channel.namespace(), *namespace, "{name}");
            assert_eq!(channel.is_private(), *private, "{name}");
            let found: Option<Vec<_>> = channel.users().map(Iterator::collect);
            assert_eq!(found.as_deref(), *users, "{name}");
        }
    }

    #[test]
    fn a_name_lets_in_whom_it_names() {
        for (name, user, expected) in [
            ("news", "", true),
            ("news", "12", true),
            ("dialog#12,42", "12", true),
            ("dialog#12,42", "42", true),
            ("dialog#12,42", "1", false),
            ("dialog#12,42", "12,42", false),
            ("dialog#12,42", "", false),
            ("dialog#", "", false),
            ("dialog#1,", "", false),
            ("a#12#42", "12", false),
            ("a#12#42", "42", false),
            ("a#12#42", "12#42", true),
            ("a#urn:1,urn:2", "urn:1", true),
        ] {
            assert_eq!(Channel::new(name).unwrap().names(user), expected, "{name} {user}");
        }
    }

    #[test]
    fn a_personal_channel_is_one_user_s() {
        for (namespace, name, expected) in [
            (None, "#12", Some("12")),
            (None, "#12,42", Some("12,42")),
            (None, "##12", Some("#12")),
            (None, "#urn:1", Some("urn:1")),
            (None, "#", Some("")),
            (None, "chat:#12", None),
            (None, "$#12", None),
            (None, "dialog#12", None),
            (Some("chat"), "chat:#12", Some("12")),
            (Some("chat"), "chat:#urn:1", Some("urn:1")),
            (Some("chat"), "chat:x#12", None),
            (Some("chat"), "chat#12", None),
            (Some("chat"), "$chat:#12", None),
            (Some("chat"), "#12", None),
        ] {
            assert_eq!(
                Channel::new(name).unwrap().personal_user(namespace),
                expected,
                "{namespace:?} {name}"
            );
        }
        for namespace in [None, Some("chat")] {
            for user in ["12", "ann,bob", "x#bob", "urn:1"] {
                let channel = Channel::personal(namespace, user).unwrap();
                assert_eq!(channel.namespace(), namespace, "{user}");
                assert_eq!(channel.personal_user(namespace), Some(user));
            }
        }
        assert_eq!(Channel::personal(None, &"1".repeat(255)), Err(ChannelError::TooLong(256)));
    }
}
