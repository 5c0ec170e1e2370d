//! How one value is read, whichever layer it came from, and how it is written back.
//!
//! A [`Raw`] is what a layer said; a [`Value`] is what the key means. Reading is strict in a file, where TOML has types
//! of its own (`workers = "4"` is refused), and reads words in variables and flags, which have none. No value is looked
//! at beside another here: that is `rules`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use ipnet::IpNet;

/// What a layer said for a key, before the key's type has been applied. Not `Debug`: it may be a password.
pub enum Raw {
    /// A default, a variable or a flag: text without a type. Lists are separated by commas.
    Word(String),
    /// A string in the file.
    Text(String),
    /// An integer in the file, as it was written; it may be larger than any type of ours.
    Integer(String),
    /// A boolean in the file.
    Boolean(bool),
    /// An array in the file.
    List(Vec<Raw>),
    /// Something in the file that no key takes, such as a float or a date.
    Other(&'static str),
}

impl Raw {
    /// The digits of a whole number, where a layer said one.
    pub fn integer(&self) -> Result<&str, Hint> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self {
            Self::Word(text) | Self::Integer(text) if digits(text) => Ok(text),
            Self::Text(text) if digits(text) => Err(Some("write it without quotes".into())),
            _ => Err(None),
        }
    }

    /// How an error message quotes it.
    pub(super) fn quoted(&self) -> String {
        match self {
            Self::Word(text) | Self::Text(text) => format!("{text:?}"),
            Self::Integer(digits) => digits.clone(),
            Self::Boolean(value) => value.to_string(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::quoted).collect::<Vec<_>>().join(", "))
            }
            Self::Other(kind) => (*kind).to_owned(),
        }
    }
}

/// What a key's type is called, in the reference and wherever the command line depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `host:port`.
    Address,
    /// `true` or `false`; as a flag its value may be left out.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number with a unit of time.
    Duration,
    /// A whole number.
    Integer,
    /// Several texts; as a flag it may be repeated.
    List,
    /// The path of a file.
    Path,
    /// A number of bytes, with or without a unit.
    Size,
    /// Any text that the key understands.
    Text,
    /// A URL that may hold a password, and is masked wherever it is shown.
    SecretUrl,
    /// Several texts, none of which is ever shown; as a flag it may be repeated.
    SecretList,
}

impl Kind {
    /// The word for it in the reference.
    pub fn name(self) -> String {
        match self {
            Self::Address => "address".into(),
            Self::Boolean => "boolean".into(),
            Self::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
            }
            Self::Duration => "duration".into(),
            Self::Integer => "integer".into(),
            Self::List => "list".into(),
            Self::Path => "path".into(),
            Self::Size => "size".into(),
            Self::Text => "text".into(),
            Self::SecretUrl => "URL, secret".into(),
            Self::SecretList => "list, secret".into(),
        }
    }

    /// Whether its values are masked wherever they are shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::SecretUrl | Self::SecretList)
    }

    /// Whether a value is several, separated by commas where there are no brackets.
    pub fn is_list(self) -> bool {
        matches!(self, Self::List | Self::SecretList)
    }
}

/// Why a text is not a value: a sentence to add to "expected …, found …", where there is more to say.
pub type Hint = Option<String>;

/// A type that a configuration key can have.
pub trait Value: Sized {
    /// What sort of value it is.
    const KIND: Kind;
    /// Completes "expected …".
    const EXPECTED: &'static str;

    /// Reads a text: a word of any layer, or a string of the file.
    fn parse(text: &str) -> Result<Self, Hint>;

    /// Reads what a layer said. The error is the rest of the line after the key and where it was set.
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Word(text) | Raw::Text(text) => Self::parse(text).map_err(|hint| Self::refuse(raw, hint)),
            _ => Self::misread(raw).map_err(|hint| Self::refuse(raw, hint)),
        }
    }

    /// Reads what the file said with a type of its own. Most keys take strings only.
    fn misread(_raw: &Raw) -> Result<Self, Hint> {
        Err(None)
    }

    /// The line for a value that cannot be read. Never quotes a secret.
    fn refuse(raw: &Raw, hint: Hint) -> String {
        let found = match Self::KIND.is_secret() {
            true => "something else (not shown, it may hold a password)".to_owned(),
            false => raw.quoted(),
        };
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("expected {}, found {found}{hint}", Self::EXPECTED)
    }

    /// The value in TOML, secrets masked, or nothing where it is not set.
    fn to_toml(&self) -> Option<String>;

    /// Whether it lies between two others, where its type has an order.
    fn within(&self, _low: &Self, _high: &Self) -> bool {
        true
    }
}

/// A key that may be left unset. An empty text unsets what a lower layer has set, which is also what an empty variable
/// in a compose file means.
impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;
    const EXPECTED: &'static str = T::EXPECTED;

    fn parse(text: &str) -> Result<Self, Hint> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Word(text) | Raw::Text(text) if text.is_empty() => Ok(None),
            _ => T::read(raw).map(Some),
        }
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_toml)
    }
}

impl Value for bool {
    const KIND: Kind = Kind::Boolean;
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, Hint> {
        text.parse().map_err(|_| None)
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Word(text) => Self::parse(text),
            Raw::Boolean(value) => Ok(*value),
            Raw::Text(text) if Self::parse(text).is_ok() => Err(Some("write it without quotes".into())),
            _ => Err(None),
        }
        .map_err(|hint| Self::refuse(raw, hint))
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A count, in which 0 stands for "none given": no limit, or as many as there are.
macro_rules! count {
    ($number:ty, $zero:ty) => {
        impl Value for Option<$zero> {
            const KIND: Kind = Kind::Integer;
            const EXPECTED: &'static str = "a whole number";

            fn parse(text: &str) -> Result<Self, Hint> {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let too_large = || digits.then(|| format!("the largest possible is {}", <$number>::MAX));
                text.parse::<$number>().ok().filter(|_| digits).map(<$zero>::new).ok_or_else(too_large)
            }

            fn read(raw: &Raw) -> Result<Self, String> {
                raw.integer().and_then(Self::parse).map_err(|hint| Self::refuse(raw, hint))
            }

            fn to_toml(&self) -> Option<String> {
                Some(self.map_or(0, <$zero>::get).to_string())
            }

            fn within(&self, low: &Self, high: &Self) -> bool {
                (low..=high).contains(&self)
            }
        }
    };
}

count!(u32, NonZeroU32);
count!(usize, NonZeroUsize);

/// Relative to the working directory. Whether anything is there is found out by who reads it.
impl Value for PathBuf {
    const KIND: Kind = Kind::Path;
    const EXPECTED: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, Hint> {
        if text.is_empty() { Err(None) } else { Ok(text.into()) }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.to_string_lossy()))
    }
}

/// A bare address is a network of that one address.
impl Value for Vec<IpNet> {
    const KIND: Kind = Kind::List;
    const EXPECTED: &'static str = r#"a list of addresses and networks such as "10.0.0.0/8" or "::1""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        items(text).map(network).collect()
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        texts(raw)?.into_iter().map(network).collect()
    }

    fn to_toml(&self) -> Option<String> {
        Some(list(self.iter().map(|net| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        })))
    }
}

fn network(text: &str) -> Result<IpNet, Hint> {
    if let Ok(address) = text.parse() {
        return Ok(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let net: IpNet =
        text.parse().map_err(|_| Some(format!("{text:?} is neither an address nor a network")))?;
    if net.trunc() != net {
        return Err(Some(format!(
            "{text:?} is an address inside a network; the network is \"{}\"",
            net.trunc()
        )));
    }
    Ok(net)
}

/// The items of a list written as a word.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The items of a list written in the file, each of which must be a string.
pub fn texts<'a>(raw: &'a Raw) -> Result<Vec<&'a str>, Hint> {
    let Raw::List(items) = raw else { return Err(None) };
    let text = |item: &'a Raw| match item {
        Raw::Text(text) => Ok(text.as_str()),
        other => Err(Some(format!("{} is not a string", other.quoted()))),
    };
    items.iter().map(text).collect()
}

/// A TOML string. Rust's escapes for what needs one here are TOML's too, but for control characters, which no key
/// takes.
pub fn string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A TOML array of strings.
pub fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.map(|item| string(&item)).collect::<Vec<_>>().join(", "))
}
