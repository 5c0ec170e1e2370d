//! From which web pages browsers may connect. Browsers send `Origin` with every WebSocket handshake and pages cannot
//! forge it; other clients can send what they like or nothing, so this keeps foreign pages out and nobody else.

use super::value::{Hint, Kind, Raw, Value, items, list, texts};

/// Which values of the `Origin` header may open a connection. A handshake without one always may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPolicy {
    /// Pages of the host that the handshake was sent to.
    SameHost,
    /// Pages from anywhere.
    Any,
    /// Pages that match one of these.
    Patterns(Vec<OriginPattern>),
}

impl OriginPolicy {
    /// Whether a handshake with these `Origin` and `Host` headers may go on.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        match self {
            Self::SameHost => same_host(origin, host),
            Self::Any => true,
            Self::Patterns(patterns) => patterns.iter().any(|pattern| pattern.matches(origin, host)),
        }
    }
}

/// One entry of a list of allowed origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `self`: the host that the handshake was sent to.
    SameHost,
    /// `null`: sandboxed frames and pages from files. Any such page, whoever wrote it.
    Null,
    /// `https://*.example.com:8443` and shorter ones.
    Page {
        /// Nothing stands for `http` and `https`.
        scheme: Option<String>,
        /// Whether it stands for all names below the host, to any depth, and not for the host itself.
        below: bool,
        /// In lower case.
        host: String,
        /// Which ports of it.
        port: PortPattern,
    },
}

/// Which ports an [`OriginPattern`] matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortPattern {
    /// None written: the scheme's own.
    Own,
    /// `:*`.
    Any,
    /// This one.
    Is(u16),
}

impl OriginPattern {
    /// Whether an origin is one of those that the pattern stands for.
    pub fn matches(&self, origin: &str, request_host: Option<&str>) -> bool {
        let (scheme, below, host, port) = match self {
            Self::SameHost => return same_host(origin, request_host),
            Self::Null => return origin == "null",
            Self::Page { scheme, below, host, port } => (scheme, *below, host, *port),
        };
        let Some(page) = Page::parse(origin) else { return false };
        let scheme_fits = match scheme {
            Some(scheme) => page.scheme == *scheme,
            None => matches!(page.scheme.as_str(), "http" | "https"),
        };
        let host_fits = match below {
            // With the dot, or `*.example.com` would let `badexample.com` in.
            true => page
                .host
                .strip_suffix(host.as_str())
                .is_some_and(|name| name.len() > 1 && name.ends_with('.')),
            false => page.host == *host,
        };
        let port_fits = match port {
            PortPattern::Own => page.port == own_port(&page.scheme),
            PortPattern::Any => true,
            PortPattern::Is(port) => page.port == Some(port),
        };
        scheme_fits && host_fits && port_fits
    }

    fn parse(text: &str) -> Result<Self, Hint> {
        match text {
            "self" => return Ok(Self::SameHost),
            "null" => return Ok(Self::Null),
            "*" => return Err(Some("\"*\" allows every origin and stands alone".into())),
            _ => {}
        }
        let refuse = |why: &str| Err(Some(format!("{text:?} {why}")));
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        if scheme.as_deref().is_some_and(|scheme| scheme.starts_with("ws")) {
            return refuse(
                "is where a client connects to; an origin is the page it comes from, http or https",
            );
        }
        if rest.contains('/') {
            return refuse("has a path; an origin ends with its host and port");
        }
        let Some((host, port)) = split_port(rest) else { return refuse("is no origin") };
        let port = match port {
            None => PortPattern::Own,
            Some("*") => PortPattern::Any,
            Some(port) => match port.parse() {
                Ok(port) => PortPattern::Is(port),
                Err(_) => return refuse("has a port that is none"),
            },
        };
        let (below, host) = host.strip_prefix("*.").map_or((false, host), |host| (true, host));
        if host.is_empty()
            || host.contains(|c: char| c == '*' || c == '@' || c.is_whitespace() || !c.is_ascii())
        {
            return refuse(
                "is no origin; \"*.\" may stand before a host, and an international name is in its xn-- form",
            );
        }
        Ok(Self::Page { scheme, below, host: host.to_ascii_lowercase(), port })
    }

    fn written(&self) -> String {
        let Self::Page { scheme, below, host, port } = self else {
            return if *self == Self::SameHost { "self".into() } else { "null".into() };
        };
        let scheme = scheme.as_ref().map(|scheme| format!("{scheme}://")).unwrap_or_default();
        let port = match port {
            PortPattern::Own => String::new(),
            PortPattern::Any => ":*".into(),
            PortPattern::Is(port) => format!(":{port}"),
        };
        format!("{scheme}{}{host}{port}", if *below { "*." } else { "" })
    }
}

/// Whether a page came from the host that the handshake was sent to. The scheme is not compared: behind a proxy that
/// ends TLS the page is `https` and the handshake is not. A host without a port has the port of the page's scheme.
fn same_host(origin: &str, host: Option<&str>) -> bool {
    let (Some(page), Some(host)) = (Page::parse(origin), host) else { return false };
    let Some((name, port)) = split_port(host) else { return false };
    let port = match port {
        None => own_port(&page.scheme),
        Some(port) => match port.parse() {
            Ok(port) => Some(port),
            Err(_) => return false,
        },
    };
    name.eq_ignore_ascii_case(&page.host) && port == page.port
}

/// A serialized origin (RFC 6454, section 6.2), in lower case, its port filled in.
struct Page {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Page {
    fn parse(origin: &str) -> Option<Self> {
        let (scheme, rest) = origin.split_once("://")?;
        let (host, port) = split_port(rest)?;
        let scheme = scheme.to_ascii_lowercase();
        let port = match port {
            None => own_port(&scheme),
            Some(port) => Some(port.parse().ok()?),
        };
        let clean = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        clean.then(|| Self { scheme, host: host.to_ascii_lowercase(), port })
    }
}

fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port, an IPv6 address in its brackets; nothing where brackets do not match.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        return if rest.is_empty() {
            Some((host, None))
        } else {
            rest.strip_prefix(':').map(|port| (host, Some(port)))
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

impl Value for OriginPolicy {
    const KIND: Kind = Kind::List;
    const EXPECTED: &'static str =
        r#"a list of origins such as "https://example.com", "*.example.com" or "self", or "*""#;

    fn parse(text: &str) -> Result<Self, Hint> {
        policy(items(text))
    }

    fn misread(raw: &Raw) -> Result<Self, Hint> {
        policy(texts(raw)?.into_iter())
    }

    fn to_toml(&self) -> Option<String> {
        Some(match self {
            Self::SameHost => "[]".into(),
            Self::Any => r#"["*"]"#.into(),
            Self::Patterns(patterns) => list(patterns.iter().map(OriginPattern::written)),
        })
    }
}

fn policy<'a>(items: impl Iterator<Item = &'a str>) -> Result<OriginPolicy, Hint> {
    let items: Vec<&str> = items.collect();
    match items.as_slice() {
        [] => Ok(OriginPolicy::SameHost),
        ["*"] => Ok(OriginPolicy::Any),
        _ => {
            Ok(OriginPolicy::Patterns(items.into_iter().map(OriginPattern::parse).collect::<Result<_, _>>()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_host_is_one_host_and_one_port() {
        for (origin, host, allowed) in [
            (None, Some("example.com"), true),
            (Some("http://example.com"), Some("example.com"), true),
            (Some("https://example.com"), Some("example.com"), true),
            (Some("https://example.com"), Some("example.com:443"), true),
            (Some("https://example.com"), Some("example.com:80"), false),
            (Some("http://EXAMPLE.com:8080"), Some("example.COM:8080"), true),
            (Some("http://[::1]:8080"), Some("[::1]:8080"), true),
            (Some("http://example.com:8080"), Some("example.com"), false),
            (Some("http://evil.example"), Some("example.com"), false),
            (Some("http://example.com.evil.example"), Some("example.com"), false),
            (Some("http://example.com@evil.example"), Some("example.com"), false),
            (Some("http://example.com/"), Some("example.com"), false),
            (Some("null"), Some("null"), false),
            (Some(""), Some(""), false),
            (Some("http://"), Some(""), false),
            (Some("http://example.com"), None, false),
        ] {
            assert_eq!(OriginPolicy::SameHost.allows(origin, host), allowed, "{origin:?} at {host:?}");
        }
    }

    #[test]
    fn a_pattern_matches_what_it_says_and_nothing_near() {
        for (pattern, origin, allowed) in [
            ("*", "http://anything.example", true),
            ("https://example.com", "https://example.com", true),
            ("https://example.com", "https://EXAMPLE.com:443", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:8443", false),
            ("https://example.com", "https://a.example.com", false),
            ("https://example.com:8443", "https://example.com:8443", true),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://badexample.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://a.example.com.evil.example", false),
            ("example.com", "http://example.com", true),
            ("example.com", "https://example.com", true),
            ("example.com", "https://example.com:8443", false),
            ("example.com", "app://example.com", false),
            ("localhost:*", "http://localhost:5173", true),
            ("localhost:*", "http://localhost", true),
            ("http://[::1]:*", "http://[::1]:5173", true),
            ("chrome-extension://abcdef", "chrome-extension://abcdef", true),
            ("null", "null", true),
            ("example.com", "null", false),
            ("self", "https://here.example", true),
            ("self", "https://there.example", false),
            ("https://there.example,self", "https://there.example", true),
        ] {
            let policy = OriginPolicy::parse(pattern).expect(pattern);
            assert_eq!(policy.allows(Some(origin), Some("here.example")), allowed, "{pattern} for {origin}");
            assert!(policy.allows(None, None), "{pattern} without an origin");
            let written = policy.to_toml().unwrap().replace("\", \"", ",").replace(['[', ']', '"'], "");
            assert_eq!(written, pattern.replace(['[', ']'], ""));
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in [
            "*,https://example.com",
            "https://",
            "https://example.com/",
            "https://exa*mple.com",
            "https://*",
            "wss://example.com",
            "https://example.com:port",
            "https://user@example.com",
            "https://[::1",
            "https://bücher.example",
        ] {
            assert!(OriginPolicy::parse(pattern).is_err(), "{pattern}");
        }
    }
}
