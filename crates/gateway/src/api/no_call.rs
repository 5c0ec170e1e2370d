//! Why a request is no call of a method: each with its status, its text and its count, in either error mode.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method as Verb, Response, StatusCode};
use axum::response::IntoResponse;
use fanfare_hub::labelled;

use super::error::{ApiError, Code};
use super::methods::Method;

/// Why it is none.
#[derive(Debug, thiserror::Error)]
pub enum NoCall {
    #[error("there is no HTTP API: `api_keys` is not set")]
    Off,
    #[error("there is no key that counts")]
    Key,
    #[error("there is no method {0:?}; expected one of {names}", names = methods())]
    Method(String),
    #[error("{0} is not what methods are called with; expected POST")]
    Verb(Verb),
    #[error("X-Centrifugo-Error-Mode is {0:?}; expected response or transport")]
    Mode(HeaderValue),
    #[error("the body has more than {0} bytes; see `api_body_limit`")]
    TooLarge(usize),
    #[error("there is no memory left for a body of {0} bytes; expected a smaller one, or later")]
    NoRoom(usize),
    #[error("the body took longer than {0:?}")]
    Late(Duration),
    #[error("the body is broken off: {0}")]
    Broken(axum::Error),
}

labelled! {
    /// Under what it is counted.
    pub enum Reason {
        Key = "key",
        Method = "method",
        Verb = "verb",
        Body = "body",
        Off = "off",
    }
}

impl NoCall {
    /// Under what it is counted.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Key => Reason::Key,
            Self::Method(_) => Reason::Method,
            Self::Verb(_) => Reason::Verb,
            Self::Mode(_) | Self::TooLarge(_) | Self::NoRoom(_) | Self::Late(_) | Self::Broken(_) => {
                Reason::Body
            }
            Self::Off => Reason::Off,
        }
    }

    /// The answer. Whoever has no key is told by a header what one looks like, and nothing else.
    pub fn answer(&self) -> Response<Body> {
        if matches!(self, Self::Key) {
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, CHALLENGE)]).into_response();
        }
        let error = ApiError::new(self.code(), self.to_string());
        let mut response = super::json(self.status(), &error);
        if matches!(self, Self::Verb(_)) {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Off | Self::Method(_) => StatusCode::NOT_FOUND,
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::Verb(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Mode(_) | Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Off | Self::Method(_) => Code::NotFound,
            Self::NoRoom(_) => Code::Internal,
            _ => Code::BadRequest,
        }
    }
}

fn methods() -> String {
    let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    names.join(", ")
}

const CHALLENGE: HeaderValue = HeaderValue::from_static(
    r#"ApiKey realm="X-API-Key: KEY, or Authorization: apikey KEY, or ?api_key=KEY""#,
);
