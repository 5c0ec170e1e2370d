//! Bytes in requests and results: JSON as it is, or anything in base64. What they mean is for others.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use fanfare_protocol::payload::check_json;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::shape::Base64;

/// What some encoders leave in the last digit means nothing.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The bytes of a field in base64, unless it is empty or not there.
pub fn decode(field: &str, base64: Option<Base64>) -> Result<Option<Bytes>, ApiError> {
    let Some(Base64(text)) = base64.filter(|base64| !base64.0.is_empty()) else { return Ok(None) };
    let decoded = BASE64.decode(text).map_err(|error| {
        ApiError::bad(format!("`{field}` is not base64 ({error}); expected RFC 4648, section 4, padded"))
    })?;
    Ok(Some(decoded.into()))
}

/// Bytes for base64.
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A payload that is given as JSON or in base64, which wins.
pub fn payload(
    field: &str,
    json: Option<Box<RawValue>>,
    base64: Option<Base64>,
) -> Result<Option<Bytes>, ApiError> {
    if let Some(bytes) = decode(&format!("b64{field}"), base64)? {
        return Ok(Some(bytes));
    }
    json.map(|json| self::json(field, json)).transpose()
}

/// JSON that is not nested without end.
pub fn json(field: &str, json: Box<RawValue>) -> Result<Bytes, ApiError> {
    check_json(json.get().as_bytes()).map_err(|error| ApiError::bad(format!("`{field}`: {error}")))?;
    let text: Box<str> = json.into();
    Ok(text.into_boxed_bytes().into())
}

/// Bytes as JSON, if they are.
pub fn raw(bytes: &[u8]) -> Option<Box<RawValue>> {
    // What is nested without end would break whoever reads it.
    check_json(bytes).ok()?;
    serde_json::from_slice(bytes).ok()
}
