//! The methods: their names, requests, results and what does them, in one table. The routes, the batch and the OpenAPI
//! document are made of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{ApiError, Code};
use super::shape::Shape;
use super::{Api, batch, clients, publishing, reading};

/// Why a call has no result.
#[derive(Debug)]
pub enum Failure {
    /// The request cannot be read: status 400, in either mode.
    Undecodable(ApiError),
    /// It was read, and has an error.
    Error(ApiError),
}

impl Failure {
    /// What it is counted by.
    pub fn code(&self) -> Code {
        match self {
            Self::Undecodable(error) | Self::Error(error) => error.code,
        }
    }

    /// The error, where there is no status to say the rest.
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Undecodable(error) | Self::Error(error) => error,
        }
    }
}

macro_rules! methods {
    ($($Variant:ident = $name:literal, $about:literal: $run:path, $Request:ty => $Result:ty;)+) => {
        /// One method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Method {
            $(#[doc = $about] $Variant,)+
        }

        impl Method {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$Variant),+];

            /// As in the path.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)+ }
            }

            /// What it does, in a line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$Variant => $about,)+ }
            }

            /// The schema of its request.
            pub fn request(self) -> Value {
                match self { $(Self::$Variant => <$Request>::shape(),)+ }
            }

            /// The schema of its result.
            pub fn result(self) -> Value {
                match self { $(Self::$Variant => <$Result>::shape(),)+ }
            }

            /// Reads a request and does what it asks for.
            pub async fn call(self, api: &Api, body: &[u8]) -> Result<Answer, Failure> {
                api.weigh(body).await.map_err(Failure::Error)?;
                match self {$(
                    Self::$Variant => {
                        let request: $Request = read(body)?;
                        $run(api, request).await.map(Answer::$Variant).map_err(Failure::Error)
                    }
                )+}
            }
        }

        /// A result, still to be written: that is done once, where all of what it stands in is.
        #[derive(Debug, Serialize)]
        #[serde(untagged)]
        pub enum Answer {
            $($Variant($Result),)+
        }
    };
}

methods! {
    Publish = "publish", "Publishes to a channel":
        publishing::publish_one, publishing::Publish => publishing::Published;
    Broadcast = "broadcast", "Publishes the same to many channels":
        publishing::broadcast, publishing::Broadcast => publishing::Broadcasted;
    Subscribe = "subscribe", "Subscribes connections of a user to a channel":
        clients::subscribe, clients::Subscribe => super::shape::Done;
    Unsubscribe = "unsubscribe", "Ends subscriptions of a user's connections":
        clients::unsubscribe, clients::Unsubscribe => super::shape::Done;
    Disconnect = "disconnect", "Closes a user's connections":
        clients::disconnect, clients::Disconnect => super::shape::Done;
    Refresh = "refresh", "Tells a user's connections when they expire":
        clients::refresh, clients::Refresh => super::shape::Done;
    Presence = "presence", "Who is subscribed to a channel":
        reading::presence, reading::Presence => reading::PresenceResult;
    PresenceStats = "presence_stats", "How many are subscribed to a channel":
        reading::presence_stats, reading::PresenceStats => reading::PresenceStatsResult;
    History = "history", "What was published in a channel":
        reading::history, reading::History => reading::HistoryResult;
    HistoryRemove = "history_remove", "Forgets what was published in a channel":
        reading::history_remove, reading::HistoryRemove => super::shape::Done;
    Channels = "channels", "Which channels have subscribers":
        reading::channels, reading::Channels => reading::ChannelsResult;
    Info = "info", "Which instances there are":
        reading::info, reading::Info => reading::InfoResult;
    Batch = "batch", "Does many commands":
        batch::batch, batch::Batch => batch::Replies;
    Rpc = "rpc", "Calls a method of the application's; none is configured, so it is always an error":
        batch::rpc, batch::Rpc => batch::RpcResult;
}

impl Method {
    /// The method of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }

    /// Whether it may be in a batch: all but the batch itself.
    pub fn is_command(self) -> bool {
        self != Self::Batch
    }

    /// Whether its result stands by itself in the answer, not under `result`.
    pub fn is_bare(self) -> bool {
        self == Self::Batch
    }
}

/// A request, or where it is wrong and how.
fn read<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    let undecodable = |why: String| Failure::Undecodable(ApiError::bad(why));
    let mut json = serde_json::Deserializer::from_slice(body);
    let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.inner());
        undecodable(match (path.as_str(), cause.is_data()) {
            ("." | "", _) | (_, false) => format!("the body is no request: {cause}"),
            (path, true) => format!("`{path}`: {cause}"),
        })
    })?;
    json.end().map_err(|error| undecodable(format!("the body goes on behind the request: {error}")))?;
    Ok(request)
}
