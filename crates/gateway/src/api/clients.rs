//! `subscribe`, `unsubscribe`, `disconnect` and `refresh`: what a back end wants of clients, wherever they are. Each
//! becomes one control message to every instance; what an instance does about it, nobody waits for.

use bytes::Bytes;
use fanfare_broker::Target;
use fanfare_protocol::centrifuge::{DisconnectCode, UnsubscribeCode};
use fanfare_protocol::{ConnectionId, Control, control};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Api;
use super::data::{self, payload};
use super::error::ApiError;
use super::reading::Since;
use super::shape::{Base64, ConnectionName, Done, Name, Shape, Whole, requests};

/// The longest reason: what fits into a Close frame (RFC 6455 section 5.5).
const REASON: usize = 123;

requests! {
    /// Subscribes connections of a user to a channel.
    Subscribe {
        /// Whose connections; the empty name is that of anonymous ones
        needed user: String,
        /// To which channel
        needed channel: Name,
        /// When the subscription expires, in seconds since 1970; 0 for never
        optional expire_at: Whole<u64>,
        /// What others are shown of the subscriber
        optional info: Box<RawValue>,
        /// The same in base64, instead of `info`
        optional b64info: Base64,
        /// Only this connection
        optional client: ConnectionName,
        /// Only the connection with this session
        optional session: String,
        /// What the subscriber is sent with the subscription
        optional data: Box<RawValue>,
        /// The same in base64, instead of `data`
        optional b64data: Base64,
        /// The place in the channel's history from which on the subscriber gets what it missed
        optional recover_since: Since,
        /// What is otherwise than the channel's options say
        optional r#override: Override,
    }

    /// What is otherwise for one subscription than its channel's options say.
    Override {
        /// Whether it counts as presence
        optional presence: Flag,
        /// Whether its coming and going is told
        optional join_leave: Flag,
        /// Whether it is told who comes and goes, unasked
        optional force_push_join_leave: Flag,
        /// Whether it knows its position, unasked
        optional force_positioning: Flag,
        /// Whether it recovers, unasked
        optional force_recovery: Flag,
    }

    /// Something that is said, either way.
    Flag {
        /// Which way
        optional value: bool,
    }

    /// Ends subscriptions of a user's connections.
    Unsubscribe {
        /// Whose connections; the empty name is that of anonymous ones
        needed user: String,
        /// From which channel; the empty name stands for all of them
        optional channel: String,
        /// Only this connection
        optional client: ConnectionName,
        /// Only the connection with this session
        optional session: String,
    }

    /// Closes a user's connections.
    Disconnect {
        /// Whose connections; the empty name is that of anonymous ones
        needed user: String,
        /// Only this connection
        optional client: ConnectionName,
        /// Only the connection with this session
        optional session: String,
        /// Not these connections
        optional whitelist: Vec<ConnectionName>,
        /// What they are told
        optional disconnect: Words,
    }

    /// What a connection is told when it is closed.
    Words {
        /// A code from 3000 to 4999; 0 for 3503. From 3500 to 3999 and from 4500 on, clients do not come back
        optional code: CloseCode,
        /// Up to 123 bytes
        optional reason: String,
    }

    /// Tells a user's connections when they expire.
    Refresh {
        /// Whose connections; the empty name is that of anonymous ones
        needed user: String,
        /// Only this connection
        optional client: ConnectionName,
        /// Only the connection with this session
        optional session: String,
        /// They are expired now
        optional expired: bool,
        /// When they expire, in seconds since 1970; 0 for never
        optional expire_at: Whole<u64>,
        /// What others are shown of the user from now on
        optional info: Box<RawValue>,
    }
}

/// A code that closes, still to be looked at.
#[derive(Debug, Default, Deserialize)]
pub struct CloseCode(Whole<u32>);

impl Shape for CloseCode {
    fn shape() -> Value {
        let codes = json!([{ "const": 0 }, { "minimum": 3000, "maximum": 4999 }, { "type": "null" }]);
        json!({ "type": "integer", "anyOf": codes })
    }
}

/// See [`Subscribe`].
pub async fn subscribe(api: &Api, request: Subscribe) -> Result<Done, ApiError> {
    let whom = whom(request.user, request.client, request.session)?;
    let (channel, _) = api.channel(&request.channel.unwrap_or_default().0)?;
    let config = &api.instance.config;
    let wish = request.r#override.unwrap_or_default();
    let value = |flag: Option<Flag>| flag.and_then(|flag| flag.value);
    let message = control::Subscribe {
        whom,
        channel,
        expire_at: request.expire_at.map(|at| at.0).filter(|at| *at > 0),
        info: payload("info", request.info, request.b64info)?
            .map(|info| within("info", info, config.info_limit()))
            .transpose()?,
        data: payload("data", request.data, request.b64data)?
            .map(|data| within("data", data, config.payload_limit()))
            .transpose()?,
        since: request.recover_since.map(|since| control::Since {
            offset: since.offset.unwrap_or_default().0,
            epoch: since.epoch.unwrap_or_default(),
        }),
        overrides: control::Overrides {
            presence: value(wish.presence),
            join_leave: value(wish.join_leave),
            recovery: value(wish.force_recovery),
            positioning: value(wish.force_positioning),
            push_join_leave: value(wish.force_push_join_leave),
        },
    };
    tell(api, Control::Subscribe(message)).await
}

/// See [`Unsubscribe`].
pub async fn unsubscribe(api: &Api, request: Unsubscribe) -> Result<Done, ApiError> {
    let whom = whom(request.user, request.client, request.session)?;
    let channel = request.channel.filter(|name| !name.is_empty());
    let channel = channel.map(|name| api.channel(&name)).transpose()?.map(|(channel, _)| channel);
    let why = UnsubscribeCode::Server;
    let (code, reason) = (why.code(), why.text().to_owned());
    tell(api, Control::Unsubscribe(control::Unsubscribe { whom, channel, code, reason })).await
}

/// See [`Disconnect`].
pub async fn disconnect(api: &Api, request: Disconnect) -> Result<Done, ApiError> {
    let whom = whom(request.user, request.client, request.session)?;
    let spared = request.whitelist.unwrap_or_default();
    let spared: Vec<_> = spared.iter().map(|name| connection("whitelist", name)).collect::<Result<_, _>>()?;
    let usual = DisconnectCode::ForceDisconnect;
    let words = request.disconnect.unwrap_or_default();
    let code = words.code.map(|code| code.0.0).filter(|code| *code > 0).unwrap_or(usual.code());
    if !(3000..5000).contains(&code) {
        return Err(ApiError::bad(format!("`disconnect.code` is {code}; expected 3000 to 4999")));
    }
    let reason = words.reason.filter(|reason| !reason.is_empty());
    // A code of one's own has no text of ours.
    let reason =
        reason.unwrap_or_else(|| if code == usual.code() { usual.text().to_owned() } else { String::new() });
    if reason.len() > REASON {
        return Err(ApiError::bad(format!(
            "`disconnect.reason` has {} bytes; at most {REASON} are possible",
            reason.len()
        )));
    }
    tell(api, Control::Disconnect(control::Disconnect { whom, spared, code, reason })).await
}

/// See [`Refresh`].
pub async fn refresh(api: &Api, request: Refresh) -> Result<Done, ApiError> {
    let whom = whom(request.user, request.client, request.session)?;
    let info = request.info.map(|info| data::json("info", info)).transpose()?;
    let message = control::Refresh {
        whom,
        expired: request.expired.unwrap_or_default(),
        expire_at: request.expire_at.map(|at| at.0).filter(|at| *at > 0),
        info: info.map(|info| within("info", info, api.instance.config.info_limit())).transpose()?,
    };
    tell(api, Control::Refresh(message)).await
}

fn whom(
    user: Option<String>,
    client: Option<ConnectionName>,
    session: Option<String>,
) -> Result<control::Whom, ApiError> {
    // What is left out by mistake must not be everybody who is anonymous.
    let user = user.ok_or_else(|| {
        ApiError::bad("there is no `user`; expected a name, which is empty for anonymous clients")
    })?;
    let client = client.filter(|client| !client.0.is_empty());
    let connection = client.map(|client| connection("client", &client)).transpose()?;
    Ok(control::Whom { user, connection, session: session.filter(|session| !session.is_empty()) })
}

/// What is sent to clients, if their outboxes hold it: without that it would cut them.
fn within(field: &str, bytes: Bytes, most: usize) -> Result<Bytes, ApiError> {
    if bytes.len() > most {
        return Err(ApiError::bad(format!(
            "`{field}` has {} bytes; at most {most} are possible",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn connection(field: &str, name: &ConnectionName) -> Result<ConnectionId, ApiError> {
    name.0
        .parse()
        .map_err(|_| ApiError::bad(format!("`{field}`: {:?} is no connection's id; expected a UUID", name.0)))
}

/// To every instance, in the order of calls.
async fn tell(api: &Api, message: Control) -> Result<Done, ApiError> {
    api.instance.broker.control(Target::All, message).await?;
    Ok(Done {})
}
