//! Whose connection it is, where a proxy stands between: the right-most address of `X-Forwarded-For`
//! that no trusted proxy wrote about itself. Left of that, anybody can have written anything.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::config::Config;

/// The client's address for a request that came from `peer`.
pub fn client_address(config: &Config, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !config.trusts(peer) {
        return peer.to_canonical();
    }
    let mut address = peer;
    let lines = headers.get_all("x-forwarded-for");
    let mut hops = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    while config.trusts(address) {
        // A hop that is no address ends the walk: what stands left of it is nobody's word.
        let Some(hop) = hops.next().and_then(parse) else { break };
        address = hop;
    }
    address.to_canonical()
}

/// An address as proxies write it: bare, with a port, in brackets.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_heard() {
        // (trusted, peer, X-Forwarded-For lines, expected)
        type Row<'a> = (&'a [&'a str], &'a str, &'a [&'a str], &'a str);
        let rows: &[Row] = &[
            (&[], "10.0.0.9", &["1.1.1.1"], "10.0.0.9"),
            (&["10.0.0.0/8"], "10.0.0.9", &[], "10.0.0.9"),
            (&["10.0.0.0/8"], "10.0.0.9", &["1.1.1.1"], "1.1.1.1"),
            (&["10.0.0.0/8"], "10.0.0.9", &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (&["10.0.0.0/8"], "10.0.0.9", &["6.6.6.6, 1.1.1.1, 10.0.0.7"], "1.1.1.1"),
            (&["10.0.0.0/8"], "10.0.0.9", &["6.6.6.6", "1.1.1.1", "10.0.0.7"], "1.1.1.1"),
            (&["10.0.0.0/8"], "9.9.9.9", &["1.1.1.1"], "9.9.9.9"),
            (&["10.0.0.0/8"], "10.0.0.9", &["1.1.1.1, nonsense"], "10.0.0.9"),
            (&["10.0.0.0/8"], "10.0.0.9", &["1.1.1.1, unknown, 10.0.0.7"], "10.0.0.7"),
            (&["10.0.0.0/8"], "10.0.0.9", &["1.1.1.1:4711"], "1.1.1.1"),
            (&["10.0.0.0/8", "::1/128"], "::1", &["[2001:db8::1]:4711, 10.0.0.1"], "2001:db8::1"),
            (&["10.0.0.0/8"], "::ffff:10.0.0.9", &["1.1.1.1"], "1.1.1.1"),
            (&["10.0.0.0/8"], "10.0.0.9", &["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        ];
        for (trusted, peer, lines, expected) in rows {
            let trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
            let config = Config { trusted_proxies, ..Config::default() };
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
            }
            let found = client_address(&config, peer.parse().unwrap(), &headers);
            assert_eq!(found.to_string(), *expected, "{trusted:?} {peer} {lines:?}");
        }
    }
}
