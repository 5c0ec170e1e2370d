//! The client's side, for the load generator and the tests: commands into frames, replies and pushes out of them.
//!
//! It keeps no state: neither ids nor positions nor the payload that a patch is made against.

mod heard;

pub use heard::{Heard, heard};

use super::command::{Command, EmulationRequest, Request};
use super::fields::{Empty, json};
use super::framing::{Encoding, Format, Messages};
use super::messages::{
    Connect, ConnectResult, Disconnect, Error, HistoryResult, Join, Message, PresenceResult,
    PresenceStatsResult, Publication, Refresh, RefreshResult, RpcResult, SubRefreshResult, Subscribe,
    SubscribeResult, Unsubscribe,
};
use super::offence::Offence;
use super::reply::{Answer, Event, NotJson, Push, Reply as Envelope};

/// What a server sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To be answered with a pong, if the connect result said so.
    Ping,
    /// The answer to a command.
    Answer {
        /// The command's id.
        id: u32,
        /// What came of it.
        answer: Answer,
    },
    /// Something unasked.
    Push(Push),
}

/// Adds a command to a frame.
///
/// # Errors
///
/// When a payload in it is not JSON, in JSON.
pub fn put_command(encoding: Encoding, frame: &mut Vec<u8>, command: &Command) -> Result<(), NotJson> {
    let to = Envelope { encoding, frame, id: command.id };
    match &command.request {
        Request::Pong => {
            encoding.put_ping(to.frame);
            Ok(())
        }
        Request::Connect(request) => to.put("connect", 4, &**request),
        Request::Subscribe(request) => to.put("subscribe", 5, &**request),
        Request::Unsubscribe(request) => to.put("unsubscribe", 6, request),
        Request::Publish(request) => to.put("publish", 7, request),
        Request::Presence(request) => to.put("presence", 8, request),
        Request::PresenceStats(request) => to.put("presence_stats", 9, request),
        Request::History(request) => to.put("history", 10, request),
        Request::Send(request) => to.put("send", 12, request),
        Request::Rpc(request) => to.put("rpc", 13, request),
        Request::Refresh(request) => to.put("refresh", 14, request),
        Request::SubRefresh(request) => to.put("sub_refresh", 15, request),
    }
}

/// The body of a request to `/emulation`. In JSON, commands are text.
pub fn emulation(encoding: Encoding, request: &EmulationRequest) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => prost::Message::encode_to_vec(request),
        Encoding::Json => {
            let EmulationRequest { node, session, data } = request;
            let data = String::from_utf8_lossy(data);
            serde_json::json!({ "node": node, "session": session, "data": data }).to_string().into_bytes()
        }
    }
}

/// The replies in a server's frame, in order. After an offence there are no more.
#[derive(Debug, Clone)]
pub struct Replies<'a> {
    format: Format,
    messages: Messages<'a>,
}

/// Reads a server's frame.
pub const fn replies(format: Format, frame: &[u8]) -> Replies<'_> {
    Replies { format, messages: Messages::new(format.encoding(), frame) }
}

impl Iterator for Replies<'_> {
    type Item = Result<Reply, Offence>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = self.messages.next()?;
        let reply = message.and_then(|message| read(self.format, message));
        if reply.is_err() {
            self.messages.end();
        }
        Some(reply)
    }
}

/// Reads one message.
fn read(format: Format, message: &[u8]) -> Result<Reply, Offence> {
    match format {
        Format::UniJson => Encoding::Json.read::<PushFields>(message)?.into_reply(),
        Format::Json | Format::Protobuf => format.encoding().read::<ReplyFields>(message)?.into_reply(),
    }
}

messages! {
    /// A reply as it is on the wire.
    ReplyFields {
        id: u32 = 1,
        error: Error = 2,
        push: PushFields = 4,
        connect: ConnectResult = 5,
        subscribe: SubscribeResult = 6,
        unsubscribe: Empty = 7,
        publish: Empty = 8,
        presence: PresenceResult = 9,
        presence_stats: PresenceStatsResult = 10,
        history: HistoryResult = 11,
        ping: Empty = 12,
        rpc: RpcResult = 13,
        refresh: RefreshResult = 14,
        sub_refresh: SubRefreshResult = 15,
    }

    /// A push as it is on the wire.
    PushFields {
        id: i64 = 1,
        channel: str = 2,
        r#pub: Publication = 4,
        join: Join = 5,
        leave: Join = 6,
        unsubscribe: Unsubscribe = 7,
        message: Message = 8,
        subscribe: Subscribe = 9,
        connect: Connect = 10,
        disconnect: Disconnect = 11,
        refresh: Refresh = 12,
    }
}

impl ReplyFields {
    fn into_reply(self) -> Result<Reply, Offence> {
        let id = self.id;
        if id == 0 {
            return self.push.map_or(Ok(Reply::Ping), |push| push.into_push().map(Reply::Push));
        }
        let answer = if let Some(error) = self.error {
            Answer::Error(error)
        } else if let Some(result) = self.connect {
            Answer::Connect(result)
        } else if let Some(result) = self.subscribe {
            Answer::Subscribe(result)
        } else if self.unsubscribe.is_some() {
            Answer::Unsubscribe
        } else if self.publish.is_some() {
            Answer::Publish
        } else if let Some(result) = self.presence {
            Answer::Presence(result)
        } else if let Some(result) = self.presence_stats {
            Answer::PresenceStats(result)
        } else if let Some(result) = self.history {
            Answer::History(result)
        } else if let Some(result) = self.rpc {
            Answer::Rpc(result)
        } else if let Some(result) = self.refresh {
            Answer::Refresh(result)
        } else if let Some(result) = self.sub_refresh {
            Answer::SubRefresh(result)
        } else {
            return Err(Offence::NoResult(id));
        };
        Ok(Reply::Answer { id, answer })
    }
}

impl PushFields {
    fn into_reply(self) -> Result<Reply, Offence> {
        if self == Self::default() { Ok(Reply::Ping) } else { self.into_push().map(Reply::Push) }
    }

    fn into_push(self) -> Result<Push, Offence> {
        let event = if let Some(publication) = self.r#pub {
            Event::Publication(publication)
        } else if let Some(join) = self.join {
            Event::Join(join)
        } else if let Some(leave) = self.leave {
            Event::Leave(leave)
        } else if let Some(unsubscribe) = self.unsubscribe {
            Event::Unsubscribe(unsubscribe)
        } else if let Some(message) = self.message {
            Event::Message(message)
        } else if let Some(subscribe) = self.subscribe {
            Event::Subscribe(subscribe)
        } else if let Some(connect) = self.connect {
            Event::Connect(connect)
        } else if let Some(disconnect) = self.disconnect {
            Event::Disconnect(disconnect)
        } else if let Some(refresh) = self.refresh {
            Event::Refresh(refresh)
        } else {
            return Err(Offence::NoEvent(self.channel));
        };
        Ok(Push { id: self.id, channel: self.channel, event })
    }
}
