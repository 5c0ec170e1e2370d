//! The handshake of every connection that becomes the hub's: which endpoint it is for, how long it may take, and how it
//! is refused. It is not an axum handler because a worker's shard never leaves its thread, which axum's handlers may.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use axum::body::Body;
use fanfare_hub::Placed;
use fanfare_protocol::ConnectionId;
use fanfare_websocket::Limits;
use fanfare_websocket::deflate::Agreed;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::events::{self, Events};
use super::rejection::Rejection;
use super::since::Behind;
use super::{centrifuge, raw, streams, websocket};
use crate::admission::address::client_address;
use crate::admission::limits::Permit;
use crate::admission::unfinished::Place;
use crate::centrifuge::{Dialect, Owner};
use crate::config::Config;
use crate::session::raw::Terms;
use crate::worker::Worker;

/// A connection whose handshake has been answered, on its way out of hyper.
pub struct Upgrade {
    pub placed: Placed,
    pub id: ConnectionId,
    pub purpose: Purpose,
    /// How messages are compressed, if at all.
    pub agreed: Option<Agreed>,
    pub permit: Permit,
}

impl Upgrade {
    /// Whether the answer is yet to be written, by whoever takes the socket.
    pub fn answers_itself(&self) -> bool {
        match &self.purpose {
            Purpose::Raw(..) => false,
            Purpose::Client(dialect, _) => dialect.format.carrier.is_body(),
            Purpose::Events(_) => true,
        }
    }
}

/// What is spoken on it.
pub enum Purpose {
    /// Messages are publications in one channel; whose connection it is, if somebody's; and it may have to catch up.
    Raw(Terms, Option<Box<Owner>>, Option<Behind>),
    /// Messages are the client protocol's.
    Client(Dialect, Limits),
    /// Publications in one channel are events.
    Events(Events),
}

/// Where the service leaves it for the task that drives the connection.
pub type Handoff = Rc<RefCell<Option<Upgrade>>>;

/// The most fragments of one message: a few bytes each at the usual message limit.
pub(super) const FRAGMENTS: u32 = 16_384;

/// Whether a path is one of those at which a connection becomes the hub's.
pub fn is_upgrade(config: &Config, path: &str) -> bool {
    raw::is_path(config, path) || events::is_path(path) || streams::is_path(path) || centrifuge::is_path(path)
}

/// Answers a handshake: 101 with the rest in `handoff`, or a refusal, which is counted.
pub async fn upgrade(
    worker: &Worker,
    peer: IpAddr,
    deadline: Instant,
    request: Request<Incoming>,
    handoff: &Handoff,
    place: &Place,
) -> Response<Body> {
    let instance = &worker.instance;
    let client = client_address(&instance.config, peer, request.headers());
    let pending = Abandoned { worker, client, place };
    let answer = timeout_at(deadline, accept(worker, client, request, handoff, place)).await;
    std::mem::forget(pending);
    if handoff.borrow().as_ref().is_some_and(Upgrade::answers_itself) {
        // The answer is not hyper's, which is let go of while it waits for one.
        return std::future::pending().await;
    }
    answer.unwrap_or(Err(Rejection::Timeout)).unwrap_or_else(|rejection| {
        rejection.count(&instance.rejected, client);
        rejection.answer(instance.config.retry_after_seconds())
    })
}

async fn accept(
    worker: &Worker,
    client: IpAddr,
    request: Request<Incoming>,
    handoff: &Handoff,
    place: &Place,
) -> Result<Response<Body>, Rejection> {
    let instance = &worker.instance;
    if worker.is_draining() {
        return Err(Rejection::Draining);
    }
    if instance.memory.is_near() {
        return Err(Rejection::Memory);
    }
    let path = request.uri().path();
    if events::is_path(path) {
        return Ok(events::accept(worker, client, &request).await?.leave(handoff));
    }
    if streams::is_path(path) {
        return Ok(streams::accept(worker, client, request, place).await?.leave(handoff));
    }
    websocket::accept(worker, client, request, handoff).await
}

/// Counts a client that goes while it waits to be answered: hyper then drops the future. One that was cut is counted
/// for that.
struct Abandoned<'a> {
    worker: &'a Worker,
    client: IpAddr,
    place: &'a Place,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.place.is_cut() {
            Rejection::Abandoned.count(&self.worker.instance.rejected, self.client);
        }
    }
}
