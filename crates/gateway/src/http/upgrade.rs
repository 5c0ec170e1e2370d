//! The handshake of a WebSocket: judged, admitted, let into its channel, and only then answered. It is
//! not an axum handler because a worker's shard never leaves its thread, which axum's handlers may.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use axum::body::Body;
use bytes::Bytes;
use fanfare_hub::{Carrier, Context, Format, Heartbeat, OnGap, Opening, Placed, Subscription};
use fanfare_protocol::{Channel, ConnectionId, Kind, Position, Publication};
use fanfare_websocket::deflate::{Agreed, Compressor, Shared, negotiate};
use fanfare_websocket::{Limits, Opcode, Role, frame, handshake};
use http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::client;
use super::door::{self, Entry, MayPublish};
use super::events::{self, Events};
use super::query;
use super::rejection::Rejection;
use super::since::{Behind, Since, Words, catch_up};
use super::streams;
use crate::admission::Permit;
use crate::client::{Dialect, Owner};
use crate::client_address::client_address;
use crate::config::Config;
use crate::relay::{gap_notice, place_notice};
use crate::unfinished::Place;
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

/// Where a connection publishes, and what it may do.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its channel.
    pub channel: Channel,
    /// Whether it gets what it publishes.
    pub echo: bool,
    /// The largest message that it may send, in bytes.
    pub message_limit: usize,
    /// The most fragments of one message.
    pub fragments: u32,
    /// Nobody else is in its channel, so its publications need no broker.
    pub alone: bool,
    /// What it may publish there.
    pub may_publish: MayPublish,
}

/// Where the service leaves it for the task that drives the connection.
pub type Handoff = Rc<RefCell<Option<Upgrade>>>;

/// The most fragments of one message: a few bytes each at the usual message limit.
pub(super) const FRAGMENTS: u32 = 16_384;

/// What the Autobahn suite sends: 16 MiB (9.1.6), and 65,536 fragments (9.3.1).
const ECHO_MESSAGE: usize = 16 << 20;
const ECHO_FRAGMENTS: u32 = 1 << 17;

const INSTANCE_ID: HeaderName = HeaderName::from_static("fanfare-instance");
const CONNECTION_ID: HeaderName = HeaderName::from_static("fanfare-connection");

/// Whether a path is one of those at which a connection becomes the hub's.
pub fn is_upgrade(config: &Config, path: &str) -> bool {
    path == "/ws"
        || path.starts_with("/ws/")
        || events::is_path(path)
        || streams::is_path(path)
        || client::is_path(path)
        || is_echo(config, path)
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
        instance.rejected.count(&rejection, client);
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
    let headers = request.headers();
    let accept = handshake::accept(request.method(), request.version(), headers)?;
    if !request.body().is_end_stream() {
        // A proxy and we could disagree about where it ends and the frames begin.
        return Err(Rejection::Body);
    }
    let id = Uuid::now_v7();
    let wish = match client::wish(&instance.config, &request)? {
        Some(wish) => Wish::Client(wish),
        None => Wish::raw(&instance.config, &request, id)?,
    };
    let agreed = compression(&instance.config, headers)?;
    let context = agreed.and_then(|agreed| context(&instance.config, &agreed));
    let carried = |format: Format| match agreed.and_then(|agreed| agreed.shared()) {
        None => format,
        Some(Shared::Widely) => format.carried_by(Carrier::Deflated),
        Some(Shared::Narrowly) => format.carried_by(Carrier::DeflatedNarrowly),
    };
    if !instance.config.allowed_origins.allows(text(headers, &ORIGIN), text(headers, &HOST)) {
        return Err(Rejection::Origin);
    }
    let permit = instance.admission.admit(client)?;
    let outbox_limit = instance.config.outbox_limit;
    let (placed, purpose, protocol) = match wish {
        Wish::Client(client::Wish { mut dialect, protocol }) => {
            dialect.format = carried(dialect.format);
            let (format, heartbeat) = (dialect.format, Heartbeat::Introduction);
            let opening = Opening { id, format, heartbeat, outbox_limit, context };
            let limits = Limits { message: instance.config.message_limit, fragments: FRAGMENTS };
            tracing::debug!(%id, %client, format = ?dialect.format, "connection accepted");
            (worker.shard.place(opening), Purpose::Client(dialect, limits), protocol)
        }
        Wish::Raw(mut subscription, mut terms, since) => {
            subscription.format = carried(subscription.format);
            let entry = if terms.alone {
                Entry::OPEN
            } else {
                door::enter(instance, &request, &terms.channel).await?
            };
            terms.may_publish = entry.may_publish;
            subscription.when_slow = entry.when_slow;
            if since.is_some() && !entry.recovers {
                return Err(Rejection::NoRecovery);
            }
            let outbox_limit = if terms.alone { 4 * ECHO_MESSAGE } else { outbox_limit };
            let (format, heartbeat) = (subscription.format, Heartbeat::AnyFrame);
            let placed = worker.shard.place(Opening { id, format, heartbeat, outbox_limit, context });
            let owner = match entry.identity {
                Some(identity) => {
                    let whose = (placed.key(), id);
                    Some(Owner::admit(worker, whose, format, &terms.channel, identity).await?)
                }
                None => None,
            };
            let unconfirmed = worker.shard.subscribe(placed.key(), &subscription);
            if unconfirmed == Some(true) && !terms.alone {
                instance.broker.subscribe(&terms.channel).await;
                worker.shard.confirm(&terms.channel);
            }
            let mut behind = None;
            if let Some(since) = since {
                let notices = subscription.on_gap == OnGap::Notice;
                let words = Wording { channel: terms.channel.clone(), notices };
                let caught_up = catch_up(worker, &terms.channel, since, words).await;
                // Behind the answer, since nothing is written before that.
                worker.shard.release(placed.key(), &terms.channel, &caught_up.words, caught_up.after, true);
                behind = caught_up.behind;
            }
            tracing::debug!(%id, %client, channel = terms.channel.as_str(), "connection accepted");
            (placed, Purpose::Raw(terms, owner, behind), None)
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(agreed) = &agreed {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header_value());
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    headers.insert(INSTANCE_ID, worker.instance_id.clone());
    headers.insert(CONNECTION_ID, id_value(id));
    *handoff.borrow_mut() = Some(Upgrade { placed, id, purpose, agreed, permit });
    Ok(response)
}

/// What is agreed on with a client that offers compression, where we do.
fn compression(config: &Config, headers: &HeaderMap) -> Result<Option<Agreed>, Rejection> {
    if !config.compression {
        return Ok(None);
    }
    Ok(negotiate(headers, &config.compression_context.policy())?)
}

/// What a connection's own publications are compressed with, if they are to refer to earlier ones.
fn context(config: &Config, agreed: &Agreed) -> Option<Context> {
    let compressor = || Compressor::for_connection(Role::Server, agreed, config.compression_level);
    (!agreed.server_no_context_takeover).then(|| Context::new(compressor(), config.compression_threshold))
}

fn is_echo(config: &Config, path: &str) -> bool {
    config.echo && path == "/echo"
}

/// What a request asks for.
enum Wish {
    Raw(Subscription, Terms, Option<Since>),
    Client(client::Wish),
}

impl Wish {
    fn raw(config: &Config, request: &Request<Incoming>, id: ConnectionId) -> Result<Self, Rejection> {
        raw_wish(config, request, id)
            .map(|(subscription, terms, since)| Self::Raw(subscription, terms, since))
    }
}

/// What a raw endpoint's path and query ask for.
fn raw_wish(
    config: &Config,
    request: &Request<Incoming>,
    id: ConnectionId,
) -> Result<(Subscription, Terms, Option<Since>), Rejection> {
    let path = request.uri().path();
    if is_echo(config, path) {
        // Alone in a channel of its own, with room for what conformance suites send.
        let channel = Channel::new(&format!("echo {id}")).expect("a short name");
        let subscription = Subscription::new(channel.clone(), Format::PLAIN);
        let (message_limit, fragments) = (ECHO_MESSAGE, ECHO_FRAGMENTS);
        let may_publish = None;
        let terms = Terms { channel, echo: true, message_limit, fragments, alone: true, may_publish };
        return Ok((subscription, terms, None));
    }
    let channel = match path.strip_prefix("/ws/") {
        None => Channel::lobby(),
        Some(name) if name.contains('/') => return Err(Rejection::ChannelSlash),
        Some(name) => Channel::from_path(name)?,
    };
    let mut subscription = Subscription::new(channel.clone(), Format::PLAIN);
    let (mut since, mut notices) = (None, None);
    for (key, value) in query::pairs(request.uri().query()) {
        let value = value.as_deref();
        match &*key {
            "echo" => subscription.echo = flag("echo", value)?,
            "notices" => notices = Some(flag("notices", value)?),
            "since" => since = Some(Since::asked(value.unwrap_or_default())?),
            // Others belong to the application, to a proxy, or to nobody.
            _ => {}
        }
    }
    // Who asks for what it has missed wants to hear what cannot be had.
    if notices.unwrap_or(since.is_some()) {
        subscription.on_gap = OnGap::Notice;
    }
    subscription.held = since.is_some();
    let (echo, message_limit) = (subscription.echo, config.message_limit);
    // Until it has been let in, it may not.
    let (fragments, may_publish) = (FRAGMENTS, None);
    let terms = Terms { channel, echo, message_limit, fragments, alone: false, may_publish };
    Ok((subscription, terms, since))
}

/// What was missed, as messages.
struct Wording {
    channel: Channel,
    /// Whether anything but publications is told.
    notices: bool,
}

impl Words for Wording {
    fn publication(&self, publication: &Publication) -> Bytes {
        let opcode = match publication.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        frame(opcode, &publication.payload)
    }

    fn gap(&self) -> Bytes {
        self.notice(|| gap_notice(&self.channel))
    }

    fn place(&self, position: Position) -> Bytes {
        self.notice(|| place_notice(&self.channel, position))
    }
}

impl Wording {
    fn notice(&self, text: impl FnOnce() -> String) -> Bytes {
        if self.notices { frame(Opcode::Text, text().as_bytes()) } else { Bytes::new() }
    }
}

/// Something that is so, or is not; where only its name stands, it is so.
fn flag(key: &'static str, value: Option<&str>) -> Result<bool, Rejection> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Rejection::Query { key, value: other.chars().take(40).collect() }),
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    // A value that is no text, or one of two, matches nothing, rather than being as good as none or as the other.
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    Some(value.to_str().ok().filter(|_| values.next().is_none()).unwrap_or("\u{fffd}"))
}

/// An id as a header's value.
pub fn id_value(id: Uuid) -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is ASCII")
}

/// Counts a client that goes while it waits to be answered: hyper then drops the future. One that was cut is counted for that.
struct Abandoned<'a> {
    worker: &'a Worker,
    client: IpAddr,
    place: &'a Place,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.place.is_cut() {
            self.worker.instance.rejected.count(&Rejection::Abandoned, self.client);
        }
    }
}
