//! Why a connection ended: one reason for each end, which knows what the client is told and under what
//! it is counted. It does not carry out the end; the registry does.

use fanfare_protocol::centrifuge::DisconnectCode;
use fanfare_websocket::CloseCode;

use crate::labelled;

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

labelled! {
    /// Under what an end is counted.
    pub enum Reason {
        ClosedByClient = "closed_by_client",
        Vanished = "vanished",
        TimedOut = "timed_out",
        SlowConsumer = "slow_consumer",
        TooBig = "too_big",
        ProtocolError = "protocol_error",
        InvalidUtf8 = "invalid_utf8",
        RateLimited = "rate_limited",
        Kicked = "kicked",
        Drained = "drained",
        ShutDown = "shut_down",
        UpgradeFailed = "upgrade_failed",
        Stale = "stale",
        MemoryPressure = "memory_pressure",
        NotPermitted = "not_permitted",
        WrongFormat = "wrong_format",
        TokenExpired = "token_expired",
        BadRequest = "bad_request",
        InvalidToken = "invalid_token",
        ServerError = "server_error",
        SubscriptionExpired = "subscription_expired",
        InsufficientState = "insufficient_state",
        ConnectionLimit = "connection_limit",
        ChannelLimit = "channel_limit",
        InappropriateProtocol = "inappropriate_protocol",
        NotAvailable = "not_available",
    }
}

impl End {
    /// Under what it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Self::ClosedByClient(_) => Reason::ClosedByClient,
            Self::Vanished => Reason::Vanished,
            Self::TimedOut => Reason::TimedOut,
            Self::SlowConsumer => Reason::SlowConsumer,
            Self::TooBig => Reason::TooBig,
            Self::ProtocolError(_) => Reason::ProtocolError,
            Self::InvalidUtf8 => Reason::InvalidUtf8,
            Self::RateLimited => Reason::RateLimited,
            Self::Kicked => Reason::Kicked,
            Self::Drained => Reason::Drained,
            Self::ShutDown => Reason::ShutDown,
            Self::UpgradeFailed => Reason::UpgradeFailed,
            Self::Stale => Reason::Stale,
            Self::MemoryPressure => Reason::MemoryPressure,
            Self::NotPermitted => Reason::NotPermitted,
            Self::WrongFormat => Reason::WrongFormat,
            Self::TokenExpired => Reason::TokenExpired,
            Self::Disconnected(code) => match code {
                DisconnectCode::BadRequest => Reason::BadRequest,
                DisconnectCode::InvalidToken => Reason::InvalidToken,
                DisconnectCode::ServerError => Reason::ServerError,
                DisconnectCode::SubscriptionExpired => Reason::SubscriptionExpired,
                DisconnectCode::InsufficientState => Reason::InsufficientState,
                DisconnectCode::ConnectionLimit => Reason::ConnectionLimit,
                DisconnectCode::ChannelLimit => Reason::ChannelLimit,
                DisconnectCode::InappropriateProtocol => Reason::InappropriateProtocol,
                DisconnectCode::NotAvailable => Reason::NotAvailable,
                // For the rest there are reasons that all protocols have.
                DisconnectCode::ConnectionClosed | DisconnectCode::WriteError => Reason::Vanished,
                DisconnectCode::Shutdown => Reason::ShutDown,
                DisconnectCode::Expired => Reason::TokenExpired,
                DisconnectCode::Slow => Reason::SlowConsumer,
                DisconnectCode::NoPong => Reason::TimedOut,
                DisconnectCode::Stale => Reason::Stale,
                DisconnectCode::TooManyRequests | DisconnectCode::TooManyErrors => Reason::RateLimited,
                DisconnectCode::PermissionDenied => Reason::NotPermitted,
                DisconnectCode::ForceReconnect
                | DisconnectCode::ForceDisconnect
                | DisconnectCode::StateInvalidated => Reason::Kicked,
            },
        }
    }

    /// Its place among the counts.
    pub fn index(self) -> usize {
        self.reason() as usize
    }

    /// The value of the metric label and log field `reason`.
    pub fn label(self) -> &'static str {
        self.reason().label()
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
