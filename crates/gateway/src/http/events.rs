//! `GET /sse/{channel}`: a channel as server-sent events, for a bare `EventSource`. The head of the answer is ours, because
//! hyper gives up the socket before it has answered: deliveries then go to it as they go to WebSockets.

use std::net::IpAddr;

use axum::body::Body;
use bytes::Bytes;
use fanfare_hub::{Carrier, Format, Heartbeat, OnGap, Opening, Subscription};
use fanfare_protocol::{Channel, ConnectionId, Position, Publication};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::door;
use super::rejection::Rejection;
use super::since::{CaughtUp, Since, Words, catch_up};
use super::upgrade::{Purpose, Upgrade, text};
use crate::identity::Expiry;
use crate::relay::{event, gap_event, place_event};
use crate::worker::Worker;

const PATH: &str = "/sse";

/// Publications as events.
const EVENTS: Format = Format::PLAIN.carried_by(Carrier::Events);

/// What is left to do when the socket is ours.
pub struct Events {
    pub channel: Channel,
    pub caught_up: CaughtUp,
    /// When it ends, if it is not to go on for ever.
    pub expiry: Option<Expiry>,
}

/// What came of a request.
pub enum Answer {
    /// The socket is to be taken.
    Taken(Box<Upgrade>),
    /// A browser's question whether it may ask.
    Preflight(Response<Body>),
}

/// Whether a path is an event stream's.
pub fn is_path(path: &str) -> bool {
    path == PATH || path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/'))
}

/// Lets a client in, up to the last thing before the answer.
pub async fn accept(
    worker: &Worker,
    client: IpAddr,
    request: &Request<Incoming>,
) -> Result<Answer, Rejection> {
    let instance = &worker.instance;
    let headers = request.headers();
    let (origin, host) = (text(headers, &ORIGIN), text(headers, &HOST));
    if !instance.config.allowed_origins.allows(origin, host) {
        return Err(Rejection::Origin);
    }
    match *request.method() {
        Method::OPTIONS => return Ok(Answer::Preflight(preflight(headers))),
        Method::GET => {}
        ref other => return Err(Rejection::EventsMethod(other.clone())),
    }
    if request.version() < Version::HTTP_11 {
        return Err(Rejection::EventsVersion);
    }
    if !request.body().is_end_stream() {
        return Err(Rejection::EventsBody);
    }
    let (channel, since) = wish(request)?;
    let permit = instance.admission.admit(client)?;
    let entry = door::enter(instance, request, &channel).await?;
    let id = Uuid::now_v7();
    let subscription = Subscription {
        on_gap: OnGap::Notice,
        when_slow: entry.when_slow,
        held: true,
        ..Subscription::new(channel.clone(), EVENTS)
    };
    let outbox_limit = instance.config.outbox_limit;
    let (format, heartbeat, context) = (EVENTS, Heartbeat::OneWay, None);
    let placed = worker.shard.place(Opening { id, format, heartbeat, outbox_limit, context });
    placed.greet(head(worker, headers, id));
    if worker.shard.subscribe(placed.key(), &subscription) == Some(true) {
        instance.broker.subscribe(&channel).await;
        worker.shard.confirm(&channel);
    }
    let caught_up = match (entry.recovers, since) {
        (true, since) => catch_up(instance, &channel, since, &Wording(&channel)).await,
        (false, Since::Now) => CaughtUp { words: Bytes::new(), after: 0 },
        // It has been somewhere, and nobody knows what it missed since.
        (false, _) => CaughtUp { words: gap_event(&channel), after: 0 },
    };
    if worker.shard.is_closing(placed.key()) {
        return Err(Rejection::Flooded);
    }
    tracing::debug!(%id, %client, %channel, "event stream accepted");
    let purpose = Purpose::Events(Events { channel, caught_up, expiry: entry.expiry });
    Ok(Answer::Taken(Box::new(Upgrade { placed, id, purpose, agreed: None, permit })))
}

/// The channel, and where the client was: a browser that comes back says it in a header, which counts more.
fn wish(request: &Request<Incoming>) -> Result<(Channel, Since), Rejection> {
    let channel = match request.uri().path().strip_prefix("/sse/") {
        None => Channel::lobby(),
        Some(name) if name.contains('/') => return Err(Rejection::ChannelSlash),
        Some(name) => Channel::from_path(name)?,
    };
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    let asked = pairs.find_map(|pair| pair.strip_prefix("since=")).unwrap_or_default();
    let asked = Since::asked(&percent_decode_str(asked).decode_utf8_lossy())?;
    let remembered = request.headers().get("last-event-id").filter(|value| !value.is_empty());
    Ok((channel, remembered.map_or(asked, |value| Since::remembered(value.as_bytes()))))
}

/// The head of the answer.
fn head(worker: &Worker, headers: &HeaderMap, id: ConnectionId) -> Bytes {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::now_utc().format(format).unwrap_or_default();
    let mut head = format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: text/event-stream; charset=utf-8\r\n\
         Cache-Control: no-store\r\n\
         X-Accel-Buffering: no\r\n\
         Transfer-Encoding: chunked\r\n\
         Connection: close\r\n\
         Date: {date}\r\n\
         Fanfare-Instance: {instance}\r\n\
         Fanfare-Connection: {id}\r\n",
        instance = worker.instance.id,
    )
    .into_bytes();
    if let Some(origin) = headers.get(ORIGIN) {
        head.extend_from_slice(b"Access-Control-Allow-Origin: ");
        // A header's value, so it holds no end of a line.
        head.extend_from_slice(origin.as_bytes());
        head.extend_from_slice(b"\r\nVary: Origin\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// Whose origin may connect may also say what a browser does not say by itself.
fn preflight(headers: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, last-event-id"));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(origin) = headers.get(ORIGIN) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// What was missed, as events.
struct Wording<'c>(&'c Channel);

impl Words for Wording<'_> {
    fn publication(&self, publication: &Publication) -> Bytes {
        event(EVENTS.encoding, &publication.into())
    }

    fn gap(&self) -> Bytes {
        gap_event(self.0)
    }

    fn place(&self, position: Position) -> Bytes {
        place_event(position)
    }
}
