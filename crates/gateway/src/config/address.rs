//! Where to listen: `host:port`. A name is kept as a name and resolved when the listener is bound, not when the
//! configuration is read, so that `fanfare config` works on a machine that cannot resolve it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::value::{Hint, Kind, Value, string};

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// The host before the port.
    pub host: Host,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
}

/// The part of a [`ListenAddress`] before its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Nothing, as in `:8080`: every address of the machine.
    Any,
    /// An address of the machine, or the wildcard of one family.
    Ip(IpAddr),
    /// A name to resolve, such as `localhost`.
    Name(String),
}

impl ListenAddress {
    /// The socket addresses to try, in this order; the first that can be bound is the one. `:8080` is both families at
    /// once where the machine has IPv6 (the listener must not be v6-only then), and IPv4 alone where it has not.
    ///
    /// # Errors
    ///
    /// When a name does not resolve. A name may take as long as the resolver does.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found: Vec<SocketAddr> = match &self.host {
            Host::Any => {
                vec![(Ipv6Addr::UNSPECIFIED, self.port).into(), (Ipv4Addr::UNSPECIFIED, self.port).into()]
            }
            Host::Ip(address) => vec![(*address, self.port).into()],
            Host::Name(name) => (name.as_str(), self.port).to_socket_addrs()?.collect(),
        };
        if matches!(self.host, Host::Name(_)) {
            // `localhost` is ::1 first on many machines, and whoever types it elsewhere means 127.0.0.1.
            found.sort_by_key(SocketAddr::is_ipv6);
            found.dedup();
        }
        Ok(found)
    }

    /// Whether it takes in every address of the machine, of one family at least.
    pub fn is_wildcard(&self) -> bool {
        match &self.host {
            Host::Any => true,
            Host::Ip(address) => address.is_unspecified(),
            Host::Name(_) => false,
        }
    }

    /// Whether a connection to one could as well reach the other. Worth asking before binding, because with
    /// `SO_REUSEPORT` the kernel does not refuse it: it deals the connections out among both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_port = self.port == other.port && self.port != 0;
        same_port && (self.host == other.host || self.is_wildcard() || other.is_wildcard())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => write!(f, ":{}", self.port),
            Host::Ip(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Value for ListenAddress {
    const KIND: Kind = Kind::Address;
    const EXPECTED: &'static str = r#"an address such as "127.0.0.1:8080", "[::]:8080" or ":8080""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: Host::Ip(address.ip()), port: address.port() });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(Some(format!("the port is missing: \"{}\"", SocketAddr::new(address, 8080))));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            let number = text.parse::<u16>().is_ok();
            return Err(Some(if number {
                format!("a port alone is \":{text}\"")
            } else {
                "the port is missing".into()
            }));
        };
        let port = port.parse().map_err(|_| Some("a port is a number from 0 to 65535".to_owned()))?;
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        // What is all digits and dots, and was no address above, is a slip in an address and not a name.
        let digits = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        match host {
            "" => Ok(Self { host: Host::Any, port }),
            _ if host.chars().all(name) && !digits => Ok(Self { host: Host::Name(host.to_owned()), port }),
            _ => Err(None),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(string(&self.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_written_and_resolved() {
        for (text, resolved) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:0", "[::1]:0"),
            ("[::]:8080", "[::]:8080"),
            (":8080", "[::]:8080 0.0.0.0:8080"),
        ] {
            let address = ListenAddress::parse(text).expect(text);
            assert_eq!(address.to_string(), text);
            let found: Vec<String> = address.resolve().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), resolved, "{text}");
        }
        let localhost = ListenAddress::parse("localhost:8080").unwrap();
        assert_eq!(localhost.resolve().unwrap()[0].to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8080",
            "localhost",
            "::1",
            "::1:8080",
            "127.0.0.1",
            "127.0.0.1:99999",
            "300.0.0.1:80",
            "a b:80",
            "http://x:80",
        ] {
            assert!(ListenAddress::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_overlap_where_one_connection_could_reach_both() {
        for (one, other, overlap) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            (":80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let read = |text| ListenAddress::parse(text).unwrap();
            assert_eq!(read(one).overlaps(&read(other)), overlap, "{one} {other}");
        }
    }
}
