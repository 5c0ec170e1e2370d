//! Why a connection ended: one reason for each end, which knows what the client is told and under what
//! it is counted. It does not carry out the end; the registry does.

use fanfare_protocol::centrifuge::DisconnectCode;
use fanfare_websocket::CloseCode;

/// The one reason of a connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client sent a Close frame with this code, or none.
    ClosedByClient(Option<CloseCode>),
    /// The socket ended or broke without a Close frame.
    Vanished,
    /// No frame of any kind for `idle_timeout`.
    TimedOut,
    /// It did not say who it is for `stale_timeout`.
    Stale,
    /// More waited to be written than `outbox_limit`.
    SlowConsumer,
    /// The instance had no memory left, and this connection held more of it than others.
    MemoryPressure,
    /// A message larger than `message_limit`.
    TooBig,
    /// The peer broke RFC 6455; with the code that says how.
    ProtocolError(CloseCode),
    /// A text message that is not UTF-8.
    InvalidUtf8,
    /// More messages a second than `message_rate`.
    RateLimited,
    /// It published where it may not.
    NotPermitted,
    /// What it published is not in its channel's format.
    WrongFormat,
    /// Its token is over, and could not be refreshed.
    TokenExpired,
    /// An operator ended it.
    Kicked,
    /// The instance is drained.
    Drained,
    /// The instance ends without further delay.
    ShutDown,
    /// The handshake was answered, and the connection was gone before it began.
    UpgradeFailed,
    /// The client protocol wants it, with this code.
    Disconnected(DisconnectCode),
}

impl End {
    /// How many labels there are.
    pub const COUNT: usize = 26;

    /// Every label, in the order of `index`.
    pub const LABELS: [&str; Self::COUNT] = [
        "closed_by_client",
        "vanished",
        "timed_out",
        "slow_consumer",
        "too_big",
        "protocol_error",
        "invalid_utf8",
        "rate_limited",
        "kicked",
        "drained",
        "shut_down",
        "upgrade_failed",
        "stale",
        "memory_pressure",
        "not_permitted",
        "wrong_format",
        "token_expired",
        "bad_request",
        "invalid_token",
        "server_error",
        "subscription_expired",
        "insufficient_state",
        "connection_limit",
        "channel_limit",
        "inappropriate_protocol",
        "not_available",
    ];

    /// The place of this reason's label and count.
    pub fn index(self) -> usize {
        match self {
            Self::ClosedByClient(_) => 0,
            Self::Vanished => 1,
            Self::TimedOut => 2,
            Self::SlowConsumer => 3,
            Self::TooBig => 4,
            Self::ProtocolError(_) => 5,
            Self::InvalidUtf8 => 6,
            Self::RateLimited => 7,
            Self::Kicked => 8,
            Self::Drained => 9,
            Self::ShutDown => 10,
            Self::UpgradeFailed => 11,
            Self::Stale => 12,
            Self::MemoryPressure => 13,
            Self::NotPermitted => 14,
            Self::WrongFormat => 15,
            Self::TokenExpired => 16,
            Self::Disconnected(code) => match code {
                DisconnectCode::BadRequest => 17,
                DisconnectCode::InvalidToken => 18,
                DisconnectCode::ServerError => 19,
                DisconnectCode::SubscriptionExpired => 20,
                DisconnectCode::InsufficientState => 21,
                DisconnectCode::ConnectionLimit => 22,
                DisconnectCode::ChannelLimit => 23,
                DisconnectCode::InappropriateProtocol => 24,
                DisconnectCode::NotAvailable => 25,
                // For the rest there are reasons that all protocols have.
                DisconnectCode::ConnectionClosed | DisconnectCode::WriteError => Self::Vanished.index(),
                DisconnectCode::Shutdown => Self::ShutDown.index(),
                DisconnectCode::Expired => Self::TokenExpired.index(),
                DisconnectCode::Slow => Self::SlowConsumer.index(),
                DisconnectCode::NoPong => Self::TimedOut.index(),
                DisconnectCode::Stale => Self::Stale.index(),
                DisconnectCode::TooManyRequests | DisconnectCode::TooManyErrors => Self::RateLimited.index(),
                DisconnectCode::PermissionDenied => Self::NotPermitted.index(),
                DisconnectCode::ForceReconnect
                | DisconnectCode::ForceDisconnect
                | DisconnectCode::StateInvalidated => Self::Kicked.index(),
            },
        }
    }

    /// The value of the metric label and log field `reason`.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// What the Close frame says; nothing where there is nobody to tell.
    pub fn close(self) -> Option<(CloseCode, &'static str)> {
        match self {
            // A Close frame without a code is answered in kind, but our frames always carry one (RFC 6455
            // section 5.5.1 asks for an echo only of the code that came).
            Self::ClosedByClient(code) => Some((code.unwrap_or(CloseCode::NORMAL), "")),
            Self::Vanished | Self::UpgradeFailed => None,
            Self::TimedOut => Some((CloseCode::GOING_AWAY, "idle timeout")),
            Self::Stale => Some((CloseCode::POLICY, "stale")),
            Self::SlowConsumer => Some((CloseCode::POLICY, "slow consumer")),
            // Not a rule that the client broke: the same client on an instance with room would have been kept.
            Self::MemoryPressure => Some((CloseCode::TRY_AGAIN_LATER, "memory pressure")),
            Self::TooBig => Some((CloseCode::TOO_BIG, "message too big")),
            Self::ProtocolError(code) => Some((code, "protocol error")),
            Self::InvalidUtf8 => Some((CloseCode::INVALID_PAYLOAD, "invalid UTF-8")),
            Self::RateLimited => Some((CloseCode::POLICY, "rate limited")),
            Self::NotPermitted => Some((CloseCode::POLICY, "not permitted")),
            Self::WrongFormat => Some((CloseCode::POLICY, "wrong data format")),
            Self::TokenExpired => Some((CloseCode::POLICY, "token expired")),
            Self::Kicked => Some((CloseCode::POLICY, "kicked")),
            Self::Drained | Self::ShutDown => Some((CloseCode::SERVICE_RESTART, "service restart")),
            Self::Disconnected(why) => {
                u16::try_from(why.code()).ok().and_then(CloseCode::from_wire).map(|code| (code, why.text()))
            }
        }
    }

    /// What a client of the client protocol is told instead; nothing where WebSocket's own
    /// code says it, or nobody is there to be told.
    pub fn disconnect(self) -> Option<DisconnectCode> {
        Some(match self {
            Self::Disconnected(code) => code,
            Self::TimedOut => DisconnectCode::NoPong,
            Self::Stale => DisconnectCode::Stale,
            Self::SlowConsumer => DisconnectCode::Slow,
            Self::RateLimited => DisconnectCode::TooManyRequests,
            Self::NotPermitted => DisconnectCode::PermissionDenied,
            Self::WrongFormat => DisconnectCode::BadRequest,
            Self::TokenExpired => DisconnectCode::Expired,
            Self::Kicked => DisconnectCode::ForceDisconnect,
            Self::Drained | Self::ShutDown => DisconnectCode::Shutdown,
            Self::ClosedByClient(_)
            | Self::Vanished
            | Self::UpgradeFailed
            | Self::MemoryPressure
            | Self::TooBig
            | Self::ProtocolError(_)
            | Self::InvalidUtf8 => return None,
        })
    }

    /// Whether an operator would want to see it at the usual log level: the instance's own decisions
    /// about one client, not the coming and going of clients. Connections that end for want of memory are
    /// many at a time; whoever ends them says so once.
    pub fn is_notable(self) -> bool {
        matches!(self, Self::SlowConsumer | Self::RateLimited | Self::Kicked)
    }
}
