//! The PROXY protocol's header (version 2), by which a trusted proxy says whose connection it brings.
//! Version 1 and untrusted peers are not heard: then the bytes are the request itself.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What every header begins with: signature, command, family, and the length of the rest.
const FIXED: usize = 16;

/// Longer headers carry only extensions (TLVs) that nobody needs here; the protocol asks receivers to
/// take at least 536 bytes.
const LONGEST: usize = 4096;

/// Reads exactly the header and returns the client's address; `peer` itself where the proxy speaks for
/// itself (its health checks) or for a client without an IP address; nothing, if the stream ends before a byte of it, as
/// when somebody only looks whether there is a port.
///
/// # Errors
///
/// When the stream ends within it or does not begin with a version 2 header of at most 4 KiB.
pub async fn read_header(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Option<SocketAddr>> {
    let mut bytes = vec![0; FIXED];
    let come = stream.read(&mut bytes).await?;
    if come == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[come..]).await?;
    if !bytes.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(invalid("the connection does not begin with a PROXY protocol v2 header"));
    }
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if rest > LONGEST - FIXED {
        return Err(invalid("the PROXY protocol header is longer than 4096 bytes"));
    }
    bytes.resize(FIXED + rest, 0);
    stream.read_exact(&mut bytes[FIXED..]).await?;
    let header = Header::try_from(&bytes[..]).map_err(|error| invalid(&error.to_string()))?;
    Ok(Some(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(ends)) => (ends.source_address, ends.source_port).into(),
        (Command::Proxy, Addresses::IPv6(ends)) => (ends.source_address, ends.source_port).into(),
        _ => peer,
    }))
}

fn invalid(says: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, says)
}
