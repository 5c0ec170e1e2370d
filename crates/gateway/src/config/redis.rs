//! How to reach Redis, and under which names. The password in the URL leaves this file only through
//! [`RedisUrl::expose`]; everything that prints it prints a mask. Nothing is connected to here.

use std::fmt;
use std::ops::Deref;

use url::Url;

use super::value::{Hint, Kind, Raw, Value, items, list, string, texts};

/// A `redis://` or `rediss://` URL, which may hold a user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Url);

impl RedisUrl {
    /// The URL with its password, for the one who connects. Never to be logged or shown.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it names another database than the first.
    pub fn has_database(&self) -> bool {
        !matches!(self.0.path().trim_start_matches('/'), "" | "0")
    }
}

/// With `***` in the place of the password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut masked = self.0.clone();
        if masked.password().is_some() {
            masked.set_password(Some("***")).map_err(|()| fmt::Error)?;
        }
        f.write_str(masked.as_str())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Value for RedisUrl {
    const KIND: Kind = Kind::SecretUrl;
    const EXPECTED: &'static str = r#"a URL such as "redis://user:password@host:6379/0" or "rediss://host""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        let because = |why: &str| Err(Some(why.to_owned()));
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(_) if text.contains(['#', '%', '?']) => {
                return because(
                    "in a user or password write # as %23, % as %25, ? as %3F, / as %2F and @ as %40",
                );
            }
            Err(_) => return Err(None),
        };
        if !matches!(url.scheme(), "redis" | "rediss") {
            return because("it begins with redis:// or, for TLS, rediss://");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return because("the host is missing");
        }
        if url.fragment().is_some() {
            return because("a # in a user or password is written %23");
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u32>().is_err() {
            return because("what follows the host is the number of a database");
        }
        Ok(Self(url))
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.to_string()))
    }
}

/// Nodes of a cluster.
impl Value for Vec<RedisUrl> {
    const KIND: Kind = Kind::SecretList;
    const EXPECTED: &'static str = r#"a list of URLs such as "redis://user:password@host:6379""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        items(text).map(RedisUrl::parse).collect()
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        // A hint of `texts` would quote what may be a password.
        let urls = texts(raw).map_err(|hint| hint.map(|_| "each is a string".to_owned()))?;
        urls.into_iter().map(RedisUrl::parse).collect()
    }

    fn to_toml(&self) -> Option<String> {
        Some(list(self.iter().map(RedisUrl::to_string)))
    }
}

/// What the names of all Redis channels and keys of one cluster begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisPrefix(String);

impl Deref for RedisPrefix {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Value for RedisPrefix {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str = "1 to 64 visible ASCII characters";

    fn parse(text: &str) -> Result<Self, Hint> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(None) }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (text, shown) in [
            ("redis://localhost", "redis://localhost"),
            ("redis://localhost:6379/2", "redis://localhost:6379/2"),
            ("rediss://app:hunter2@cache.example:6380/0", "rediss://app:***@cache.example:6380/0"),
            ("redis://:hunter2@10.0.0.1", "redis://:***@10.0.0.1"),
            ("redis://app:hunt%23er2@[::1]:6379", "redis://app:***@[::1]:6379"),
        ] {
            let url = RedisUrl::parse(text).expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.to_toml(), Some(format!("\"{shown}\"")));
            assert_eq!(url.expose(), text, "the one who connects needs it whole");
        }
    }

    #[test]
    fn what_is_no_redis_url_is_refused() {
        for text in [
            "localhost",
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://h/db",
            "redis://:pa#ss@h",
            "redis://h#x",
        ] {
            assert!(RedisUrl::parse(text).is_err(), "{text}");
        }
    }
}
