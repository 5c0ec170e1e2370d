//! A key that tokens are checked with, and the algorithms that it is for. The algorithm belongs to the key, never to
//! the token: a token that is signed by HMAC with the text of a public key finds no key of that algorithm.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::algorithm::Algorithm;
use crate::expiry::{Expiry, now};

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const P521: &[Algorithm] = &[Algorithm::ES512];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// The least that a secret should have, in bytes: as many as the smallest hash (RFC 7518, section 3.2).
const STRONG: usize = 32;

/// A key, what it is for, and until when.
#[derive(Debug, Clone)]
pub struct TokenKey {
    /// What people call it; no secret.
    pub label: String,
    /// The `kid` of the tokens that it made, where it has one.
    pub kid: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    until: Option<Expiry>,
}

/// Why something is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is no PEM, or none that is understood.
    #[error(
        "it is no PEM file with a public key (BEGIN PUBLIC KEY, BEGIN RSA PUBLIC KEY or BEGIN CERTIFICATE)"
    )]
    NoPem,
    /// It is somebody's secret.
    #[error("it is a private key; a gateway that checks tokens has the public one only")]
    Private,
    /// There is more than one.
    #[error("it has several keys; expected one a file")]
    Several,
    /// Its kind of key is not supported.
    #[error(
        "its key is of a kind that is not supported; expected RSA (2048 to 8192 bits), P-256, P-384, P-521 or Ed25519"
    )]
    Unsupported,
}

impl TokenKey {
    /// The key of HMAC tokens. Its place among its fellows is all that it may be called.
    pub fn from_secret(secret: &SecretString, until: Option<Expiry>, label: String) -> Self {
        let secret = secret.expose_secret().as_bytes();
        let key = DecodingKey::from_secret(secret);
        if secret.len() < STRONG {
            tracing::warn!("{label} has fewer than {STRONG} bytes: who has one token can guess it");
        }
        Self { label, kid: None, key, algorithms: HMAC.to_vec(), until }
    }

    /// The key in the text of a PEM file.
    ///
    /// # Errors
    ///
    /// When it is not one that tokens can be checked with.
    pub fn from_pem(pem: &str, until: Option<Expiry>, label: String) -> Result<Self, KeyFault> {
        match pem.matches("-----BEGIN ").count() {
            0 => return Err(KeyFault::NoPem),
            _ if pem.contains("PRIVATE KEY-----") => return Err(KeyFault::Private),
            1 => {}
            _ => return Err(KeyFault::Several),
        }
        let bytes = pem.as_bytes();
        // RSA last: where it comes first it takes a key of P-256 for one of its own.
        let made = DecodingKey::from_ec_pem(bytes)
            .or_else(|_| DecodingKey::from_ed_pem(bytes))
            .or_else(|_| DecodingKey::from_rsa_pem(bytes));
        let key = made.map_err(|_| KeyFault::NoPem)?;
        let algorithms = algorithms(&key)?;
        if key.family() == AlgorithmFamily::Ec && curve_of(pem) != Some(algorithms) {
            return Err(KeyFault::Unsupported);
        }
        Ok(Self { label, kid: None, key, algorithms: algorithms.to_vec(), until })
    }

    /// A key out of a set.
    ///
    /// # Errors
    ///
    /// When it is not one that signatures can be checked with. A symmetric key in a set that anybody may read is none.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyFault> {
        let signs = jwk.r#use.as_deref().is_none_or(|r#use| r#use == "sig");
        let verifies = jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        let key = jwk.key().filter(|_| signs && verifies).ok_or(KeyFault::Unsupported)?;
        let mut algorithms = algorithms(&key)?.to_vec();
        if let Some(only) = &jwk.alg {
            algorithms.retain(|algorithm| algorithm.name() == only);
        }
        if algorithms.is_empty() {
            return Err(KeyFault::Unsupported);
        }
        let kid = jwk.kid.clone();
        let label = format!("the key {:?} of the JWKS", kid.as_deref().unwrap_or("without id"));
        Ok(Self { label, kid, key, algorithms, until: None })
    }

    /// Whether it has made the signature of the message, by an algorithm that it is for.
    pub fn has_signed(&self, algorithm: Algorithm, message: &[u8], made: &[u8]) -> bool {
        self.is_for(algorithm) && algorithm.verifies(&self.key, message, made)
    }

    /// Whether it is for this algorithm.
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether its time is over.
    pub fn is_retired(&self) -> bool {
        self.until.is_some_and(|until| until.0 <= now())
    }
}

/// A key of a set (RFC 7517, section 4, and RFC 7518, section 6), as far as it says what a signature is checked with.
#[derive(Debug, Deserialize)]
pub struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
}

impl Jwk {
    /// Its key; none of `oct`, nor of what is yet to be invented.
    fn key(&self) -> Option<DecodingKey> {
        let decoded = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        // Coordinates are as long as their curve has them, zeros in front and all.
        let point = |length: usize| {
            let (x, y) = (decoded(&self.x)?, decoded(&self.y)?);
            let whole = x.len() == length && y.len() == length;
            whole.then(|| DecodingKey::from_ec_der(&[&[4], x.as_slice(), &y].concat()))
        };
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Some(DecodingKey::from_rsa_raw_components(&decoded(&self.n)?, &decoded(&self.e)?)),
            ("EC", Some("P-256")) => point(32),
            ("EC", Some("P-384")) => point(48),
            ("EC", Some("P-521")) => point(66),
            ("OKP", Some("Ed25519")) => Some(DecodingKey::from_ed_der(&decoded(&self.x)?)),
            _ => None,
        }
    }
}

/// What a key is for, by its family and, on a curve, its length.
fn algorithms(key: &DecodingKey) -> Result<&'static [Algorithm], KeyFault> {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match (key.family(), length) {
        // 2048 bits, and a few bytes around them in a file. One that is shorter verifies nothing.
        (AlgorithmFamily::Rsa, 256..) => Ok(RSA),
        // An uncompressed point: a byte and two coordinates.
        (AlgorithmFamily::Ec, 65) => Ok(P256),
        (AlgorithmFamily::Ec, 97) => Ok(P384),
        (AlgorithmFamily::Ec, 133) => Ok(P521),
        (AlgorithmFamily::Ed, 32) => Ok(ED25519),
        _ => Err(KeyFault::Unsupported),
    }
}

/// What a PEM file's curve is for: the length of a point does not say which curve it is on.
fn curve_of(pem: &str) -> Option<&'static [Algorithm]> {
    // RFC 5480, section 2.1.1: the kind of key, and right behind it which curve.
    const EC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    const CURVES: [(&[u8], &[Algorithm]); 3] = [
        (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", P256),
        (b"\x06\x05\x2b\x81\x04\x00\x22", P384),
        (b"\x06\x05\x2b\x81\x04\x00\x23", P521),
    ];
    let der = der_of(pem)?;
    let behind = der.windows(EC.len()).position(|window| window == EC)? + EC.len();
    CURVES.into_iter().find(|(curve, _)| der[behind..].starts_with(curve)).map(|(_, algorithms)| algorithms)
}

/// What a PEM file has between its first two lines of dashes.
pub(super) fn der_of(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split("-----").nth(2)?;
    let body: String = body.chars().filter(|letter| !letter.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}
