//! The byte stream of one connection, as the shard writes it and the session reads it: only what does
//! not wait, and two ways to wait. It knows nothing of frames.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// A connected socket without any buffer of its own.
pub struct Socket(TcpStream);

impl Socket {
    /// Takes the stream out of the handshake.
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Resolves when `try_read` may find something, an end or an error included.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Resolves when `try_write` may take something.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 at the end.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }

    /// Writes what the kernel takes at once; `WouldBlock` if nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// The same for several slices.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    /// Says that nothing more will be written; what the peer still sends can be read.
    pub(crate) fn finish_writing(&self) {
        // An error means that the peer has gone, which the reader finds out by itself.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Write);
    }

    /// Ends both directions now, so that the reader wakes; what waits in the kernel is thrown away,
    /// which frees the memory that a peer who does not read would hold for minutes.
    pub(crate) fn cut(&self) {
        let socket = SockRef::from(&self.0);
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(Shutdown::Both);
    }
}
