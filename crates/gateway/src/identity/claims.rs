//! What a token says, once its signature is good: claims are held against what is demanded of them, and become values
//! of the types that sessions use, or a fault.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_protocol::Channel;
use fanfare_protocol::payload::check_json;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Grant, Identity, Overrides, SubscriptionToken, TokenFault, User};
use crate::expiry::{Expiry, now};

/// The claims of both kinds of token (section 8 of the protocol's description). Others are passed over.
#[derive(Debug, Deserialize)]
pub struct Claims {
    sub: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "seconds")]
    nbf: Option<f64>,
    aud: Option<Names>,
    iss: Option<Names>,
    jti: Option<String>,
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    // Of connection tokens.
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Sub>>,
    meta: Option<Box<RawValue>>,
    // Of subscription tokens.
    channel: Option<String>,
    client: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Override>,
}

/// Of `aud` and `iss`. What is neither is nobody's name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
    Neither(IgnoredAny),
}

impl Names {
    fn has_one_of(&self, demanded: &[String]) -> bool {
        match self {
            Self::One(name) => demanded.contains(name),
            Self::Several(names) => names.iter().any(|name| demanded.contains(name)),
            Self::Neither(IgnoredAny) => false,
        }
    }
}

/// What is demanded of the claims of every token.
#[derive(Debug)]
pub struct Demands {
    /// How far clocks may differ, in seconds.
    pub leeway: u64,
    /// One of these it must be for, if there are any.
    pub audience: Vec<String>,
    /// One of these it must be from, if there are any.
    pub issuer: Vec<String>,
}

/// One of `subs`.
#[derive(Debug, Deserialize)]
struct Sub {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Override>,
}

#[derive(Debug, Deserialize)]
struct Override {
    presence: Option<Flag>,
    join_leave: Option<Flag>,
    force_push_join_leave: Option<Flag>,
    force_positioning: Option<Flag>,
    force_recovery: Option<Flag>,
}

#[derive(Debug, Deserialize)]
struct Flag {
    value: bool,
}

impl Claims {
    /// Out of their JSON.
    pub fn read(json: &[u8]) -> Result<Self, TokenFault> {
        serde_json::from_slice(json).map_err(|error| TokenFault::Malformed(format!("its claims: {error}")))
    }

    /// Holds audience and issuer against what is demanded (RFC 7519, section 4.1). Times are looked at when it is known
    /// what the token opens.
    pub fn meet(&self, demands: &Demands) -> Result<(), TokenFault> {
        let is_met = |demanded: &[String], names: Option<&Names>| {
            demanded.is_empty() || names.is_some_and(|names| names.has_one_of(demanded))
        };
        if !is_met(&demands.issuer, self.iss.as_ref()) {
            return Err(TokenFault::Issuer);
        }
        if !is_met(&demands.audience, self.aud.as_ref()) {
            return Err(TokenFault::Audience);
        }
        Ok(())
    }

    /// Whether they are a subscription token's.
    pub fn are_for_a_subscription(&self) -> bool {
        self.channel.as_deref().is_some_and(|channel| !channel.is_empty())
    }

    /// Takes them as a connection token's.
    pub fn into_connection(self, leeway: u64) -> Result<Identity, TokenFault> {
        if self.are_for_a_subscription() {
            return Err(TokenFault::Kind(
                "it is for a subscription (it has `channel`), not for a connection",
            ));
        }
        let expiry = self.expiry(leeway)?;
        let channel = |name: &str| Channel::new(name).map_err(|error| malformed("channels", &error));
        let subs: Result<_, TokenFault> = match self.subs.filter(|subs| !subs.is_empty()) {
            Some(subs) => subs.into_iter().map(|(name, sub)| Ok((channel(&name)?, sub.grant()?))).collect(),
            None => {
                let names = self.channels.unwrap_or_default();
                names.iter().map(|name| Ok((channel(name)?, Grant::default()))).collect()
            }
        };
        Ok(Identity {
            user: User::new(&self.sub.unwrap_or_default()),
            info: payload("info", self.info, self.b64info)?,
            expiry,
            subs: subs?,
            meta: self.meta.map(|meta| one_line("meta", &meta)).transpose()?,
            token: self.jti,
        })
    }

    /// Takes them as a subscription token's.
    pub fn into_subscription(self, leeway: u64) -> Result<SubscriptionToken, TokenFault> {
        if !self.are_for_a_subscription() {
            return Err(TokenFault::Kind("it is not for a subscription: it has no `channel`"));
        }
        let expiry = self.expiry(leeway)?;
        let name = self.channel.unwrap_or_default();
        Ok(SubscriptionToken {
            channel: Channel::new(&name).map_err(|error| malformed("channel", &error))?,
            user: User::new(&self.sub.unwrap_or_default()),
            client: self.client.filter(|client| !client.is_empty()),
            grant: Grant {
                info: payload("info", self.info, self.b64info)?,
                data: payload("data", self.data, self.b64data)?,
                expiry,
                overrides: self.overrides.map(Override::read).unwrap_or_default(),
            },
        })
    }

    /// Until when the token may be shown. In the very second of `exp` it is good no more (RFC 7519, section 4.1.4).
    pub fn until(&self, leeway: u64) -> Option<Expiry> {
        self.exp.map(|at| end(at, leeway))
    }

    /// When to refresh: `expire_at`, where it is there, wins over `exp`, and is never if it is not positive. The
    /// leeway that a token is granted is granted to what it has opened. What passes after this, until it is opened, is
    /// the end of a token that was good, and whoever has it is to get a new one.
    fn expiry(&self, leeway: u64) -> Result<Option<Expiry>, TokenFault> {
        let is_over = |end: Option<Expiry>| end.is_some_and(|end| end.seconds_left().is_none());
        let until = self.until(leeway);
        if is_over(until) {
            return Err(TokenFault::Expired);
        }
        if self.nbf.is_some_and(|from| from > now().saturating_add(leeway) as f64) {
            return Err(TokenFault::NotYetValid);
        }
        let Some(at) = self.expire_at else { return Ok(until) };
        let end = (at > 0.0).then(|| end(at, 0));
        if is_over(end) { Err(TokenFault::Over) } else { Ok(end) }
    }
}

impl Sub {
    fn grant(self) -> Result<Grant, TokenFault> {
        Ok(Grant {
            info: payload("subs", self.info, self.b64info)?,
            data: payload("subs", self.data, self.b64data)?,
            expiry: None,
            overrides: self.overrides.map(Override::read).unwrap_or_default(),
        })
    }
}

impl Override {
    fn read(self) -> Overrides {
        let value = |flag: Option<Flag>| flag.map(|flag| flag.value);
        Overrides {
            presence: value(self.presence),
            join_leave: value(self.join_leave),
            force_push_join_leave: value(self.force_push_join_leave),
            force_positioning: value(self.force_positioning),
            force_recovery: value(self.force_recovery),
        }
    }
}

/// Saturates, where somebody has said -5 or 1e300.
fn end(at: f64, leeway: u64) -> Expiry {
    Expiry((at as u64).saturating_add(leeway))
}

/// What is there must be a number: who writes `null` has lost the end that the token was to have.
fn seconds<'de, D: Deserializer<'de>>(claim: D) -> Result<Option<f64>, D::Error> {
    let number = f64::deserialize(claim);
    number.map(Some).map_err(|_| D::Error::custom("`exp` and `nbf` are seconds since 1970, or are left out"))
}

/// A payload that is given as JSON or in base64, which wins.
fn payload(
    claim: &str,
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Bytes>, TokenFault> {
    match base64.filter(|text| !text.is_empty()) {
        Some(text) => STANDARD.decode(text).map(|bytes| Some(bytes.into())).map_err(|e| malformed(claim, &e)),
        None => json.map(|json| one_line(claim, &json)).transpose(),
    }
}

fn malformed(claim: &str, why: &dyn std::fmt::Display) -> TokenFault {
    TokenFault::Malformed(format!("`{claim}`: {why}"))
}

/// JSON without the white space between its parts: a line break would end a message of the client protocol. What nests
/// without end is refused: it goes to clients whose parsers recurse.
fn one_line(claim: &str, json: &RawValue) -> Result<Bytes, TokenFault> {
    check_json(json.get().as_bytes()).map_err(|error| malformed(claim, &error))?;
    let (mut quoted, mut escaped) = (false, false);
    let kept = json.get().bytes().filter(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        quoted || !byte.is_ascii_whitespace()
    });
    Ok(kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_one_line_and_stays_itself() {
        for (written, line) in [
            ("{ \"a\" :\n [1,\t2 ] }", r#"{"a":[1,2]}"#),
            (r#""two words""#, r#""two words""#),
            (r#"{"a": "\" \\", "b": " "}"#, r#"{"a":"\" \\","b":" "}"#),
            ("1.0000000000000000001", "1.0000000000000000001"),
        ] {
            let raw: Box<RawValue> = serde_json::from_str(written).unwrap();
            assert_eq!(one_line("info", &raw).unwrap(), line);
        }
    }
}
