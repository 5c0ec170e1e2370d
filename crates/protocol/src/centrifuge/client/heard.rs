//! Publications out of a server's frames at little cost: nothing is copied, and nothing read that an auditor does not
//! look at. What is no publication is read in full; tags and publishers are not read here at all.

use std::borrow::Cow;

use prost::encoding::{WireType, decode_key, decode_varint};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Reply, read};
use crate::centrifuge::fields::Object;
use crate::centrifuge::framing::{Format, Messages};
use crate::centrifuge::offence::Offence;

/// What a server sent, as [`heard`] sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard<'a> {
    /// A publication.
    Publication {
        /// Its channel.
        channel: Cow<'a, str>,
        /// Its payload, or the patch.
        data: &'a [u8],
        /// 0 where there is none.
        offset: u64,
        /// `data` is a patch.
        delta: bool,
    },
    /// Anything else.
    Other(Box<Reply>),
}

/// Reads a server's frame as [`replies`](super::replies) does, for a client that hears a lot.
pub fn heard(format: Format, frame: &[u8]) -> impl Iterator<Item = Result<Heard<'_>, Offence>> {
    Messages::new(format.encoding(), frame).map(move |message| {
        let message = message?;
        let publication = match format {
            Format::Json => from_json::<InReply<'_>>(message).and_then(|reply| reply.push),
            Format::UniJson => from_json::<Push<'_>>(message),
            Format::Protobuf => from_protobuf(message),
        };
        match publication {
            Some(Push { channel, publication: Some(publication) }) => Ok(Heard::Publication {
                channel,
                data: publication.data.map_or(&[], |data| data.0),
                offset: publication.offset,
                delta: publication.delta,
            }),
            // Also what is malformed, so that it is named as everywhere.
            _ => read(format, message).map(|reply| Heard::Other(Box::new(reply))),
        }
    })
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Option<T> {
    serde_json::from_slice(line).ok().map(|Object(read)| read)
}

#[derive(Deserialize)]
struct InReply<'a> {
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Push<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Publication<'a> {
    #[serde(borrow)]
    data: Option<Raw<'a>>,
    offset: u64,
    delta: bool,
}

struct Raw<'a>(&'a [u8]);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(from).map(|raw| Self(raw.get().as_bytes()))
    }
}

/// The numbers are those of the catalogue.
fn from_protobuf(message: &[u8]) -> Option<Push<'_>> {
    let mut push = None;
    walk(message, |number, field| {
        if let (4, Field::Bytes(bytes)) = (number, field) {
            push = Some(bytes);
        }
    })?;
    let (mut channel, mut publication) = (&[][..], None);
    walk(push?, |number, field| match (number, field) {
        (2, Field::Bytes(bytes)) => channel = bytes,
        (4, Field::Bytes(bytes)) => publication = Some(bytes),
        _ => {}
    })?;
    let mut read = Publication::default();
    walk(publication?, |number, field| match (number, field) {
        (4, Field::Bytes(bytes)) => read.data = Some(Raw(bytes)),
        (6, Field::Number(offset)) => read.offset = offset,
        (8, Field::Number(delta)) => read.delta = delta != 0,
        _ => {}
    })?;
    Some(Push { channel: str::from_utf8(channel).ok()?.into(), publication: Some(read) })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Shows each field of a message; nothing, if it is malformed or holds what the catalogue has not.
fn walk<'a>(mut message: &'a [u8], mut see: impl FnMut(u32, Field<'a>)) -> Option<()> {
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message).ok()?;
        let value = decode_varint(&mut message).ok()?;
        match wire_type {
            WireType::Varint => see(number, Field::Number(value)),
            WireType::LengthDelimited => {
                let (bytes, rest) = message.split_at_checked(usize::try_from(value).ok()?)?;
                message = rest;
                see(number, Field::Bytes(bytes));
            }
            _ => return None,
        }
    }
    Some(())
}
