//! The algorithms that tokens are signed with, and how each is checked and done: by `ring`, which is in the program
//! already for TLS, and on P-521, which `ring` has not, by `p521`. What a key is for is said in [`super::key`]. No
//! RSA-PSS, which nobody has asked for.

use std::str::FromStr;

use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use p521::ecdsa::signature::{Signer, Verifier};
use p521::pkcs8::DecodePrivateKey;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Serialize, Serializer};

/// How a token is signed (RFC 7518, section 3.1, and RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it is called")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

impl Algorithm {
    /// All that there are, by the name that stands in a token.
    pub const ALL: [(&'static str, Self); 10] = [
        ("HS256", Self::HS256),
        ("HS384", Self::HS384),
        ("HS512", Self::HS512),
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("ES512", Self::ES512),
        ("EdDSA", Self::EdDSA),
    ];

    /// The name that stands in a token.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, algorithm)| *algorithm == self);
        named.expect("all are listed").0
    }

    /// Whether a secret is shared by those who sign and those who check.
    pub fn is_symmetric(self) -> bool {
        matches!(self.means(), Means::Hmac(_))
    }

    /// Whether this key has made the signature of the message. A key of another family has made none.
    pub(super) fn verifies(self, key: &DecodingKey, message: &[u8], made: &[u8]) -> bool {
        let plain = |by: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(by, key).verify(message, made).is_ok()
        };
        match (self.means(), key.family(), key.kind()) {
            // Compares in constant time.
            (Means::Hmac(hash), AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(key)) => {
                hmac::verify(&hmac::Key::new(hash, key), message, made).is_ok()
            }
            (Means::Rsa(by, _), AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(key)) => plain(by, key),
            (Means::Rsa(by, _), AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(by, message, made).is_ok()
            }
            (Means::Ecdsa(by, _), AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(key)) => plain(by, key),
            (Means::P521, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(key)) => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key);
                // Two numbers of 66 bytes (RFC 7518, section 3.4), never DER.
                let made = p521::ecdsa::Signature::from_slice(made);
                key.is_ok_and(|key| made.is_ok_and(|made| key.verify(message, &made).is_ok()))
            }
            (Means::Ed25519, AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(key)) => plain(&ED25519, key),
            _ => false,
        }
    }

    /// The signature of the message by this key.
    ///
    /// # Errors
    ///
    /// When the key is of another family or curve, its inside is wrong, or there is no randomness to be had.
    pub fn sign(self, key: &EncodingKey, message: &[u8]) -> Result<Vec<u8>, Unsigned> {
        let (random, family, key) = (SystemRandom::new(), key.family(), key.as_bytes());
        match (self.means(), family) {
            (Means::Hmac(hash), AlgorithmFamily::Hmac) => {
                Ok(hmac::sign(&hmac::Key::new(hash, key), message).as_ref().to_vec())
            }
            (Means::Rsa(_, by), AlgorithmFamily::Rsa) => {
                let pair = RsaKeyPair::from_der(key).map_err(|_| Unsigned::Key)?;
                let mut made = vec![0; pair.public().modulus_len()];
                pair.sign(by, &random, message, &mut made).map_err(|_| Unsigned::Key)?;
                Ok(made)
            }
            // What is wrong is found out when it is used: that it is of another curve, for the most part.
            (Means::Ecdsa(_, by), AlgorithmFamily::Ec) => {
                let pair = EcdsaKeyPair::from_pkcs8(by, key, &random).map_err(|_| Unsigned::Algorithm)?;
                let made = pair.sign(&random, message).map_err(|_| Unsigned::Algorithm)?;
                Ok(made.as_ref().to_vec())
            }
            (Means::P521, AlgorithmFamily::Ec) => {
                let key = p521::ecdsa::SigningKey::from_pkcs8_der(key).map_err(|_| Unsigned::Algorithm)?;
                let made: p521::ecdsa::Signature = key.try_sign(message).map_err(|_| Unsigned::Algorithm)?;
                Ok(made.to_vec())
            }
            (Means::Ed25519, AlgorithmFamily::Ed) => {
                // OpenSSL's files have no public half to compare with.
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).map_err(|_| Unsigned::Key)?;
                Ok(pair.sign(message).as_ref().to_vec())
            }
            _ => Err(Unsigned::Algorithm),
        }
    }

    fn means(self) -> Means {
        match self {
            Self::HS256 => Means::Hmac(hmac::HMAC_SHA256),
            Self::HS384 => Means::Hmac(hmac::HMAC_SHA384),
            Self::HS512 => Means::Hmac(hmac::HMAC_SHA512),
            Self::RS256 => Means::Rsa(&RSA_PKCS1_2048_8192_SHA256, &RSA_PKCS1_SHA256),
            Self::RS384 => Means::Rsa(&RSA_PKCS1_2048_8192_SHA384, &RSA_PKCS1_SHA384),
            Self::RS512 => Means::Rsa(&RSA_PKCS1_2048_8192_SHA512, &RSA_PKCS1_SHA512),
            Self::ES256 => Means::Ecdsa(&ECDSA_P256_SHA256_FIXED, &ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::ES384 => Means::Ecdsa(&ECDSA_P384_SHA384_FIXED, &ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::ES512 => Means::P521,
            Self::EdDSA => Means::Ed25519,
        }
    }
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm).ok_or(())
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why a key has not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// It is for another algorithm.
    #[error("the key is for another algorithm")]
    Algorithm,
    /// Something in it is wrong, or there is no randomness.
    #[error("the key cannot sign")]
    Key,
}

/// How an algorithm checks and signs.
enum Means {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters, &'static dyn RsaEncoding),
    Ecdsa(&'static dyn VerificationAlgorithm, &'static EcdsaSigningAlgorithm),
    P521,
    Ed25519,
}
