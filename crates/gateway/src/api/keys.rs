//! Who may use the API: a request's key, held against every key of the configuration in the same time whatever it is.
//! It does not know what a key lets do: everything.

use axum::http::HeaderMap;
use axum::http::request::Parts;
use ring::digest::{SHA256, digest};
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use crate::config::Config;
use crate::expiry::Expiry;
use crate::query;

/// The keys that are taken.
pub struct Keys(Vec<Known>);

/// Its digest, so that all are of one length, and nothing of a key shows in how long it takes.
struct Known {
    digest: [u8; 32],
    until: Option<Expiry>,
}

impl Keys {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let known = |key: &crate::config::tokens::TokenSecret| Known {
            digest: hash(key.secret.expose_secret().as_bytes()),
            until: key.until,
        };
        Self(config.api_keys().map(known).collect())
    }

    /// Whether there is none, and so no API.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request shows one of them.
    pub fn let_in(&self, request: &Parts) -> bool {
        let Some(shown) = shown(&request.headers, request.uri.query()) else { return false };
        let shown = hash(&shown);
        let matches = self.0.iter().map(|known| {
            let in_time = known.until.is_none_or(|until| until.seconds_left().is_some());
            known.digest.ct_eq(&shown) & Choice::from(u8::from(in_time))
        });
        matches.fold(Choice::from(0), |any, one| any | one).into()
    }
}

/// The key of a request: `X-API-Key`, or `Authorization: apikey …`, or `?api_key=…`, the first of them that is there.
fn shown(headers: &HeaderMap, query: Option<&str>) -> Option<Vec<u8>> {
    if let Some(value) = headers.get("x-api-key") {
        return Some(value.as_bytes().to_vec());
    }
    if let Some(value) = headers.get("authorization") {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        return scheme.eq_ignore_ascii_case(b"apikey ").then(|| key.trim_ascii().to_vec());
    }
    query::value(query, "api_key").map(|key| key.into_owned().into_bytes())
}

fn hash(key: &[u8]) -> [u8; 32] {
    digest(&SHA256, key).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::config::Sources;

    #[test]
    fn any_key_lets_in_until_its_end_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let text = "internal_listen = \"127.0.0.1:0\"\napi_keys = [\"one\", \"two words\", \"old until 2020-01-01\", \"new until 9000-01-01\"]\n\
            api_keys_file = \"HERE/keys\"\n"
            .replace("HERE", directory.path().to_str().unwrap());
        std::fs::write(directory.path().join("keys"), "three\n\nfour until 9000-01-01\n").unwrap();
        std::fs::write(directory.path().join("fanfare.toml"), text).unwrap();
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        let keys = Keys::new(&Config::load(sources).unwrap().0);
        // (headers, query, whether it lets in)
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, bool);
        let rows: &[Row] = &[
            (&[], "", false),
            (&[("x-api-key", "one")], "", true),
            (&[("X-API-Key", "two words")], "", true),
            (&[("x-api-key", "three")], "", true),
            (&[("x-api-key", "four")], "", true),
            (&[("x-api-key", "new")], "", true),
            (&[("x-api-key", "old")], "", false),
            (&[("x-api-key", "on")], "", false),
            (&[("x-api-key", "onee")], "", false),
            (&[("x-api-key", "ONE")], "", false),
            (&[("x-api-key", "")], "", false),
            (&[("x-api-key", "one"), ("x-api-key", "wrong")], "", true),
            (&[("x-api-key", "wrong"), ("x-api-key", "one")], "", false),
            (&[("x-api-key", "wrong")], "?api_key=one", false),
            (&[("authorization", "apikey one")], "", true),
            (&[("authorization", "ApiKey  two words")], "", true),
            (&[("authorization", "Bearer one")], "", false),
            (&[("authorization", "apikey")], "", false),
            (&[("authorization", "one")], "", false),
            (&[], "?api_key=one", true),
            (&[], "?a=b&api_key=two%20words", true),
            (&[], "?api_key=two+words", true),
            (&[], "?api_key=", false),
            (&[], "?key=one", false),
        ];
        for (headers, query, expected) in rows {
            let mut request = Request::post(format!("/api/publish{query}"));
            for (name, value) in *headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(keys.let_in(&parts), *expected, "{headers:?} {query}");
        }
        assert!(Keys::new(&Config::default()).are_none());
    }
}
