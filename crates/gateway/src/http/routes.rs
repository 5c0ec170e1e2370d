//! The ordinary routes: the page, health, metrics, and an operator's one command. They may be on one
//! address or on two; a route that could harm others is only on the operators' own.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{delete, get};
use serde_json::json;
use uuid::Uuid;

use super::metrics::page_of;
use crate::api::{self, Calls};
use crate::instance::Instance;
use crate::page;

type Headers<const N: usize> = AppendHeaders<[(HeaderName, HeaderValue); N]>;

/// What clients can reach, and all else where operators have no address of their own.
pub fn public(instance: &Arc<Instance>) -> Router {
    let mut routes = Router::new();
    if instance.config.internal_listen.is_none() {
        // Where clients are, there is no HTTP API that could be called.
        routes = routes.merge(health(Arc::default()));
    }
    if instance.config.page {
        // What it asks for is there for it alone.
        routes = routes.merge(page::routes()).route("/instance", get(about));
    }
    routes.fallback(nowhere).with_state(instance.clone())
}

/// What only operators can reach.
pub fn internal(instance: Arc<Instance>) -> Router {
    let calls = Arc::<Calls>::default();
    let api = api::routes(&instance, calls.clone());
    health(calls).route("/connections/{id}", delete(kick)).with_state(instance).merge(api)
}

/// For whoever looks in the wrong place.
async fn nowhere() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "nothing is here; WebSockets connect to /ws or /ws/{channel}\n")
}

fn health(calls: Arc<Calls>) -> Router<Arc<Instance>> {
    Router::new()
        .route("/livez", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(move |State(instance)| metrics(instance, calls)))
}

/// Whether the threads make progress, and nothing else: a restart would not bring Redis back.
async fn live(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    let stuck = instance.readiness.stuck();
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, uncached(), Json(json!({ "live": stuck.is_empty(), "stuck": stuck })))
}

/// Whether new clients should be sent here.
async fn ready(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    let causes = instance.readiness.causes(&instance.memory);
    let status = if causes.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": causes.is_empty(), "instance": instance.id, "causes": causes });
    (status, uncached(), Json(body))
}

async fn metrics(instance: Arc<Instance>, calls: Arc<Calls>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], page_of(&instance, &calls).await)
}

/// What the page shows of the instance.
async fn about(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    let body = json!({
        "instance": instance.id,
        "version": env!("CARGO_PKG_VERSION"),
        // The workers are not asked: anybody can come here as often as they like, and to count is work.
        "connections": instance.connections(),
        "channels": instance.hub.channels(),
        "publications": instance.sum(|stats| &stats.publications),
        "deliveries": instance.sum(|stats| &stats.deliveries),
        "broker": if instance.config.redis.is_some() { "redis" } else { "memory" },
        "broker_up": instance.broker.status().up,
        "ready": instance.readiness.causes(&instance.memory).is_empty(),
    });
    (uncached(), Json(body))
}

/// Ends one connection of this instance, by the id that its handshake's answer named.
async fn kick(State(instance): State<Arc<Instance>>, Path(id): Path<String>) -> impl IntoResponse {
    let Ok(id) = id.parse::<Uuid>() else {
        return (StatusCode::BAD_REQUEST, format!("{id:?} is no connection's id; expected a UUID\n"));
    };
    if instance.hub.kick(id).await {
        (StatusCode::OK, format!("connection {id} was ended\n"))
    } else {
        (StatusCode::NOT_FOUND, format!("this instance has no connection {id}\n"))
    }
}

fn uncached() -> Headers<1> {
    AppendHeaders([(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
}
