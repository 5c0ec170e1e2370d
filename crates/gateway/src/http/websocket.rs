//! The handshake of a WebSocket: judged, admitted, let into its channel, and only then answered. What is spoken on it is
//! known elsewhere: in one channel by [`raw`], in the Centrifuge protocol by [`client`].

use std::net::IpAddr;

use axum::body::Body;
use fanfare_hub::{Carrier, Context, Format, Heartbeat, OnGap, Opening, Subscription};
use fanfare_websocket::deflate::{Agreed, Compressor, Shared, negotiate};
use fanfare_websocket::{Limits, Role, handshake};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use super::client;
use super::door::{self, Entry};
use super::handshake::{FRAGMENTS, Handoff, Purpose, Upgrade};
use super::origin::admits;
use super::raw::{self, ECHO_MESSAGE, Terms, Wording};
use super::rejection::Rejection;
use super::since::{Since, catch_up};
use crate::client::Owner;
use crate::config::Config;
use crate::worker::Worker;

const INSTANCE_ID: HeaderName = HeaderName::from_static("fanfare-instance");
const CONNECTION_ID: HeaderName = HeaderName::from_static("fanfare-connection");

/// Answers a handshake: 101 with the rest in `handoff`, or a refusal.
pub async fn accept(
    worker: &Worker,
    client: IpAddr,
    request: Request<Incoming>,
    handoff: &Handoff,
) -> Result<Response<Body>, Rejection> {
    let instance = &worker.instance;
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
    if !admits(&instance.config, headers) {
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

/// What a request asks for.
enum Wish {
    Raw(Subscription, Terms, Option<Since>),
    Client(client::Wish),
}

impl Wish {
    fn raw(config: &Config, request: &Request<Incoming>, id: ConnectionId) -> Result<Self, Rejection> {
        raw::wish(config, request, id)
            .map(|(subscription, terms, since)| Self::Raw(subscription, terms, since))
    }
}

/// An id as a header's value.
pub fn id_value(id: Uuid) -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is ASCII")
}
