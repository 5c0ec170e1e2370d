//! Why a token is refused: one closed list, from which come the metric's label, the line for people, and what the
//! client protocol answers. A line quotes no more of the token than the value that is wrong.

use fanfare_protocol::centrifuge::{DisconnectCode, ErrorCode};

/// What was wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is not three parts of base64url with JSON in them, or a claim is not of its type.
    #[error("it is no token: {0}")]
    Malformed(String),
    /// Its header says that it is something else than a JWT.
    #[error("its `typ` is not \"JWT\"")]
    Type,
    /// Its header has something that must be understood (`crit`), and nothing such is.
    #[error("its header has `crit`, which nobody here understands")]
    Critical,
    /// It is not signed, or with an algorithm that no key here is for.
    #[error("no key here is for the algorithm {0:?}")]
    Algorithm(String),
    /// No keys are configured.
    #[error("no keys are configured to check it with")]
    NoKeys,
    /// Its key id is none of those that are known.
    #[error("no key has its key id")]
    UnknownKey,
    /// The keys could not be fetched, so nothing can be said about it. It may be good.
    #[error("the keys to check it with could not be fetched")]
    KeysUnavailable,
    /// It is signed with a key whose time is over.
    #[error("it is signed with a key that is no longer valid")]
    RetiredKey,
    /// No key made its signature.
    #[error("its signature is not that of any key here")]
    Signature,
    /// `exp` has passed.
    #[error("it has expired")]
    Expired,
    /// `expire_at` has passed: what it opens would be over.
    #[error("what it opens is over: its `expire_at` has passed")]
    Over,
    /// `nbf` is still to come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// `aud` is none of ours.
    #[error("it is for another audience")]
    Audience,
    /// `iss` is none of ours.
    #[error("it is from another issuer")]
    Issuer,
    /// It is a subscription token where a connection token belongs, or the other way round.
    #[error("{0}")]
    Kind(&'static str),
    /// It has no user, and tokens without one are not allowed.
    #[error("it names no user")]
    Anonymous,
    /// It is for another channel.
    #[error("it is for another channel")]
    Channel,
    /// It is for another user.
    #[error("it is for another user")]
    User,
    /// It is for another client.
    #[error("it is for another client")]
    Client,
}

/// What the Centrifuge client protocol does about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The command is answered with this error code.
    Error(ErrorCode),
    /// The connection is closed with this code.
    Close(DisconnectCode),
}

impl TokenFault {
    /// How many there are.
    pub const COUNT: usize = Self::LABELS.len();

    /// Their labels in metrics, in the order of [`TokenFault::index`].
    pub const LABELS: [&'static str; 19] = [
        "malformed",
        "type",
        "critical",
        "algorithm",
        "no_keys",
        "unknown_key",
        "keys_unavailable",
        "retired_key",
        "signature",
        "expired",
        "expire_at",
        "not_yet_valid",
        "audience",
        "issuer",
        "kind",
        "anonymous",
        "channel",
        "user",
        "client",
    ];

    /// Its place among the labels.
    pub fn index(&self) -> usize {
        match self {
            Self::Malformed(_) => 0,
            Self::Type => 1,
            Self::Critical => 2,
            Self::Algorithm(_) => 3,
            Self::NoKeys => 4,
            Self::UnknownKey => 5,
            Self::KeysUnavailable => 6,
            Self::RetiredKey => 7,
            Self::Signature => 8,
            Self::Expired => 9,
            Self::Over => 10,
            Self::NotYetValid => 11,
            Self::Audience => 12,
            Self::Issuer => 13,
            Self::Kind(_) => 14,
            Self::Anonymous => 15,
            Self::Channel => 16,
            Self::User => 17,
            Self::Client => 18,
        }
    }

    /// Its label in metrics.
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Whether the token's times are what is wrong, so that a new one would do.
    pub fn is_time(&self) -> bool {
        matches!(self, Self::Expired | Self::NotYetValid)
    }

    /// What a `connect` with such a token gets (section 3.2).
    pub fn on_connect(&self) -> Consequence {
        match self {
            Self::KeysUnavailable => Consequence::Error(ErrorCode::Internal),
            Self::Anonymous => Consequence::Close(DisconnectCode::PermissionDenied),
            Self::Over => Consequence::Error(ErrorCode::Expired),
            fault if fault.is_time() => Consequence::Error(ErrorCode::TokenExpired),
            _ => Consequence::Close(DisconnectCode::InvalidToken),
        }
    }

    /// What a `subscribe` with such a token gets (section 4.1).
    pub fn on_subscribe(&self) -> Consequence {
        match self {
            Self::KeysUnavailable => Consequence::Error(ErrorCode::Internal),
            Self::Channel | Self::User | Self::Client => Consequence::Close(DisconnectCode::InvalidToken),
            Self::Over => Consequence::Error(ErrorCode::Expired),
            fault if fault.is_time() => Consequence::Error(ErrorCode::TokenExpired),
            _ => Consequence::Error(ErrorCode::PermissionDenied),
        }
    }

    /// What a `refresh` with such a token gets (section 3.4).
    pub fn on_refresh(&self) -> Consequence {
        match self {
            Self::KeysUnavailable => Consequence::Error(ErrorCode::Internal),
            Self::Over => Consequence::Close(DisconnectCode::Expired),
            fault if fault.is_time() => Consequence::Close(DisconnectCode::Expired),
            _ => Consequence::Close(DisconnectCode::InvalidToken),
        }
    }

    /// What a `sub_refresh` with such a token gets (section 4.9).
    pub fn on_sub_refresh(&self) -> Consequence {
        match self {
            Self::KeysUnavailable => Consequence::Error(ErrorCode::Internal),
            Self::Over => Consequence::Close(DisconnectCode::SubscriptionExpired),
            fault if fault.is_time() => Consequence::Close(DisconnectCode::SubscriptionExpired),
            _ => Consequence::Close(DisconnectCode::InvalidToken),
        }
    }
}
