//! What a payload is: JSON or not, and in which format a channel wants it. It never changes a payload's meaning.

use memchr::memchr2;
use serde_json::value::RawValue;

/// How many arrays and objects a payload may have inside of each other: as many as serde_json itself takes apart,
/// far more than anybody means, and few enough for receivers whose parsers recurse.
pub const MAX_DEPTH: usize = 128;

/// What publishers to a channel may send (a channel option).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DataFormat {
    /// Anything but nothing. What is not JSON disconnects the channel's JSON clients.
    #[default]
    Any,
    /// One JSON value.
    Json,
    /// One JSON object.
    JsonObject,
    /// Anything, even nothing.
    Binary,
}

/// Why a payload is not in the format that its channel wants, or not fit for a JSON client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// There are no bytes.
    #[error("a payload is empty; expected data")]
    Empty,
    /// It does not parse.
    #[error("a payload is not JSON; expected one JSON value")]
    NotJson,
    /// It is JSON of another kind.
    #[error("a payload is not a JSON object; expected one JSON object")]
    NotObject,
    /// It is nested without sense.
    #[error("a payload is nested too deeply; expected at most {MAX_DEPTH} levels")]
    TooDeep,
}

impl DataFormat {
    /// Judges a payload, in time linear in its size and without recursion.
    ///
    /// # Errors
    ///
    /// When the payload is not in this format; error 107 for whoever published it.
    pub fn check(self, payload: &[u8]) -> Result<(), PayloadError> {
        match self {
            Self::Binary => Ok(()),
            _ if payload.is_empty() => Err(PayloadError::Empty),
            Self::Any => Ok(()),
            Self::Json => check_json(payload),
            Self::JsonObject => {
                check_json(payload)?;
                match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
                    Some(b'{') => Ok(()),
                    _ => Err(PayloadError::NotObject),
                }
            }
        }
    }
}

/// Whether a payload is one JSON value in UTF-8 that is not nested beyond [`MAX_DEPTH`].
///
/// # Errors
///
/// When it is not; a JSON client to which it was to be sent is disconnected with 3506.
pub fn check_json(payload: &[u8]) -> Result<(), PayloadError> {
    if payload.is_empty() {
        return Err(PayloadError::Empty);
    }
    check_depth(payload)?;
    serde_json::from_slice::<&RawValue>(payload).map(|_| ()).map_err(|_| PayloadError::NotJson)
}

/// Judges the depth of what is JSON; of what is not, it may say anything.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), PayloadError> {
    // A value of that depth has at least two brackets for each level.
    if json.len() <= 2 * MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(PayloadError::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The same value on one line, if it stands on several. Inside a JSON string no line break can be raw, so each one is
/// white space between tokens; a carriage return ends a line of an event stream as well.
pub(crate) fn without_line_breaks(json: &str) -> Option<String> {
    memchr2(b'\n', b'\r', json.as_bytes())?;
    Some(json.replace(['\n', '\r'], ""))
}
