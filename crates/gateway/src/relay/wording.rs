//! What is said of a publication, or of somebody who came or went, in each encoding: one message, which frames or
//! streams then carry. It decides nothing about who gets it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use fanfare_hub::Encoding;
use fanfare_protocol::centrifuge::{
    self, ClientInfo, Delta, Event, Format, Join, NotJson, Publication as Said, Push,
};
use fanfare_protocol::{Channel, Kind, Position, PresenceChange, Publication};
use fanfare_websocket::Opcode;

/// What a frame carries.
pub struct Message<'p> {
    pub opcode: Opcode,
    pub bytes: Cow<'p, [u8]>,
    /// Of a publication that is told as it is, its place in the history.
    pub position: Option<Position>,
}

/// A publication as it is.
impl<'p> From<&'p Publication> for Message<'p> {
    fn from(publication: &'p Publication) -> Self {
        let opcode = match publication.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        Self { opcode, bytes: Cow::Borrowed(&publication.payload), position: publication.position }
    }
}

/// One publication; what several encodings have in common is made once, and only if it is wanted.
pub struct Wording<'p> {
    channel: &'p Channel,
    publication: &'p Publication,
    previous: Option<Bytes>,
    said: OnceCell<Said>,
    delta: OnceCell<Delta>,
    /// Counts deltas that are made.
    made: &'p AtomicU64,
}

impl<'p> Wording<'p> {
    /// A publication, and what the one before it in its channel said, if that is known; `made` counts deltas.
    pub fn new(
        channel: &'p Channel,
        publication: &'p Publication,
        previous: Option<Bytes>,
        made: &'p AtomicU64,
    ) -> Self {
        Self { channel, publication, previous, said: OnceCell::new(), delta: OnceCell::new(), made }
    }

    /// The message; nothing if it cannot be said in this encoding.
    pub fn message(&self, encoding: Encoding) -> Option<Message<'p>> {
        let said = || self.said.get_or_init(|| Said::from(self.publication));
        let whole = &Delta::Whole;
        match encoding {
            Encoding::Raw => Some(self.publication.into()),
            Encoding::Json => self.push(Format::Json, Ok(said())),
            Encoding::Uni => self.push(Format::UniJson, Ok(said())),
            Encoding::Protobuf => self.push(Format::Protobuf, Ok(said())),
            Encoding::JsonString => self.differing(Format::Json, said(), whole),
            Encoding::JsonDelta => self.differing(Format::Json, said(), self.delta()),
            Encoding::ProtobufDelta => self.differing(Format::Protobuf, said(), self.delta()),
        }
    }

    fn delta(&self) -> &Delta {
        let previous = self.previous.as_deref();
        self.delta.get_or_init(|| {
            self.made.fetch_add(u64::from(previous.is_some()), Relaxed);
            Delta::between(previous, &self.publication.payload)
        })
    }

    fn differing(&self, format: Format, said: &Said, delta: &Delta) -> Option<Message<'p>> {
        self.push(format, format.encoding().with_delta(said, delta).as_ref().map_err(|error| *error))
    }

    fn push(&self, format: Format, said: Result<&Said, NotJson>) -> Option<Message<'p>> {
        let mut unit = Vec::with_capacity(self.publication.payload.len() + 128);
        said.and_then(|said| format.put_publication(&mut unit, self.channel.as_str(), said)).ok()?;
        Some(message(format, unit))
    }
}

/// Whether who comes and goes can be told in it.
pub fn has_news(encoding: Encoding) -> bool {
    encoding != Encoding::Raw
}

/// Somebody came or went.
pub fn news(channel: &Channel, change: &PresenceChange, encoding: Encoding) -> Option<Message<'static>> {
    let format = match encoding {
        Encoding::Raw => return None,
        Encoding::Json | Encoding::JsonString | Encoding::JsonDelta => Format::Json,
        Encoding::Protobuf | Encoding::ProtobufDelta => Format::Protobuf,
        Encoding::Uni => Format::UniJson,
    };
    let join = Join { info: Some(ClientInfo::from(&change.member().client())) };
    let event = match change {
        PresenceChange::Joined(_) => Event::Join(join),
        PresenceChange::Left(_) => Event::Leave(join),
    };
    let mut unit = Vec::with_capacity(256);
    let push = Push { id: 0, channel: channel.as_str().to_owned(), event };
    format.put_push(&mut unit, &push).ok()?;
    Some(message(format, unit))
}

fn message(format: Format, unit: Vec<u8>) -> Message<'static> {
    let opcode = match format.encoding() {
        centrifuge::Encoding::Json => Opcode::Text,
        centrifuge::Encoding::Protobuf => Opcode::Binary,
    };
    Message { opcode, bytes: Cow::Owned(unit), position: None }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Info, Member};
    use uuid::Uuid;

    use super::*;

    fn said(payload: &'static str, previous: Option<&'static str>, encoding: Encoding) -> Option<String> {
        let channel = Channel::new("news").unwrap();
        let publication = Publication::new(Kind::Text, payload.into());
        let made = AtomicU64::new(0);
        let wording = Wording::new(&channel, &publication, previous.map(Bytes::from), &made);
        let message = wording.message(encoding)?;
        Some(String::from_utf8_lossy(&message.bytes).into_owned())
    }

    #[test]
    fn each_encoding_says_it_in_its_own_way() {
        use Encoding::{Json, JsonDelta, JsonString, Protobuf, Raw, Uni};
        let json = r#"{"n": 1}"#;
        for (payload, previous, encoding, expected) in [
            (json, None, Raw, Some(json)),
            (json, None, Json, Some(r#"{"push":{"channel":"news","pub":{"data":{"n": 1}}}}"#)),
            (json, None, Uni, Some(r#"{"channel":"news","pub":{"data":{"n": 1}}}"#)),
            (json, None, JsonString, Some(r#"{"push":{"channel":"news","pub":{"data":"{\"n\": 1}"}}}"#)),
            (json, None, JsonDelta, Some(r#"{"push":{"channel":"news","pub":{"data":"{\"n\": 1}"}}}"#)),
            ("hello", None, Raw, Some("hello")),
            ("hello", None, Json, None),
            ("hello", None, JsonDelta, None),
        ] {
            assert_eq!(said(payload, previous, encoding).as_deref(), expected, "{payload} {encoding:?}");
        }
        assert!(said("hello", None, Protobuf).unwrap().ends_with("hello"));
        let long = r#"{"text": "so long that a delta is worth its while, as it says a part of it"}"#;
        let delta = said(long, Some(long), JsonDelta).unwrap();
        assert!(delta.contains(r#""delta":true"#) && !delta.contains("worth"), "{delta}");
        assert!(said(long, Some(long), JsonString).unwrap().contains("worth"));
    }

    #[test]
    fn who_came_is_told_even_where_its_token_says_no_json() {
        let channel = Channel::new("news").unwrap();
        for (info, expected) in [("{}", r#","conn_info":{}"#), ("\u{1}", "")] {
            let id = Uuid::from_u128(7);
            let client = Info { user: "ann".into(), conn_info: info.into(), ..Info::default() };
            let joined = PresenceChange::Joined(Member::of(id, &client, true));
            let message = news(&channel, &joined, Encoding::Json).unwrap();
            assert_eq!(
                String::from_utf8_lossy(&message.bytes),
                format!(
                    r#"{{"push":{{"channel":"news","join":{{"info":{{"user":"ann","client":"{id}"{expected}}}}}}}}}"#
                )
            );
            assert!(news(&channel, &joined, Encoding::Raw).is_none());
        }
    }
}
