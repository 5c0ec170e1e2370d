//! A secure socket from outside, and a client that knows its keys and so can say what no library says: a message of TLS
//! itself cut into records, at any byte, between which the hub writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot get a socket has failed")]

use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::sync::Arc;

use fanfare_hub::{Socket, Tls, Toll};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};

/// Types of what is in a record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// KeyUpdate with the request to answer in kind (section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

struct Server {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// A client after its handshake: its keys, and how many records it has sealed with them.
struct Peer {
    stream: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sealed: u64,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key", "-out", "certificate"])
            .current_dir(dir.path())
            .output();
        assert!(made.expect("openssl is installed").status.success());
        let certificate = CertificateDer::from_pem_file(dir.path().join("certificate")).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.path().join("key")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let only = provider::cipher_suite::TLS13_AES_256_GCM_SHA384;
        let suites =
            rustls::crypto::CryptoProvider { cipher_suites: vec![only], ..provider::default_provider() };
        let mut client = ClientConfig::builder_with_provider(Arc::new(suites))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    async fn connect(&self) -> (Socket, Peer) {
        let (accepted, tls, peer) = self.shake_hands().await;
        (Socket::secure(accepted, tls), peer)
    }

    async fn shake_hands(&self) -> (TcpStream, Tls, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut tls = Tls::new(self.server.clone()).unwrap();
        let mut client = ClientConnection::new(self.client.clone(), "localhost".try_into().unwrap()).unwrap();
        let mut wire = Wire(&stream);
        let mut done = false;
        while !done || client.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            accepted.readable().await.unwrap();
            done = tls.shake_hands(&accepted).unwrap();
            if client.is_handshaking() {
                stream.readable().await.unwrap();
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        // That was the handshake's.
        tls.take_toll();
        let (sealed, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        (accepted, tls, Peer { stream, key, iv, sealed })
    }
}

impl Peer {
    /// A record of TLS 1.3 (section 5.2).
    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(self.sealed.to_le_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sealed += 1;
        let mut inner = [content, &[kind]].concat();
        let length = (inner.len() + AES_256_GCM.tag_len()) as u16;
        let header = [&[DATA, 3, 3], length.to_be_bytes().as_slice()].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut inner).unwrap();
        [header, inner].concat()
    }

    /// Sends them one by one; between any two the hub reads and writes. What it has read, and how reading ended, if so.
    async fn drip(&self, socket: &Socket, bytes: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
        let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
        for byte in bytes {
            self.stream.try_write(&[*byte]).unwrap();
            socket.readable().await.unwrap();
            match socket.try_read(&mut chunk) {
                Ok(read) => heard.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return (heard, Some(error.kind())),
            }
            assert_eq!(socket.try_write(b"meanwhile").unwrap(), 9);
        }
        (heard, None)
    }
}

/// The client's end of the wire for rustls, which must not wait.
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_message_of_tls_may_come_in_any_pieces() {
    let server = Server::new();
    // (the records, by type and content; what is heard; how reading ends)
    type Row<'a> = (&'a [(u8, &'a [u8])], &'a [u8], Option<ErrorKind>);
    let rows: &[Row] = &[
        (&[(DATA, b"one"), (DATA, b""), (DATA, b"two")], b"onetwo", None),
        (&[(HANDSHAKE, &KEY_UPDATE)], b"", None),
        (&[(DATA, b"one"), (HANDSHAKE, &KEY_UPDATE[..2]), (HANDSHAKE, &KEY_UPDATE[2..])], b"one", None),
        (
            &[(HANDSHAKE, &KEY_UPDATE[..1]), (HANDSHAKE, &KEY_UPDATE[1..4]), (HANDSHAKE, &KEY_UPDATE[4..])],
            b"",
            None,
        ),
        // What may not stand between its pieces, and what follows it under the old key.
        (&[(HANDSHAKE, &KEY_UPDATE[..2]), (DATA, b"two")], b"", Some(ErrorKind::InvalidData)),
        (&[(HANDSHAKE, &KEY_UPDATE), (DATA, b"two")], b"", Some(ErrorKind::InvalidData)),
        (&[(DATA, b"one"), (HANDSHAKE, &[24, 0xFF, 0xFF, 0xFF, 1])], b"one", Some(ErrorKind::InvalidData)),
        (&[(21, &[1, 0])], b"", None),
        (&[(99, b"?")], b"", Some(ErrorKind::InvalidData)),
    ];
    for (number, (records, heard, end)) in rows.iter().enumerate() {
        let (socket, mut peer) = server.connect().await;
        let bytes: Vec<u8> = records.iter().flat_map(|(kind, content)| peer.seal(*kind, content)).collect();
        let (found, ended) = peer.drip(&socket, &bytes).await;
        assert_eq!((found.as_slice(), ended), (*heard, *end), "row {number}");
        if ended.is_some() {
            assert_eq!(socket.try_read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::InvalidData);
            assert!(socket.try_write(b"nothing").is_err());
        }
    }
}

/// What reading takes is counted, in whatever pieces it comes, and it takes no more at once than the reader wants.
#[tokio::test]
async fn what_reading_takes_is_told() {
    const LARGE: &[u8] = &[7; 16_000];
    let server = Server::new();
    // (the records; how many carry nothing; how much is heard)
    type Row<'a> = (Vec<(u8, &'a [u8])>, u32, usize);
    let rows: [Row; 5] = [
        (vec![(DATA, b"one"), (DATA, b""), (DATA, b"two")], 1, 6),
        (vec![(DATA, LARGE); 20], 0, 320_000),
        (vec![(DATA, b"one"), (HANDSHAKE, &KEY_UPDATE[..2]), (HANDSHAKE, &KEY_UPDATE[2..])], 2, 3),
        // rustls takes 32 of them in a row.
        (
            std::iter::repeat_n(Vec::from([(DATA, b"" as &[u8]); 30]), 200)
                .flat_map(|row| [row, vec![(DATA, b".")]].concat())
                .collect(),
            6_000,
            200,
        ),
        (vec![(DATA, b"."); 6_000], 0, 6_000),
    ];
    for (number, (records, empty, heard)) in rows.iter().enumerate() {
        for piece in [1 << 20, 1_000] {
            let (socket, mut peer) = server.connect().await;
            let bytes: Vec<u8> =
                records.iter().flat_map(|(kind, content)| peer.seal(*kind, content)).collect();
            let (mut found, mut total) = (0, Toll::default());
            let mut pieces = bytes.chunks(piece);
            let mut rest: &[u8] = &[];
            while !(rest.is_empty() && pieces.len() == 0 && total.sealed as usize >= bytes.len()) {
                if rest.is_empty() {
                    rest = pieces.next().unwrap_or_default();
                }
                tokio::select! {
                    readable = socket.readable() => readable.unwrap(),
                    writable = peer.stream.writable(), if !rest.is_empty() => writable.unwrap(),
                }
                rest = &rest[peer.stream.try_write(rest).unwrap_or(0)..];
                match socket.try_read(&mut [0; 4096]) {
                    Ok(read) => found += read,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "row {number}"),
                }
                let toll = socket.take_toll();
                assert!(toll.sealed <= 64 << 10 && toll.records <= 300, "row {number}: {toll:?} at once");
                total = Toll {
                    sealed: total.sealed + toll.sealed,
                    records: total.records + toll.records,
                    empty: total.empty + toll.empty,
                };
            }
            while let Ok(read) = socket.try_read(&mut [0; 4096]) {
                found += read;
            }
            assert_eq!(found, *heard, "row {number}");
            assert_eq!((total.records as usize, total.empty), (records.len(), *empty), "row {number}");
        }
    }
}

/// Once we have said that we send no more, what comes is thrown away, whatever it is, until the end.
#[tokio::test]
async fn what_comes_after_our_farewell_is_thrown_away() {
    let server = Server::new();
    let rows: [&[u8]; 4] = [
        b"\x17\x03\x03\x00\x28nobody has sealed these forty bytes, as it is",
        b"\x17\x03\x03\xFF\xFF",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x80; 100_000],
    ];
    for row in rows {
        let (accepted, mut tls, mut peer) = server.shake_hands().await;
        assert!(tls.finish(&accepted).unwrap());
        let bytes = [row, &peer.seal(DATA, b"sealed")].concat();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            peer.stream.writable().await.unwrap();
            rest = &rest[peer.stream.try_write(rest).unwrap_or(0)..];
            let error = tls.read(&accepted, &mut [0; 4096]).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted), "{error}");
        }
        drop(peer);
        let end = loop {
            accepted.readable().await.unwrap();
            match tls.read(&accepted, &mut [0; 4096]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => break other,
            }
        };
        // A reset, where it had not read our farewell.
        assert!(
            end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |read| *read == 0)
        );
    }
}

/// A handshake message that never ends is not kept for ever.
#[tokio::test]
async fn an_endless_message_is_cut() {
    let server = Server::new();
    let (socket, mut peer) = server.connect().await;
    let mut first = vec![24, 0xFF, 0xFF, 0xFF];
    first.resize(16_000, 0);
    let mut said = 0;
    let end = loop {
        let record = peer.seal(HANDSHAKE, &first);
        peer.stream.writable().await.unwrap();
        said += peer.stream.try_write(&record).unwrap();
        socket.readable().await.unwrap();
        match socket.try_read(&mut [0; 100]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => break other,
        }
        assert!(said < 1 << 20, "it is kept");
    };
    assert_eq!(end.unwrap_err().kind(), ErrorKind::InvalidData);
}
