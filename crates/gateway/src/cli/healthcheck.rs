//! `fanfare healthcheck`: asks an instance on this machine how it is, for containers whose image holds nothing else
//! that could. One request; it follows no redirects, and where TLS is spoken it takes any certificate: it asks this
//! machine, by an address that no certificate names, and sends nothing that is secret.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use fanfare_bench::AnyCertificate;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use url::Url;

use super::{Failure, Surroundings, flags};
use crate::config::{Config, Host, Key, ListenAddress};

/// From the first connect to the last byte.
const DEADLINE: Duration = Duration::from_secs(2);

/// More than any answer of ours.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// What a proxy sends ahead of a connection of its own, such as a health check: PROXY protocol v2, command LOCAL, no
/// addresses (section 2.2 of its specification).
const PROXY_LOCAL: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The command with its flags.
pub fn command() -> Command {
    let keys = ["listen", "internal_listen", "tls_cert", "tls_key"].into_iter().filter_map(Key::named);
    Command::new("healthcheck")
        .about("Ask an instance on this machine whether it is alive; exit with 0 or 1")
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("Ask /readyz, whether clients may be sent to it, instead of /livez"),
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .conflicts_with_all(["ready", "config", "listen", "internal_listen", "tls_cert", "tls_key"])
                .help("Ask this http:// URL, whatever the configuration"),
        )
        .arg(flags::file())
        .args(keys.map(flags::flag))
}

/// Asks, and says nothing if all is well.
pub(super) fn run(matches: &ArgMatches, surroundings: Surroundings) -> Result<(), Failure> {
    let target = match matches.get_one::<String>("url") {
        Some(url) => {
            Target::of_url(url).map_err(|why| Failure { line: format!("`--url`: {why}"), code: 2 })?
        }
        None => Target::of_config(
            &flags::load(matches, surroundings)?.0,
            if matches.get_flag("ready") { "/readyz" } else { "/livez" },
        )
        .map_err(|line| Failure { line, code: 1 })?,
    };
    target
        .ask()
        .map_err(|why| Failure { line: format!("{}{}: {why}", target.origin(), target.path), code: 1 })
}

#[derive(Debug)]
struct Target {
    /// What stands in the `Host` header.
    host: String,
    path: String,
    /// To try in this order.
    addresses: Vec<SocketAddr>,
    /// Those of them at which a connection has to begin with a PROXY header.
    proxied: Vec<SocketAddr>,
    tls: bool,
}

impl Target {
    fn of_url(text: &str) -> Result<Self, String> {
        let url =
            Url::parse(text).map_err(|error| format!("expected an http:// URL, found {text:?}: {error}"))?;
        if url.scheme() != "http" {
            return Err(format!("expected an http:// URL, found {text:?}"));
        }
        let name = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let host = format!("{name}:{port}");
        let addresses =
            host.to_socket_addrs().map_err(|error| format!("{name} cannot be resolved: {error}"))?.collect();
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { host, path: format!("{}{query}", url.path()), addresses, proxied: Vec::new(), tls: false })
    }

    fn of_config(config: &Config, path: &str) -> Result<Self, String> {
        let listen = config.internal_listen.as_ref().unwrap_or(&config.listen);
        if listen.port == 0 {
            return Err(
                "the configured port is 0, which lets the kernel choose; name the instance by `--url`".into(),
            );
        }
        let addresses = reachable(listen).map_err(|error| format!("{listen} cannot be resolved: {error}"))?;
        // An instance that trusts this machine as a proxy waits for a header from it. Connecting to an address of its
        // own, this machine comes from that address.
        let proxied = config.proxy_protocol && config.internal_listen.is_none();
        let proxied = addresses.iter().filter(|to| proxied && config.trusts(to.ip())).copied().collect();
        let tls = config.tls_cert.is_some() && config.internal_listen.is_none();
        Ok(Self { host: addresses[0].to_string(), path: path.to_owned(), addresses, proxied, tls })
    }

    fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.host)
    }

    fn ask(&self) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut refusal = io::Error::new(ErrorKind::NotFound, "no address to connect to");
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, left(deadline)?) {
                Ok(socket) => return self.ask_over(&socket, self.proxied.contains(address), deadline),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn ask_over(&self, mut socket: &TcpStream, proxied: bool, deadline: Instant) -> io::Result<()> {
        let Self { host, path, .. } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fanfare-healthcheck\r\nConnection: close\r\n\r\n"
        );
        socket.set_write_timeout(Some(left(deadline)?))?;
        socket.write_all(if proxied { PROXY_LOCAL } else { &[] })?;
        let answer = if self.tls {
            socket.set_read_timeout(Some(left(deadline)?))?;
            let mut stream = StreamOwned::new(any_server(socket.peer_addr()?.ip())?, socket);
            stream.write_all(request.as_bytes())?;
            answer(&mut stream, socket, deadline)?
        } else {
            socket.write_all(request.as_bytes())?;
            let mut stream = socket;
            answer(&mut stream, socket, deadline)?
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status =
            head.lines().next().unwrap_or_default().split_ascii_whitespace().nth(1).unwrap_or("no status");
        if status == "200" {
            Ok(())
        } else {
            Err(io::Error::other(format!("{status} {body}").trim_end().to_owned()))
        }
    }
}

/// Reads to the end, or to the deadline if the head has come by then.
fn answer(stream: &mut impl Read, socket: &TcpStream, deadline: Instant) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let whole_head = bytes.windows(4).any(|four| four == b"\r\n\r\n");
        let read = left(deadline).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            stream.read(&mut buffer)
        });
        match read {
            Ok(0) if bytes.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(_) if whole_head => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > LONGEST_ANSWER {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late)
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer within {} s", DEADLINE.as_secs()))
}

/// The client's side of TLS with whoever listens there.
fn any_server(address: IpAddr) -> io::Result<ClientConnection> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::from(address)).map_err(io::Error::other)
}

/// Where to connect to in order to reach whoever listens there: wildcards stand for this machine's loopback addresses.
fn reachable(listen: &ListenAddress) -> io::Result<Vec<SocketAddr>> {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let hosts = match &listen.host {
        Host::Any => vec![v4, v6],
        Host::Ip(IpAddr::V4(address)) if address.is_unspecified() => vec![v4],
        // Both, because a listener on `[::]` takes IPv4 as well, and an instance may find IPv6 switched off.
        Host::Ip(IpAddr::V6(address)) if address.is_unspecified() => vec![v6, v4],
        _ => return listen.resolve(),
    };
    Ok(hosts.into_iter().map(|host| SocketAddr::new(host, listen.port)).collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::config::Sources;

    fn target(flags: &[(&str, &str)], path: &str) -> Result<Target, String> {
        let flags =
            flags.iter().map(|(key, value)| (Key::named(key).unwrap(), (*value).to_owned())).collect();
        let sources =
            Sources { flags, directory: tempfile::tempdir().unwrap().path().into(), ..Sources::default() };
        Target::of_config(&Config::load(sources).unwrap().0, path)
    }

    #[test]
    fn an_instance_is_asked_where_it_can_be_reached() {
        for (listen, internal, asked) in [
            ("127.0.0.1:8080", "", "127.0.0.1:8080"),
            ("127.0.0.2:8080", "127.0.0.3:9090", "127.0.0.3:9090"),
            ("0.0.0.0:8080", "", "127.0.0.1:8080"),
            ("[::]:8080", "", "[::1]:8080 127.0.0.1:8080"),
            (":8080", "", "127.0.0.1:8080 [::1]:8080"),
            (":8080", ":9090", "127.0.0.1:9090 [::1]:9090"),
        ] {
            let target = target(&[("listen", listen), ("internal_listen", internal)], "/livez").unwrap();
            let addresses: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses.join(" "), asked, "{listen} {internal}");
            assert!(target.proxied.is_empty());
        }
        assert!(target(&[("listen", "127.0.0.1:0")], "/livez").unwrap_err().contains("--url"));
    }

    /// Answers one connection with `answer`, having read the request, and returns the request.
    fn answered(answer: &'static [u8], flags: &[(&str, &str)]) -> (io::Result<()>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = target(&[&[("listen", address.as_str())], flags].concat(), "/readyz").unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            // The signature of a PROXY header begins with an empty line of its own.
            while request.len() < 20 || !request.ends_with(b"\r\n\r\n") {
                socket.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            socket.write_all(answer).unwrap();
            request
        });
        (target.ask(), server.join().unwrap())
    }

    #[test]
    fn only_200_is_healthy() {
        for (answer, failure) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], ""),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n{\"ready\":false}", "503 {\"ready\":false}"),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            (b"SSH-2.0-x\r\n", "no status"),
            (b"", "unexpected end of file"),
        ] {
            let (result, request) = answered(answer, &[]);
            assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));
            assert_eq!(result.err().map(|error| error.to_string()).unwrap_or_default(), failure);
        }
    }

    #[test]
    fn a_trusted_proxy_introduces_itself() {
        let trusting = [("proxy_protocol", "true"), ("trusted_proxies", "127.0.0.0/8")];
        let (result, request) = answered(b"HTTP/1.1 200 OK\r\n\r\n", &trusting);
        result.unwrap();
        assert!(request.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /readyz "), "{request:?}");
        let trusting_others = [("proxy_protocol", "true"), ("trusted_proxies", "10.0.0.0/8")];
        let (result, request) = answered(b"HTTP/1.1 200 OK\r\n\r\n", &trusting_others);
        result.unwrap();
        assert!(request.starts_with(b"GET /readyz "), "{request:?}");
    }

    #[test]
    fn a_server_that_is_silent_or_away_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = target(&[("listen", &address)], "/livez").unwrap();
        assert_eq!(silent.ask().unwrap_err().to_string(), "no answer within 2 s");
        drop(listener);
        assert_eq!(silent.ask().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_url_is_taken_as_it_is() {
        let target = Target::of_url("http://127.0.0.1:9090/livez?verbose").unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:9090", "/livez?verbose"));
        for url in ["127.0.0.1:9090", "https://127.0.0.1/livez", "livez", ""] {
            assert!(Target::of_url(url).is_err(), "{url}");
        }
    }
}
