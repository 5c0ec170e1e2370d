//! Who may do what in a channel: one function for each right, used by every transport. They decide by what they are
//! handed; whether a namespace has history or presence at all is an answer of theirs, too, since it comes first.
//!
//! The order is that of the Centrifuge protocol (sections 4.1 and 7): what a token grants, then the prefix of a
//! private name, which nothing but a token opens, then the one whose own channel it is, then the users of a
//! user-limited one, then the namespace's right.

use fanfare_protocol::Channel;
use fanfare_protocol::centrifuge::ErrorCode;

use super::{May, MaySubscribe, Namespace};
use crate::identity::User;

/// Why something may not be done. Of the client protocol, all are error 103 but the last, which is 108.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The name begins with `$`.
    #[error("the channel is private: it needs a subscription token")]
    Private,
    /// It is somebody else's own, or the users after the `#` do not include this one.
    #[error("the channel is for other users")]
    OtherUsers,
    /// The right is for clients with a user.
    #[error("anonymous clients may not")]
    Anonymous,
    /// The right is for subscribers.
    #[error("only subscribers of the channel may")]
    NotSubscribed,
    /// The right is for holders of a token, or for nobody.
    #[error("no client may without a token for it")]
    NotPermitted,
    /// The namespace keeps none.
    #[error("the channel's namespace does not keep it")]
    NotKept,
}

impl Denial {
    /// The error code of the Centrifuge client protocol (section 6.1 there).
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotKept => ErrorCode::NotAvailable,
            _ => ErrorCode::PermissionDenied,
        }
    }
}

/// Whether a client may subscribe by itself. `granted` is whether it shows a valid subscription token for the channel,
/// or, at a raw endpoint, a connection token that names it.
pub fn may_subscribe(
    namespace: &Namespace,
    channel: &Channel,
    user: &User,
    granted: bool,
) -> Result<(), Denial> {
    if granted {
        return Ok(());
    }
    match limit(namespace, channel, user)? {
        // Those who are named in it need nothing else.
        Limit::Named => return Ok(()),
        Limit::Private => return Err(Denial::Private),
        Limit::None => {}
    }
    match namespace.may_subscribe {
        MaySubscribe::Anonymous => Ok(()),
        MaySubscribe::Client if user.is_anonymous() => Err(Denial::Anonymous),
        MaySubscribe::Client => Ok(()),
        MaySubscribe::Token => Err(Denial::NotPermitted),
    }
}

/// Whether a client may publish. `subscribed` is whether it is subscribed to the channel now.
pub fn may_publish(
    namespace: &Namespace,
    channel: &Channel,
    user: &User,
    subscribed: bool,
) -> Result<(), Denial> {
    may(namespace, namespace.may_publish, channel, user, subscribed)
}

/// Whether a client may read what was published before.
pub fn may_read_history(
    namespace: &Namespace,
    channel: &Channel,
    user: &User,
    subscribed: bool,
) -> Result<(), Denial> {
    if namespace.history_size.is_none() {
        return Err(Denial::NotKept);
    }
    may(namespace, namespace.may_read_history, channel, user, subscribed)
}

/// Whether a client may read who is subscribed, and be told who comes and goes.
pub fn may_read_presence(
    namespace: &Namespace,
    channel: &Channel,
    user: &User,
    subscribed: bool,
) -> Result<(), Denial> {
    if !namespace.presence {
        return Err(Denial::NotKept);
    }
    may(namespace, namespace.may_read_presence, channel, user, subscribed)
}

/// A right that a subscription may bring. Who is subscribed to a limited or private channel was let in by name or
/// token; the rights of others end at its door, whatever the namespace says.
fn may(
    namespace: &Namespace,
    right: May,
    channel: &Channel,
    user: &User,
    subscribed: bool,
) -> Result<(), Denial> {
    if !subscribed && limit(namespace, channel, user)? == Limit::Private {
        return Err(Denial::Private);
    }
    match right {
        May::Anonymous => Ok(()),
        May::Client if user.is_anonymous() => Err(Denial::Anonymous),
        May::Client => Ok(()),
        May::Subscriber if subscribed => Ok(()),
        May::Subscriber => Err(Denial::NotSubscribed),
        May::Nobody => Err(Denial::NotPermitted),
    }
}

#[derive(PartialEq, Eq)]
enum Limit {
    None,
    /// The name lists its users, and this is one of them.
    Named,
    Private,
}

/// What the name itself says about who may come in.
fn limit(namespace: &Namespace, channel: &Channel, user: &User) -> Result<Limit, Denial> {
    if namespace.private_prefix && channel.is_private() {
        // The token is asked for before the name is looked at any further.
        return Ok(Limit::Private);
    }
    let is = |name: &str| !user.is_anonymous() && name == user.as_str();
    if let Some(owner) = namespace.owner(channel) {
        // Whatever is in the name, it is one; and whatever the namespace's rights are, others have none here.
        return if is(owner) { Ok(Limit::Named) } else { Err(Denial::OtherUsers) };
    }
    let Some(mut users) = channel.users().filter(|_| namespace.user_limited) else { return Ok(Limit::None) };
    // Nobody is named by an empty name.
    if users.any(is) { Ok(Limit::Named) } else { Err(Denial::OtherUsers) }
}
