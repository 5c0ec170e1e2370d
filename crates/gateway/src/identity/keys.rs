//! A key that tokens are checked with, and the algorithms that it is for. The algorithm belongs to the key, never to
//! the token: a token that is signed by HMAC with the text of a public key finds no key of that algorithm.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};
use secrecy::ExposeSecret;

pub use jsonwebtoken::Algorithm;

use super::{Expiry, now};
use crate::config::tokens::{PublicKeyFile, TokenSecret};

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
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
    pub(super) key: DecodingKey,
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
        "its key is of a kind that is not supported; expected RSA (2048 to 8192 bits), P-256, P-384 or Ed25519"
    )]
    Unsupported,
}

impl TokenKey {
    /// The key of HMAC tokens. Its place among its fellows is all that it may be called.
    pub fn from_secret(secret: &TokenSecret, label: String) -> Self {
        let key = DecodingKey::from_secret(secret.secret.expose_secret().as_bytes());
        if secret.secret.expose_secret().len() < STRONG {
            tracing::warn!("{label} has fewer than {STRONG} bytes: who has one token can guess it");
        }
        Self { label, kid: None, key, algorithms: HMAC.to_vec(), until: secret.until }
    }

    /// The key in a PEM file.
    ///
    /// # Errors
    ///
    /// When it is not one that tokens can be checked with.
    pub fn from_pem(file: &PublicKeyFile) -> Result<Self, KeyFault> {
        let pem = file.pem.as_str();
        match pem.matches("-----BEGIN ").count() {
            0 => return Err(KeyFault::NoPem),
            _ if pem.contains("PRIVATE KEY-----") => return Err(KeyFault::Private),
            1 => {}
            _ => return Err(KeyFault::Several),
        }
        let pem = pem.as_bytes();
        // RSA last: where it comes first it takes a key of P-256 for one of its own.
        let made = DecodingKey::from_ec_pem(pem)
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .or_else(|_| DecodingKey::from_rsa_pem(pem));
        let key = made.map_err(|_| KeyFault::NoPem)?;
        let algorithms = algorithms(&key)?;
        if key.family() == AlgorithmFamily::Ec && curve_of(file.pem.as_str()) != Some(algorithms) {
            return Err(KeyFault::Unsupported);
        }
        let label = file.path.display().to_string();
        Ok(Self { label, kid: None, key, algorithms: algorithms.to_vec(), until: file.until })
    }

    /// A key out of a set.
    ///
    /// # Errors
    ///
    /// When it is not one that signatures can be checked with. A symmetric key in a set that anybody may read is none.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyFault> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let known = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED25519,
            // `oct`, and what is yet to be invented.
            _ => return Err(KeyFault::Unsupported),
        };
        if !(signs && verifies) {
            return Err(KeyFault::Unsupported);
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|_| KeyFault::Unsupported)?;
        let mut algorithms = algorithms(&key)?.to_vec();
        if algorithms != known {
            // Its coordinates are not those of the curve that it names.
            return Err(KeyFault::Unsupported);
        }
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| jsonwebtoken::jwk::KeyAlgorithm::from(*algorithm) == only);
        }
        if algorithms.is_empty() {
            return Err(KeyFault::Unsupported);
        }
        let kid = common.key_id.clone();
        let label = format!("the key {:?} of the JWKS", kid.as_deref().unwrap_or("without id"));
        Ok(Self { label, kid, key, algorithms, until: None })
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
        (AlgorithmFamily::Ed, 32) => Ok(ED25519),
        _ => Err(KeyFault::Unsupported),
    }
}

/// What a PEM file's curve is for: the length of a point does not say which curve it is on.
fn curve_of(pem: &str) -> Option<&'static [Algorithm]> {
    // RFC 5480, section 2.1.1: the kind of key, and right behind it which curve.
    const EC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    const CURVES: [(&[u8], &[Algorithm]); 2] =
        [(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", P256), (b"\x06\x05\x2b\x81\x04\x00\x22", P384)];
    let body = pem.split("-----").nth(2)?;
    let body: String = body.chars().filter(|letter| !letter.is_whitespace()).collect();
    let der = STANDARD.decode(body).ok()?;
    let behind = der.windows(EC.len()).position(|window| window == EC)? + EC.len();
    CURVES.into_iter().find(|(curve, _)| der[behind..].starts_with(curve)).map(|(_, algorithms)| algorithms)
}
