//! Tokens of every wrong kind, and of every right one: how they are made here. What becomes of them is in the files
//! below.

mod claims;
mod faults;
mod signatures;

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Value as Json, json};

use super::*;
use crate::config::{Config, Key, Sources};
use crate::expiry::now;
use crate::signature::{Algorithm, KeyFault, Signer, SignerFault, TokenKey};

const SECRET: &str = "only for tests and long enough to be one";

pub(super) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/identity/testkeys", name].iter().collect()
}

pub(super) fn pem(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// A verifier of a configuration whose flags these are, as `name value`.
pub(super) fn verifier(flags: &[(&str, &str)]) -> Verifier {
    let flags = flags.iter().map(|(name, value)| (Key::named(name).unwrap(), (*value).to_owned())).collect();
    // A directory without a file, so that none is read.
    let sources = Sources { flags, directory: path(""), ..Sources::default() };
    Verifier::new(&Config::load(sources).unwrap().0)
}

/// What makes the signature of a token, whatever its header says.
pub(super) enum By<'a> {
    Nothing,
    Hmac(Algorithm, &'a [u8]),
    Pem(Algorithm, &'a str),
}

pub(super) fn token(header: &Json, claims: &Json, by: &By) -> String {
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let (algorithm, key) = match by {
        By::Nothing => return format!("{message}."),
        By::Hmac(algorithm, secret) => (algorithm, EncodingKey::from_secret(secret)),
        By::Pem(algorithm, file) => {
            let pem = pem(file);
            let key = match algorithm {
                Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => {
                    EncodingKey::from_ec_pem(pem.as_bytes())
                }
                Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
                _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
            };
            (algorithm, key.unwrap())
        }
    };
    let signature = URL_SAFE_NO_PAD.encode(algorithm.sign(&key, message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

/// An ordinary token, signed with the ordinary secret.
fn ordinary(claims: &Json) -> String {
    token(&json!({"alg": "HS256", "typ": "JWT"}), claims, &By::Hmac(Algorithm::HS256, SECRET.as_bytes()))
}

fn label<T>(outcome: &Result<T, TokenFault>) -> &'static str {
    outcome.as_ref().map_or_else(TokenFault::label, |_| "good")
}
