//! How a message of the catalogue is declared once and understood in both encodings.
//!
//! A declaration reads like a row of a table: a name, a kind, a Protobuf number. Each kind becomes one Rust type, one
//! prost attribute, and the rules of protobuf's JSON that clients keep to. It deliberately knows no message.
//!
//! | kind                  | Rust                        | JSON                                                |
//! |-----------------------|-----------------------------|-----------------------------------------------------|
//! | `u32` … `bool`, `str` | the same, `String`          | zero is omitted, null is zero                       |
//! | `sint64`              | `i64`                       | as `i64`; Protobuf writes it in zigzag              |
//! | `bytes`               | `Bytes`                     | raw embedded JSON; empty is omitted, null is empty  |
//! | `(if_json bytes)`     | `Bytes`                     | as `bytes`; what is no JSON is omitted, too         |
//! | `map`                 | `BTreeMap<String, String>`  | an object; empty is omitted                         |
//! | `{Message}`           | `BTreeMap<String, Message>` | an object; empty is omitted                         |
//! | `(named Message)`     | `Vec<Named<Message>>`       | an object; empty is omitted                         |
//! | `[str]`, `[Message]`  | `Vec`                       | an array; empty is omitted                          |
//! | `Message`             | `Option<Message>`           | an object; `None` is omitted, null is `None`        |
//! | `(always kind)`       | as the kind                 | written even when it is zero                        |

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Declares messages: structs that prost and serde can both read and write. Where it stands, [`json`] is in scope.
macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident { $($fields:tt)* })*) => {
        $(message! { [$(#[$meta])*] $name [] $($fields)* })*
    };
}

/// One message. Takes its fields one by one, and leaves them between the second brackets as Rust.
macro_rules! message {
    ([$($meta:tt)*] $name:ident [$($rust:tt)*]) => {
        $($meta)*
        #[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        #[allow(missing_docs, reason = "a field means what the protocol says; comments say what it leaves open")]
        pub struct $name { $($rust)* }
    };
    ($meta:tt $name:ident $rust:tt $(#[$doc:meta])* $field:ident: $kind:tt = $tag:tt, $($rest:tt)*) => {
        field! { $kind { $meta $name $rust [$(#[$doc])*] $field $tag { $($rest)* } } }
    };
}

/// What a kind is in Rust, to prost, and to serde.
macro_rules! field {
    (u32 $in:tt) => {
        put! { [u32] [uint32] "json::or_zero" "json::is_zero" $in }
    };
    (u64 $in:tt) => {
        put! { [u64] [uint64] "json::or_zero" "json::is_zero" $in }
    };
    (i32 $in:tt) => {
        put! { [i32] [int32] "json::or_zero" "json::is_zero" $in }
    };
    (i64 $in:tt) => {
        put! { [i64] [int64] "json::or_zero" "json::is_zero" $in }
    };
    (sint64 $in:tt) => {
        put! { [i64] [sint64] "json::or_zero" "json::is_zero" $in }
    };
    (bool $in:tt) => {
        put! { [bool] [bool] "json::or_zero" "json::is_zero" $in }
    };
    (str $in:tt) => {
        put! { [String] [string] "json::or_zero" "json::is_zero" $in }
    };
    (bytes $in:tt) => {
        put! { [bytes::Bytes] [bytes = "bytes"] "json::raw_read" "json::is_zero" "json::raw_write" $in }
    };
    ((if_json bytes) $in:tt) => {
        put! { [bytes::Bytes] [bytes = "bytes"] "json::raw_read" "json::is_no_json" "json::raw_write" $in }
    };
    (map $in:tt) => {
        put! { [std::collections::BTreeMap<String, String>] [btree_map = "string, string"] "json::or_zero"
        "json::is_zero" $in }
    };
    ([str] $in:tt) => {
        put! { [Vec<String>] [string, repeated] "json::or_zero" "json::is_zero" $in }
    };
    ({$of:ident} $in:tt) => {
        put! { [std::collections::BTreeMap<String, $of>] [btree_map = "string, message"] "json::object_map"
        "json::is_zero" $in }
    };
    ([$of:ident] $in:tt) => {
        put! { [Vec<$of>] [message, repeated] "json::objects" "json::is_zero" $in }
    };
    ((always u32) $in:tt) => {
        put! { [u32] [uint32] "json::or_zero" "json::never" $in }
    };
    ((always u64) $in:tt) => {
        put! { [u64] [uint64] "json::or_zero" "json::never" $in }
    };
    ((always str) $in:tt) => {
        put! { [String] [string] "json::or_zero" "json::never" $in }
    };
    ((always [$of:ident]) $in:tt) => {
        put! { [Vec<$of>] [message, repeated] "json::objects" "json::never" $in }
    };
    ((named $of:ident) $in:tt) => {
        put! { [Vec<Named<$of>>] [message, repeated] "json::named_read" "json::is_zero" "json::named_write" $in }
    };
    ((always named $of:ident) $in:tt) => {
        put! { [Vec<Named<$of>>] [message, repeated] "json::named_read" "json::never" "json::named_write" $in }
    };
    ($of:ident $in:tt) => {
        put! { [Option<$of>] [message, optional] "json::object" "json::is_zero" $in }
    };
}

/// Adds the field, and goes on with the rest of the message.
macro_rules! put {
    ([$rust_type:ty] [$($prost:tt)*] $read:tt $omit:tt $($write:literal)?
     { $meta:tt $name:ident [$($rust:tt)*] [$($doc:tt)*] $field:ident $tag:tt { $($rest:tt)* } }) => {
        message! { $meta $name [$($rust)*
            $($doc)*
            #[prost($($prost)*, tag = $tag)]
            #[serde(deserialize_with = $read, skip_serializing_if = $omit $(, serialize_with = $write)?)]
            pub $field: $rust_type,
        ] $($rest)* }
    };
}

/// What is only there or not: a ping, or a result without fields.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
pub struct Empty {}

/// An entry of a map in a result. prost's own maps leave out a value that is all zero, which protobuf.js reads as
/// null, and the JavaScript library falls over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named<T> {
    /// A channel, or a connection.
    pub name: String,
    /// What is said of it.
    pub value: T,
}

impl<N: Into<String>, T> From<(N, T)> for Named<T> {
    fn from((name, value): (N, T)) -> Self {
        Self { name: name.into(), value }
    }
}

impl<T: prost::Message + Default> prost::Message for Named<T> {
    fn encode_raw(&self, to: &mut impl BufMut) {
        encoding::string::encode(1, &self.name, to);
        encoding::message::encode(2, &self.value, to);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::string::merge(wire_type, &mut self.name, from, context),
            2 => encoding::message::merge(wire_type, &mut self.value, from, context),
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn encoded_len(&self) -> usize {
        encoding::string::encoded_len(1, &self.name) + encoding::message::encoded_len(2, &self.value)
    }

    fn clear(&mut self) {
        self.name.clear();
        self.value.clear();
    }
}

/// A message that must be a JSON object. serde's derive alone takes an array as well, by position.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Fields(PhantomData))
    }
}

/// What serde is told to do with a field.
pub(super) mod json {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    use super::{Named, Object};
    use crate::payload;

    /// Whether it is what is not written: a reader takes what is missing for it.
    pub fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }

    /// For what is written also when it is zero.
    pub fn never<T>(_: &T) -> bool {
        false
    }

    /// Takes `null` for what is missing.
    pub fn or_zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or_default())
    }

    /// Takes an object or `null`, and never an array, which serde would take for a struct.
    pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(Option::deserialize(from)?.map(|Object(value)| value))
    }

    /// The same of each in a list; `null` is an empty one.
    pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let values = Option::<Vec<Object<T>>>::deserialize(from)?.unwrap_or_default();
        Ok(values.into_iter().map(|Object(value)| value).collect())
    }

    /// The same of each in a map; `null` is an empty one.
    pub fn object_map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, T>, D::Error> {
        let values = Option::<BTreeMap<String, Object<T>>>::deserialize(from)?.unwrap_or_default();
        Ok(values.into_iter().map(|(name, Object(value))| (name, value)).collect())
    }

    /// A map, as the list that it is in Protobuf.
    pub fn named_read<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        from: D,
    ) -> Result<Vec<Named<T>>, D::Error> {
        Ok(object_map(from)?.into_iter().map(Named::from).collect())
    }

    /// And back.
    pub fn named_write<T: Serialize, S: Serializer>(values: &[Named<T>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(values.iter().map(|Named { name, value }| (name, value)))
    }

    /// The text of any JSON, as it stands; nothing for `null`. Nested too deeply, it is refused.
    pub fn raw_read<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(Bytes::new()) };
        payload::check_depth(raw.get().as_bytes()).map_err(D::Error::custom)?;
        Ok(Bytes::from(String::from(Box::<str>::from(raw))))
    }

    /// Whether there is nothing that could be told in JSON of somebody else, for which no reader is to be cut.
    pub fn is_no_json(payload: &Bytes) -> bool {
        payload::check_json(payload).is_err()
    }

    /// Writes such a text, in one line. An error if it is no JSON or nested too deeply.
    pub fn raw_write<S: Serializer>(payload: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        // As when it is read: an unmodified library has been seen to fall over what is nested without end.
        payload::check_depth(payload).map_err(S::Error::custom)?;
        let json: &RawValue = serde_json::from_slice(payload).map_err(S::Error::custom)?;
        match payload::without_line_breaks(json.get()) {
            None => json.serialize(to),
            Some(line) => RawValue::from_string(line).map_err(S::Error::custom)?.serialize(to),
        }
    }
}
