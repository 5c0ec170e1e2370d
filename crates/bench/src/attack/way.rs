//! What an assailant's bytes go through: a plain socket, or TLS over one, for a thread that waits. It closes nothing
//! properly.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use rustls::{ClientConnection, StreamOwned};

use super::{Field, PATIENCE};
use crate::client::stream::client_config;
use crate::client::target::Secure;

/// What an attack writes to: the socket, or TLS on it.
#[derive(Debug)]
pub(super) enum Way {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Way {
    /// As the field's target wants it.
    pub(super) fn over(stream: TcpStream, field: &Field) -> io::Result<Self> {
        let Some(secure) = &field.target.secure else { return Ok(Self::Plain(stream)) };
        let mut stream = StreamOwned::new(begin(secure)?, stream);
        let end = Instant::now() + PATIENCE;
        while stream.conn.is_handshaking() {
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => {}
                Err(error) if waits(&error) && !field.is_over() && Instant::now() < end => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// The socket underneath, for what is done to it and not to TLS.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Way {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => read(stream, into),
        }
    }
}

impl Write for Way {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Whatever has come, though nothing can be written any more: a server that has had enough has said so.
fn read(stream: &mut StreamOwned<ClientConnection, TcpStream>, into: &mut [u8]) -> io::Result<usize> {
    let StreamOwned { conn, sock } = stream;
    loop {
        match conn.reader().read(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if conn.wants_write() {
            // If it cannot be, reading tells.
            let _ = conn.write_tls(sock);
        }
        if conn.read_tls(sock)? == 0 {
            return Ok(0);
        }
        conn.process_new_packets().map_err(io::Error::other)?;
    }
}

/// A client's side of TLS that has said nothing yet.
pub(super) fn begin(secure: &Secure) -> io::Result<ClientConnection> {
    let config = client_config(secure.any_certificate);
    ClientConnection::new(config, secure.name.clone()).map_err(io::Error::other)
}

/// What the server said of the end, in TLS' own words.
pub(super) fn alert(error: &io::Error) -> Option<u8> {
    match error.get_ref()?.downcast_ref() {
        Some(rustls::Error::AlertReceived(what)) => Some(u8::from(*what)),
        _ => None,
    }
}

/// Whether there is only nothing to be had yet.
pub(super) fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
