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
/// itself (its health checks) or for a client without an IP address; nothing, if the stream ends before a byte of it,
/// as when somebody only looks whether there is a port.
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of a header with this command and family, and this behind it.
    async fn read(command: u8, family: u8, length: usize, rest: &[u8]) -> io::Result<Option<SocketAddr>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut bytes = [ppp::v2::PROTOCOL_PREFIX, &[0x20 | command, family]].concat();
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend(rest);
        proxy.write_all(&bytes).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_header(&mut stream, peer()).await
    }

    fn peer() -> SocketAddr {
        "10.0.0.1:1".parse().unwrap()
    }

    #[tokio::test]
    async fn the_source_is_who_comes() {
        let four = [192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187];
        let six = {
            let ends = ["2001:db8::1", "2001:db8::2"].map(|end| end.parse::<std::net::Ipv6Addr>().unwrap());
            [&ends[0].octets()[..], &ends[1].octets(), &[0, 80, 1, 187]].concat()
        };
        // (command, family, the rest, who comes): TCP over either, over UNIX sockets, and the proxy for itself.
        let rows: [(u8, u8, &[u8], &str); 4] = [
            (1, 0x11, &four, "192.0.2.1:80"),
            (1, 0x21, &six, "[2001:db8::1]:80"),
            (1, 0x31, &[b'/'; 216], "10.0.0.1:1"),
            (0, 0x00, &[], "10.0.0.1:1"),
        ];
        for (command, family, rest, expected) in rows {
            let found = read(command, family, rest.len(), rest).await.unwrap();
            assert_eq!(found, Some(expected.parse().unwrap()), "{family:#x}");
        }
    }

    #[tokio::test]
    async fn a_header_is_no_longer_than_it_may_be() {
        let longest = LONGEST - FIXED;
        // The addresses, and one extension of no meaning (PP2_TYPE_NOOP) that fills the rest.
        let mut rest = vec![0; longest];
        let filling = (longest - 12 - 3) as u16;
        rest[12] = 4;
        rest[13..15].copy_from_slice(&filling.to_be_bytes());
        assert!(read(1, 0x11, longest, &rest).await.is_ok());
        // It is refused by what it says of itself, before any of it has come.
        let error = read(1, 0x11, longest + 1, b"").await.unwrap_err();
        assert_eq!(error.to_string(), "the PROXY protocol header is longer than 4096 bytes");
    }
}
