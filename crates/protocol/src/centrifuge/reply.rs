//! What the server says: answers and pushes, into frames.
//!
//! Everything here adds one unit to a frame that may hold others already; from an empty one comes a unit that can be
//! kept and added to many frames ([`Encoding::put_unit`]). It does not know who receives it.

use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use serde::Serialize;

use super::codes::{DisconnectCode, ErrorCode};
use super::fields::Empty;
use super::framing::{Encoding, Format, put_length};
use super::messages::{
    Connect, ConnectResult, Disconnect, Error, HistoryResult, Join, Message, PresenceResult,
    PresenceStatsResult, Publication, Refresh, RefreshResult, RpcResult, SubRefreshResult, Subscribe,
    SubscribeResult, Unsubscribe,
};

/// What a command is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It failed.
    Error(Error),
    /// The session is open.
    Connect(ConnectResult),
    /// The subscription stands.
    Subscribe(SubscribeResult),
    /// The subscription is gone.
    Unsubscribe,
    /// It is published.
    Publish,
    /// Who is there.
    Presence(PresenceResult),
    /// How many are there.
    PresenceStats(PresenceStatsResult),
    /// What was said.
    History(HistoryResult),
    /// What the application returned.
    Rpc(RpcResult),
    /// The connection is renewed.
    Refresh(RefreshResult),
    /// The subscription is renewed.
    SubRefresh(SubRefreshResult),
}

/// What the server says unasked, about a channel or, with an empty name, the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// Stands for the channel's name where that was agreed on; 0 otherwise.
    pub id: i64,
    /// The channel.
    pub channel: String,
    /// What has happened.
    pub event: Event,
}

/// What a push tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something was published.
    Publication(Publication),
    /// Somebody came.
    Join(Join),
    /// Somebody went.
    Leave(Join),
    /// The server ended the subscription.
    Unsubscribe(Unsubscribe),
    /// The application has a word for this connection.
    Message(Message),
    /// The server subscribed the connection.
    Subscribe(Subscribe),
    /// The unidirectional session is open.
    Connect(Connect),
    /// The connection ends.
    Disconnect(Disconnect),
    /// The connection's expiry changed.
    Refresh(Refresh),
}

/// A payload is not JSON, and was to go into a JSON message. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload is not JSON, and its receiver takes nothing else")]
pub struct NotJson;

impl NotJson {
    /// The code with which the receiver is to be closed.
    pub const fn disconnect(self) -> DisconnectCode {
        DisconnectCode::InappropriateProtocol
    }
}

impl From<ErrorCode> for Answer {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error.into())
    }
}

impl Encoding {
    /// Adds the answer to command `id` to a frame.
    ///
    /// # Errors
    ///
    /// When a payload in it is not JSON, to a JSON client.
    pub fn put_answer(self, frame: &mut Vec<u8>, id: u32, answer: &Answer) -> Result<(), NotJson> {
        let to = Reply { encoding: self, frame, id };
        match answer {
            Answer::Error(error) => to.put("error", 2, error),
            Answer::Connect(result) => to.put("connect", 5, result),
            Answer::Subscribe(result) => to.put("subscribe", 6, result),
            Answer::Unsubscribe => to.put("unsubscribe", 7, &Empty {}),
            Answer::Publish => to.put("publish", 8, &Empty {}),
            Answer::Presence(result) => to.put("presence", 9, result),
            Answer::PresenceStats(result) => to.put("presence_stats", 10, result),
            Answer::History(result) => to.put("history", 11, result),
            Answer::Rpc(result) => to.put("rpc", 13, result),
            Answer::Refresh(result) => to.put("refresh", 14, result),
            Answer::SubRefresh(result) => to.put("sub_refresh", 15, result),
        }
    }
}

impl Format {
    /// Adds a push to a frame.
    ///
    /// # Errors
    ///
    /// When a payload in it is not JSON, to a JSON client.
    pub fn put_push(self, frame: &mut Vec<u8>, push: &Push) -> Result<(), NotJson> {
        let to = Pushed { format: self, frame, id: push.id, channel: &push.channel };
        match &push.event {
            Event::Publication(publication) => to.put("pub", 4, publication),
            Event::Join(join) => to.put("join", 5, join),
            Event::Leave(leave) => to.put("leave", 6, leave),
            Event::Unsubscribe(unsubscribe) => to.put("unsubscribe", 7, unsubscribe),
            Event::Message(message) => to.put("message", 8, message),
            Event::Subscribe(subscribe) => to.put("subscribe", 9, subscribe),
            Event::Connect(connect) => to.put("connect", 10, connect),
            Event::Disconnect(disconnect) => to.put("disconnect", 11, disconnect),
            Event::Refresh(refresh) => to.put("refresh", 12, refresh),
        }
    }

    /// Adds a publication's push to a frame: the one thing that is written for thousands at a time.
    ///
    /// # Errors
    ///
    /// When the payload, or what the publisher's tokens said of it, is not JSON, to JSON clients.
    pub fn put_publication(
        self,
        frame: &mut Vec<u8>,
        channel: &str,
        publication: &Publication,
    ) -> Result<(), NotJson> {
        Pushed { format: self, frame, id: 0, channel }.put("pub", 4, publication)
    }
}

/// The envelope of an answer or, on the client's side, of a request: both have their id at 1.
pub(super) struct Reply<'a> {
    pub(super) encoding: Encoding,
    pub(super) frame: &'a mut Vec<u8>,
    /// The command's, which the answer names.
    pub(super) id: u32,
}

impl Reply<'_> {
    pub(super) fn put<M: prost::Message + Serialize>(
        self,
        name: &str,
        tag: u32,
        body: &M,
    ) -> Result<(), NotJson> {
        let Self { encoding, frame, id } = self;
        match encoding {
            Encoding::Json => whole(frame, |frame| {
                // About, so that what is large is not moved again and again, into twice of what it takes.
                let length = body.encoded_len();
                frame.reserve(length + length / 16);
                Encoding::Json.separate(frame);
                frame.push(b'{');
                if id != 0 {
                    put_json(frame, "id", &id)?;
                    frame.push(b',');
                }
                put_json(frame, name, body)?;
                frame.push(b'}');
                Ok(())
            }),
            Encoding::Protobuf => {
                let id_length = if id == 0 { 0 } else { encoding::uint32::encoded_len(1, &id) };
                let length = id_length + encoding::message::encoded_len(tag, body);
                frame.reserve(length + encoded_len_varint(length as u64));
                put_length(frame, length);
                if id != 0 {
                    encoding::uint32::encode(1, &id, frame);
                }
                encoding::message::encode(tag, body, frame);
                Ok(())
            }
        }
    }
}

/// The envelopes of a push.
struct Pushed<'a> {
    format: Format,
    frame: &'a mut Vec<u8>,
    id: i64,
    channel: &'a str,
}

impl Pushed<'_> {
    fn put<M: prost::Message + Serialize>(self, name: &str, tag: u32, body: &M) -> Result<(), NotJson> {
        let Self { format, frame, id, channel } = self;
        match format {
            Format::Protobuf => {
                let length = push_length(id, channel) + encoding::message::encoded_len(tag, body);
                put_length(frame, key_len(IN_REPLY) + encoded_len_varint(length as u64) + length);
                encode_key(IN_REPLY, WireType::LengthDelimited, frame);
                encode_varint(length as u64, frame);
                put_push_fields(frame, id, channel);
                encoding::message::encode(tag, body, frame);
                Ok(())
            }
            Format::Json | Format::UniJson => whole(frame, |frame| {
                let in_reply = format == Format::Json;
                Encoding::Json.separate(frame);
                frame.extend_from_slice(if in_reply { b"{\"push\":{" } else { b"{" });
                if id != 0 {
                    put_json(frame, "id", &id)?;
                    frame.push(b',');
                }
                if !channel.is_empty() {
                    put_json(frame, "channel", channel)?;
                    frame.push(b',');
                }
                put_json(frame, name, body)?;
                frame.extend_from_slice(if in_reply { b"}}" } else { b"}" });
                Ok(())
            }),
        }
    }
}

/// The number of the push in a reply.
const IN_REPLY: u32 = 4;

/// The bytes of a push's id and channel, at 1 and 2.
fn push_length(id: i64, channel: &str) -> usize {
    let id = if id == 0 { 0 } else { encoding::int64::encoded_len(1, &id) };
    let name = channel.len();
    id + if name == 0 { 0 } else { key_len(2) + encoded_len_varint(name as u64) + name }
}

fn put_push_fields(frame: &mut Vec<u8>, id: i64, channel: &str) {
    if id != 0 {
        encoding::int64::encode(1, &id, frame);
    }
    if !channel.is_empty() {
        encode_key(2, WireType::LengthDelimited, frame);
        encode_varint(channel.len() as u64, frame);
        frame.extend_from_slice(channel.as_bytes());
    }
}

/// A name, which needs no escaping, and its value.
fn put_json<T: Serialize + ?Sized>(frame: &mut Vec<u8>, name: &str, value: &T) -> Result<(), NotJson> {
    frame.push(b'"');
    frame.extend_from_slice(name.as_bytes());
    frame.extend_from_slice(b"\":");
    serde_json::to_writer(frame, value).map_err(|_| NotJson)
}

/// Adds all that `write` writes, or nothing.
fn whole(
    frame: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), NotJson>,
) -> Result<(), NotJson> {
    let before = frame.len();
    write(frame).inspect_err(|_| frame.truncate(before))
}
