//! What a request takes beside its text when it is read, done and answered: two bytes of a list may become hundreds. It
//! is counted without keeping anything. Whether it is a request is not asked here.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The fields whose entries are taken apart. What else there is stays as it came.
const LISTS: [&str; 4] = ["channels", "commands", "tags", "whitelist"];

/// What an entry takes with its answer, about.
const ENTRY: usize = 160;

/// Bytes that the lists of a request take, about.
pub fn of_lists(request: &[u8]) -> usize {
    let mut entries = 0;
    // Where it is no request any more, it will not be read on either.
    let _ = serde_json::Deserializer::from_slice(request).deserialize_any(Lists(&mut entries));
    entries * ENTRY
}

/// Counts the entries of all lists of an object.
struct Lists<'a>(&'a mut usize);

/// Counts those of one.
struct List<'a>(&'a mut usize);

impl<'de> Visitor<'de> for Lists<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if LISTS.contains(&&*name) {
                map.next_value_seed(List(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {
            *self.0 += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            *self.0 += 1;
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_count_that_are_taken_apart() {
        for (request, entries) in [
            ("{}", 0),
            (r#"{ "channel": "a", "data": [1, 2, { "channels": [1, 2] }] }"#, 0),
            (r#"{ "channels": ["a", "b"], "tags": { "a": "b" }, "data": 1 }"#, 3),
            (r#"{ "tags": null, "commands": [0, null, { "publish": { "channels": [] } }] }"#, 3),
            // As far as it is read.
            (r#"{ "commands": [1, 2], "commands": [3, 4"#, 4),
            (r#"{ "whitelist": 7, "channels": [1] }"#, 0),
            ("[1, 2]", 0),
            ("", 0),
        ] {
            assert_eq!(of_lists(request.as_bytes()), entries * ENTRY, "{request}");
        }
    }
}
