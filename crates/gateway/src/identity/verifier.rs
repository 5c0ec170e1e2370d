//! From a token to who it is for. What it is checked with is chosen before its signature is looked at, by algorithm and
//! key id; what it says is read afterwards. It decides nothing about channels.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_protocol::Channel;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{Claims, Demands};
use super::jwks::{Jwks, News};
use super::{Grant, Identity, SubscriptionToken, TokenFault, User};
use crate::config::Config;
use crate::expiry::Expiry;
use crate::signature::{Algorithm, MOST_KEYS, TokenKey};

/// Checks tokens with the keys of one configuration.
pub struct Verifier {
    keys: Vec<TokenKey>,
    pub(super) jwks: Option<Jwks>,
    rules: Rules,
    refused: [AtomicU64; TokenFault::COUNT],
}

/// What is demanded of every token, whatever its key.
struct Rules {
    demands: Demands,
    anonymous_tokens: bool,
    anonymous: bool,
}

impl Verifier {
    /// With the keys and rules of a configuration.
    pub fn new(config: &Config) -> Self {
        let secrets = config.token_secrets.iter().enumerate();
        let secrets = secrets.map(|(at, secret)| secret.key(format!("secret {} of `token_secrets`", at + 1)));
        let lines = config.token_secrets_file.iter().flat_map(|file| file.secrets.iter().enumerate());
        let lines =
            lines.map(|(at, secret)| secret.key(format!("secret {} of `token_secrets_file`", at + 1)));
        let files = config.token_public_keys.iter().filter_map(|file| file.key().ok());
        Self {
            keys: secrets.chain(lines).chain(files).collect(),
            jwks: Jwks::new(config),
            rules: Rules {
                demands: Demands {
                    leeway: config.token_leeway.as_secs(),
                    audience: config.token_audience.clone(),
                    issuer: config.token_issuer.clone(),
                },
                anonymous_tokens: config.allow_anonymous_tokens,
                anonymous: config.allows_anonymous(),
            },
            refused: [const { AtomicU64::new(0) }; TokenFault::COUNT],
        }
    }

    /// Who a connection token says that its bearer is. Waits only for keys that have to be fetched.
    ///
    /// # Errors
    ///
    /// When the token is not to be believed; it has been counted.
    pub async fn connection(&self, token: &str) -> Result<Identity, TokenFault> {
        let identity = self.open(token).await.and_then(|opened| self.identity(opened.claims));
        self.counted(identity)
    }

    /// As [`Verifier::connection`], and it must be the same user still.
    ///
    /// # Errors
    ///
    /// Also when it is for another user.
    pub async fn refreshed(&self, token: &str, user: &User) -> Result<Identity, TokenFault> {
        let identity = self.open(token).await.and_then(|opened| self.identity(opened.claims));
        let same = identity.and_then(|new| if new.user == *user { Ok(new) } else { Err(TokenFault::User) });
        self.counted(same)
    }

    /// What a subscription token gives this client in this channel.
    ///
    /// # Errors
    ///
    /// When it is not to be believed, or is for another channel, user or client; it has been counted.
    pub async fn subscription(
        &self,
        token: &str,
        channel: &Channel,
        user: &User,
        client: &str,
    ) -> Result<Grant, TokenFault> {
        let opened = self.open(token).await;
        let token = opened.and_then(|opened| opened.claims.into_subscription(self.rules.demands.leeway));
        self.counted(token.and_then(|token| token.grant_to(channel, user, client)))
    }

    /// Who the bearer of a token is that is shown where one channel is joined and nothing else: a connection token, or
    /// a subscription token for that channel.
    ///
    /// # Errors
    ///
    /// When it is not to be believed, or is for another channel; it has been counted.
    pub async fn admission(&self, token: &str, channel: &Channel) -> Result<Admitted, TokenFault> {
        let admitted = self.examine(token).await.and_then(|examined| match examined.purpose {
            Purpose::Connection(identity) => {
                let granted = identity.subs.contains_key(channel);
                Ok(Admitted { identity, granted })
            }
            Purpose::Subscription(token) => {
                // Whoever has no id yet is not the client that a token may be for.
                let user = token.user.clone();
                let grant = token.grant_to(channel, &user, "")?;
                let identity =
                    Identity { user, info: grant.info, expiry: grant.expiry, ..Identity::anonymous() };
                Ok(Admitted { identity, granted: true })
            }
        });
        self.counted(admitted)
    }

    /// Who a client without a token is; nothing where there must be one (3501 at connect).
    pub fn without_token(&self) -> Option<Identity> {
        self.rules.anonymous.then(Identity::anonymous)
    }

    /// What a token is, for whoever wants to look at it. Counts nothing.
    ///
    /// # Errors
    ///
    /// When no connection and no subscription would be opened by it.
    pub async fn examine(&self, token: &str) -> Result<Examined, TokenFault> {
        let Opened { claims, key } = self.open(token).await?;
        let until = claims.until(self.rules.demands.leeway);
        let purpose = match claims.are_for_a_subscription() {
            true => {
                let token = claims.into_subscription(self.rules.demands.leeway)?;
                // No client is the nobody that it is for.
                if token.user.is_anonymous() && !self.rules.anonymous_tokens && !self.rules.anonymous {
                    return Err(TokenFault::Anonymous);
                }
                Purpose::Subscription(token)
            }
            false => Purpose::Connection(self.identity(claims)?),
        };
        Ok(Examined { key, until, purpose })
    }

    /// Fetches keys for as long as it is awaited, if there are any to fetch. Whoever runs an instance runs this.
    pub async fn keep_keys(&self) {
        match &self.jwks {
            Some(jwks) => jwks.keep().await,
            None => std::future::pending().await,
        }
    }

    /// Fetches the keys once, if there are any to fetch, for whoever runs no instance.
    ///
    /// # Errors
    ///
    /// When they cannot be fetched; one line for people.
    pub async fn fetch_keys(&self) -> Result<(), String> {
        match &self.jwks {
            Some(jwks) => jwks.fetch_once().await,
            None => Ok(()),
        }
    }

    /// Whether there is anything to check tokens with.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.jwks.is_some()
    }

    /// Of the keys that are fetched: fetches begun, fetches failed, and keys that there are now.
    pub fn fetches(&self) -> (u64, u64, usize) {
        self.jwks.as_ref().map_or((0, 0, 0), |jwks| {
            let (begun, failed) = jwks.counts();
            (begun, failed, jwks.keys().len())
        })
    }

    /// Tokens refused since the start, by [`TokenFault::LABELS`].
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        TokenFault::LABELS.into_iter().zip(counts)
    }

    fn counted<T>(&self, outcome: Result<T, TokenFault>) -> Result<T, TokenFault> {
        if let Err(fault) = &outcome {
            self.refused[fault.index()].fetch_add(1, Ordering::Relaxed);
            tracing::debug!(reason = fault.label(), "a token was refused: {fault}");
        }
        outcome
    }

    fn identity(&self, claims: Claims) -> Result<Identity, TokenFault> {
        let identity = claims.into_connection(self.rules.demands.leeway)?;
        if identity.user.is_anonymous() && !self.rules.anonymous_tokens {
            return Err(TokenFault::Anonymous);
        }
        Ok(identity)
    }

    /// Checks everything about a token that does not depend on what it is for. A token with an unknown key is looked at
    /// again after the keys have been fetched.
    async fn open(&self, token: &str) -> Result<Opened, TokenFault> {
        let opened = self.try_open(token);
        let (Some(jwks), Err(TokenFault::UnknownKey)) = (&self.jwks, &opened) else { return opened };
        let news = jwks.refetch().await;
        self.try_open(token).map_err(|fault| match fault {
            TokenFault::UnknownKey if news == News::Stale => TokenFault::KeysUnavailable,
            fault => fault,
        })
    }

    /// The same with the keys that there are now.
    pub(super) fn try_open(&self, token: &str) -> Result<Opened, TokenFault> {
        let Parts { header, claims, message, signature } = Parts::of(token)?;
        let unknown = || TokenFault::Algorithm(header.alg.chars().take(16).collect());
        let algorithm: Algorithm = header.alg.parse().map_err(|()| unknown())?;
        if !self.has_keys() {
            return Err(TokenFault::NoKeys);
        }
        let fetched = self.jwks.as_ref().map(Jwks::keys);
        let fetched = fetched.as_deref().unwrap_or_default();
        // The one that it names first: there may be more without a name than are tried.
        let named = fetched.iter().filter(|key| key.kid == header.kid);
        let others = fetched.iter().filter(|key| key.kid != header.kid);
        let others = others.filter(|key| header.kid.is_none() || key.kid.is_none());
        let candidates = named.chain(others).filter(|key| key.is_for(algorithm)).take(MOST_KEYS);
        let candidates = self.keys.iter().filter(|key| key.is_for(algorithm)).chain(candidates);
        let mut fault = unknown();
        for key in candidates {
            match key.has_signed(algorithm, message.as_bytes(), &signature) {
                // Whoever has a retired key may say anything; another may be valid still.
                true if key.is_retired() => fault = TokenFault::RetiredKey,
                true => {
                    let claims = Claims::read(&claims)?;
                    claims.meet(&self.rules.demands)?;
                    return Ok(Opened { claims, key: key.label.clone() });
                }
                false if fault == TokenFault::RetiredKey => {}
                false => fault = TokenFault::Signature,
            }
        }
        if self.jwks.is_some() && !algorithm.is_symmetric() && header.is_missing(fetched) {
            return Err(TokenFault::UnknownKey);
        }
        Err(fault)
    }
}

/// Whoever has shown a token where one channel is joined.
#[derive(Debug)]
pub struct Admitted {
    /// Who it is.
    pub identity: Identity,
    /// Whether the token opens the channel.
    pub granted: bool,
}

/// A token that is good, and for what.
#[derive(Debug)]
pub struct Examined {
    /// What made its signature, in words.
    pub key: String,
    /// Until when it may be shown. What it opens has an end of its own.
    pub until: Option<Expiry>,
    /// What it opens.
    pub purpose: Purpose,
}

/// What a token opens.
#[derive(Debug)]
pub enum Purpose {
    /// A connection.
    Connection(Identity),
    /// A channel.
    Subscription(SubscriptionToken),
}

/// A token whose signature, audience and issuer are good.
pub(super) struct Opened {
    pub(super) claims: Claims,
    /// What made its signature, in words.
    key: String,
}

/// A token taken apart, of which nothing may be believed yet.
struct Parts<'a> {
    header: Header,
    /// The JSON of its claims.
    claims: Vec<u8>,
    /// What the signature is of: header and claims as they stand there.
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, TokenFault> {
        let three = || TokenFault::Malformed("it has not three parts".to_owned());
        let (message, signature) = token.rsplit_once('.').ok_or_else(three)?;
        let (header, claims) = message.split_once('.').ok_or_else(three)?;
        if claims.contains('.') {
            return Err(three());
        }
        let decoded = |name: &str, part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part);
            bytes.map_err(|_| TokenFault::Malformed(format!("its {name} is no base64url")))
        };
        Ok(Self {
            header: Header::of(&decoded("header", header)?)?,
            claims: decoded("payload", claims)?,
            message,
            signature: decoded("signature", signature)?,
        })
    }
}

/// The header of a token, of which nothing may be believed.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Header {
    fn of(json: &[u8]) -> Result<Self, TokenFault> {
        let header: Self = serde_json::from_slice(json)
            .map_err(|error| TokenFault::Malformed(format!("its header: {error}")))?;
        if header.typ.as_deref().is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(TokenFault::Type);
        }
        // RFC 7515, section 4.1.11: whoever does not understand what it lists must refuse the token.
        if header.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        Ok(header)
    }

    /// Whether a fetch could bring the key that it asks for.
    fn is_missing(&self, fetched: &[TokenKey]) -> bool {
        match &self.kid {
            Some(_) => !fetched.iter().any(|key| key.kid == self.kid),
            None => fetched.is_empty(),
        }
    }
}
