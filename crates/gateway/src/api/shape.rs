//! Requests and results as they are declared once: each declaration is what is read or written, and its part of the
//! OpenAPI document (JSON Schema 2020-12, as OpenAPI 3.1 has it). It knows no method.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What has a schema.
pub trait Shape {
    /// The schema.
    fn shape() -> Value;
}

/// One field of an object.
pub struct Field<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it means, in a sentence.
    pub says: &'a str,
    /// Whether it must be there.
    pub is_needed: bool,
    /// The schema of its value.
    pub shape: Value,
}

/// The schema of an object. What else is in it is passed over.
pub fn object<const N: usize>(fields: [Field<'_>; N]) -> Value {
    let needed: Vec<&str> = fields.iter().filter(|field| field.is_needed).map(|field| field.name).collect();
    let properties = fields.into_iter().map(|Field { name, says, mut shape, .. }| {
        shape["description"] = says.trim().into();
        (name.to_owned(), shape)
    });
    let properties: serde_json::Map<_, _> = properties.collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if !needed.is_empty() {
        object["required"] = needed.into();
    }
    object
}

/// The schema of a field that may be null instead.
pub fn nullable(mut shape: Value) -> Value {
    // What has no type may be anything.
    if let Some(kind) = shape.get("type").cloned() {
        shape["type"] = json!([kind, "null"]);
    }
    shape
}

/// The schema of a whole number.
pub fn whole(least: i64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// Declares requests. A field that is not `needed` may be left out or `null`, and so may, as far as reading goes, one
/// that is: then whoever takes the request says what is missing.
macro_rules! requests {
    ($($(#[doc = $about:literal])+ $Name:ident {
        $($(#[doc = $says:literal])+ $need:ident $field:ident: $Type:ty,)*
    })+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        #[allow(dead_code, reason = "what a method takes and has no use for is a part of its schema, too")]
        pub struct $Name {
            $($(#[doc = $says])+ pub $field: Option<$Type>,)*
        }

        // By hand, because what serde derives takes an array for an object.
        impl<'de> serde::Deserialize<'de> for $Name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $Name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a JSON object")
                    }

                    #[allow(unused_mut, unused_variables, reason = "there are requests without fields")]
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$Name, A::Error> {
                        let mut read = $Name::default();
                        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                            $(if name == stringify!($field).trim_start_matches("r#") {
                                if read.$field.is_some() {
                                    let name = stringify!($field).trim_start_matches("r#");
                                    return Err(serde::de::Error::duplicate_field(name));
                                }
                                read.$field = map.next_value()?;
                                continue;
                            })*
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                        Ok(read)
                    }
                }

                from.deserialize_map(Fields)
            }
        }

        impl $crate::api::shape::Shape for $Name {
            fn shape() -> serde_json::Value {
                $crate::api::shape::object([$($crate::api::shape::Field {
                    name: stringify!($field).trim_start_matches("r#"),
                    says: concat!($($says),+),
                    is_needed: stringify!($need) == "needed",
                    shape: match stringify!($need) {
                        "needed" => <$Type as $crate::api::shape::Shape>::shape(),
                        _ => $crate::api::shape::nullable(<$Type as $crate::api::shape::Shape>::shape()),
                    },
                }),*])
            }
        }
    )+};
}

/// Declares results. A field is `always` there, or `maybe`: left out where there is nothing.
macro_rules! results {
    ($($(#[doc = $about:literal])+ $Name:ident {
        $($(#[doc = $says:literal])+ $need:ident $field:ident: $Type:ty,)*
    })+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, serde::Serialize)]
        pub struct $Name {
            $($(#[doc = $says])+ #[serde(skip_serializing_if = "crate::api::shape::is_left_out")] pub $field: $Type,)*
        }

        impl $crate::api::shape::Shape for $Name {
            fn shape() -> serde_json::Value {
                $crate::api::shape::object([$($crate::api::shape::Field {
                    name: stringify!($field),
                    says: concat!($($says),+),
                    is_needed: stringify!($need) == "always",
                    shape: <$Type as $crate::api::shape::Shape>::shape(),
                }),*])
            }
        }

        impl $crate::api::shape::Maybe for $Name {}
    )+};
}

pub(super) use {requests, results};

/// Whether a result's field is left out.
pub trait Maybe {
    /// Whether there is nothing to say.
    fn is_nothing(&self) -> bool {
        false
    }
}

/// For the declaration of results.
pub fn is_left_out(value: &impl Maybe) -> bool {
    value.is_nothing()
}

impl<T> Maybe for Option<T> {
    fn is_nothing(&self) -> bool {
        self.is_none()
    }
}

impl Maybe for String {}
impl Maybe for u64 {}
impl Maybe for f64 {}
impl<T> Maybe for Vec<T> {}
impl<T> Maybe for BTreeMap<String, T> {}
impl Maybe for Box<RawValue> {}

/// A channel's name, still to be looked at.
#[derive(Debug, Default, Deserialize)]
pub struct Name(pub String);

/// Bytes in base64, still to be decoded.
#[derive(Debug, Default, Deserialize)]
pub struct Base64(pub String);

/// A connection's id, still to be looked at.
#[derive(Debug, Default, Deserialize)]
pub struct ConnectionName(pub String);

/// A whole number, also if it is written with a point and zeros, as some languages do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole<T>(pub T);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = i128;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E>(self, number: u64) -> Result<i128, E> {
                Ok(number.into())
            }

            fn visit_i64<E>(self, number: i64) -> Result<i128, E> {
                Ok(number.into())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<i128, E> {
                if number.fract() == 0.0 && number.abs() < 1e30 {
                    return Ok(number as i128);
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }
        }

        let number = from.deserialize_any(Number)?;
        let range = || de::Error::custom(format_args!("{number} is out of range"));
        T::try_from(number).map(Self).map_err(|_| range())
    }
}

impl<T: Shape> Shape for Whole<T> {
    fn shape() -> Value {
        T::shape()
    }
}

impl Shape for Name {
    fn shape() -> Value {
        json!({ "type": "string", "minLength": 1, "maxLength": 255 })
    }
}

impl Shape for Base64 {
    fn shape() -> Value {
        json!({
            "type": "string",
            "contentEncoding": "base64",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        })
    }
}

impl Shape for ConnectionName {
    fn shape() -> Value {
        json!({ "type": "string", "format": "uuid" })
    }
}

/// A list that must not be empty; still to be looked at.
#[derive(Debug, Deserialize)]
pub struct AtLeastOne<T>(pub Vec<T>);

impl<T> Default for AtLeastOne<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Shape> Shape for AtLeastOne<T> {
    fn shape() -> Value {
        json!({ "type": "array", "items": T::shape(), "minItems": 1 })
    }
}

impl Shape for String {
    fn shape() -> Value {
        json!({ "type": "string" })
    }
}

impl Shape for bool {
    fn shape() -> Value {
        json!({ "type": "boolean" })
    }
}

impl Shape for u64 {
    fn shape() -> Value {
        whole(0, Self::MAX)
    }
}

impl Shape for u32 {
    fn shape() -> Value {
        whole(0, Self::MAX.into())
    }
}

impl Shape for i32 {
    fn shape() -> Value {
        whole(Self::MIN.into(), Self::MAX as u64)
    }
}

impl Shape for f64 {
    fn shape() -> Value {
        json!({ "type": "number" })
    }
}

/// Any JSON.
impl Shape for Box<RawValue> {
    fn shape() -> Value {
        json!({})
    }
}

impl<T: Shape> Shape for Option<T> {
    fn shape() -> Value {
        T::shape()
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn shape() -> Value {
        json!({ "type": "array", "items": T::shape() })
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn shape() -> Value {
        json!({ "type": "object", "additionalProperties": T::shape() })
    }
}

/// The result of what has nothing to say.
#[derive(Debug, Serialize)]
pub struct Done {}

impl Shape for Done {
    fn shape() -> Value {
        object([])
    }
}
