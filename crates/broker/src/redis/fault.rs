//! Why a connection to Redis is not there, told so that a person can mend it. It never repeats what
//! Redis was sent, and so no password.

use std::fmt;
use std::time::Duration;

use redis::{ErrorKind, RedisError, Value};

use crate::GapCause;

/// What ended a connection, or kept it from beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not tried yet.
    Starting,
    /// Connected, and the first canary is not back.
    Unproven,
    /// Nobody listens there.
    Refused,
    /// The host's name has no address.
    Unresolved,
    /// No answer within the deadline.
    TimedOut(Duration),
    /// It was open and ended.
    Closed,
    /// Open, but what was published does not come back.
    Deaf,
    /// What is published to a replica never reaches its master.
    Replica,
    /// What is published goes to another server than the one that is listened to, which can only be its replica.
    Elsewhere,
    /// User or password.
    Credentials,
    /// An error answer, by its code, with what it means for us or Redis' own words.
    Answered(String, String),
    /// Anything else that the operating system or TLS said.
    Io(String),
}

impl Fault {
    /// Reads an error of the library; `timeout` is the deadline that was in force.
    pub fn read(error: &RedisError, timeout: Duration) -> Self {
        if error.is_connection_refusal() {
            return Self::Refused;
        }
        if error.is_timeout() {
            return Self::TimedOut(timeout);
        }
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) => Self::Credentials,
            (_, Some(code)) => Self::answered(code, error.detail().unwrap_or_default()),
            (ErrorKind::Io, None) => Self::io(error.to_string()),
            (ErrorKind::InvalidClientConfig, None) if error.to_string().contains("address") => {
                Self::Unresolved
            }
            // "Invalid database number" and the like: the library's own words, in which nothing is secret.
            (kind, None) => Self::Io(format!("{} ({kind:?})", error.category())),
        }
    }

    /// Finds the first error among the answers to a pipeline.
    pub fn among(answers: &[Value]) -> Option<Self> {
        answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => {
                Some(Self::answered(error.code(), error.details().unwrap_or_default()))
            }
            _ => None,
        })
    }

    /// Reads an error in the words of Redis, as a script that has caught it has them.
    pub fn told(said: &str) -> Self {
        let (code, details) = said.split_once(' ').unwrap_or((said, ""));
        Self::answered(code, details)
    }

    /// Whether Redis is there and would not do this one thing: to be told to whoever asked for it, and no reason to
    /// doubt the connection.
    pub fn is_refusal(&self) -> bool {
        let gone = ["LOADING", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "CROSSSLOT"];
        matches!(self, Self::Answered(code, _) if !gone.contains(&code.as_str()))
    }

    /// What a break of the subscriber's connection is to those who listen.
    pub fn gap_cause(&self) -> GapCause {
        if *self == Self::Deaf { GapCause::Deaf } else { GapCause::Disconnected }
    }

    fn answered(code: &str, details: &str) -> Self {
        let meaning = match code {
            "NOAUTH" | "WRONGPASS" => return Self::Credentials,
            "LOADING" => "it is loading its data",
            "READONLY" => return Self::Replica,
            "MISCONF" => "it cannot save to its disk and refuses writes",
            "OOM" => "its memory is full (maxmemory)",
            "NOPERM" => "the user's access rules (ACL) forbid a command or channel that is needed",
            "MASTERDOWN" => "it is a replica that has lost its master",
            "MOVED" | "CLUSTERDOWN" | "CROSSSLOT" => {
                "it is a node of a cluster, which this address cannot serve"
            }
            _ if details.contains("max number of clients") => {
                "it has as many clients as it allows (maxclients)"
            }
            _ if details.contains("DB index") => "it has no database of that number",
            // An unknown command's error repeats the arguments, which for AUTH and HELLO hold the password.
            _ if details.contains("args beginning") => "it does not know a command that is needed",
            _ => return Self::Answered(code.to_owned(), details.chars().take(200).collect()),
        };
        Self::Answered(code.to_owned(), meaning.to_owned())
    }

    fn io(said: String) -> Self {
        let unresolved = ["failed to lookup address", "Name or service not known", "No address found"];
        let closed = ["broken pipe", "driver", "closed", "reset by peer", "end of file", "eof"];
        let lower = said.to_ascii_lowercase();
        if unresolved.iter().any(|words| said.contains(words)) {
            Self::Unresolved
        } else if closed.iter().any(|words| lower.contains(words)) {
            Self::Closed
        } else {
            Self::Io(said)
        }
    }
}

/// Continues "Redis at host:port …".
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("has not answered yet"),
            Self::Unproven => f.write_str("answers, but what is published has not come back yet"),
            Self::Refused => f.write_str("refuses connections"),
            Self::Unresolved => f.write_str("cannot be found: its name has no address"),
            Self::TimedOut(timeout) => write!(f, "did not answer within {timeout:?}"),
            Self::Closed => f.write_str("closed the connection"),
            Self::Deaf => f.write_str("is deaf: what was published does not come back"),
            Self::Replica => f.write_str("is a replica (READONLY): it does not reach the other instances"),
            Self::Elsewhere => f.write_str("is not the server that is listened to any more"),
            Self::Credentials => f.write_str("rejects the user or password (NOAUTH, WRONGPASS)"),
            Self::Answered(code, meaning) => write!(f, "answered {code}: {meaning}"),
            Self::Io(said) => write!(f, "cannot be used: {said}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn errors_become_sentences() {
        let io = |kind, said: &'static str| RedisError::from(io::Error::new(kind, said));
        let rows = [
            (io(io::ErrorKind::ConnectionRefused, "refused"), "refuses connections"),
            (io(io::ErrorKind::NotFound, "no such socket"), "refuses connections"),
            (io(io::ErrorKind::TimedOut, "late"), "did not answer within 2s"),
            (io(io::ErrorKind::BrokenPipe, "broken pipe"), "closed the connection"),
            (
                io(io::ErrorKind::Other, "failed to lookup address information: Name or service not known"),
                "cannot be found: its name has no address",
            ),
            (
                io(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer"),
                "cannot be used: invalid peer certificate: UnknownIssuer",
            ),
            (
                (ErrorKind::AuthenticationFailed, "Password authentication failed").into(),
                "rejects the user or password (NOAUTH, WRONGPASS)",
            ),
        ];
        for (error, expected) in rows {
            assert_eq!(Fault::read(&error, Duration::from_secs(2)).to_string(), expected);
        }
        let rows = [
            ("LOADING", "Redis is loading", "answered LOADING: it is loading its data"),
            ("READONLY", "", "is a replica (READONLY): it does not reach the other instances"),
            (
                "ERR",
                "max number of clients reached",
                "answered ERR: it has as many clients as it allows (maxclients)",
            ),
            (
                "ERR",
                "unknown command `HELLO`, with args beginning with: `3` `AUTH` `sesame`",
                "answered ERR: it does not know a command that is needed",
            ),
            ("ERR", "something new", "answered ERR: something new"),
        ];
        for (code, details, expected) in rows {
            assert_eq!(Fault::answered(code, details).to_string(), expected);
        }
    }
}
