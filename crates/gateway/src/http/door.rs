//! Who may come in at a raw endpoint: the token of a request, its channel's namespace, and the rights of the two
//! together, all judged before the handshake is answered. With neither keys nor namespaces configured it lets everybody
//! in, and looks at nothing.

use std::borrow::Cow;

use fanfare_hub::WhenSlow;
use fanfare_protocol::Channel;
use fanfare_protocol::payload::DataFormat;
use http::Request;
use http::header::AUTHORIZATION;
use hyper::body::Incoming;

use super::rejection::Rejection;
use crate::identity::{Admitted, Identity, User};
use crate::instance::Instance;
use crate::namespace::{Offer, may_publish, may_subscribe};
use crate::publish::{MayPublish, Rules};
use crate::query;

/// What holds for whoever came in.
#[derive(Debug)]
pub struct Entry {
    pub may_publish: MayPublish,
    /// Whose connection it is, and until when, if it has shown a token.
    pub identity: Option<Identity>,
    /// Whether it gets what it has missed, if it says where it was.
    pub recovers: bool,
    pub when_slow: WhenSlow,
}

impl Entry {
    /// For whoever may publish anything, for ever.
    pub const OPEN: Self =
        Self { may_publish: Some(Rules::NONE), identity: None, recovers: false, when_slow: WhenSlow::Close };
}

/// Lets a client into a channel, or says why not.
pub async fn enter(
    instance: &Instance,
    request: &Request<Incoming>,
    channel: &Channel,
) -> Result<Entry, Rejection> {
    let (namespaces, verifier) = (&instance.config.channels, &instance.identity);
    if !namespaces.are_configured() && !verifier.has_keys() {
        return Ok(Entry::OPEN);
    }
    let token = if verifier.has_keys() { token(request)? } else { None };
    let admitted = match token {
        Some(token) => Some(verifier.admission(&token, channel).await?),
        None if verifier.without_token().is_some() => None,
        None => return Err(Rejection::NoToken),
    };
    let namespace = namespaces.resolve(channel)?;
    if !namespace.admits_raw(channel) {
        return Err(Rejection::ChannelPattern);
    }
    let (user, granted) = match &admitted {
        Some(Admitted { identity, granted }) => (identity.user.clone(), *granted),
        None => (User::anonymous(), false),
    };
    may_subscribe(namespace, channel, &user, granted)?;
    let publishes = namespace.raw_publish && may_publish(namespace, channel, &user, true).is_ok();
    let mut rules = Rules::from(&**namespace);
    if rules.format == DataFormat::Any {
        // The plain relay takes empty messages, too.
        rules.format = DataFormat::Binary;
    }
    let may_publish = publishes.then_some(rules);
    let when_slow = namespace.slow_consumers.into();
    let identity = admitted.map(|Admitted { identity, .. }| identity);
    Ok(Entry { may_publish, identity, recovers: namespace.recovery != Offer::Off, when_slow })
}

/// The token of a request: `Authorization: Bearer …`, or `?token=…` for browsers, which cannot set headers.
fn token(request: &Request<Incoming>) -> Result<Option<String>, Rejection> {
    if let Some(value) = request.headers().get(AUTHORIZATION) {
        let bearer = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        // Another scheme is a proxy's business, which had no reason to hand it on.
        return bearer.map(Some).ok_or(Rejection::Authorization);
    }
    Ok(query::value(request.uri().query(), "token").map(Cow::into_owned))
}
