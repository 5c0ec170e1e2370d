//! Makes tokens, for whoever tries a gateway out or tests one. A gateway never does: back ends make the tokens of their
//! users.

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::keys::Algorithm;
use super::provider;

/// A key to sign tokens with, and how.
#[derive(Debug)]
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
}

/// Why a key cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerFault {
    /// It is no PEM, or none that is understood.
    #[error(
        "expected a PEM file with one private key in PKCS#8 (BEGIN PRIVATE KEY), of RSA, P-256, P-384 or Ed25519; \
         `openssl pkcs8 -topk8 -nocrypt` makes one of others"
    )]
    NoKey,
    /// The algorithm is not one that the key is for.
    #[error("the key is not for {0:?}")]
    Algorithm(Algorithm),
}

impl Signer {
    /// Signs with a shared secret: HS256, unless one of its fellows is asked for.
    pub fn from_secret(secret: &SecretString, algorithm: Option<Algorithm>) -> Result<Self, SignerFault> {
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Self { key, algorithm: algorithm.unwrap_or(Algorithm::HS256) }.tried()
    }

    /// Signs with the private key of a PEM file: with the first algorithm that the key is for, or the one that is
    /// asked for.
    pub fn from_pem(pem: &str, algorithm: Option<Algorithm>) -> Result<Self, SignerFault> {
        let pem = pem.as_bytes();
        let made = EncodingKey::from_ec_pem(pem)
            .or_else(|_| EncodingKey::from_ed_pem(pem))
            .or_else(|_| EncodingKey::from_rsa_pem(pem));
        let key = made.map_err(|_| SignerFault::NoKey)?;
        let algorithms: &[Algorithm] = match (algorithm, key.family()) {
            (Some(only), _) => &[only],
            (None, AlgorithmFamily::Ec) => &[Algorithm::ES256, Algorithm::ES384],
            (None, AlgorithmFamily::Ed) => &[Algorithm::EdDSA],
            (None, _) => &[Algorithm::RS256],
        };
        let tries =
            algorithms.iter().map(|algorithm| Self { key: key.clone(), algorithm: *algorithm }.tried());
        match tries.reduce(Result::or) {
            Some(Ok(signer)) => Ok(signer),
            // A curve that is not asked for is none that there is.
            Some(Err(fault)) if algorithm.is_some() => Err(fault),
            _ => Err(SignerFault::NoKey),
        }
    }

    /// The token with these claims.
    ///
    /// # Errors
    ///
    /// Only if there is no randomness to be had.
    pub fn sign(&self, claims: &Map<String, Value>, kid: Option<String>) -> Result<String, Error> {
        encode(&Header { kid, ..Header::new(self.algorithm) }, claims, &self.key)
    }

    /// Itself, if it can sign.
    fn tried(self) -> Result<Self, SignerFault> {
        provider::install();
        match self.sign(&Map::new(), None) {
            Ok(_) => Ok(self),
            Err(error) if *error.kind() == ErrorKind::InvalidAlgorithm => {
                Err(SignerFault::Algorithm(self.algorithm))
            }
            // The key's inside is found to be wrong, or of another curve, when it is used.
            Err(_) if self.key.family() == AlgorithmFamily::Ec => Err(SignerFault::Algorithm(self.algorithm)),
            Err(_) => Err(SignerFault::NoKey),
        }
    }
}
