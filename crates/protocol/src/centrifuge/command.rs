//! What a client says: commands, out of frames, and the two requests that come outside of a session.
//!
//! It decides nothing that needs state. What a command may do is the session's business.

use std::iter::FusedIterator;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};

use super::fields::{Empty, json};
use super::framing::{Encoding, Messages};
use super::messages::{
    ConnectRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest, PublishRequest, RefreshRequest,
    RpcRequest, SendRequest, SubRefreshRequest, SubscribeRequest, UnsubscribeRequest,
};
use super::offence::Offence;

/// One command. Its id is 0 for a pong, any for a send, and above 0 for all others.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// What the answer is to repeat.
    pub id: u32,
    /// What is asked for.
    pub request: Request,
}

/// What a command asks for. Of several fields the first in this order counts.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// An answer to a ping: whatever has no id and is not a send.
    Pong,
    /// Opens the session.
    Connect(Box<ConnectRequest>),
    /// Subscribes.
    Subscribe(Box<SubscribeRequest>),
    /// Ends a subscription.
    Unsubscribe(UnsubscribeRequest),
    /// Publishes.
    Publish(PublishRequest),
    /// Asks who is there.
    Presence(PresenceRequest),
    /// Asks how many are there.
    PresenceStats(PresenceStatsRequest),
    /// Asks what was said.
    History(HistoryRequest),
    /// Calls the application.
    Rpc(RpcRequest),
    /// Tells the application; there is no answer.
    Send(SendRequest),
    /// Renews the connection.
    Refresh(RefreshRequest),
    /// Renews a subscription.
    SubRefresh(SubRefreshRequest),
}

impl Request {
    /// The name of the field, for a metric's label.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Connect(_) => "connect",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Publish(_) => "publish",
            Self::Presence(_) => "presence",
            Self::PresenceStats(_) => "presence_stats",
            Self::History(_) => "history",
            Self::Rpc(_) => "rpc",
            Self::Send(_) => "send",
            Self::Refresh(_) => "refresh",
            Self::SubRefresh(_) => "sub_refresh",
        }
    }
}

/// The commands of a client's frame, in order. After an offence there are no more; those before it stand.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    encoding: Encoding,
    messages: Messages<'a>,
}

impl Encoding {
    /// Reads a client's frame, or the body of a request that holds as much: `cf_connect`, an emulation's data. What a
    /// command keeps is copied out of it.
    pub const fn commands(self, frame: &[u8]) -> Commands<'_> {
        Commands { encoding: self, messages: Messages::new(self, frame) }
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Command, Offence>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = self.messages.next()?;
        let command = message
            .and_then(|message| self.encoding.read::<CommandFields>(message))
            .and_then(Command::try_from);
        if command.is_err() {
            self.messages.end();
        }
        Some(command)
    }
}

impl FusedIterator for Commands<'_> {}

messages! {
    /// A command as it is on the wire.
    CommandFields {
        id: u32 = 1,
        connect: ConnectRequest = 4,
        subscribe: SubscribeRequest = 5,
        unsubscribe: UnsubscribeRequest = 6,
        publish: PublishRequest = 7,
        presence: PresenceRequest = 8,
        presence_stats: PresenceStatsRequest = 9,
        history: HistoryRequest = 10,
        ping: Empty = 11,
        send: SendRequest = 12,
        rpc: RpcRequest = 13,
        refresh: RefreshRequest = 14,
        sub_refresh: SubRefreshRequest = 15,
    }
}

impl TryFrom<CommandFields> for Command {
    type Error = Offence;

    fn try_from(fields: CommandFields) -> Result<Self, Offence> {
        let id = fields.id;
        let request = fields.first();
        Ok(match request {
            Ok(request @ Request::Send(_)) => Self { id, request },
            _ if id == 0 => Self { id, request: Request::Pong },
            request => Self { id, request: request? },
        })
    }
}

impl CommandFields {
    /// The first request in the order of section 1.
    fn first(self) -> Result<Request, Offence> {
        let id = self.id;
        let request = if let Some(request) = self.connect {
            Request::Connect(Box::new(request))
        } else if self.ping.is_some() {
            return Err(Offence::Ping(id));
        } else if let Some(request) = self.subscribe {
            Request::Subscribe(Box::new(request))
        } else if let Some(request) = self.unsubscribe {
            Request::Unsubscribe(request)
        } else if let Some(request) = self.publish {
            Request::Publish(request)
        } else if let Some(request) = self.presence {
            Request::Presence(request)
        } else if let Some(request) = self.presence_stats {
            Request::PresenceStats(request)
        } else if let Some(request) = self.history {
            Request::History(request)
        } else if let Some(request) = self.rpc {
            Request::Rpc(request)
        } else if let Some(request) = self.send {
            Request::Send(request)
        } else if let Some(request) = self.refresh {
            Request::Refresh(request)
        } else if let Some(request) = self.sub_refresh {
            Request::SubRefresh(request)
        } else {
            return Err(Offence::NoRequest(id));
        };
        Ok(request)
    }
}

impl ConnectRequest {
    /// Reads what a unidirectional client begins with: `cf_connect`, a body, a first message.
    ///
    /// # Errors
    ///
    /// When it is not one `ConnectRequest`; 3501, or 400 over HTTP.
    pub fn read(encoding: Encoding, message: &[u8]) -> Result<Self, Offence> {
        encoding.read(message)
    }
}

/// Commands for a session whose answers go another way.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct EmulationRequest {
    /// The instance that has the session.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "json::or_zero")]
    pub node: String,
    /// The session's secret.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "json::or_zero")]
    pub session: String,
    /// A frame of commands; in JSON a string that holds one.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "text")]
    pub data: Bytes,
}

impl EmulationRequest {
    /// Reads the body of a request to `/emulation`.
    ///
    /// # Errors
    ///
    /// When it is not one `EmulationRequest`; 400.
    pub fn read(encoding: Encoding, body: &[u8]) -> Result<Self, Offence> {
        encoding.read(body)
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    Ok(Option::<String>::deserialize(from)?.unwrap_or_default().into())
}
