//! `batch`, many commands in one request, and `rpc`, of which there are none yet.

use std::fmt;

use futures_util::stream::{self, StreamExt};
use serde::de::{MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, Code};
use super::methods::{Answer, Failure, Method};
use super::reply::named;
use super::shape::{Maybe, Shape, requests, results};

/// How many commands of a batch are done at a time, where their order does not matter.
const AT_ONCE: usize = 64;

requests! {
    /// Does many commands.
    Batch {
        /// Each an object with one method's name and its request
        needed commands: Vec<Command>,
        /// Whether their order does not matter
        optional parallel: bool,
    }

    /// Calls a method of the application's.
    Rpc {
        /// Which
        needed method: MethodName,
        /// Whatever the method takes
        optional params: Box<RawValue>,
    }
}

results! {
    /// What came of the commands of a batch.
    Replies {
        /// In the order of the commands
        always replies: Vec<CommandReply>,
    }

    /// What a method of the application's gives.
    RpcResult {
        /// Whatever that is
        always data: Box<RawValue>,
    }
}

/// One command of a batch, still to be looked at: what is wrong with it is no fault of the others.
#[derive(Debug, Deserialize)]
pub struct Command(Option<Box<RawValue>>);

impl Shape for Command {
    fn shape() -> Value {
        named(commands().map(|method| (method.name(), method.request())))
    }
}

/// What may be in a batch.
fn commands() -> impl Iterator<Item = Method> {
    Method::ALL.iter().copied().filter(|method| method.is_command())
}

/// The name of a method of the application's, still to be looked at.
#[derive(Debug, Deserialize)]
pub struct MethodName(String);

impl Shape for MethodName {
    fn shape() -> Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// What came of one command.
#[derive(Debug)]
pub struct CommandReply(Result<(Method, Answer), ApiError>);

impl Serialize for CommandReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reply = serializer.serialize_map(Some(1))?;
        match &self.0 {
            Ok((method, result)) => reply.serialize_entry(method.name(), result)?,
            Err(error) => reply.serialize_entry("error", error)?,
        }
        reply.end()
    }
}

impl Maybe for CommandReply {}

impl Shape for CommandReply {
    fn shape() -> Value {
        named(commands().map(|method| (method.name(), method.result())).chain([("error", ApiError::shape())]))
    }
}

/// See [`Batch`].
pub async fn batch(api: &Api, request: Batch) -> Result<Replies, ApiError> {
    let commands =
        request.commands.ok_or_else(|| ApiError::bad("there is no `commands`; expected a list"))?;
    let replies = stream::iter(commands).map(|command| async { CommandReply(one(api, command).await) });
    let at_once = if request.parallel.unwrap_or_default() { AT_ONCE } else { 1 };
    Ok(Replies { replies: replies.buffered(at_once).collect().await })
}

async fn one(api: &Api, command: Command) -> Result<(Method, Answer), ApiError> {
    let expected = "expected an object with one method's name and its request";
    let command = command.0.ok_or_else(|| ApiError::bad(format!("a command is null; {expected}")))?;
    let Fields(fields) = serde_json::from_str(command.get())
        .map_err(|_| ApiError::bad(format!("a command is no object; {expected}")))?;
    let [(name, request)] = <[_; 1]>::try_from(fields)
        .map_err(|_| ApiError::bad(format!("a command has not one field; {expected}")))?;
    let method = Method::named(&name).filter(|method| method.is_command());
    let method = method.ok_or_else(|| ApiError::bad(format!("a command cannot be {name:?}; {expected}")))?;
    // Boxed, because a batch is a call as well.
    let outcome = Box::pin(method.call(api, request.get().as_bytes())).await;
    api.calls.count(method, outcome.as_ref().map(|_| ()).map_err(Failure::code));
    Ok((method, outcome.map_err(Failure::into_error)?))
}

/// See [`Rpc`].
pub async fn rpc(_: &Api, request: Rpc) -> Result<RpcResult, ApiError> {
    match request.method.map(|method| method.0).filter(|name| !name.is_empty()) {
        None => Err(ApiError::bad("there is no `method`; expected a name")),
        Some(name) => Err(ApiError::new(Code::NotFound, format!("no method {name:?} is configured"))),
    }
}

/// All fields of an object as they stand there, one that comes twice too: a map would lose the first.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Fields, A::Error> {
                let mut all = Vec::new();
                while let Some(field) = fields.next_entry()? {
                    all.push(field);
                }
                Ok(Fields(all))
            }
        }

        source.deserialize_map(Object)
    }
}
