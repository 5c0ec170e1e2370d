//! What instances say to one another, and the names of channels. Whatever comes from the bus is an envelope, somebody's
//! coming or going, a foreign publication or an error, and its payload is a part of it and not a copy; what was read is
//! written so that it is read again; what was made of any fields is read as it was made. The same of control messages.
//!
//! An input whose first byte is 0 is fields, 1 a control message after that byte, and any other a message on a channel.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fanfare_protocol::{
    Bundle, Channel, Control, Envelope, EnvelopeError, Epoch, Info, Kind, Opened, Position, PresenceChange,
    Publication,
};
use uuid::Uuid;

use crate::Input;

/// See the module.
pub fn check(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() {
        0 => check_fields(input),
        1 => check_control(input.0),
        _ => check_bytes(input.0),
    }
}

fn check_bytes(message: &[u8]) {
    let message = Bytes::copy_from_slice(message);
    match Opened::read(message.clone()) {
        Ok(Opened::Envelope(envelope)) => {
            let publication = &envelope.publication;
            let payload = &publication.payload;
            assert!(payload.is_empty() || message.as_ptr_range().contains(&payload.as_ptr()), "a copy");
            assert!(message.ends_with(payload));
            assert!(publication.kind == Kind::Binary || std::str::from_utf8(payload).is_ok());
            let written = envelope.encode();
            assert_eq!(Opened::read(written.clone()), Ok(Opened::Envelope(envelope)), "written: {written:?}");
        }
        Ok(Opened::Bundle(bundle)) => check_bundle(bundle),
        Ok(Opened::Presence(PresenceChange::Joined(member) | PresenceChange::Left(member))) => {
            assert!(message.ends_with(&member.encode()));
        }
        Ok(Opened::Foreign(publication)) => {
            assert_eq!(publication.payload, message);
            assert_ne!(message.first(), Some(&0xfa));
            assert_eq!(publication.kind == Kind::Text, std::str::from_utf8(&message).is_ok());
        }
        Err(error) => {
            assert_eq!(message.first(), Some(&0xfa));
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }
    if let Ok(segment) = std::str::from_utf8(&message) {
        check_channel(segment);
    }
}

/// Whatever it holds has positions without holes, and nothing comes behind what is broken off.
fn check_bundle(bundle: Bundle) {
    assert_eq!(Opened::read(bundle.encode()), Ok(Opened::Bundle(bundle.clone())));
    let mut last: Option<Position> = None;
    let mut envelopes = bundle.envelopes();
    for envelope in envelopes.by_ref() {
        match envelope {
            Ok(Envelope { publication: Publication { position: Some(at), .. }, .. }) => {
                assert!(last.is_none_or(|last| last.epoch == at.epoch && last.offset <= at.offset));
                last = Some(at);
            }
            Ok(envelope) => panic!("without a position: {envelope:?}"),
            Err(EnvelopeError::Truncated) => {}
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
        }
    }
    assert_eq!(envelopes.next(), None);
}

/// A name in a path is a channel's if what it stands for is UTF-8 of a length that a channel's name may have.
fn check_channel(segment: &str) {
    match Channel::from_path(segment) {
        Ok(channel) => {
            assert!((1..=Channel::MAX_BYTES).contains(&channel.as_str().len()));
            assert!(segment.contains('%') || channel.as_str() == segment);
        }
        Err(error) => {
            let fits = (1..=Channel::MAX_BYTES).contains(&segment.len());
            assert!(segment.contains('%') || !fits, "{error}");
        }
    }
}

fn check_control(message: &[u8]) {
    let message = Bytes::copy_from_slice(message);
    match Control::read(&message) {
        Ok(control) => assert_eq!(Control::read(&control.encode()), Ok(control)),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
}

fn check_fields(mut input: Input<'_>) {
    let switches = input.byte();
    let (origin, exclude) = (input.u64(), input.u64());
    let (sequence, published_at) = (input.u64(), input.u64());
    let epoch = std::str::from_utf8(input.bytes()).ok().and_then(Epoch::new);
    let (user, client) = (text(input.bytes()), text(input.bytes()));
    let payload = Bytes::copy_from_slice(input.0);
    let is_text = switches & 1 != 0 && std::str::from_utf8(&payload).is_ok();
    let mut publication = Publication::new(if is_text { Kind::Text } else { Kind::Binary }, payload);
    publication.published_at = published_at;
    publication.exclude = (switches & 2 != 0 && exclude != 0).then(|| Uuid::from_u128(exclude.into()));
    publication.position =
        epoch.filter(|epoch| *epoch != Epoch::ANY).map(|epoch| Position { offset: exclude, epoch });
    publication.info = (switches & 4 != 0).then(|| Arc::new(Info { user, client, ..Info::default() }));
    let envelope = Envelope { origin: Uuid::from_u128(origin.into()), sequence, publication };
    if let Some(position) = envelope.publication.position {
        let mut twice = BytesMut::new();
        envelope.encode_into(&mut twice);
        envelope.encode_into(&mut twice);
        let next = Position { offset: position.offset.saturating_add(1), ..position };
        let at = |position| {
            let publication = Publication { position: Some(position), ..envelope.publication.clone() };
            Ok(Envelope { publication, ..envelope.clone() })
        };
        let read: Vec<_> = Bundle::new(position, twice.freeze()).envelopes().collect();
        assert_eq!(read, [at(position), at(next)]);
    }
    assert_eq!(Opened::read(envelope.encode()), Ok(Opened::Envelope(envelope)));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What each is, and how it is made.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let envelope = |kind, payload: &'static [u8], more: fn(&mut Publication)| {
        let mut publication = Publication::new(kind, Bytes::from_static(payload));
        publication.published_at = 1_700_000_000_000_000;
        more(&mut publication);
        Envelope { origin: Uuid::from_u128(7), sequence: 9, publication }.encode().to_vec()
    };
    let plain = envelope(Kind::Text, b"hello", |_| {});
    let excluding =
        envelope(Kind::Binary, b"\0\xff", |publication| publication.exclude = Some(Uuid::from_u128(8)));
    let numbered = envelope(Kind::Text, b"hello", |publication| {
        publication.position = Some(Position { offset: 3, epoch: Epoch::new("e").expect("an epoch") });
    });
    let attributed = envelope(Kind::Text, b"hello", |publication| {
        let info = Info { user: "u".into(), client: "c".into(), ..Info::default() };
        publication.info = Some(Arc::new(info));
    });
    let bundle = |broken: bool| {
        let mut envelopes = BytesMut::new();
        for text in ["hello", "there"] {
            let mut publication = Publication::new(Kind::Text, Bytes::from_static(text.as_bytes()));
            publication.published_at = 1_700_000_000_000_000;
            Envelope { origin: Uuid::from_u128(7), sequence: 9, publication }.encode_into(&mut envelopes);
        }
        envelopes.truncate(envelopes.len() - usize::from(broken));
        let first = Position { offset: 3, epoch: Epoch::new("e").expect("an epoch") };
        Bundle::new(first, envelopes.freeze()).encode()
    };
    let longer = [&plain[..2], &[plain[2] + 3], &plain[3..36], b"new", &plain[36..]].concat();
    let newer = [&plain[..1], &[99], &plain[2..]].concat();
    let from_the_bus = |bytes: &[u8]| [&[2], bytes].concat();
    vec![
        ("text", from_the_bus(&plain)),
        ("binary without its publisher", from_the_bus(&excluding)),
        ("text with its position", from_the_bus(&numbered)),
        ("text and who published it", from_the_bus(&attributed)),
        (
            "somebody joined",
            from_the_bus(&[&fanfare_protocol::JOINED_HEADER[..], &[7; 16], b"\0\0\0\x01u{}"].concat()),
        ),
        (
            "somebody left",
            from_the_bus(&[&fanfare_protocol::LEFT_HEADER[..], &[7; 16], b"\0\0\0\0"].concat()),
        ),
        ("two publications in a bundle", from_the_bus(&bundle(false))),
        ("a bundle that is broken off", from_the_bus(&bundle(true))),
        ("a longer header than we know", from_the_bus(&longer)),
        ("a newer version", from_the_bus(&newer)),
        ("text that is none", from_the_bus(&[&plain[..36], b"\xff"].concat())),
        ("half a header", from_the_bus(&plain[..20])),
        ("a plain text of somebody else", from_the_bus(b"hello")),
        ("plain bytes of somebody else", from_the_bus(b"\xc3\x28")),
        ("a channel in a path", from_the_bus(b"chat%3Aroom%201")),
        ("fields of a text", b"\0\x01originoronlyhaelpublishsequence\0\0\0hello".to_vec()),
        (
            "fields with a position and a publisher",
            b"\0\x04originoronlyhaelpublishsequence\x01e\x01u\x01chello".to_vec(),
        ),
    ]
}
