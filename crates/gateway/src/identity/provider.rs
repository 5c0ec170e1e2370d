//! The cryptography of tokens by `ring`, which is in the program already for TLS: it spares a second library and its
//! build. No ES512, since neither `ring` nor `jsonwebtoken` has P-521; no RSA-PSS, which nobody has asked for.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, new_error};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::error::KeyRejected;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};

/// Makes it the process' own, once. Called by whoever is about to use a key.
pub fn install() {
    // A second time it is there already.
    let _ = PROVIDER.install_default();
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Signing::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifying::new(*algorithm, key)?)),
    // Keys are never turned into JWKs here, which is all that these are for.
    key_utils: KeyUtils::new_unimplemented(),
};

/// How an algorithm checks and signs.
enum Means {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters, &'static dyn RsaEncoding),
    Ecdsa(&'static dyn VerificationAlgorithm, &'static EcdsaSigningAlgorithm),
    Ed25519,
}

impl Means {
    fn of(algorithm: Algorithm) -> Result<Self, Error> {
        Ok(match algorithm {
            Algorithm::HS256 => Self::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => Self::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => Self::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256, &RSA_PKCS1_SHA256),
            Algorithm::RS384 => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384, &RSA_PKCS1_SHA384),
            Algorithm::RS512 => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512, &RSA_PKCS1_SHA512),
            Algorithm::ES256 => Self::Ecdsa(&ECDSA_P256_SHA256_FIXED, &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => Self::Ecdsa(&ECDSA_P384_SHA384_FIXED, &ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => Self::Ed25519,
            _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        })
    }

    /// The same algorithm and a key of another family would be key confusion.
    fn with(algorithm: Algorithm, family: AlgorithmFamily) -> Result<Self, Error> {
        if algorithm.family() != family {
            return Err(new_error(ErrorKind::InvalidAlgorithm));
        }
        Self::of(algorithm)
    }
}

struct Verifying {
    algorithm: Algorithm,
    means: Means,
    key: DecodingKey,
}

impl Verifying {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, Error> {
        Ok(Self { algorithm, means: Means::with(algorithm, key.family())?, key: key.clone() })
    }
}

impl Verifier<Vec<u8>> for Verifying {
    fn verify(&self, message: &[u8], made: &Vec<u8>) -> Result<(), signature::Error> {
        let plain = |by: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(by, key).verify(message, made)
        };
        match (&self.means, self.key.kind()) {
            // Compares in constant time.
            (Means::Hmac(hash), DecodingKeyKind::SecretOrDer(key)) => {
                hmac::verify(&hmac::Key::new(*hash, key), message, made)
            }
            (Means::Rsa(by, _), DecodingKeyKind::SecretOrDer(key)) => plain(*by, key),
            (Means::Rsa(by, _), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(by, message, made)
            }
            (Means::Ecdsa(by, _), DecodingKeyKind::SecretOrDer(key)) => plain(*by, key),
            (Means::Ed25519, DecodingKeyKind::SecretOrDer(key)) => plain(&ED25519, key),
            (_, DecodingKeyKind::RsaModulusExponent { .. }) => return Err(signature::Error::new()),
        }
        .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifying {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct Signing {
    algorithm: Algorithm,
    means: Means,
    key: EncodingKey,
}

impl Signing {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self, Error> {
        Ok(Self { algorithm, means: Means::with(algorithm, key.family())?, key: key.clone() })
    }
}

impl Signer<Vec<u8>> for Signing {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let (key, random) = (self.key.as_bytes(), SystemRandom::new());
        match self.means {
            Means::Hmac(hash) => Ok(hmac::sign(&hmac::Key::new(hash, key), message).as_ref().to_vec()),
            Means::Rsa(_, by) => {
                let pair = RsaKeyPair::from_der(key).map_err(rejected)?;
                let mut made = vec![0; pair.public().modulus_len()];
                pair.sign(by, &random, message, &mut made).map_err(|_| signature::Error::new())?;
                Ok(made)
            }
            Means::Ecdsa(_, by) => {
                let pair = EcdsaKeyPair::from_pkcs8(by, key, &random).map_err(rejected)?;
                let made = pair.sign(&random, message).map_err(|_| signature::Error::new())?;
                Ok(made.as_ref().to_vec())
            }
            Means::Ed25519 => {
                // OpenSSL's files have no public half to compare with.
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).map_err(rejected)?;
                Ok(pair.sign(message).as_ref().to_vec())
            }
        }
    }
}

fn rejected(error: KeyRejected) -> signature::Error {
    signature::Error::from_source(error.to_string())
}

impl JwtSigner for Signing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
