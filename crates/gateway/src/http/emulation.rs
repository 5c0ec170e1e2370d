//! `POST /emulation`: what a client says to a session that answers elsewhere, in an answer that does not end. Any
//! instance takes it and hands it to the one that has the session, over the bus, in the order in which requests came;
//! what is said in it is the session's to read. It tells nobody whether another instance still has the session, for
//! nobody waits for another instance.

use std::net::IpAddr;

use axum::body::Body;
use fanfare_broker::{Target, Unsent};
use fanfare_hub::labelled;
use fanfare_protocol::Control;
use fanfare_protocol::centrifuge::{EmulationRequest, Encoding, Offence};
use fanfare_protocol::control::Uplink;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::endless::{let_read, preflight};
use super::origin::admits;
use super::rejection::Rejection;
use super::streams::{is_binary, whole};
use crate::admission::unfinished::Place;
use crate::telemetry::Tally;
use crate::worker::Worker;

const PATH: &str = "/emulation";

/// Whether a path is this one.
pub fn is_emulation(path: &str) -> bool {
    path == PATH
}

/// What the requests are counted in.
pub fn tally() -> Tally {
    Tally::of(Outcome::ALL.map(Outcome::label))
}

/// Hands on what a client says: 204 when it is on its way, or why not, which is counted.
pub async fn emulate(
    worker: &Worker,
    peer: IpAddr,
    deadline: Instant,
    request: Request<Incoming>,
    place: &Place,
) -> Response<Body> {
    let instance = &worker.instance;
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    if parts.method == Method::OPTIONS && admits(&instance.config, headers) {
        return preflight(headers, "POST", "content-type");
    }
    let taken = timeout_at(deadline, take(worker, &parts.method, headers, body, place)).await;
    let outcome = taken.unwrap_or(Err(NotHandedOn::Timeout));
    let came_of_it = outcome.as_ref().map_or_else(NotHandedOn::outcome, |()| Outcome::HandedOn);
    instance.emulated.count(came_of_it as usize);
    let response = match outcome {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(why) => {
            tracing::debug!(reason = why.outcome().label(), %peer, "emulation refused: {why}");
            why.answer(instance.config.retry_after_seconds())
        }
    };
    if admits(&instance.config, headers) { let_read(headers, response) } else { response }
}

async fn take(
    worker: &Worker,
    method: &Method,
    headers: &HeaderMap,
    body: Incoming,
    place: &Place,
) -> Result<(), NotHandedOn> {
    let instance = &worker.instance;
    if !admits(&instance.config, headers) {
        return Err(NotHandedOn::Origin);
    }
    if *method != Method::POST {
        return Err(NotHandedOn::Method(method.clone()));
    }
    // As a WebSocket is not read while there is no room for what it may say. For want of memory nothing is read anyway.
    while instance.hub.pressed() {
        instance.hub.relieved().await;
    }
    let body =
        whole(body, instance.config.message_limit, place).await.map_err(|rejection| match rejection {
            Rejection::BodyTooLarge(limit) => NotHandedOn::TooLarge(limit),
            _ => NotHandedOn::Broken,
        })?;
    let encoding = if is_binary(headers) { Encoding::Protobuf } else { Encoding::Json };
    let EmulationRequest { node, session, data } = EmulationRequest::read(encoding, &body)?;
    drop(body);
    if data.is_empty() {
        return Err(NotHandedOn::Nothing);
    }
    let node = node.parse::<Uuid>().map_err(|_| NotHandedOn::Instance)?;
    // Of another instance's sessions only that one knows.
    if node == instance.id && instance.sessions.find(&session).is_none() {
        return Err(NotHandedOn::Session);
    }
    // More than may wait together is told to come again. This instance's own sessions are spoken to at once.
    let _underway = match node == instance.id {
        true => None,
        false => {
            let underway = instance.uplinks.begin(data.len()).await;
            Some(underway.ok_or(NotHandedOn::Unavailable(Unsent::Busy))?)
        }
    };
    let sent = instance.broker.control(Target::Instance(node), Control::Uplink(Uplink { session, data }));
    sent.await.map_err(|unsent| match unsent {
        Unsent::Nobody(_) => NotHandedOn::Instance,
        Unsent::Away(_) | Unsent::Busy => NotHandedOn::Unavailable(unsent),
    })
}

/// Why something was not handed on. It says nothing of the session's name.
#[derive(Debug, thiserror::Error)]
enum NotHandedOn {
    #[error("{0} is not how a session is spoken to; expected POST")]
    Method(Method),
    #[error("pages of this origin may not connect; see allowed_origins")]
    Origin,
    #[error("the body is larger than message_limit, which is {0} bytes")]
    TooLarge(usize),
    #[error("the body could not be read to its end")]
    Broken,
    #[error("the body cannot be read: {0}; expected node, session and data")]
    Malformed(#[from] Offence),
    #[error("`data` is missing or empty; expected commands")]
    Nothing,
    #[error("there is no instance of this name; it has ended, or never was")]
    Instance,
    #[error("this instance has no session of this name; it has ended, or never was")]
    Session,
    #[error("the instance of this name cannot be reached: {0}")]
    Unavailable(Unsent),
    #[error("the request took too long")]
    Timeout,
}

impl NotHandedOn {
    /// Under what it is counted.
    fn outcome(&self) -> Outcome {
        match self {
            Self::Broken | Self::Malformed(_) | Self::Nothing => Outcome::Malformed,
            Self::TooLarge(_) => Outcome::TooLarge,
            Self::Method(_) => Outcome::Method,
            Self::Origin => Outcome::Origin,
            Self::Session => Outcome::UnknownSession,
            Self::Instance => Outcome::UnknownInstance,
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Timeout => Outcome::Timeout,
        }
    }

    fn answer(&self, retry_after: u64) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken | Self::Malformed(_) | Self::Nothing => StatusCode::BAD_REQUEST,
            Self::Instance | Self::Session => StatusCode::NOT_FOUND,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::Method(_) => {
                headers.insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
            }
            Self::Unavailable(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
            }
            // What is left of the body would be taken for a request.
            Self::TooLarge(_) | Self::Broken | Self::Timeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

labelled! {
    /// What became of a request.
    enum Outcome {
        HandedOn = "handed_on",
        Malformed = "malformed",
        TooLarge = "too_large",
        Method = "method",
        Origin = "origin",
        UnknownSession = "unknown_session",
        UnknownInstance = "unknown_instance",
        Unavailable = "unavailable",
        Timeout = "timeout",
    }
}
