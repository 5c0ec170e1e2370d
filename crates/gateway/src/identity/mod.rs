//! Who a client is and what a token says it may: connection and subscription tokens, which keys they are checked with,
//! and what comes out of them. It knows no session and no channel's options; who may do what is `crate::namespace`'s,
//! what a key is, `crate::signature`'s.

mod claims;
mod fault;
mod jwks;
#[cfg(test)]
mod tests;
mod verifier;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_protocol::Channel;

pub use self::fault::{Consequence, TokenFault};
pub use self::verifier::{Admitted, Examined, Purpose, Verifier};
use crate::expiry::Expiry;

/// A user, as the `sub` of a token names it. The empty name is nobody's: an anonymous client has it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User(Arc<str>);

impl User {
    /// The user of this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self::new("")
    }

    /// Whether it is nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a connection is, as a connection token says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose connection it is.
    pub user: User,
    /// What others are shown of it (`conn_info`): one line of JSON, or any bytes where the token gave them in base64.
    pub info: Option<Bytes>,
    /// When the connection has to be refreshed.
    pub expiry: Option<Expiry>,
    /// The channels that it is subscribed to from the start, by the server.
    pub subs: BTreeMap<Channel, Grant>,
    /// What the back end wants to know again and clients never see, one line of JSON.
    pub meta: Option<Bytes>,
    /// The token's own id (`jti`), for logs.
    pub token: Option<String>,
}

impl Identity {
    /// A client that has shown no token.
    pub fn anonymous() -> Self {
        let (user, subs) = (User::anonymous(), BTreeMap::new());
        Self { user, info: None, expiry: None, subs, meta: None, token: None }
    }
}

/// What a token gives for one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// What others are shown of the subscriber (`chan_info`), as [`Identity::info`].
    pub info: Option<Bytes>,
    /// What the subscriber is sent with its subscription, as [`Identity::info`].
    pub data: Option<Bytes>,
    /// When the subscription has to be refreshed.
    pub expiry: Option<Expiry>,
    /// Where it differs from the namespace's options.
    pub overrides: Overrides,
}

/// A subscription token whose signature and times are good. Whether it is for this client:
/// [`SubscriptionToken::grant_to`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionToken {
    /// The channel that it opens.
    pub channel: Channel,
    /// For whom; anonymous ones are for anonymous clients.
    pub user: User,
    /// For which connection alone, if for one.
    pub client: Option<String>,
    /// What it gives.
    pub grant: Grant,
}

impl SubscriptionToken {
    /// What it gives to this client in this channel.
    ///
    /// # Errors
    ///
    /// When it is for another channel, user or client. All of them close the connection with 3500.
    pub fn grant_to(self, channel: &Channel, user: &User, client: &str) -> Result<Grant, TokenFault> {
        if self.channel != *channel {
            return Err(TokenFault::Channel);
        }
        if self.user != *user {
            return Err(TokenFault::User);
        }
        if self.client.is_some_and(|only| only != client) {
            return Err(TokenFault::Client);
        }
        Ok(self.grant)
    }
}

/// What a token changes of a namespace's options for one subscription; nothing where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Whether it counts as presence.
    pub presence: Option<bool>,
    /// Whether it may ask for join and leave events.
    pub join_leave: Option<bool>,
    /// Whether it gets them unasked.
    pub force_push_join_leave: Option<bool>,
    /// Whether it knows its position unasked.
    pub force_positioning: Option<bool>,
    /// Whether it recovers unasked.
    pub force_recovery: Option<bool>,
}
