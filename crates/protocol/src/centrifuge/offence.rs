//! What a peer can send that is not the protocol.
//!
//! What a well-formed command asks in vain is not here: that is an [`ErrorCode`](super::ErrorCode), decided by
//! whoever has the state.

use super::codes::DisconnectCode;

/// Bytes that are not what they should be. It ends the connection, with [`Offence::disconnect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// A frame without a message.
    #[error("a frame is empty; expected at least one message")]
    EmptyFrame,
    /// Two line breaks in a row, or one at the beginning.
    #[error("a line is empty; expected a JSON object")]
    EmptyLine,
    /// JSON that is not text.
    #[error("a line is not UTF-8; expected a JSON object")]
    NotUtf8,
    /// Another kind of JSON, or none.
    #[error("a line does not begin with a brace; expected a JSON object")]
    NotObject,
    /// Not JSON, or a field of the wrong kind.
    #[error("a JSON message cannot be read: {0}")]
    Json(String),
    /// A length that never ends, or ends beyond 64 bits.
    #[error("a length prefix is broken; expected a varint of at most 64 bits")]
    Varint,
    /// A length that the frame does not have.
    #[error("a length prefix claims {claimed} bytes, and {remaining} follow")]
    Claimed {
        /// What the prefix says.
        claimed: u64,
        /// What is there.
        remaining: usize,
    },
    /// Not Protobuf, or a field of the wrong kind.
    #[error("a Protobuf message cannot be read: {0}")]
    Protobuf(String),
    /// A command with an id and nothing to do, or nothing that is known.
    #[error(
        "command {0} holds no request; expected one of connect, subscribe, unsubscribe, publish, presence, presence_stats, history, rpc, send, refresh, sub_refresh"
    )]
    NoRequest(u32),
    /// A command to ping, which is the server's to say.
    #[error("command {0} is a ping; expected none, as pings are the server's")]
    Ping(u32),
    /// A reply with an id and no result, or none that is known.
    #[error("reply {0} holds no result; expected an error or a result")]
    NoResult(u32),
    /// A push of nothing, or nothing that is known.
    #[error("a push for channel {0:?} holds no event")]
    NoEvent(String),
}

impl Offence {
    /// The code with which the connection is to be closed. What is too big is not here: a transport notices that
    /// before it has the frame, and says 1009, or 413 over HTTP.
    pub const fn disconnect(&self) -> DisconnectCode {
        DisconnectCode::BadRequest
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        Self::Json(brief(error.to_string()))
    }

    pub(super) fn protobuf(error: &prost::DecodeError) -> Self {
        Self::Protobuf(brief(error.to_string()))
    }
}

/// An error may quote what the peer sent, which may be as long as a frame: the beginning and the end say enough.
fn brief(text: String) -> String {
    if text.len() <= 2 * QUOTED {
        return text;
    }
    let head = &text[..text.floor_char_boundary(QUOTED)];
    let tail = &text[text.ceil_char_boundary(text.len() - QUOTED)..];
    format!("{head} … {tail}")
}

const QUOTED: usize = 100;
