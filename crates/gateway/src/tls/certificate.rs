//! From two PEM files to what a handshake is answered with: modern versions and suites, one certificate, `http/1.1`. It
//! asks nobody whether the certificate is trusted, and warns of one that no client will take because of its dates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{RootCertStore, ServerConfig};

use crate::config::regular_file;

/// What RFC 7301 calls a protocol: WebSockets begin as HTTP/1.1, and nothing else is spoken here.
const PROTOCOL: &[u8] = b"http/1.1";

/// 9999-12-31, which RFC 5280 section 4.1.2.5 has for what never expires.
const END_OF_TIME: u64 = 253_402_300_799;

/// The two files as they were read. Not `Debug`: one of them is a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A certificate with its key, ready to be shown.
pub struct Certificate {
    /// What a handshake is answered with.
    pub server: Arc<ServerConfig>,
    /// When it expires, in seconds since 1970, if it says so in a way that is understood.
    pub expires: Option<u64>,
}

/// Why two files are not a certificate and its key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { file: File, path: PathBuf, error: io::Error },
    #[error("{} is not a PEM file: expected lines such as {}, found {found}", path.display(), file.begins())]
    NotPem { file: File, path: PathBuf, found: Found },
    #[error("{} has no certificate: expected {}, found {found}", path.display(), File::Certificate.begins())]
    NoCertificate { path: PathBuf, found: String },
    #[error("{} has no private key: expected {}, or RSA or EC before its last words, found {found}", path.display(), File::Key.begins())]
    NoKey { path: PathBuf, found: String },
    #[error("{} has a key that needs a password: expected one without (`openssl pkey -in … -out …`)", path.display())]
    Encrypted { path: PathBuf },
    #[error("{} is broken PEM: {}", path.display(), breach(error))]
    Broken { file: File, path: PathBuf, error: pem::Error },
    #[error("{} has a certificate that is none, number {number}: expected X.509 in its PEM, found something else", path.display())]
    NotX509 { path: PathBuf, number: usize },
    #[error("{} has a key that cannot be used: expected RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519, found another, or what is no key", path.display())]
    UnusableKey { path: PathBuf },
    #[error("the key in {} is not that of the first certificate in {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Certificate,
    Key,
}

impl File {
    fn begins(self) -> &'static str {
        match self {
            Self::Certificate => "-----BEGIN CERTIFICATE-----",
            Self::Key => "-----BEGIN PRIVATE KEY-----",
        }
    }
}

/// What a file has that is not PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Found {
    #[error("nothing")]
    Nothing,
    #[error("what is not text: DER becomes PEM by `openssl x509 -inform DER` or `openssl pkey -inform DER`")]
    Binary,
    #[error("other text")]
    Text,
}

impl CertificateError {
    /// The configuration key that names the file to blame.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unreadable { file: File::Certificate, .. }
            | Self::NotPem { file: File::Certificate, .. }
            | Self::Broken { file: File::Certificate, .. }
            | Self::NoCertificate { .. }
            | Self::NotX509 { .. } => "tls_cert",
            Self::Unreadable { .. }
            | Self::NotPem { .. }
            | Self::Broken { .. }
            | Self::NoKey { .. }
            | Self::Encrypted { .. }
            | Self::UnusableKey { .. }
            | Self::Mismatch { .. } => "tls_key",
        }
    }
}

impl Files {
    /// Reads both, whatever is in them.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let read = |path: &Path, file| {
            let unreadable = |error| CertificateError::Unreadable { file, path: path.into(), error };
            regular_file::read(path).map_err(unreadable)
        };
        Ok(Self { certificate: read(certificate, File::Certificate)?, key: read(key, File::Key)? })
    }
}

impl Certificate {
    /// Makes a certificate of what was read from these two paths.
    pub fn parse(files: &Files, certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let chain = chain(&files.certificate, certificate)?;
        let secret = secret(&files.key, key)?;
        let expires = expiry(&chain[0]);
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider has suites for both")
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| refuse(&error, certificate, key))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // A client that comes again is spared half a handshake, and so are we, after a storm. The keys of the tickets
        // are this configuration's own: a certificate that is replaced is not trusted on by way of them.
        server.ticketer = ring::Ticketer::new().unwrap_or(server.ticketer);
        Ok(Self { server: Arc::new(server), expires })
    }

    /// Whether it has expired by now.
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

fn chain(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let (file, owned) = (File::Certificate, || path.to_owned());
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| CertificateError::Broken { file, path: owned(), error })?;
    if chain.is_empty() {
        return Err(match section(pem) {
            Some(found) => CertificateError::NoCertificate { path: owned(), found },
            None => CertificateError::NotPem { file, path: owned(), found: found(pem) },
        });
    }
    // rustls looks at the first alone, and clients would be the ones to find out about others.
    match chain.iter().position(|der| ParsedCertificate::try_from(der).is_err()) {
        Some(before) => Err(CertificateError::NotX509 { path: owned(), number: before + 1 }),
        None => Ok(chain),
    }
}

fn secret(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let (file, path) = (File::Key, path.to_owned());
    match PrivateKeyDer::from_pem_slice(pem) {
        // The old form of a key with a password is PEM with headers, which is no base64.
        _ if contains(pem, "-----BEGIN ENCRYPTED PRIVATE KEY") || contains(pem, "Proc-Type: 4,ENCRYPTED") => {
            Err(CertificateError::Encrypted { path })
        }
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(match section(pem) {
            Some(found) => CertificateError::NoKey { path, found },
            None => CertificateError::NotPem { file, path, found: found(pem) },
        }),
        Err(error) => Err(CertificateError::Broken { file, path, error }),
    }
}

/// The line with which the first section begins, if there is one.
fn section(pem: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(pem);
    let line = text.lines().find(|line| line.starts_with("-----BEGIN "))?;
    Some(shown(line))
}

/// A line of a file, in an error's.
fn shown(line: &str) -> String {
    line.trim_end().chars().take(64).flat_map(char::escape_debug).collect()
}

fn found(file: &[u8]) -> Found {
    match std::str::from_utf8(file) {
        Ok(text) if text.trim().is_empty() => Found::Nothing,
        Ok(text) if !text.contains('\0') => Found::Text,
        _ => Found::Binary,
    }
}

fn breach(error: &pem::Error) -> String {
    let quoted = |line: &[u8]| shown(&String::from_utf8_lossy(line));
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("expected -----END {}----- before its end, found none", quoted(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("expected five dashes at the end of a line that begins a section, found {}", quoted(line))
        }
        pem::Error::Base64Decode(_) => {
            "expected base64 between its first and its last line, found something else".into()
        }
        other => other.to_string(),
    }
}

fn contains(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

fn refuse(error: &rustls::Error, certificate: &Path, key: &Path) -> CertificateError {
    let (certificate, key) = (certificate.to_owned(), key.to_owned());
    match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch { key, certificate },
        _ => CertificateError::UnusableKey { path: key },
    }
}

/// When a certificate expires, in seconds since 1970. Nothing here reads X.509 but the verifier that every client of
/// rustls has, and it looks at the dates first: at the end of time it says which date has passed.
fn expiry(leaf: &CertificateDer<'_>) -> Option<u64> {
    use rustls::CertificateError::ExpiredContext;
    let mut roots = RootCertStore::empty();
    roots.add(leaf.clone()).ok()?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    let then = UnixTime::since_unix_epoch(Duration::from_secs(END_OF_TIME));
    match verifier.verify_server_cert(leaf, &[], &name, &[], then) {
        Err(rustls::Error::InvalidCertificate(ExpiredContext { not_after, .. })) => Some(not_after.as_secs()),
        _ => None,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
