//! What a command gets that asks for something wrong, and the wrongs that show in the command alone.
//!
//! What needs state, as whether a namespace exists or a token is right, is judged by the session.

use super::codes::{DisconnectCode, ErrorCode};
use super::command::Request;
use super::messages::SubscribeRequest;
use super::offence::Offence;
use super::reply::NotJson;
use crate::channel::{Channel, ChannelError};
use crate::filter::FilterError;

/// How a command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is answered with an error, and the session goes on.
    Error(ErrorCode),
    /// The connection is closed.
    Disconnect(DisconnectCode),
}

impl Request {
    /// Judges what shows in the request alone. A filter is not looked at: [`Filter::parse`](crate::Filter::parse)
    /// does that. A payload is not either: its channel has a format.
    ///
    /// # Errors
    ///
    /// How the protocol wants the command to fail.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Pong | Self::Connect(_) | Self::Send(_) | Self::Rpc(_) => Ok(()),
            Self::Subscribe(request) => check_subscribe(request),
            Self::Unsubscribe(request) => check_channel(&request.channel),
            Self::Publish(request) => {
                check_channel(&request.channel)?;
                // Maps are not kept here.
                let is_map = request.r#type != STREAM || request.removed || !request.key.is_empty();
                if is_map { Err(ErrorCode::NotAvailable.into()) } else { Ok(()) }
            }
            Self::Presence(request) => check_channel(&request.channel),
            Self::PresenceStats(request) => check_channel(&request.channel),
            Self::History(request) => {
                check_channel(&request.channel)?;
                let from_nothing =
                    request.reverse && request.since.as_ref().is_some_and(|since| since.offset == 0);
                if from_nothing { Err(ErrorCode::BadRequest.into()) } else { Ok(()) }
            }
            Self::Refresh(request) if request.token.is_empty() => Err(DisconnectCode::BadRequest.into()),
            Self::Refresh(_) => Ok(()),
            Self::SubRefresh(request) => {
                check_channel(&request.channel)?;
                match request.r#type {
                    REFRESH if request.token.is_empty() => Err(ErrorCode::BadRequest.into()),
                    REFRESH => Ok(()),
                    _ => Err(ErrorCode::NotAvailable.into()),
                }
            }
        }
    }
}

fn check_subscribe(request: &SubscribeRequest) -> Result<(), Refusal> {
    check_channel(&request.channel)?;
    match request.r#type {
        STREAM => {}
        SHARED_POLL => return Err(ErrorCode::NotAvailable.into()),
        _ => return Err(ErrorCode::PermissionDenied.into()),
    }
    if matches!(&request.delta[..], "" | FOSSIL) { Ok(()) } else { Err(DisconnectCode::BadRequest.into()) }
}

/// No name is a breach of the protocol; a long one is only too long.
fn check_channel(name: &str) -> Result<(), Refusal> {
    Channel::new(name).map(|_| ()).map_err(Refusal::from)
}

/// The one algorithm for deltas.
pub const FOSSIL: &str = "fossil";

const STREAM: i32 = 0;
const SHARED_POLL: i32 = 4;
const REFRESH: i32 = 0;

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error)
    }
}

impl From<DisconnectCode> for Refusal {
    fn from(why: DisconnectCode) -> Self {
        Self::Disconnect(why)
    }
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Empty => DisconnectCode::BadRequest.into(),
            ChannelError::TooLong(_) | ChannelError::NotUtf8 => ErrorCode::BadRequest.into(),
        }
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        error.error().into()
    }
}

impl From<Offence> for Refusal {
    fn from(offence: Offence) -> Self {
        offence.disconnect().into()
    }
}

impl From<NotJson> for Refusal {
    fn from(not_json: NotJson) -> Self {
        not_json.disconnect().into()
    }
}
