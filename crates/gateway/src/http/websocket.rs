//! The handshake of a WebSocket: judged, admitted, let into its channel, and only then answered. What is spoken on it
//! is known elsewhere: in one channel by [`raw`], in the Centrifuge protocol by [`centrifuge`].

use std::net::IpAddr;

use axum::body::Body;
use fanfare_hub::{Carrier, Context, Format, Heartbeat, Opening};
use fanfare_protocol::ConnectionId;
use fanfare_websocket::deflate::{Agreed, Compressor, Shared, negotiate};
use fanfare_websocket::{Limits, Role, handshake};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use super::handshake::{FRAGMENTS, Handoff, Purpose, Upgrade};
use super::origin::admits;
use super::rejection::Rejection;
use super::{centrifuge, raw};
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
    let wish = match centrifuge::wish(&instance.config, &request)? {
        Some(wish) => Wish::Client(wish),
        None => Wish::Raw(raw::wish(&instance.config, &request, id)?),
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
    let (placed, purpose, protocol) = match wish {
        Wish::Client(centrifuge::Wish { mut dialect, protocol }) => {
            dialect.format = carried(dialect.format);
            let (format, heartbeat) = (dialect.format, Heartbeat::Introduction);
            let outbox_limit = instance.config.outbox_limit;
            let opening = Opening { id, format, heartbeat, outbox_limit, context };
            let limits = Limits { message: instance.config.message_limit, fragments: FRAGMENTS };
            tracing::debug!(%id, %client, format = ?dialect.format, "connection accepted");
            (worker.shard.place(opening), Purpose::Client(dialect, limits), protocol)
        }
        Wish::Raw(mut wish) => {
            wish.subscription.format = carried(wish.subscription.format);
            let (placed, purpose) = raw::enter(worker, client, &request, wish, context).await?;
            (placed, purpose, None)
        }
    };
    let response = answer(worker, id, accept, agreed.as_ref(), protocol);
    *handoff.borrow_mut() = Some(Upgrade { placed, id, purpose, agreed, permit });
    Ok(response)
}

/// What a request asks for.
enum Wish {
    Raw(raw::Wish),
    Client(centrifuge::Wish),
}

/// The one that lets frames begin, with the extension and the subprotocol that were agreed on.
fn answer(
    worker: &Worker,
    id: ConnectionId,
    accept: HeaderValue,
    agreed: Option<&Agreed>,
    protocol: Option<&'static str>,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(agreed) = agreed {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header_value());
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    headers.insert(INSTANCE_ID, worker.instance_id.clone());
    headers.insert(CONNECTION_ID, id_value(id));
    response
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

/// An id as a header's value.
pub fn id_value(id: Uuid) -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is ASCII")
}
