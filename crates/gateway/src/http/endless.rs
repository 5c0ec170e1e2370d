//! What answers that do not end have in common: a head of our own, because hyper gives up the socket before it has
//! answered, and what a browser asks for a page of another origin. What is in the body is not known here.

use axum::body::Body;
use bytes::Bytes;
use fanfare_protocol::ConnectionId;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use time::OffsetDateTime;
use time::macros::format_description;

use super::handshake::{Handoff, Upgrade};
use crate::worker::Worker;

/// The type of server-sent events.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";

/// What came of a request for one.
pub enum Answer {
    /// The socket is to be taken.
    Taken(Box<Upgrade>),
    /// A browser's question whether it may ask.
    Preflight(Response<Body>),
}

impl Answer {
    /// Leaves what is to be taken where it is found; the answer for hyper.
    pub fn leave(self, handoff: &Handoff) -> Response<Body> {
        match self {
            Self::Preflight(response) => response,
            Self::Taken(upgrade) => {
                *handoff.borrow_mut() = Some(*upgrade);
                // Never seen.
                Response::new(Body::empty())
            }
        }
    }
}

/// The head of the answer, whose body is of this type.
pub fn head(worker: &Worker, headers: &HeaderMap, id: ConnectionId, content_type: &str) -> Bytes {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::now_utc().format(format).unwrap_or_default();
    let mut head = format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: {content_type}\r\n\
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

/// Whose origin may ask may also say what a browser does not say by itself.
pub fn preflight(headers: &HeaderMap, methods: &'static str, allowed: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    let_read(headers, response)
}

/// Lets the page that asks read the answer.
pub fn let_read(asked: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    if let Some(origin) = asked.get(ORIGIN) {
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}
