//! What can be wrong with a call: the codes of Centrifugo's server API, each with its text, its status in
//! transport mode, and its label. Where an error stands in the answer is not decided here.

use axum::http::StatusCode;
use fanfare_broker::{Away, BrokerError, Unsent};
use fanfare_protocol::ChannelError;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::shape::{Field, Shape, object, whole};
use crate::listing::Unlisted;
use crate::namespace::UnknownNamespace;
use crate::publish::Unpublished;

/// A code of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A fault of ours, or of the broker.
    Internal,
    /// The channel's namespace is not configured.
    UnknownChannel,
    /// There is no such method.
    NotFound,
    /// The request is wrong in itself.
    BadRequest,
    /// The channel's namespace does not have what is asked for.
    NotAvailable,
    /// The history has begun anew since that position.
    UnrecoverablePosition,
}

impl Code {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Internal,
        Self::UnknownChannel,
        Self::NotFound,
        Self::BadRequest,
        Self::NotAvailable,
        Self::UnrecoverablePosition,
    ];

    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::Internal => 100,
            Self::UnknownChannel => 102,
            Self::NotFound => 104,
            Self::BadRequest => 107,
            Self::NotAvailable => 108,
            Self::UnrecoverablePosition => 112,
        }
    }

    /// How a message begins.
    pub fn text(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::UnknownChannel => "unknown channel",
            Self::NotFound => "not found",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// The status in transport mode.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UnknownChannel | Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadRequest | Self::NotAvailable => StatusCode::BAD_REQUEST,
            Self::UnrecoverablePosition => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// The value of the metric label `result`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::UnknownChannel => "unknown_channel",
            Self::NotFound => "not_found",
            Self::BadRequest => "bad_request",
            Self::NotAvailable => "not_available",
            Self::UnrecoverablePosition => "unrecoverable_position",
        }
    }
}

/// An error as it is answered: the code's text, and behind a colon what was wrong in this case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What it is counted and told apart by.
    pub code: Code,
    why: String,
}

impl ApiError {
    /// An error with its reason, for a person.
    pub fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    /// The request is wrong in itself.
    pub fn bad(why: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, why)
    }

    /// So many bytes more cannot be read now.
    pub fn no_room(bytes: usize) -> Self {
        let why = format!(
            "there is no memory left for {bytes} bytes; expected a smaller `limit`, or less in one request"
        );
        Self::new(Code::Internal, why)
    }
}

impl Serialize for ApiError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut error = serializer.serialize_struct("Error", 2)?;
        error.serialize_field("code", &self.code.number())?;
        error.serialize_field("message", &format_args!("{}: {}", self.code.text(), self.why))?;
        error.end()
    }
}

impl Shape for ApiError {
    fn shape() -> serde_json::Value {
        let codes: Vec<String> =
            Code::ALL.iter().map(|code| format!("{} {}", code.number(), code.text())).collect();
        let code = Field { name: "code", says: &codes.join(", "), is_needed: true, shape: whole(0, 1999) };
        let says = "What was wrong, and what would have been right";
        let message = Field { name: "message", says, is_needed: true, shape: String::shape() };
        object([code, message])
    }
}

impl From<ChannelError> for ApiError {
    fn from(error: ChannelError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<UnknownNamespace> for ApiError {
    fn from(error: UnknownNamespace) -> Self {
        Self::new(Code::UnknownChannel, error.to_string())
    }
}

impl From<Unpublished> for ApiError {
    fn from(error: Unpublished) -> Self {
        match error {
            Unpublished::Broker(error) => error.into(),
            error => Self::bad(error.to_string()),
        }
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        let code = match error {
            BrokerError::NoHistory => Code::NotAvailable,
            BrokerError::Away(_) | BrokerError::Unknown(_) | BrokerError::Refused(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Unlisted> for ApiError {
    fn from(error: Unlisted) -> Self {
        match error {
            Unlisted::NoRoom(bytes) => Self::no_room(bytes),
            Unlisted::Away(error) => error.into(),
        }
    }
}

impl From<Away> for ApiError {
    fn from(error: Away) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

impl From<Unsent> for ApiError {
    fn from(error: Unsent) -> Self {
        Self::new(Code::Internal, format!("not every instance has got it: {error}"))
    }
}
