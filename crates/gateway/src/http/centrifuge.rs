//! The endpoints of the Centrifuge client protocol over WebSocket: which paths they are, and which encoding a handshake
//! asks for. Who the client is, it says after the handshake.

use fanfare_hub::{Carrier, Encoding, Format, Heartbeat};
use http::Request;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use hyper::body::Incoming;

use super::rejection::Rejection;
use crate::centrifuge::{Dialect, Words, words};
use crate::config::Config;
use crate::query;

const BOTH_WAYS: &str = "/connection/websocket";
const ONE_WAY: &str = "/connection/uni_websocket";

/// What the client says first, in a query.
pub const GREETING: &str = "cf_connect";

const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// What a handshake at one of these endpoints asks for.
pub struct Wish {
    pub dialect: Dialect,
    /// The subprotocol that is agreed on, where the client has offered any.
    pub protocol: Option<&'static str>,
}

/// Whether a path is one of these.
pub fn is_path(path: &str) -> bool {
    [BOTH_WAYS, ONE_WAY].contains(&path)
}

/// What the handshake asks for; nothing at another path.
pub fn wish(config: &Config, request: &Request<Incoming>) -> Result<Option<Wish>, Rejection> {
    let one_way = match request.uri().path() {
        BOTH_WAYS => false,
        ONE_WAY => true,
        _ => return Ok(None),
    };
    let offered = |protocol: &str| {
        let lines = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
        let mut names = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        names.any(|name| name.trim_ascii() == protocol)
    };
    let protocol = [PROTOBUF, JSON].into_iter().find(|protocol| offered(protocol)).filter(|_| !one_way);
    let mut written = match (one_way, protocol) {
        (true, _) => Encoding::Uni,
        (false, Some(PROTOBUF)) => Encoding::Protobuf,
        (false, _) => Encoding::Json,
    };
    // Browsers answer a WebSocket's own ping by themselves.
    let mut heartbeat = if one_way { Heartbeat::AnyFrame } else { Heartbeat::Answers };
    let mut greeting = Words::new();
    for (key, value) in query::pairs(request.uri().query()) {
        match (&*key, value.as_deref()) {
            // What is agreed on as a subprotocol counts more.
            ("format" | "cf_protocol", Some("protobuf")) if !one_way && protocol.is_none() => {
                written = Encoding::Protobuf;
            }
            ("cf_ws_frame_ping_pong", Some("true")) => heartbeat = Heartbeat::AnyFrame,
            (GREETING, Some(said)) if one_way => {
                if said.len() > config.message_limit {
                    return Err(Rejection::BodyTooLarge(config.message_limit));
                }
                greeting = words(Format { encoding: written, carrier: Carrier::Frame }, said.as_bytes());
            }
            _ => {}
        }
    }
    let format = Format { encoding: written, carrier: Carrier::Frame };
    Ok(Some(Wish { dialect: Dialect { format, greeting, heartbeat }, protocol }))
}
