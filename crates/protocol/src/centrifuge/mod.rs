//! The Centrifuge client protocol, version 2, in JSON and in Protobuf: one set of messages, two encodings.
//!
//! Its messages and their numbers are those of `client.proto` in <https://github.com/centrifugal/protocol>; what they
//! mean is told at <https://centrifugal.dev/docs/transports/client_protocol>.
//!
//! Bytes in, bytes out, no state. It does not decide what a command may do; sessions do that.
//!
//! One walk: a client's frame becomes commands, each is answered into one frame, and a publication is encoded once
//! for each format, whose bytes are then shared by all receivers.
//!
//! ```
//! use fanfare_protocol::centrifuge::{
//!     Answer, ConnectResult, Encoding, ErrorCode, Format, Publication, Request,
//! };
//!
//! let encoding = Encoding::Json;
//! let frame = b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"rpc\":{\"method\":\"x\"}}\n{}";
//! let mut out = Vec::new();
//! for command in encoding.commands(frame) {
//!     let command = command.expect("otherwise the connection is closed with offence.disconnect()");
//!     let answer = match command.request {
//!         Request::Connect(_) => Answer::Connect(ConnectResult { client: "c".into(), ..Default::default() }),
//!         Request::Pong => continue,
//!         _ => ErrorCode::NotAvailable.into(),
//!     };
//!     encoding.put_answer(&mut out, command.id, &answer).expect("otherwise it is closed with 3506");
//! }
//!
//! let publication = Publication { data: "{\"n\": 2}".into(), offset: 43, ..Default::default() };
//! let mut unit = Vec::new(); // made once for a format, kept for all receivers
//! Format::Json.put_publication(&mut unit, "news", &publication).expect("otherwise they are closed with 3506");
//! encoding.put_unit(&mut out, &unit);
//!
//! let lines = String::from_utf8(out).expect("JSON");
//! assert!(lines.lines().eq([
//!     r#"{"id":1,"connect":{"client":"c"}}"#,
//!     r#"{"id":2,"error":{"code":108,"message":"not available"}}"#,
//!     r#"{"push":{"channel":"news","pub":{"data":{"n": 2},"offset":43}}}"#,
//! ]));
//! ```

#[macro_use]
mod fields;

mod codes;
mod command;
mod delta;
mod framing;
mod messages;
mod offence;
mod refusal;
mod reply;

pub mod client;

pub use codes::{DisconnectCode, ErrorCode, UnsubscribeCode, reconnects};
pub use command::{Command, Commands, EmulationRequest, Request};
pub use delta::Delta;
pub use fields::Named;
pub use framing::{Encoding, Format};
pub use messages::{
    ClientInfo, Connect, ConnectRequest, ConnectResult, Disconnect, Error, FilterNode, HistoryRequest,
    HistoryResult, Join, KeyedItem, Message, PresenceRequest, PresenceResult, PresenceStatsRequest,
    PresenceStatsResult, Publication, PublishRequest, Refresh, RefreshRequest, RefreshResult, RpcRequest,
    RpcResult, SendRequest, StreamPosition, SubRefreshRequest, SubRefreshResult, Subscribe, SubscribeRequest,
    SubscribeResult, TrackBatch, Unsubscribe, UnsubscribeRequest,
};
pub use offence::Offence;
pub use refusal::{FOSSIL, Refusal};
pub use reply::{Answer, Event, NotJson, Push};
