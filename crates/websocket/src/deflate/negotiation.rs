//! The server's policy answers a client's offers (RFC 7692 §5).
//!
//! It agrees on a window of 8 bits for the client's messages only: no zlib deflates with one (it would take 9), while
//! any window inflates what a smaller one made.

use http::HeaderMap;
use http::header::SEC_WEBSOCKET_EXTENSIONS;

use super::parameters::{Agreed, Offer};
use super::{NARROWEST, WIDEST, grammar};
use crate::handshake::HandshakeError;

/// What a server agrees to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether our messages may refer to earlier ones. If so, a client that does not forbid it costs its own
    /// [`super::Compressor`], and frames for it are made for it alone.
    pub server_context_takeover: bool,
    /// Whether a client's messages may refer to earlier ones. If so, a client that does not forgo it costs a window
    /// of its own, up to 32 KiB, once it has sent that much.
    pub client_context_takeover: bool,
    /// The widest window for our messages: 9 to 15 bits. Beyond that, the nearest is taken.
    pub server_max_window_bits: u8,
    /// The widest window for a client's messages: 9 to 15 bits. Beyond that, the nearest is taken. A client that
    /// cannot be held to it gets no context takeover, which would make us keep the widest.
    pub client_max_window_bits: u8,
}

impl Default for Policy {
    /// The cheapest for many connections: no context takeover in either direction, and any window.
    fn default() -> Self {
        Self {
            server_context_takeover: false,
            client_context_takeover: false,
            server_max_window_bits: WIDEST,
            client_max_window_bits: WIDEST,
        }
    }
}

/// Takes the first offer of permessage-deflate in a request's headers that suits the policy. `None`: the client
/// offered none that does, and the connection does without.
///
/// Other extensions, and offers with parameters that are unknown, repeated or out of range, are passed over, as RFC
/// 7692 §7 demands. The answer needs the header `Sec-WebSocket-Extensions` with [`Agreed::header_value`].
///
/// # Errors
///
/// [`HandshakeError::Extensions`] if a header does not even follow the grammar of RFC 6455 §9.1.
pub fn negotiate(headers: &HeaderMap, policy: &Policy) -> Result<Option<Agreed>, HandshakeError> {
    let mut agreed = None;
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let list = grammar::extensions(line.as_bytes()).ok_or(HandshakeError::Extensions)?;
        for extension in list {
            agreed = agreed.or_else(|| policy.answer(&Offer::read(&extension)?));
        }
    }
    Ok(agreed)
}

impl Policy {
    /// What is agreed on if this offer is taken; `None` declines it.
    #[must_use]
    pub fn answer(&self, offer: &Offer) -> Option<Agreed> {
        let server_widest = self.server_max_window_bits.clamp(NARROWEST, WIDEST);
        let client_widest = self.client_max_window_bits.clamp(NARROWEST, WIDEST);
        let server_window = offer.server_max_window_bits.unwrap_or(WIDEST).min(server_widest);
        if server_window < NARROWEST {
            return None;
        }
        // A client that does not offer to be limited cannot be (RFC 7692 §7.1.2.2).
        let client_window = offer.client_max_window_bits.map(|bits| bits.min(client_widest));
        let client_is_unlimited = client_window.unwrap_or(WIDEST) > client_widest;
        Some(Agreed {
            server_no_context_takeover: !self.server_context_takeover || offer.server_no_context_takeover,
            client_no_context_takeover: !self.client_context_takeover
                || offer.client_no_context_takeover
                || client_is_unlimited,
            // Asked for, it must be answered, even if it says nothing new (RFC 7692 §7.1.2.1).
            server_max_window_bits: (server_window < WIDEST || offer.server_max_window_bits.is_some())
                .then_some(server_window),
            client_max_window_bits: client_window.filter(|&bits| bits < WIDEST),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::deflate::Shared;

    const CHEAP: Policy = Policy {
        server_context_takeover: false,
        client_context_takeover: false,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    };
    const GENEROUS: Policy = Policy { server_context_takeover: true, client_context_takeover: true, ..CHEAP };
    const NARROW: Policy = Policy { server_max_window_bits: 11, client_max_window_bits: 10, ..GENEROUS };

    fn negotiated(lines: &[&str], policy: &Policy) -> Result<Option<String>, HandshakeError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        negotiate(&headers, policy).map(|agreed| {
            agreed.map(|agreed| {
                let value = agreed.header_value();
                let value = value.to_str().unwrap();
                value.strip_prefix("permessage-deflate").unwrap().to_owned()
            })
        })
    }

    /// What follows the name in the answer, for each line of offers; or that there is no answer.
    #[test]
    fn offers_are_answered_within_the_policy() {
        const P: &str = "permessage-deflate";
        const BOTH: &str = "; server_no_context_takeover; client_no_context_takeover";
        let check = |policy: &Policy, offers: &str, expected: Option<&str>| {
            let offers = offers.replace("P;", "permessage-deflate;");
            let answer = negotiated(&[&offers], policy).unwrap();
            assert_eq!(answer.as_deref(), expected, "{offers}");
        };
        // RFC 7692 §7.1: the four examples of offers, then that of §7.1.3 with a fallback.
        check(&GENEROUS, P, Some(""));
        check(
            &GENEROUS,
            "P; client_max_window_bits; server_max_window_bits=10",
            Some("; server_max_window_bits=10"),
        );
        check(
            &GENEROUS,
            "P; client_max_window_bits; server_max_window_bits=10, permessage-deflate; client_max_window_bits",
            Some("; server_max_window_bits=10"),
        );
        check(&GENEROUS, "P; server_no_context_takeover", Some("; server_no_context_takeover"));
        check(&GENEROUS, "P; client_no_context_takeover", Some("; client_no_context_takeover"));
        check(&GENEROUS, "P; client_max_window_bits=12", Some("; client_max_window_bits=12"));

        // What browsers offer.
        check(&CHEAP, "P; client_max_window_bits", Some(BOTH));
        check(
            &NARROW,
            "P; client_max_window_bits",
            Some("; server_max_window_bits=11; client_max_window_bits=10"),
        );

        // A policy narrows, and never widens, what is offered.
        check(&CHEAP, P, Some(BOTH));
        check(
            &NARROW,
            "P; client_max_window_bits=9",
            Some("; server_max_window_bits=11; client_max_window_bits=9"),
        );
        check(
            &NARROW,
            "P; client_max_window_bits=14; server_max_window_bits=9",
            Some("; server_max_window_bits=9; client_max_window_bits=10"),
        );
        // Who cannot be limited keeps no context.
        check(&NARROW, P, Some("; client_no_context_takeover; server_max_window_bits=11"));
        check(&GENEROUS, "P; client_max_window_bits=8", Some("; client_max_window_bits=8"));
        // Asked for, it is answered even if it is the default.
        check(&GENEROUS, "P; server_max_window_bits=15", Some("; server_max_window_bits=15"));
        check(&GENEROUS, "P; client_max_window_bits=15", Some(""));

        // Quotes do not matter.
        check(&GENEROUS, "P; server_max_window_bits=\"10\"", Some("; server_max_window_bits=10"));
        check(&GENEROUS, "P; server_max_window_bits=\"1\\0\"", Some("; server_max_window_bits=10"));

        for declined in [
            "P; server_max_window_bits=8",
            "P; server_max_window_bits",
            "P; server_max_window_bits=7",
            "P; server_max_window_bits=16",
            "P; server_max_window_bits=010",
            "P; server_max_window_bits=9.0",
            "P; server_max_window_bits=+9",
            "P; client_max_window_bits=7",
            "P; client_max_window_bits=16",
            "P; client_max_window_bits=08",
            "P; client_max_window_bits=99999999999999999999",
            "P; server_no_context_takeover=true",
            "P; client_no_context_takeover=\"1\"",
            "P; unknown",
            "P; unknown=1; client_max_window_bits",
            "P; server_no_context_takeover; server_no_context_takeover",
            "P; client_no_context_takeover; client_no_context_takeover",
            "P; server_max_window_bits=10; server_max_window_bits=10",
            "P; client_max_window_bits; client_max_window_bits",
            "P; Server_no_context_takeover",
            "Permessage-Deflate",
            "x-webkit-deflate-frame",
            "permessage-bzip2; client_max_compress_level=9",
            "",
        ] {
            check(&GENEROUS, declined, None);
            // The next offer is taken instead.
            check(
                &GENEROUS,
                &format!("{declined}, P; client_no_context_takeover, {P}"),
                Some("; client_no_context_takeover"),
            );
        }
    }

    #[test]
    fn offers_may_be_spread_over_lines() {
        assert_eq!(negotiated(&[], &CHEAP), Ok(None));
        assert_eq!(negotiated(&["foo", "permessage-deflate; x", "bar"], &CHEAP), Ok(None));
        let lines = [
            "foo",
            "permessage-deflate; x",
            "bar, permessage-deflate; server_max_window_bits=9",
            "permessage-deflate",
        ];
        assert_eq!(negotiated(&lines, &GENEROUS), Ok(Some("; server_max_window_bits=9".to_owned())));
    }

    #[test]
    fn what_is_malformed_is_refused_even_after_a_good_offer() {
        for lines in [
            &["permessage-deflate;"][..],
            &["permessage-deflate, permessage-deflate; ="],
            &["permessage-deflate", "foo; x=\"a b\""],
            &["permessage-deflate client_max_window_bits"],
            &["permessage-deflate; server_max_window_bits=\"10"],
            &["f\u{f6}"],
        ] {
            assert_eq!(negotiated(lines, &CHEAP), Err(HandshakeError::Extensions), "{lines:?}");
        }
    }

    /// Whatever is offered, what the server answers is taken by the client, and both mean the same.
    #[test]
    fn the_two_sides_agree() {
        let windows = [None, Some(8), Some(9), Some(12), Some(15)];
        let mut agreements = 0;
        for server_max_window_bits in windows {
            for client_max_window_bits in windows {
                for switches in 0..16 {
                    let offer = Offer {
                        server_no_context_takeover: switches & 1 != 0,
                        client_no_context_takeover: switches & 2 != 0,
                        server_max_window_bits,
                        client_max_window_bits: client_max_window_bits.map(|bits| bits.max(9)),
                    };
                    let policy = Policy {
                        server_context_takeover: switches & 4 != 0,
                        client_context_takeover: switches & 8 != 0,
                        ..NARROW
                    };
                    let headers =
                        [(SEC_WEBSOCKET_EXTENSIONS, offer.header_value())].into_iter().collect::<HeaderMap>();
                    let Some(server) = negotiate(&headers, &policy).unwrap() else {
                        assert_eq!(server_max_window_bits, Some(8));
                        continue;
                    };
                    let client = offer.agreed(server.header_value().as_bytes());
                    assert_eq!(client, Some(server), "{offer}");
                    agreements += 1;
                }
            }
        }
        assert_eq!(agreements, 4 * 5 * 16);
    }

    #[test]
    fn frames_are_shared_by_those_without_context_as_their_window_allows() {
        let rows = [
            (&CHEAP, None, Some(Shared::Widely)),
            (&CHEAP, Some(15), Some(Shared::Widely)),
            (&CHEAP, Some(14), Some(Shared::Narrowly)),
            (&CHEAP, Some(9), Some(Shared::Narrowly)),
            (&GENEROUS, None, None),
            (&GENEROUS, Some(9), None),
        ];
        for (policy, server_max_window_bits, expected) in rows {
            let agreed = policy.answer(&Offer { server_max_window_bits, ..Offer::default() }).unwrap();
            assert_eq!(agreed.shared(), expected, "{agreed}");
        }
    }
}
