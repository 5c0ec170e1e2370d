//! The byte stream under one client's connection, plain or TLS, read and written without waiting. It knows nothing of
//! HTTP or frames. Every TLS handshake is a full one: a run measures what clients cost that come for the first time.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::client::target::{Secure, Target};

/// A socket that may still be connecting.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// Boxed, because keys are a hundred times the size of a plain socket.
    Tls(Box<Sealed>),
}

/// A socket and what is agreed on with TLS there.
#[derive(Debug)]
pub(crate) struct Sealed {
    stream: TcpStream,
    tls: ClientConnection,
}

impl Stream {
    /// Begins to connect.
    pub(crate) fn connect(target: &Target, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target.address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let Some(Secure { name, any_certificate }) = &target.secure else { return Ok(Self::Plain(stream)) };
        let tls =
            ClientConnection::new(client_config(*any_certificate), name.clone()).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(Sealed { stream, tls })))
    }

    /// Has the kernel send small writes at once (TCP_NODELAY).
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.set_nodelay(true),
            Self::Tls(sealed) => sealed.stream.set_nodelay(true),
        }
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(sealed) => sealed.read(into),
        }
    }

    /// Writes what the socket takes, and with TLS a little more; nothing before TLS is agreed on.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(sealed) => sealed.write(bytes),
        }
    }

    /// Gives the socket what TLS has kept back: its own messages too, so it is to be called whenever something
    /// happened.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(sealed) => sealed.flush(),
        }
    }

    /// Whether a read that was shorter than its buffer has emptied the socket. TLS gives a record at a time.
    pub(crate) fn is_emptied_by_short_reads(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Sealed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It was cut without TLS' farewell: the connection's own end is judged elsewhere.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let read = self.tls.read_tls(&mut self.stream)?;
            if let Err(error) = self.tls.process_new_packets() {
                let _alert = self.flush();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            if read == 0 && self.tls.is_handshaking() {
                return Ok(0);
            }
            self.flush()?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.tls.is_handshaking() || self.tls.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = self.tls.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What all connections of a run share: which certificates they take.
pub(crate) fn client_config(any_certificate: bool) -> Arc<ClientConfig> {
    static TRUSTING: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static CAREFUL: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let made = if any_certificate { &TRUSTING } else { &CAREFUL };
    made.get_or_init(|| {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both");
        let mut config = if any_certificate {
            let verifier = Arc::new(AnyCertificate(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            // Without any, every certificate is refused, and the report says so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Arc::new(config)
    })
    .clone()
}

/// Is content with every certificate: for a gateway that is measured, or asked how it is, with one that nobody has
/// signed. It is made of what has the algorithms.
#[derive(Debug)]
pub struct AnyCertificate(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
