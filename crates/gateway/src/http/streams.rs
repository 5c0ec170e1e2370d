//! The endpoints of the Centrifuge client protocol at which the server speaks in the body of an answer that does not
//! end: events or a stream, for clients that speak back by requests to `/emulation` and for those that only listen. A
//! session here is the same as on a WebSocket; only its carrier is another.

use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::pin;

use bytes::Bytes;
use fanfare_hub::{Carrier, Encoding, Format, Heartbeat, Opening};
use fanfare_websocket::Limits;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use super::centrifuge;
use super::endless::{Answer, EVENTS, head, preflight};
use super::handshake::{FRAGMENTS, Purpose, Upgrade};
use super::origin::admits;
use super::rejection::Rejection;
use crate::admission::unfinished::Place;
use crate::centrifuge::{Dialect, words};
use crate::query;
use crate::relay::overture;
use crate::worker::Worker;

/// One of them.
struct Endpoint {
    path: &'static str,
    carrier: Carrier,
    one_way: bool,
    /// How it is asked for.
    methods: &'static str,
    /// Where what the client says first is looked for.
    greeting: &'static str,
}

const ENDPOINTS: [Endpoint; 4] = [
    Endpoint {
        path: "/connection/sse",
        carrier: Carrier::Events,
        one_way: false,
        methods: "GET or POST",
        greeting: "commands in ?cf_connect=…, or in the body of a POST",
    },
    Endpoint {
        path: "/connection/http_stream",
        carrier: Carrier::Stream,
        one_way: false,
        methods: "POST",
        greeting: "commands in the body",
    },
    Endpoint {
        path: "/connection/uni_sse",
        carrier: Carrier::Events,
        one_way: true,
        methods: "GET or POST",
        greeting: "a connect request in ?cf_connect=…, or in the body of a POST",
    },
    Endpoint {
        path: "/connection/uni_http_stream",
        carrier: Carrier::Stream,
        one_way: true,
        methods: "POST",
        greeting: "a connect request in the body",
    },
];

/// What is said in Protobuf is said to be.
const BINARY: &str = "application/octet-stream";

/// Whether a path is one of these.
pub fn is_path(path: &str) -> bool {
    ENDPOINTS.iter().any(|endpoint| endpoint.path == path)
}

/// Lets a client in, up to the last thing before the answer.
pub async fn accept(
    worker: &Worker,
    client: IpAddr,
    request: Request<Incoming>,
    place: &Place,
) -> Result<Answer, Rejection> {
    let instance = &worker.instance;
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.path == parts.uri.path());
    let endpoint = endpoint.expect("nobody asks for another path");
    if !admits(&instance.config, headers) {
        return Err(Rejection::Origin);
    }
    let by_query = endpoint.carrier == Carrier::Events;
    match parts.method {
        Method::OPTIONS => {
            let methods = if by_query { "GET, POST" } else { "POST" };
            return Ok(Answer::Preflight(preflight(headers, methods, "content-type")));
        }
        Method::POST => {}
        Method::GET if by_query => {}
        other => return Err(Rejection::WrongMethod(other, endpoint.methods)),
    }
    if parts.version < Version::HTTP_11 {
        return Err(Rejection::StreamVersion);
    }
    let limit = instance.config.message_limit;
    let said = match parts.method {
        Method::POST => whole(body, limit, place).await?,
        _ if !body.is_end_stream() => return Err(Rejection::EventsBody),
        _ => query::value(parts.uri.query(), centrifuge::GREETING).unwrap_or_default().into_owned().into(),
    };
    // Not before: who has yet to say what it wants keeps nobody out.
    let permit = instance.admission.admit(client)?;
    if said.is_empty() {
        return Err(Rejection::NoGreeting(endpoint.greeting));
    }
    if said.len() > limit {
        return Err(Rejection::BodyTooLarge(limit));
    }
    let is_protobuf = endpoint.carrier == Carrier::Stream && is_binary(headers);
    let encoding = match (endpoint.one_way, is_protobuf) {
        (true, _) => Encoding::Uni,
        (false, true) => Encoding::Protobuf,
        (false, false) => Encoding::Json,
    };
    let format = Format { encoding, carrier: endpoint.carrier };
    let greeting = words(format, &said);
    // Here it can still be said what was wrong.
    if let Some(Err(offence)) = greeting.last() {
        return Err(offence.clone().into());
    }
    let id = Uuid::now_v7();
    let outbox_limit = instance.config.outbox_limit;
    let opening = Opening { id, format, heartbeat: Heartbeat::Introduction, outbox_limit, context: None };
    let placed = worker.shard.place(opening);
    let content_type = match (endpoint.carrier, is_protobuf) {
        (Carrier::Events, _) => EVENTS,
        (_, true) => BINARY,
        (_, false) => "application/x-ndjson",
    };
    let mut start = head(worker, headers, id, content_type);
    if endpoint.carrier == Carrier::Events {
        start = [start, overture()].concat().into();
    }
    placed.greet(start);
    tracing::debug!(%id, %client, ?format, "stream accepted");
    let heartbeat = if endpoint.one_way { Heartbeat::OneWay } else { Heartbeat::Answers };
    let purpose = Purpose::Client(
        Dialect { format, greeting, heartbeat },
        Limits { message: limit, fragments: FRAGMENTS },
    );
    Ok(Answer::Taken(Box::new(Upgrade { placed, id, purpose, agreed: None, permit })))
}

/// Whether what is said is Protobuf.
pub fn is_binary(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(BINARY))
}

/// A body of at most so many bytes, read as it comes: nothing is allocated for a length that is only claimed. While
/// more is awaited, its connection is in its place among those that wait for their clients.
pub async fn whole(body: Incoming, limit: usize, place: &Place) -> Result<Bytes, Rejection> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Rejection::BodyTooLarge(limit));
    }
    let mut collecting = pin!(Limited::new(body, limit).collect());
    let mut has_waited = false;
    let collected = poll_fn(|cx| {
        let polled = collecting.as_mut().poll(cx);
        if polled.is_pending() {
            place.wait_on();
            has_waited = true;
        }
        polled
    })
    .await;
    if has_waited && !place.leave() {
        // It was cut, and is about to hear of it.
        return pending().await;
    }
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Rejection::BodyTooLarge(limit)),
        Err(_) => Err(Rejection::BrokenBody),
    }
}
