//! What tokens are checked with: secrets, public keys, and where to fetch more. Files are read with the rest of the
//! configuration, so that a missing one is found before anything is bound. Secrets leave this file only through
//! `secrecy`; everything that prints them prints a mask.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};
use url::Url;

use super::regular_file;
use super::value::{Hint, Kind, Raw, Value, items, list, string, texts};
use crate::expiry::Expiry;
use crate::signature::{KeyFault, TokenKey};

/// One secret of HMAC tokens, perhaps with an end.
#[derive(Debug, Clone)]
pub struct TokenSecret {
    /// What both sides know.
    pub secret: SecretString,
    /// From when on it is no longer taken.
    pub until: Option<Expiry>,
}

impl TokenSecret {
    fn parse(text: &str) -> Result<Self, Hint> {
        let (secret, until) = split_until(text)?;
        if secret.is_empty() {
            return Err(Some("a secret is empty".into()));
        }
        if secret.bytes().all(|byte| byte == b'*') {
            return Err(Some("what `fanfare config` shows in the place of a secret is not one".into()));
        }
        Ok(Self { secret: secret.into(), until })
    }

    /// The key that it is. `label` is what people read of it: its place in the configuration, never the secret.
    pub fn key(&self, label: String) -> TokenKey {
        TokenKey::from_secret(&self.secret, self.until, label)
    }

    fn masked(&self) -> String {
        format!("***{}", until(self.until))
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret() && self.until == other.until
    }
}

impl Value for Vec<TokenSecret> {
    const KIND: Kind = Kind::SecretList;
    const EXPECTED: &'static str = r#"a list of secrets such as "secret" or "secret until 2026-12-31""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        items(text).map(TokenSecret::parse).collect()
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        secret_texts(raw)?.into_iter().map(TokenSecret::parse).collect()
    }

    fn to_toml(&self) -> Option<String> {
        Some(list(self.iter().map(TokenSecret::masked)))
    }
}

/// As `texts`, but quotes nothing.
fn secret_texts(raw: &Raw) -> Result<Vec<&str>, Hint> {
    texts(raw).map_err(|hint| hint.map(|_| "each is a string".to_owned()))
}

/// A file with one secret a line.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub secrets: Vec<TokenSecret>,
}

impl Value for SecretsFile {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str = "a file with one secret a line";

    fn parse(text: &str) -> Result<Self, Hint> {
        let read = regular_file::read_text(text.as_ref()).map_err(|error| Some(error.to_string()))?;
        let lines = read.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let secrets: Vec<_> = lines.map(TokenSecret::parse).collect::<Result<_, _>>()?;
        if secrets.is_empty() {
            return Err(Some("it has none".into()));
        }
        Ok(Self { path: text.into(), secrets })
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.path.display().to_string()))
    }
}

/// A PEM file with a public key, perhaps with an end.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicKeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// From when on its key is no longer taken.
    pub until: Option<Expiry>,
    /// What is in it.
    pub pem: String,
}

impl PublicKeyFile {
    fn parse(text: &str) -> Result<Self, Hint> {
        let (path, until) = split_until(text)?;
        let because = |why: &dyn std::fmt::Display| Some(format!("{path}: {why}"));
        let pem = regular_file::read_text(path.as_ref()).map_err(|error| because(&error))?;
        let file = Self { path: path.into(), until, pem };
        // Only to see that it is one: the configuration has no keys, but what they are made from.
        file.key().map_err(|error| because(&error))?;
        Ok(file)
    }

    /// The key in it, which is named after it.
    ///
    /// # Errors
    ///
    /// Never once the configuration has been read: a file without one is refused.
    pub fn key(&self) -> Result<TokenKey, KeyFault> {
        TokenKey::from_pem(&self.pem, self.until, self.path.display().to_string())
    }
}

impl Value for Vec<PublicKeyFile> {
    const KIND: Kind = Kind::List;
    const EXPECTED: &'static str = r#"a list of PEM files such as "/etc/fanfare/key.pem""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        items(text).map(PublicKeyFile::parse).collect()
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        texts(raw)?.into_iter().map(PublicKeyFile::parse).collect()
    }

    fn to_toml(&self) -> Option<String> {
        Some(list(self.iter().map(|file| format!("{}{}", file.path.display(), until(file.until)))))
    }
}

/// Where a set of public keys is served (RFC 7517, section 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl(Url);

impl JwksUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Value for JwksUrl {
    const KIND: Kind = Kind::Text;
    const EXPECTED: &'static str = r#"a URL such as "https://login.example.com/.well-known/jwks.json""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        let url = Url::parse(text).map_err(|_| None)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Some("it begins with https:// or http://".into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Some("it has a user or a password, and public keys need none".into()));
        }
        if url.fragment().is_some() {
            return Err(Some("it has a #, of which no server hears".into()));
        }
        Ok(Self(url))
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(self.0.as_str()))
    }
}

/// Names that one of which must be met.
impl Value for Vec<String> {
    const KIND: Kind = Kind::List;
    const EXPECTED: &'static str = "a list of texts";

    fn parse(text: &str) -> Result<Self, Hint> {
        Ok(items(text).map(str::to_owned).collect())
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        let texts = texts(raw)?;
        if texts.iter().any(|text| text.is_empty()) {
            return Err(Some("one of them is empty".into()));
        }
        Ok(texts.into_iter().map(str::to_owned).collect())
    }

    fn to_toml(&self) -> Option<String> {
        Some(list(self.iter().cloned()))
    }
}

/// What stands between a thing and its end.
const UNTIL: &str = " until ";

/// A thing and the end after it, if there is one.
fn split_until(text: &str) -> Result<(&str, Option<Expiry>), Hint> {
    let Some((thing, end)) = text.rsplit_once(UNTIL) else { return Ok((text, None)) };
    let midnight = || {
        let date = Date::parse(end, format_description!("[year]-[month]-[day]")).ok()?;
        Some(date.midnight().assume_utc())
    };
    let moment = OffsetDateTime::parse(end, &Rfc3339).ok().or_else(midnight);
    let seconds = moment.and_then(|moment| u64::try_from(moment.unix_timestamp()).ok());
    match seconds {
        Some(seconds) => Ok((thing, Some(Expiry(seconds)))),
        None => {
            Err(Some("after \" until \" stands a date such as 2026-12-31 or 2026-12-31T18:00:00Z".into()))
        }
    }
}

/// The end of a thing, as [`split_until`] reads it.
fn until(end: Option<Expiry>) -> String {
    end.map(|end| format!("{UNTIL}{end}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_may_have_an_end_and_is_never_shown() {
        for (text, secret, shown) in [
            ("hunter2", "hunter2", "***"),
            ("two words", "two words", "***"),
            ("hunter2 until 2026-12-31", "hunter2", "*** until 2026-12-31T00:00:00Z"),
            ("hunter2 until 2026-12-31T18:00:00+02:00", "hunter2", "*** until 2026-12-31T16:00:00Z"),
            ("a until b until 2026-12-31", "a until b", "*** until 2026-12-31T00:00:00Z"),
        ] {
            let parsed = Vec::<TokenSecret>::parse(text).expect(text);
            assert_eq!(parsed[0].secret.expose_secret(), secret);
            assert_eq!(parsed.to_toml(), Some(format!("[\"{shown}\"]")));
            assert!(!format!("{parsed:?}").contains(secret));
        }
        for text in ["***", "*** until 2026-12-31", " until 2026-12-31", "a until tomorrow", "a until "] {
            assert!(TokenSecret::parse(text).is_err(), "{text}");
        }
        assert!(Vec::<TokenSecret>::parse("a until 2026-02-30").is_err());
    }

    #[test]
    fn a_jwks_url_is_of_the_web_and_holds_no_password() {
        for (text, good) in [
            ("https://login.example.com/.well-known/jwks.json", true),
            ("http://127.0.0.1:8000/keys?tenant=1", true),
            ("login.example.com", false),
            ("ftp://login.example.com/keys", false),
            ("https://user@login.example.com/keys", false),
            ("https://login.example.com/keys#one", false),
        ] {
            assert_eq!(JwksUrl::parse(text).is_ok(), good, "{text}");
        }
    }
}
