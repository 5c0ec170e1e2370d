//! An answer: a result or an error, under its name. Where it stands in an HTTP response is not decided here.

use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::shape::Shape;

/// What came of something.
#[derive(Debug, Serialize)]
pub enum Reply<T> {
    /// It was done.
    #[serde(rename = "result")]
    Result(T),
    /// It was not.
    #[serde(rename = "error")]
    Error(ApiError),
}

impl<T> From<Result<T, ApiError>> for Reply<T> {
    fn from(outcome: Result<T, ApiError>) -> Self {
        match outcome {
            Ok(result) => Self::Result(result),
            Err(error) => Self::Error(error),
        }
    }
}

impl<T: Shape> Shape for Reply<T> {
    fn shape() -> Value {
        named([("result", T::shape()), ("error", ApiError::shape())])
    }
}

/// The schema of an object with exactly one of these.
pub fn named(choices: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let choices: Vec<Value> = choices
        .into_iter()
        .map(|(name, shape)| json!({ "type": "object", "properties": { name: shape }, "required": [name] }))
        .collect();
    json!({ "oneOf": choices })
}
