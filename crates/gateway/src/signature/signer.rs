//! Makes tokens, for whoever tries a gateway out or tests one. A gateway never does: back ends make the tokens of their
//! users.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{AlgorithmFamily, EncodingKey};
use p521::elliptic_curve::ALGORITHM_OID;
use p521::pkcs8::der::asn1::{AnyRef, OctetStringRef};
use p521::pkcs8::der::{self, Decode, Encode, Reader, Tag, TagMode, TagNumber};
use p521::pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfoRef};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Unsigned};
use super::key::der_of;

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
        "expected a PEM file with one private key that is not encrypted (BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or \
         BEGIN RSA PRIVATE KEY), of RSA, P-256, P-384, P-521 or Ed25519; `openssl pkcs8 -topk8 -nocrypt` makes one of \
         others"
    )]
    NoKey,
    /// The algorithm is not one that the key is for.
    #[error("the key is not for {}", .0.name())]
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
        let bytes = pem.as_bytes();
        let key = EncodingKey::from_ec_pem(bytes)
            .ok()
            .or_else(|| sec1(pem))
            .or_else(|| EncodingKey::from_ed_pem(bytes).ok())
            .or_else(|| EncodingKey::from_rsa_pem(bytes).ok())
            .ok_or(SignerFault::NoKey)?;
        let algorithms: &[Algorithm] = match (algorithm, key.family()) {
            (Some(only), _) => &[only],
            (None, AlgorithmFamily::Ec) => &[Algorithm::ES256, Algorithm::ES384, Algorithm::ES512],
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
    pub fn sign(&self, claims: &Map<String, Value>, kid: Option<&str>) -> Result<String, Unsigned> {
        let header = Header { typ: "JWT", alg: self.algorithm, kid };
        let message = format!("{}.{}", part(&header), part(claims));
        let made = self.algorithm.sign(&self.key, message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(made)))
    }

    /// Itself, if it can sign.
    fn tried(self) -> Result<Self, SignerFault> {
        match self.sign(&Map::new(), None) {
            Ok(_) => Ok(self),
            Err(Unsigned::Algorithm) => Err(SignerFault::Algorithm(self.algorithm)),
            Err(Unsigned::Key) => Err(SignerFault::NoKey),
        }
    }
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: Algorithm,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

fn part(json: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).expect("names and values are JSON"))
}

/// The private key of a file as `openssl ecparam -genkey` writes it (RFC 5915). What may stand before it says its curve
/// once more.
fn sec1(pem: &str) -> Option<EncodingKey> {
    let der = der_of(&pem[pem.find("-----BEGIN EC PRIVATE KEY-----")?..])?;
    Some(EncodingKey::from_ec_der(&pkcs8(&der).ok()?))
}

/// It is the inside of PKCS#8, which says the curve outside.
fn pkcs8(sec1: &[u8]) -> der::Result<Vec<u8>> {
    let curve = AnyRef::from_der(sec1)?.sequence(|fields| {
        let _version = u8::decode(fields)?;
        let _secret = <&OctetStringRef>::decode(fields)?;
        let curve = fields.context_specific::<ObjectIdentifier>(TagNumber(0), TagMode::Explicit)?;
        let _public = Option::<AnyRef<'_>>::decode(fields)?;
        curve.ok_or_else(|| fields.error(Tag::ObjectIdentifier.value_error()))
    })?;
    let algorithm = AlgorithmIdentifierRef { oid: ALGORITHM_OID, parameters: Some((&curve).into()) };
    PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(sec1)?).to_der()
}
