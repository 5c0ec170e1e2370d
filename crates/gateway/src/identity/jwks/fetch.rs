//! One GET of a key set, bounded in size, and parsed on a thread that serves nobody: a set may be all junk. It has no
//! deadline of its own: whoever asks has one.

use std::error::Error;
use std::fmt::Write;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use crate::config::tokens::JwksUrl;
use crate::signature::{Jwk, TokenKey};

/// The most keys of a set that are kept.
const MOST_KEYS: usize = 64;

/// The largest set that is read: so many keys of the largest kind, each with a chain of certificates. Real ones have a
/// few KiB.
pub(super) const MOST_BYTES: usize = MOST_KEYS * (4 << 10);

/// Fetches the keys that tokens can be checked with; those of other kinds are passed over.
///
/// # Errors
///
/// One line for the log. A set without a single usable key is one, too: it is more likely a mistake than meant.
pub async fn fetch(url: &JwksUrl) -> Result<Vec<TokenKey>, String> {
    let mut request = Request::get(url.as_str()).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    request
        .headers_mut()
        .insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
    let is_https = url.as_str().starts_with("https:");
    let tls = aside(move || tls(is_https)).await.map_err(|error| whole(&*error))?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Made anew each time: once an hour is not worth a connection that is kept, and the roots may have changed.
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let response = client.request(request).await.map_err(|error| whole(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!(
            "the answer is {}; expected 200 and the set, redirects are not followed",
            response.status()
        ));
    }
    let body =
        Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(|error| match error
            .downcast_ref::<LengthLimitError>(
        ) {
            Some(_) => format!("the answer has more than {MOST_BYTES} bytes"),
            None => whole(&*error),
        })?;
    aside(move || read(&body.to_bytes())).await
}

/// Does what takes its time, and may wait for a file system, where it holds nobody up.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("it does not panic")
}

/// An error and what lies behind it, on one line.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(line, ": {error}").expect("a string takes it");
        source = error.source();
    }
    line
}

/// With the roots of the machine, or without any where none are needed: an image may have none.
fn tls(is_https: bool) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let builder = ClientConfig::builder_with_provider(default_provider().into());
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(match is_https {
        true => builder.with_native_roots()?.with_no_client_auth(),
        false => builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    })
}

#[derive(Deserialize)]
struct Set<'a> {
    /// Read one by one: a key of a kind that is yet to be invented does not spoil the others. Where they stand, or
    /// half a million of nothing would be as many allocations.
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The usable keys of a set.
pub(super) fn read(body: &[u8]) -> Result<Vec<TokenKey>, String> {
    let set: Set<'_> =
        serde_json::from_slice(body).map_err(|error| format!("the answer is no JWKS: {error}"))?;
    let all = set.keys.len();
    let usable = set.keys.iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_str(key.get()).ok()?;
        TokenKey::from_jwk(&jwk).ok()
    });
    let keys: Vec<_> = usable.take(MOST_KEYS).collect();
    if keys.is_empty() {
        return Err(format!("none of the {all} keys of the set is one that tokens can be checked with"));
    }
    Ok(keys)
}
