//! `GET /sse/{channel}`: a channel as server-sent events, for a bare `EventSource`. The head of the answer is ours,
//! because hyper gives up the socket before it has answered: deliveries then go to it as they go to WebSockets.

use std::net::IpAddr;

use bytes::Bytes;
use fanfare_hub::{Carrier, Format, Heartbeat, OnGap, Opening, Subscription};
use fanfare_protocol::{Channel, Position, Publication};
use http::{Method, Request, Version};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use super::door;
use super::endless::{Answer, EVENTS as EVENT_STREAM, head, preflight};
use super::handshake::{Purpose, Upgrade};
use super::origin::admits;
use super::raw;
use super::rejection::Rejection;
use super::since::{CaughtUp, Since, Words, catch_up};
use crate::centrifuge::Owner;
use crate::query;
use crate::relay::{event, gap_event, place_event};
use crate::worker::Worker;

const PATH: &str = "/sse";

/// Publications as events.
const EVENTS: Format = Format::PLAIN.carried_by(Carrier::Events);

/// What is left to do when the socket is ours.
pub struct Events {
    pub channel: Channel,
    pub caught_up: CaughtUp,
    /// Whose connection it is, if somebody's.
    pub owner: Option<Box<Owner>>,
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
    if !admits(&instance.config, headers) {
        return Err(Rejection::Origin);
    }
    match *request.method() {
        Method::OPTIONS => {
            return Ok(Answer::Preflight(preflight(headers, "GET", "authorization, last-event-id")));
        }
        Method::GET => {}
        ref other => return Err(Rejection::WrongMethod(other.clone(), "GET")),
    }
    if request.version() < Version::HTTP_11 {
        return Err(Rejection::StreamVersion);
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
    let opening = Opening { id, format, heartbeat, outbox_limit, context };
    let head = head(worker, headers, id, EVENT_STREAM);
    let (placed, owner) = raw::join(worker, opening, &subscription, entry.identity, Some(head)).await?;
    let caught_up = match (entry.recovers, since) {
        (true, since) => catch_up(worker, &channel, since, Wording(channel.clone())).await,
        (false, Since::Now) => CaughtUp { words: Bytes::new(), after: 0, behind: None },
        // It has been somewhere, and nobody knows what it missed since.
        (false, _) => CaughtUp { words: gap_event(&channel), after: 0, behind: None },
    };
    if worker.shard.is_closing(placed.key()) {
        return Err(if worker.is_draining() { Rejection::Draining } else { Rejection::Flooded });
    }
    tracing::debug!(%id, %client, channel = channel.as_str(), "event stream accepted");
    let purpose = Purpose::Events(Events { channel, caught_up, owner });
    Ok(Answer::Taken(Box::new(Upgrade { placed, id, purpose, agreed: None, permit })))
}

/// The channel, and where the client was: a browser that comes back says it in a header, which counts more.
fn wish(request: &Request<Incoming>) -> Result<(Channel, Since), Rejection> {
    let channel = raw::channel(request.uri().path(), PATH)?;
    let asked = Since::asked(&query::value(request.uri().query(), "since").unwrap_or_default())?;
    let remembered = request.headers().get("last-event-id").filter(|value| !value.is_empty());
    Ok((channel, remembered.map_or(asked, |value| Since::remembered(value.as_bytes()))))
}

/// What was missed, as events.
struct Wording(Channel);

impl Words for Wording {
    fn publication(&self, publication: &Publication) -> Bytes {
        event(EVENTS.encoding, &publication.into())
    }

    fn gap(&self) -> Bytes {
        gap_event(&self.0)
    }

    fn place(&self, position: Position) -> Bytes {
        place_event(position)
    }
}
