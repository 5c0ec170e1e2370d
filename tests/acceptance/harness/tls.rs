//! Certificates made by openssl, and a TLS client that verifies them and counts records. It is rustls, as the gateway
//! is; openssl's own client is asked where what must be shown is that others are understood.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{DEADLINE, Socket};

/// A folder of pairs `NAME.crt` and `NAME.key`.
pub struct Certificates(TempDir);

impl Certificates {
    /// A folder with one pair, `first`.
    pub fn new() -> Self {
        let all = Self(tempfile::tempdir().unwrap());
        all.make("first");
        all
    }

    /// Makes a pair, ECDSA P-256, for 127.0.0.1 and localhost.
    pub fn make(&self, name: &str) -> (PathBuf, PathBuf) {
        self.make_with(name, &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"])
    }

    /// Makes a pair with these arguments to `openssl req`.
    pub fn make_with(&self, name: &str, arguments: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let subject = format!("/CN={name}");
        let (key_text, certificate_text) = (key.display().to_string(), certificate.display().to_string());
        let mut all = vec!["req", "-x509", "-nodes", "-subj", &subject];
        all.extend(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
        all.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        all.extend(["-keyout", &key_text, "-out", &certificate_text]);
        all.extend(arguments);
        openssl(&all);
        (certificate, key)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Puts a file there.
    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(file), text).unwrap();
        self.path(file)
    }

    /// The flags by which an instance uses a pair; health and metrics stay plain.
    pub fn flags(&self, name: &str) -> Vec<String> {
        let file = |ending: &str| self.path(&format!("{name}.{ending}")).display().to_string();
        let flags =
            ["--internal-listen", "127.0.0.1:0", "--tls-cert", &file("crt"), "--tls-key", &file("key")];
        flags.map(str::to_owned).to_vec()
    }

    /// A client that trusts these.
    pub fn client(&self, names: &[&str]) -> TlsClient {
        TlsClient::new(&names.iter().map(|name| self.path(&format!("{name}.crt"))).collect::<Vec<_>>())
    }
}

/// Runs openssl, which must succeed.
pub fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What a certificate's file shows to clients.
pub fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// How to connect. Every connection shakes hands in full, unless it is `remembering`.
#[derive(Clone)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
    versions: Vec<&'static SupportedProtocolVersion>,
    protocols: Vec<Vec<u8>>,
    narrow: bool,
    /// Sessions are remembered in it.
    remembering: Option<Arc<ClientConfig>>,
}

impl TlsClient {
    fn new(trusted: &[PathBuf]) -> Self {
        let mut roots = RootCertStore::empty();
        trusted.iter().for_each(|path| roots.add(certificate(path)).unwrap());
        let versions = vec![&version::TLS13, &version::TLS12];
        Self { roots: Arc::new(roots), versions, protocols: Vec::new(), narrow: false, remembering: None }
    }

    pub fn speaking(&self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self.clone() }
    }

    pub fn offering(&self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { protocols, ..self.clone() }
    }

    /// With a small receive buffer, so that the server soon finds the socket full.
    pub fn narrow(&self) -> Self {
        Self { narrow: true, ..self.clone() }
    }

    /// What was agreed on once need not be agreed on again.
    pub fn remembering(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config());
        config.resumption = Resumption::default();
        Self { remembering: Some(Arc::new(config)), ..self.clone() }
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        if let Some(config) = &self.remembering {
            return config.clone();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols.clone_from(&self.protocols);
        Arc::new(config)
    }

    /// Connects and shakes hands; an error is why not.
    pub async fn try_connect(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = TcpSocket::new_v4().unwrap();
        if self.narrow {
            socket.set_recv_buffer_size(4096).unwrap();
        }
        self.shake_hands(socket.connect(address).await?).await
    }

    /// Shakes hands on a stream on which something may have been said already.
    pub async fn shake_hands(&self, stream: TcpStream) -> io::Result<Socket> {
        self.agree(stream).await.map(Socket::over)
    }

    /// The same, for whoever speaks on it.
    pub async fn agree(&self, stream: TcpStream) -> io::Result<Stream> {
        // What ends the handshake would hold up what follows until it is acknowledged, as with no client of the world.
        stream.set_nodelay(true)?;
        let wire = Wire { stream, header: Vec::new(), left: 0, records: 0 };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connecting = TlsConnector::from(self.config()).connect(name, wire);
        let stream = timeout(DEADLINE, connecting).await.expect("the TLS handshake ends in time")?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    pub async fn connect(&self, address: SocketAddr) -> Socket {
        self.try_connect(address).await.unwrap()
    }

    /// Joins a channel at once.
    pub async fn join(&self, address: SocketAddr, channel: &str) -> Socket {
        let mut socket = self.connect(address).await;
        assert_eq!(socket.upgrade(channel, &[]).await.status, 101);
        socket
    }
}

/// The client's side of an agreed connection.
pub type TlsStream = tokio_rustls::client::TlsStream<Wire>;

/// What a socket of the tests stands on.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The TCP stream under TLS. It counts the records that carry data, whatever is in them (RFC 8446 section 5.1: a byte
/// of type, 23 for those, two of version, two of length).
pub struct Wire {
    stream: TcpStream,
    header: Vec<u8>,
    left: usize,
    records: usize,
}

impl Wire {
    /// How many have come by now.
    pub fn records(&self) -> usize {
        self.records
    }

    fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let missing = (5 - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if let [kind, _, _, high, low] = *self.header.as_slice() {
                self.records += usize::from(kind == 23);
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.count(&into.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
