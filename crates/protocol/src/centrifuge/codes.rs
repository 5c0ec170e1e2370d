//! Codes with their texts, those of [Centrifugo](https://centrifugal.dev/docs/server/codes). It does not decide when
//! one is used.

use super::messages::{Disconnect, Error, Unsubscribe};

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The text on the wire.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// Why a command fails. Applications have 400 to 1999 for their own.
    ErrorCode {
        /// A fault of ours.
        Internal = 100 "internal server error",
        /// No credentials that count.
        Unauthorized = 101 "unauthorized",
        /// The channel's namespace is not configured.
        UnknownChannel = 102 "unknown channel",
        /// Not allowed.
        PermissionDenied = 103 "permission denied",
        /// No such method.
        MethodNotFound = 104 "method not found",
        /// There is a subscription already, or one is under way.
        AlreadySubscribed = 105 "already subscribed",
        /// More than a connection may have.
        LimitExceeded = 106 "limit exceeded",
        /// The command is wrong in itself.
        BadRequest = 107 "bad request",
        /// The channel or the server does not offer that.
        NotAvailable = 108 "not available",
        /// A new token is needed.
        TokenExpired = 109 "token expired",
        /// The connection or the subscription is over.
        Expired = 110 "expired",
        /// Slow down.
        TooManyRequests = 111 "too many requests",
        /// History does not reach back to the position.
        UnrecoverablePosition = 112 "unrecoverable position",
        /// A page was asked for while another is read.
        ConcurrentPagination = 113 "concurrent pagination",
    }
}

codes! {
    /// Why a connection is closed.
    DisconnectCode {
        /// The transport is gone; never on the wire.
        ConnectionClosed = 3000 "connection closed",
        /// The instance stops.
        Shutdown = 3001 "shutdown",
        /// A fault of ours during a command.
        ServerError = 3004 "internal server error",
        /// The connection's token was not refreshed.
        Expired = 3005 "connection expired",
        /// A subscription's token was not refreshed.
        SubscriptionExpired = 3006 "subscription expired",
        /// The client does not read.
        Slow = 3008 "slow",
        /// The socket does not take what is written.
        WriteError = 3009 "write error",
        /// A server-side subscription has lost its place.
        InsufficientState = 3010 "insufficient state",
        /// An operator wants it.
        ForceReconnect = 3011 "force reconnect",
        /// A ping was not answered.
        NoPong = 3012 "no pong",
        /// Too fast.
        TooManyRequests = 3013 "too many requests",
        /// Tokens and positions are void.
        StateInvalidated = 3014 "state invalidated",
        /// The token is not valid.
        InvalidToken = 3500 "invalid token",
        /// The client breaks the protocol.
        BadRequest = 3501 "bad request",
        /// No connect came in time.
        Stale = 3502 "stale",
        /// An operator wants it, for good.
        ForceDisconnect = 3503 "force disconnect",
        /// One connection too many.
        ConnectionLimit = 3504 "connection limit",
        /// One channel too many.
        ChannelLimit = 3505 "channel limit",
        /// Data that is not JSON, and a client that only takes JSON.
        InappropriateProtocol = 3506 "inappropriate protocol",
        /// Not allowed.
        PermissionDenied = 3507 "permission denied",
        /// Nobody is there to take what it sends.
        NotAvailable = 3508 "not available",
        /// One error too many.
        TooManyErrors = 3509 "too many errors",
    }
}

codes! {
    /// Why a subscription ends.
    UnsubscribeCode {
        /// The client unsubscribed; never on the wire.
        Client = 0 "client unsubscribed",
        /// The client is gone; never on the wire.
        Disconnected = 1 "client disconnected",
        /// The server wants it.
        Server = 2000 "server unsubscribe",
        /// The subscription has lost its place.
        InsufficientState = 2500 "insufficient state",
        /// Its token was not refreshed.
        Expired = 2501 "subscription expired",
        /// Its token and position are void.
        StateInvalidated = 2502 "state invalidated",
    }
}

impl ErrorCode {
    /// Whether the same command may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination)
    }

    /// What a connect that fails so becomes for a unidirectional client, which gets no replies.
    pub const fn disconnect(self) -> DisconnectCode {
        match self {
            Self::TokenExpired | Self::Expired => DisconnectCode::Expired,
            Self::TooManyRequests => DisconnectCode::TooManyRequests,
            Self::PermissionDenied => DisconnectCode::PermissionDenied,
            _ => DisconnectCode::ServerError,
        }
    }
}

impl DisconnectCode {
    /// Whether the client comes back by itself.
    pub const fn reconnects(self) -> bool {
        reconnects(self.code())
    }
}

/// Whether a client that is closed with this code, known or an application's own, comes back by itself.
/// 1009 aside, which is WebSocket's and final.
pub const fn reconnects(code: u32) -> bool {
    !matches!(code, 1009 | 3500..=3999 | 4500..=4999)
}

impl From<ErrorCode> for Error {
    fn from(error: ErrorCode) -> Self {
        Self { code: error.code(), message: error.text().to_owned(), temporary: error.is_temporary() }
    }
}

impl From<DisconnectCode> for Disconnect {
    fn from(why: DisconnectCode) -> Self {
        Self { code: why.code(), reason: why.text().to_owned(), reconnect: why.reconnects() }
    }
}

impl From<UnsubscribeCode> for Unsubscribe {
    fn from(why: UnsubscribeCode) -> Self {
        Self { code: why.code(), reason: why.text().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_a_client_may_do() {
        for (code, back) in [
            (1009, false),
            (2999, true),
            (3000, true),
            (3499, true),
            (3500, false),
            (3999, false),
            (4000, true),
            (4499, true),
            (4500, false),
            (4999, false),
            (5000, true),
        ] {
            assert_eq!(reconnects(code), back, "{code}");
        }
        let temporary = ErrorCode::ALL.iter().filter(|error| error.is_temporary()).map(|error| error.code());
        assert!(temporary.eq([100, 111, 113]));
        assert!(ErrorCode::ALL.iter().map(|error| error.code()).eq(100..=113));
        for error in ErrorCode::ALL {
            let expected = match error.code() {
                109 | 110 => 3005,
                111 => 3013,
                103 => 3507,
                _ => 3004,
            };
            assert_eq!(error.disconnect().code(), expected, "{error:?}");
        }
        assert_eq!(
            Error::from(ErrorCode::PermissionDenied),
            Error { code: 103, message: "permission denied".into(), temporary: false }
        );
        assert_eq!(
            Disconnect::from(DisconnectCode::Shutdown),
            Disconnect { code: 3001, reason: "shutdown".into(), reconnect: true }
        );
    }
}
