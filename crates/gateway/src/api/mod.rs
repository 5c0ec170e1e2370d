//! The HTTP API for back ends, at the operators' address: `POST /api/{method}` with a key. It is [Centrifugo's server
//! API](https://centrifugal.dev/docs/server/server_api), so its client libraries work with it. What a method does is
//! not decided here, only who may call it, how a request is read and where an error stands.

mod batch;
mod calls;
mod clients;
mod data;
mod error;
mod keys;
mod methods;
mod no_call;
mod openapi;
mod publishing;
mod reading;
mod reply;
mod shape;
mod text;
mod weight;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method as Verb, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use bytes::Bytes;
use fanfare_protocol::Channel;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::timeout;

pub use self::calls::Calls;
use self::error::ApiError;
use self::keys::Keys;
pub use self::methods::Method;
use self::methods::{Answer, Failure};
use self::no_call::NoCall;
use self::reply::Reply;
use self::text::Text;
use crate::config::ErrorMode;
use crate::instance::Instance;
use crate::memory::{AnswerRoom, LITTLE, Reading};
use crate::namespace::Namespace;

/// What calls share.
struct Service {
    instance: Arc<Instance>,
    keys: Keys,
    calls: Arc<Calls>,
    document: Bytes,
}

/// What one call does its work with, and all commands of a batch together.
pub struct Api {
    instance: Arc<Instance>,
    calls: Arc<Calls>,
    /// For what is asked.
    asked: AnswerRoom,
    /// For what is answered.
    room: AnswerRoom,
}

/// The routes, for the operators' address alone, and where their calls are counted. Where there is no key, there is no
/// API, and that is said.
pub fn routes(instance: &Arc<Instance>, calls: Arc<Calls>) -> Router {
    let document = serde_json::to_vec_pretty(&openapi::document()).expect("a JSON value is written");
    let service = Service {
        keys: Keys::new(&instance.config),
        instance: instance.clone(),
        calls,
        document: document.into(),
    };
    Router::new()
        .route("/api/openapi.json", get(describe))
        .route("/api", any(nameless))
        .route("/api/", any(nameless))
        .route("/api/{*method}", any(call))
        .with_state(Arc::new(service))
}

/// What programs and people read to learn what there is. It holds no secret.
async fn describe(State(service): State<Arc<Service>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, JSON)], service.document.clone())
}

async fn nameless(State(service): State<Arc<Service>>, request: Request) -> Response<Body> {
    service.answer("", request).await
}

async fn call(
    State(service): State<Arc<Service>>,
    Path(method): Path<String>,
    request: Request,
) -> Response<Body> {
    service.answer(&method, request).await
}

impl Service {
    async fn answer(&self, name: &str, request: Request) -> Response<Body> {
        let (instance, calls) = (self.instance.clone(), self.calls.clone());
        let [asked, room] = [(); 2].map(|()| AnswerRoom::new(instance.memory.clone(), LITTLE));
        let api = Api { instance, calls, asked, room };
        let (method, mode, body) = match self.read(name, request, &api.asked).await {
            Ok(read) => read,
            Err(no_call) => {
                self.calls.refuse(&no_call);
                tracing::debug!(method = name, "HTTP API: {no_call}");
                return no_call.answer();
            }
        };
        let outcome = method.call(&api, &body).await;
        self.calls.count(method, outcome.as_ref().map(|_| ()).map_err(Failure::code));
        // There is room until it is written.
        let answer = answer(method, mode, outcome);
        drop(api);
        answer
    }

    /// What a request calls, where it wants errors to stand, and its body. The key comes first: whoever has none learns
    /// nothing.
    async fn read(
        &self,
        name: &str,
        request: Request,
        room: &AnswerRoom,
    ) -> Result<(Method, ErrorMode, Vec<u8>), NoCall> {
        let config = &self.instance.config;
        let (head, mut body) = request.into_parts();
        if self.keys.are_none() {
            return Err(NoCall::Off);
        }
        if !self.keys.let_in(&head) {
            return Err(NoCall::Key);
        }
        let method = Method::named(name).ok_or_else(|| NoCall::Method(name.to_owned()))?;
        if head.method != Verb::POST {
            return Err(NoCall::Verb(head.method));
        }
        let mode = match head.headers.get(ERROR_MODE) {
            None => config.api_error_mode,
            Some(wish) => {
                let mode = wish.to_str().ok().and_then(ErrorMode::named);
                mode.ok_or_else(|| NoCall::Mode(wish.clone()))?
            }
        };
        let (span, most) = (config.handshake_timeout, config.api_body_limit);
        let read = timeout(span, read_body(&mut body, most, room)).await.map_err(|_| NoCall::Late(span))?;
        if let Err(NoCall::NoRoom(_)) = read {
            // Whoever still sends would not hear the answer.
            let rest = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = timeout(span, rest).await;
        }
        Ok((method, mode, read?))
    }
}

impl Api {
    /// Room for reading so many bytes, beside what all commands of the request have read.
    async fn room(&self, bytes: usize) -> Result<Reading<'_>, ApiError> {
        self.room.to_read(bytes).await.ok_or_else(|| ApiError::no_room(bytes))
    }

    /// Makes sure that a request fits that is to be read.
    async fn weigh(&self, request: &[u8]) -> Result<(), ApiError> {
        let bytes = weight::of_lists(request);
        let reading = self.asked.to_read(bytes).await.ok_or_else(|| ApiError::no_room(bytes))?;
        reading.keep(bytes);
        Ok(())
    }

    /// A channel by name, and what holds for it.
    fn channel(&self, name: &str) -> Result<(Channel, Arc<Namespace>), ApiError> {
        let channel = Channel::new(name)?;
        let namespace = self.instance.config.channels.resolve(&channel)?.clone();
        if !namespace.admits_raw(&channel) {
            return Err(ApiError::bad(format!(
                "the channel's name {name:?} does not match its namespace's name_pattern"
            )));
        }
        Ok((channel, namespace))
    }
}

/// The whole body, of no more than `most` bytes. There is room for it before it comes, as far as it says how long it
/// is.
async fn read_body(body: &mut Body, most: usize, room: &AnswerRoom) -> Result<Vec<u8>, NoCall> {
    let said = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut there_is = said.unwrap_or(LITTLE).min(most);
    let mut reading = room.to_read(there_is).await.ok_or(NoCall::NoRoom(there_is))?;
    let mut whole = Vec::with_capacity(there_is);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(NoCall::Broken)?.into_data() else { continue };
        let needed = whole.len() + data.len();
        if needed > most {
            return Err(NoCall::TooLarge(most));
        }
        if needed > there_is {
            there_is = needed.saturating_mul(2).min(most);
            drop(reading);
            reading = room.to_read(there_is).await.ok_or(NoCall::NoRoom(there_is))?;
            whole.reserve_exact(there_is - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    reading.keep(whole.len());
    Ok(whole)
}

fn answer(method: Method, mode: ErrorMode, outcome: Result<Answer, Failure>) -> Response<Body> {
    match outcome {
        Ok(result) if method.is_bare() => json(StatusCode::OK, &result),
        Ok(result) => json(StatusCode::OK, &Reply::Result(result)),
        Err(Failure::Undecodable(error)) => json(StatusCode::BAD_REQUEST, &error),
        Err(Failure::Error(error)) => match mode {
            ErrorMode::Response => json(StatusCode::OK, &Reply::<()>::Error(error)),
            ErrorMode::Transport => json(error.code.status(), &error),
        },
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let text = Text::of(body);
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, JSON),
        (CONTENT_LENGTH, text.length().into()),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text.into_body()).into_response()
}

const ERROR_MODE: &str = "x-centrifugo-error-mode";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
