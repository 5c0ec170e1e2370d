//! Sockets that listen, bound before anything else starts. They are not accepted from here.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Config, ListenAddress};

/// How many handshakes the kernel may hold for one worker; it takes less if `somaxconn` says so.
const BACKLOG: i32 = 4096;

/// Beyond so many bytes that could not be sent yet, a socket takes no more. What is on its way does not count,
/// so it slows nobody down, however long the way is. Four times as many, and a slow reader that begins to read kept a
/// worker in one `writev` for 0.7 ms: the kernel sends all of them in the reader's small steps before it returns.
const UNSENT: u32 = 32 << 10;

/// So many bytes may wait to be read, and as much again for the kernel's bookkeeping.
const RECEIVED: usize = 128 << 10;

/// Where memory is limited, neither is more than this part of it: what the kernel holds can be told only by asking for
/// it, and a thousand sockets that fill at once should not be the end …
const PART: usize = 2048;

/// … nor less than this.
const LEAST: usize = 16 << 10;

/// The instance's bound sockets.
pub struct Listeners {
    /// One for each worker, all on one address.
    pub public: Vec<TcpListener>,
    /// For operators, if they have an address of their own.
    pub internal: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration asks for.
    ///
    /// # Errors
    ///
    /// When an address cannot be resolved or bound, naming it.
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        let public = bind(&config.listen, config.worker_count())?;
        let internal = match &config.internal_listen {
            Some(address) => bind(address, 1)?.pop(),
            None => None,
        };
        Ok(Self { public, internal })
    }

    /// The address for clients, with the port that the kernel chose if it was 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.public[0].local_addr()
    }

    /// The address for operators.
    pub fn internal_address(&self) -> io::Result<Option<SocketAddr>> {
        self.internal.as_ref().map(TcpListener::local_addr).transpose()
    }
}

fn bind(address: &ListenAddress, count: usize) -> anyhow::Result<Vec<TcpListener>> {
    let candidates = address.resolve().with_context(|| format!("cannot resolve {address}"))?;
    let mut last = None;
    for candidate in candidates {
        match bind_all(candidate, count) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::Error::other("the name has no address"));
    Err(error).with_context(|| format!("cannot listen on {address}"))
}

fn bind_all(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // With SO_REUSEPORT the kernel would let a second instance of the same user share the port and
        // deal clients out between the two. Nobody means that, so the port must be free without it.
        drop(listen(address, false)?);
    }
    let first = listen(address, true)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| listen(address, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// Has the sockets that will be accepted hold less, where an instance may take so much `memory` and no more.
///
/// # Errors
///
/// When the kernel refuses.
pub fn hold_within(listener: &TcpListener, memory: usize) -> io::Result<()> {
    let most = |usual| (memory / PART).clamp(LEAST, usual);
    let socket = SockRef::from(listener);
    socket.set_tcp_notsent_lowat(most(UNSENT as usize) as u32)?;
    socket.set_recv_buffer_size(most(RECEIVED))
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    // Accepted sockets inherit all three. Frames are written whole; waiting for more to send would only delay them.
    socket.set_tcp_nodelay(true)?;
    // Without the first of these, a reader that stops holds 4 MiB in the kernel before its outbox begins to fill;
    // without the second, a publisher that must wait can hold as much.
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_recv_buffer_size(RECEIVED)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn what_is_accepted_sends_at_once() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        drop(client);
    }
}
