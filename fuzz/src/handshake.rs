//! The opening handshake, both sides. A request is accepted exactly if RFC 6455 §4.2.1 has it so, read here a second
//! time, and the answer's key is computed by other code; of compression, nothing is agreed on that was not offered or
//! that the policy does not grant, and the first offer that can be taken is. Our client takes only answers to what it
//! asked, says the same however often it is asked, and its server's answer among them.
//!
//! An input is a byte of switches, a byte of windows, and the head of a request or, if the first switch is set, of an
//! answer.

use fanfare_websocket::client::{self, ClientError};
use fanfare_websocket::deflate::{Agreed, Offer, Policy, negotiate};
use fanfare_websocket::handshake;
use http::header::{CONNECTION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::Input;

const ANSWER: u8 = 1;
const SERVER_CONTEXT: u8 = 1 << 1;
const CLIENT_CONTEXT: u8 = 1 << 2;
const OFFERS: u8 = 1 << 3;

/// The key of RFC 6455 §1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    let (switches, windows) = (input.byte(), input.byte());
    let (server_context, client_context) = (switches & SERVER_CONTEXT != 0, switches & CLIENT_CONTEXT != 0);
    let (low, high) = (windows & 15, windows >> 4);
    if switches & ANSWER == 0 {
        let policy = Policy {
            server_context_takeover: server_context,
            client_context_takeover: client_context,
            server_max_window_bits: low,
            client_max_window_bits: high,
        };
        check_request(input.0, &policy);
    } else {
        let window = |bits: u8| (9..=15).contains(&bits).then_some(bits);
        let offer = (switches & OFFERS != 0).then_some(Offer {
            server_no_context_takeover: !server_context,
            client_no_context_takeover: !client_context,
            server_max_window_bits: window(low),
            client_max_window_bits: window(high),
        });
        check_answer(input.0, offer.as_ref());
    }
}

fn check_request(head: &[u8], policy: &Policy) {
    let Some((method, version, headers)) = parsed(head) else { return };
    let accepted = handshake::accept(&method, version, &headers);
    let lawful = method == Method::GET
        && version == Version::HTTP_11
        && lists(&headers, &UPGRADE, "websocket")
        && lists(&headers, &CONNECTION, "upgrade")
        && values(&headers, &SEC_WEBSOCKET_VERSION) == [b"13"]
        && matches!(values(&headers, &SEC_WEBSOCKET_KEY)[..], [key] if is_key(key));
    match &accepted {
        Ok(value) => {
            assert!(lawful, "accepted");
            assert_eq!(value.as_bytes(), accept_value(headers[SEC_WEBSOCKET_KEY].as_bytes()).as_bytes());
        }
        Err(error) => {
            assert!(!lawful, "{error}");
            assert!(error.status().is_client_error());
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }

    let Ok(agreed) = negotiate(&headers, policy) else { return };
    // What follows the grammar has no separators but those.
    let lines = values(&headers, &SEC_WEBSOCKET_EXTENSIONS);
    let mut offers = lines.iter().flat_map(|line| line.split(|&byte| byte == b',')).filter_map(offer);
    match (offers.find(|offer| offer.server_max_window_bits != Some(8)), agreed) {
        (None, None) => {}
        (Some(offer), Some(agreed)) => {
            check_agreed(&offer, &agreed, policy);
            assert_eq!(policy.answer(&offer), Some(agreed));
            check_own_answer(&offer, &agreed);
        }
        (offer, agreed) => panic!("{offer:?} was answered with {agreed:?}"),
    }
}

/// Both within what was offered (RFC 7692 §7.1) and within the policy.
fn check_agreed(offer: &Offer, agreed: &Agreed, policy: &Policy) {
    let server = agreed.server_max_window_bits;
    let client = agreed.client_max_window_bits;
    assert!(agreed.server_no_context_takeover || !offer.server_no_context_takeover);
    assert!(agreed.server_no_context_takeover || policy.server_context_takeover);
    assert!(agreed.client_no_context_takeover || policy.client_context_takeover);
    assert!(server.is_none_or(|bits| (9..=15).contains(&bits)), "{server:?}");
    assert!(client.is_none_or(|bits| (8..=15).contains(&bits)), "{client:?}");
    assert!(server.unwrap_or(15) <= policy.server_max_window_bits.clamp(9, 15));
    if let Some(asked) = offer.server_max_window_bits {
        assert!(server.is_some_and(|bits| bits <= asked));
    }
    match offer.client_max_window_bits {
        Some(offered) => assert!(client.unwrap_or(15) <= offered),
        None => assert_eq!(client, None),
    }
    let kept = if agreed.client_no_context_takeover { 0 } else { client.unwrap_or(15) };
    assert!(kept <= policy.client_max_window_bits.clamp(9, 15), "a window of {kept} bits is kept");
}

/// Our client takes our server's answer, unless its window is one that no zlib deflates with.
fn check_own_answer(offer: &Offer, agreed: &Agreed) {
    let head = format!(
        "HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\
         Sec-WebSocket-Extensions: {agreed}\r\n\r\n"
    );
    let read = client::response_to(head.as_bytes(), KEY, Some(offer));
    if agreed.client_max_window_bits != Some(8) {
        let (length, taken) = read.expect("it is taken").expect("it is whole");
        assert_eq!(length, head.len());
        let taken = taken.expect("it was agreed on");
        assert_eq!(taken.server_no_context_takeover, agreed.server_no_context_takeover);
        assert_eq!(taken.server_max_window_bits, agreed.server_max_window_bits);
        assert!(taken.client_no_context_takeover || !agreed.client_no_context_takeover);
    }
}

fn check_answer(bytes: &[u8], offer: Option<&Offer>) {
    let whole = client::response_to(bytes, KEY, offer);
    if let Ok(Some((length, agreed))) = &whole {
        assert!(*length <= bytes.len());
        let (head, _) = bytes.split_at(*length);
        assert!(
            head.windows(ACCEPT.len()).any(|bytes| bytes == ACCEPT.as_bytes()),
            "without the key's answer"
        );
        match (offer, agreed) {
            (_, None) => {}
            (None, Some(agreed)) => panic!("{agreed} was not offered"),
            (Some(offer), Some(agreed)) => {
                let within = |asked: Option<u8>, bits: Option<u8>| bits.unwrap_or(15) <= asked.unwrap_or(15);
                assert!(within(offer.server_max_window_bits, agreed.server_max_window_bits));
                assert!(within(offer.client_max_window_bits, agreed.client_max_window_bits));
                assert!(agreed.server_no_context_takeover || !offer.server_no_context_takeover);
                assert!(agreed.client_no_context_takeover || !offer.client_no_context_takeover);
            }
        }
    }
    // However much of it has come: an answer that is there as a whole does not change any more, and one that is
    // wrong does not become right.
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match client::response_to(&bytes[..cut], KEY, offer) {
            Ok(None) => {}
            Ok(some) => assert_eq!(whole, Ok(some)),
            Err(error) => {
                assert!(whole.is_err(), "{error} after {cut} bytes, and then {whole:?}");
                assert!(!matches!(error, ClientError::HeadTooLong) || cut > 16 * 1024);
            }
        }
    }
}

/// As hyper hands a request to us.
fn parsed(head: &[u8]) -> Option<(Method, Version, HeaderMap)> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut lines);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return None;
    }
    let mut headers = HeaderMap::new();
    for line in request.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    let version = if request.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    Some((Method::from_bytes(request.method?.as_bytes()).ok()?, version, headers))
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = values(headers, name).into_iter();
    let readable = |line: &&[u8]| line.iter().all(|&byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let mut items = lines.filter(readable).flat_map(|line| line.split(|&byte| byte == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// An element of the list, if it is an offer of permessage-deflate that may be taken.
fn offer(element: &[u8]) -> Option<Offer> {
    let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    if parts.next()? != b"permessage-deflate" {
        return None;
    }
    let mut seen = Vec::new();
    let mut offer = Offer::default();
    for part in parts {
        let equals = part.iter().position(|&byte| byte == b'=');
        let (name, value) = match equals {
            Some(place) => (part[..place].trim_ascii(), Some(unquoted(part[place + 1..].trim_ascii()))),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        let bits = || (8..=15_u8).find(|bits| value.as_deref() == Some(bits.to_string().as_bytes()));
        match (name, &value) {
            (b"server_no_context_takeover", None) => offer.server_no_context_takeover = true,
            (b"client_no_context_takeover", None) => offer.client_no_context_takeover = true,
            (b"server_max_window_bits", Some(_)) => offer.server_max_window_bits = Some(bits()?),
            (b"client_max_window_bits", Some(_)) => offer.client_max_window_bits = Some(bits()?),
            (b"client_max_window_bits", None) => offer.client_max_window_bits = Some(15),
            _ => return None,
        }
    }
    Some(offer)
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    value.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\\')).collect()
}

/// Sixteen bytes in base64: 22 characters, of the last of which four bits are nothing, and two to fill up.
fn is_key(key: &[u8]) -> bool {
    let digits = key.strip_suffix(b"==").unwrap_or_default();
    digits.len() == 22 && digits.iter().all(|digit| ALPHABET.contains(digit)) && b"AQgw".contains(&digits[21])
}

fn accept_value(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let mut value = String::new();
    for three in sha1_smol::Sha1::from(text).digest().bytes().chunks(3) {
        let bits = three.iter().chain(&[0, 0]).take(3).fold(0, |bits, &byte| bits << 8 | u32::from(byte));
        let digits = (0..4).map(|place| char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        value.extend(digits.take(three.len() + 1));
        value.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
    value
}

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What each is, its switches and windows, and its lines.
#[rustfmt::skip]
const SEEDS: &[(&str, u8, u8, &str)] = &[
    ("a browser's request", SERVER_CONTEXT | CLIENT_CONTEXT, 0xff, "GET /ws HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
    ("a request through a proxy", 0, 0xff, "GET / HTTP/1.1|Upgrade: h2c, WebSocket|Connection: keep-alive|Connection: ,upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("HTTP/1.0", 0, 0xff, "GET / HTTP/1.0|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("POST", 0, 0xff, "POST / HTTP/1.1|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("an old version", 0, 0xff, "GET / HTTP/1.1|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 8|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("two keys", 0, 0xff, "GET / HTTP/1.1|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ("a key with bits left over", 0, 0xff, "GET / HTTP/1.1|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="),
    ("offers with a fallback", SERVER_CONTEXT | CLIENT_CONTEXT, 0xab, "GET / HTTP/1.1|Sec-WebSocket-Extensions: foo; x, permessage-deflate; client_max_window_bits; server_max_window_bits=\"1\\0\", permessage-deflate"),
    ("offers that must be declined", SERVER_CONTEXT, 0xff, "GET / HTTP/1.1|Sec-WebSocket-Extensions: permessage-deflate; unknown|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8, permessage-deflate; server_no_context_takeover; server_no_context_takeover, permessage-deflate; client_max_window_bits=16"),
    ("everything offered", CLIENT_CONTEXT, 0xcd, "GET / HTTP/1.1|Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12; client_max_window_bits=8"),
    ("no list of extensions", 0, 0xff, "GET / HTTP/1.1|Sec-WebSocket-Extensions: permessage-deflate; x=\"a b\""),
    ("an answer", ANSWER, 0, "HTTP/1.1 101 Switching Protocols|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("an answer to an offer", ANSWER | OFFERS | SERVER_CONTEXT | CLIENT_CONTEXT, 0xff, "HTTP/1.1 101 x|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=|Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits=10"),
    ("an answer that is too much", ANSWER | OFFERS, 0xaa, "HTTP/1.1 101 x|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15"),
    ("a subprotocol that nobody asked for", ANSWER, 0, "HTTP/1.1 101 x|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=|Sec-WebSocket-Protocol: x"),
    ("a wrong answer to the key", ANSWER, 0, "HTTP/1.1 101 x|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("a refusal", ANSWER, 0, "HTTP/1.1 503 Service Unavailable|Retry-After: 5||the instance is full"),
    ("what is no HTTP", ANSWER, 0, "SSH-2.0-OpenSSH"),
];

/// The table, as inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let row = |&(name, switches, windows, lines): &(_, _, _, &str)| {
        let end = if lines.contains("||") { "" } else { "\r\n\r\n" };
        (name, [&[switches, windows], lines.replace('|', "\r\n").as_bytes(), end.as_bytes()].concat())
    };
    SEEDS.iter().map(row).collect()
}

/// Names and values that mean something.
pub fn words() -> Vec<String> {
    let lines = SEEDS.iter().flat_map(|&(_, _, _, lines)| lines.split('|'));
    let mut words =
        lines.flat_map(|line| line.split([' ', ';', ',', '='])).map(str::to_owned).collect::<Vec<_>>();
    words.extend(
        ["\r\n", "\r\n\r\n", "; ", ", ", "==", "=\"", "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"]
            .map(str::to_owned),
    );
    words.retain(|word| word.len() > 1);
    words.sort();
    words.dedup();
    words
}
