//! Why a handshake was not answered with 101: one closed list, each with its status, its text and its
//! count. The text says what was wrong and what was expected, and nothing about others.

use std::net::IpAddr;

use axum::body::Body;
use fanfare_hub::labelled;
use fanfare_protocol::ChannelError;
use fanfare_protocol::centrifuge::Offence;
use fanfare_websocket::handshake::HandshakeError;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::admission::limits::Full;
use crate::admission::unfinished::Cut;
use crate::centrifuge;
use crate::identity::TokenFault;
use crate::namespace::{Denial, UnknownNamespace};
use crate::telemetry::Tally;

/// One refusal.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("not a WebSocket handshake: {0}")]
    Malformed(#[from] HandshakeError),
    #[error("not a WebSocket handshake: it has a body, which a handshake never has")]
    Body,
    #[error(
        "not a request for one host: {0}; HTTP/1.1 demands exactly one Host header with a host and a port"
    )]
    Host(&'static str),
    #[error("{0} is not how this is asked for; expected {1}")]
    WrongMethod(Method, &'static str),
    #[error(
        "an answer that does not end needs HTTP/1.1, which a proxy on the way may not speak (nginx: proxy_http_version 1.1)"
    )]
    StreamVersion,
    #[error("nothing says who the client is; expected {0}")]
    NoGreeting(&'static str),
    #[error("what was said is not the protocol: {0}")]
    Greeting(#[from] Offence),
    #[error("the body could not be read to its end")]
    BrokenBody,
    #[error("the body, or cf_connect, is larger than message_limit, which is {0} bytes")]
    BodyTooLarge(usize),
    #[error("the request has a body, which one for an event stream never has")]
    EventsBody,
    #[error("unusable query: since is {0:?}; expected a position such as 42:kRtA, or nothing")]
    Since(String),
    #[error("the channel's namespace lets nobody recover, so `since` means nothing there")]
    NoRecovery,
    #[error("so much was published meanwhile that it could not be held; try again")]
    Flooded,
    #[error("not an HTTP/1 request")]
    NotHttp,
    #[error("the headers are too large or too many")]
    HeadersTooLarge,
    #[error("unusable query: {key} is {value:?}; expected true or false")]
    Query { key: &'static str, value: String },
    #[error("{0}")]
    ChannelName(#[from] ChannelError),
    #[error("a channel name has a slash in it; write it as %2F")]
    ChannelSlash,
    #[error("the channel's name does not match its namespace's name_pattern")]
    ChannelPattern,
    #[error("{0}")]
    Namespace(#[from] UnknownNamespace),
    #[error("a token is needed: ?token=… or Authorization: Bearer …")]
    NoToken,
    #[error("unusable Authorization header; expected Bearer and a token")]
    Authorization,
    #[error("the token is refused: {0}")]
    Token(#[from] TokenFault),
    #[error("you may not join this channel: {0}")]
    Forbidden(#[from] Denial),
    #[error("pages of this origin may not connect; see allowed_origins")]
    Origin,
    #[error("this instance has as many connections as it may have; try again later")]
    InstanceFull,
    #[error("your address has as many connections as it may have; try again later")]
    AddressFull,
    #[error("you have as many connections as one user may have; close one of them")]
    UserFull,
    #[error("you may have as many connections as one user may have, but some may be gone; try again later")]
    UserInDoubt,
    #[error("this instance has hardly any memory left; try again later")]
    Memory,
    #[error("this instance is being emptied; connect again to reach another")]
    Draining,
    #[error("the handshake took too long")]
    Timeout,
    #[error("others have come since, and no more may wait")]
    Crowded(Full),
    #[error("no file was left to answer with")]
    OutOfFiles,
    #[error("the connection does not begin with a PROXY protocol header")]
    ProxyHeader,
    #[error("the client was gone before it was answered")]
    Abandoned,
    #[error("the TLS handshake came to nothing")]
    Tls,
}

labelled! {
    /// Under what it is counted.
    enum Reason {
        Malformed = "malformed",
        ChannelName = "channel_name",
        Origin = "origin",
        InstanceFull = "instance_full",
        AddressFull = "address_full",
        Draining = "draining",
        Timeout = "timeout",
        OutOfFiles = "out_of_files",
        ProxyHeader = "proxy_header",
        Abandoned = "abandoned",
        Tls = "tls",
        Memory = "memory",
        HeadersTooLarge = "headers_too_large",
        Namespace = "namespace",
        Token = "token",
        Forbidden = "forbidden",
        InstanceCrowded = "instance_crowded",
        AddressCrowded = "address_crowded",
        UserFull = "user_full",
    }
}

impl Rejection {
    /// What they are counted in. Handshakes are refused by any worker, and rarely enough for shared counts.
    pub fn tally() -> Tally {
        Tally::of(Reason::ALL.map(Reason::label))
    }

    /// Counts and logs this one, of this client.
    pub fn count(&self, rejected: &Tally, client: IpAddr) {
        rejected.count(self.reason() as usize);
        tracing::debug!(reason = self.label(), %client, "handshake rejected: {self}");
    }

    /// The value of the metric label and log field `reason`.
    pub fn label(&self) -> &'static str {
        self.reason().label()
    }

    /// The answer; those who may come again are told to wait so many seconds.
    pub fn answer(&self, retry_after: u64) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::Malformed(error) if error.status() == StatusCode::UPGRADE_REQUIRED => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                // RFC 9110, section 7.8: whoever sends that says also that it concerns the next hop alone.
                headers.insert(CONNECTION, HeaderValue::from_static("close, upgrade"));
            }
            Self::Malformed(error) if error.status() == StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            Self::InstanceFull
            | Self::AddressFull
            | Self::UserInDoubt
            | Self::Memory
            | Self::Draining
            | Self::Flooded
            | Self::Token(TokenFault::KeysUnavailable) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
            }
            // RFC 6750, section 3: what would have been right.
            Self::NoToken | Self::Authorization => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Token(_) => {
                let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, value);
            }
            Self::WrongMethod(_, expected) => {
                let allowed = format!("{}, OPTIONS", expected.replace(" or ", ", "));
                headers.insert(ALLOW, HeaderValue::from_str(&allowed).expect("methods are ASCII"));
            }
            _ => {}
        }
        // What else came on this connection was meant for a WebSocket.
        headers.entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(error) => error.status(),
            Self::WrongMethod(..) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::StreamVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Body
            | Self::EventsBody
            | Self::NoGreeting(_)
            | Self::Greeting(_)
            | Self::BrokenBody
            | Self::Since(_)
            | Self::NoRecovery
            | Self::Host(_)
            | Self::NotHttp
            | Self::Query { .. }
            | Self::ChannelName(_)
            | Self::ChannelSlash
            | Self::ChannelPattern => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Namespace(_) => StatusCode::NOT_FOUND,
            Self::Token(TokenFault::KeysUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoToken | Self::Authorization | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Origin | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::AddressFull | Self::UserFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout | Self::Crowded(_) => StatusCode::REQUEST_TIMEOUT,
            Self::InstanceFull
            | Self::UserInDoubt
            | Self::Memory
            | Self::Draining
            | Self::OutOfFiles
            | Self::Flooded => StatusCode::SERVICE_UNAVAILABLE,
            Self::ProxyHeader | Self::Abandoned | Self::Tls => StatusCode::BAD_REQUEST,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_)
            | Self::Body
            | Self::Host(_)
            | Self::NotHttp
            | Self::WrongMethod(..)
            | Self::StreamVersion
            | Self::EventsBody
            | Self::NoGreeting(_)
            | Self::Greeting(_)
            | Self::BrokenBody
            | Self::BodyTooLarge(_)
            | Self::Since(_)
            | Self::NoRecovery
            | Self::Query { .. } => Reason::Malformed,
            Self::ChannelName(_) | Self::ChannelSlash | Self::ChannelPattern => Reason::ChannelName,
            Self::Origin => Reason::Origin,
            Self::InstanceFull => Reason::InstanceFull,
            Self::AddressFull => Reason::AddressFull,
            Self::Draining => Reason::Draining,
            Self::Timeout => Reason::Timeout,
            Self::OutOfFiles => Reason::OutOfFiles,
            Self::ProxyHeader => Reason::ProxyHeader,
            Self::Abandoned => Reason::Abandoned,
            Self::Tls => Reason::Tls,
            Self::Memory | Self::Flooded => Reason::Memory,
            Self::HeadersTooLarge => Reason::HeadersTooLarge,
            Self::Namespace(_) => Reason::Namespace,
            Self::NoToken | Self::Authorization | Self::Token(_) => Reason::Token,
            Self::Forbidden(_) => Reason::Forbidden,
            Self::Crowded(Full::Instance) => Reason::InstanceCrowded,
            Self::Crowded(Full::Address) => Reason::AddressCrowded,
            Self::UserFull | Self::UserInDoubt => Reason::UserFull,
        }
    }
}

impl From<Cut> for Rejection {
    fn from(why: Cut) -> Self {
        match why {
            Cut::Crowded(full) => Self::Crowded(full),
            Cut::Memory => Self::Memory,
        }
    }
}

impl From<Full> for Rejection {
    fn from(full: Full) -> Self {
        match full {
            Full::Instance => Self::InstanceFull,
            Full::Address => Self::AddressFull,
        }
    }
}

impl From<centrifuge::NoClaim> for Rejection {
    fn from(why: centrifuge::NoClaim) -> Self {
        match why {
            centrifuge::NoClaim::Full => Self::UserFull,
            centrifuge::NoClaim::InDoubt => Self::UserInDoubt,
        }
    }
}
