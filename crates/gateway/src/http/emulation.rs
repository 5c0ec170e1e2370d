//! `POST /emulation`: what a client says to a session that answers elsewhere, in an answer that does not end. Any
//! instance takes it and hands it to the one that has the session, over the bus, in the order in which requests came;
//! what is said in it is the session's to read. It tells nobody whether another instance still has the session, for
//! nobody waits for another instance.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use fanfare_broker::{Target, Unsent};
use fanfare_hub::labelled;
use fanfare_protocol::Control;
use fanfare_protocol::centrifuge::{EmulationRequest, Encoding, Offence};
use fanfare_protocol::control::Uplink;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::endless::{let_read, preflight};
use super::origin::admits;
use super::rejection::Rejection;
use super::streams::{is_binary, whole};
use crate::admission::unfinished::Place;
use crate::worker::Worker;

const PATH: &str = "/emulation";

/// Whether a path is this one.
pub fn is_emulation(path: &str) -> bool {
    path == PATH
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
    instance.emulation.count(&outcome);
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
    let is_here = node == instance.id;
    let waiting = &instance.emulation.waiting;
    // More than may wait together is told to come again, and nothing is kept of it.
    let waits = (!is_here).then(|| waiting.try_acquire_many(cost(&data, instance.emulation.most)));
    let _waits = waits.transpose().map_err(|_| NotHandedOn::Unavailable(Unsent::Busy))?;
    // So many go over the bus at a time that what the back end says always has room beside them. Whoever waits does so
    // in the order in which it came.
    let units = if is_here { 0 } else { cost(&data, ROOM) };
    let _room = instance.emulation.room.acquire_many(units).await.map_err(|_| NotHandedOn::Broken)?;
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

/// What may go over the bus at a time: a quarter of the messages that may wait for it, and half of the bytes.
const ROOM: u32 = 4096;

/// How much of so much this takes: a kibibyte is one, and there is something to each message.
fn cost(data: &[u8], most: u32) -> u32 {
    u32::try_from(4 + data.len() / 1024).unwrap_or(most).min(most)
}

/// What may wait for its turn on the bus and be under way there, in KiB, all together: that part of the memory limit,
/// and so much at most. Nobody is ended for it, for who brings it is no connection of the hub's.
const MOST: u32 = 64 << 10;
const PART: usize = 16;

labelled! {
    /// What became of a request.
    pub enum Outcome {
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

/// What is under way, and what became of the requests since the start.
pub struct Emulation {
    /// In KiB, what may wait, and what is left of that.
    most: u32,
    waiting: Semaphore,
    room: Semaphore,
    counts: [AtomicU64; Outcome::ALL.len()],
}

impl Emulation {
    /// Of an instance that may take so much memory.
    pub fn within(limit: Option<usize>) -> Self {
        let part = limit.map_or(u32::MAX, |limit| u32::try_from(limit / PART / 1024).unwrap_or(u32::MAX));
        let most = part.min(MOST);
        let (waiting, room) = (Semaphore::new(most as usize), Semaphore::new(ROOM as usize));
        Self { most, waiting, room, counts: Default::default() }
    }

    fn count(&self, outcome: &Result<(), NotHandedOn>) {
        let outcome = outcome.as_ref().map_or_else(NotHandedOn::outcome, |()| Outcome::HandedOn);
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each happened.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL
            .map(Outcome::label)
            .into_iter()
            .zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
