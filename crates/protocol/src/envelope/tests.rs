use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::publication::Info;

fn envelope(exclude: bool) -> Envelope {
    Envelope {
        origin: Uuid::from_u128(7),
        sequence: 9,
        publication: Publication {
            exclude: exclude.then(|| Uuid::from_u128(8)),
            published_at: 11,
            ..Publication::new(Kind::Text, Bytes::from_static(b"hello"))
        },
    }
}

fn position(offset: u64) -> Position {
    Position { offset, epoch: Epoch::new("kRtAbcde").expect("an epoch") }
}

fn numbered() -> Envelope {
    let mut envelope = envelope(true);
    envelope.publication.position = Some(position(0x0102_0304_0506_0708));
    envelope
}

fn with_section() -> Envelope {
    let mut envelope = numbered();
    envelope.publication.info = Some(Arc::new(Info {
        user: "42".into(),
        client: "9f".into(),
        conn_info: Bytes::from_static(b"{\"name\":\"Ada\"}"),
        chan_info: Bytes::new(),
    }));
    envelope.publication.tags = Some(Arc::new(BTreeMap::from([
        ("ticker".to_owned(), "ACME".to_owned()),
        (String::new(), String::new()),
    ])));
    envelope
}

/// Origin, sequence, published at, exclude, payload.
type FirstReleaseSees<'a> = (u128, u64, u64, Option<u128>, &'a [u8]);

/// What an instance of the first release reads of an envelope: it knows version 1 and 52 bytes of header. Do not
/// change it; it is what is out there.
fn first_release_reads(message: &[u8]) -> Option<FirstReleaseSees<'_>> {
    let number = |range: std::ops::Range<usize>| {
        message[range].iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
    };
    if message[0] != 0xFA || message[1] != 1 {
        return None;
    }
    let header = usize::from(message[2]);
    let exclude = (header >= 52).then(|| number(36..52)).filter(|id| *id != 0);
    Some((number(4..20), number(20..28) as u64, number(28..36) as u64, exclude, &message[header..]))
}

#[test]
fn the_first_release_reads_what_has_a_position_and_not_what_has_a_section() {
    for (envelope, exclude) in [(envelope(true), Some(8)), (envelope(false), None), (numbered(), Some(8))] {
        let read = (7, 9, 11, exclude, &b"hello"[..]);
        assert_eq!(first_release_reads(&envelope.encode()), Some(read), "{envelope:?}");
    }
    assert_eq!(first_release_reads(&with_section().encode()), None, "it counts and drops what is too new");
}

#[test]
fn what_the_first_release_wrote_is_read() {
    let mut bytes = vec![0xFA, 1, 52, 0];
    bytes.extend([[0; 15].as_slice(), &[7]].concat());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 11]);
    bytes.extend([[0; 15].as_slice(), &[8]].concat());
    bytes.extend(b"hello");
    assert_eq!(Opened::read(bytes.clone().into()), Ok(Opened::Envelope(envelope(true))));
    assert_eq!(envelope(true).encode(), bytes, "and is still written so");
}

#[test]
fn a_position_can_be_given_later_by_whoever_counts() {
    for mut envelope in [numbered(), with_section()] {
        let Some(position) = envelope.publication.position.take() else { panic!("it has one") };
        let unnumbered = envelope.encode_unnumbered();
        assert_eq!(unnumbered.before.len(), LONG);
        envelope.publication.position = Some(position);
        assert_eq!(unnumbered.number(position), envelope.encode());
    }
}

#[test]
fn broken_envelopes_are_named() {
    let whole = envelope(true).encode().to_vec();
    let numbered = numbered().encode().to_vec();
    let with_section = with_section().encode().to_vec();
    let with = |whole: &[u8], at: usize, value: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] = value;
        bytes
    };
    let rows: &[(Vec<u8>, EnvelopeError)] = &[
        (vec![MAGIC], EnvelopeError::Truncated),
        (vec![MAGIC, 1], EnvelopeError::Truncated),
        (whole[..40].to_vec(), EnvelopeError::Truncated),
        (with(&whole, 1, 3), EnvelopeError::Version(3)),
        (with(&whole, 2, 35), EnvelopeError::Truncated),
        (with(&whole, 2, 255), EnvelopeError::Truncated),
        (with(&whole, 3, 2), EnvelopeError::Member),
        (with(&whole, 3, 4), EnvelopeError::Kind(4)),
        (with(&whole, 54, 0xFF), EnvelopeError::NotUtf8),
        (with(&numbered, 60, 16), EnvelopeError::Epoch),
        (with(&numbered, 61, 0xFF), EnvelopeError::Epoch),
        (with(&numbered, 61, b' '), EnvelopeError::Epoch),
        (with_section[..NUMBERED + 3].to_vec(), EnvelopeError::Section),
        (with(&with_section, NUMBERED, 0xFF), EnvelopeError::Section),
        (with(&with_section, NUMBERED + 6, 0xFF), EnvelopeError::Section),
        (with(&with_section, NUMBERED + 9, 0xFF), EnvelopeError::Section),
    ];
    for (bytes, expected) in rows {
        assert_eq!(Opened::read(Bytes::from(bytes.clone())), Err(*expected), "{bytes:?}");
    }
}

#[test]
fn a_longer_header_of_the_same_version_is_understood() {
    for envelope in [envelope(true), numbered(), with_section()] {
        let mut bytes = envelope.encode().to_vec();
        let header = usize::from(bytes[2]).max(NUMBERED);
        bytes.splice(usize::from(bytes[2])..usize::from(bytes[2]), vec![0; header - usize::from(bytes[2])]);
        bytes[2] = header as u8 + 3;
        bytes.splice(header..header, [1, 2, 3]);
        assert_eq!(Opened::read(bytes.into()), Ok(Opened::Envelope(envelope)));
    }
}

#[test]
fn a_field_that_is_too_new_is_skipped() {
    let mut bytes = with_section().encode().to_vec();
    let length = u32::from_be_bytes(bytes[NUMBERED..NUMBERED + 4].try_into().expect("four"));
    bytes[NUMBERED..NUMBERED + 4].copy_from_slice(&(length + 7).to_be_bytes());
    bytes.splice(NUMBERED + 4..NUMBERED + 4, [99, 0, 0, 0, 2, 0xFF, 0xFF]);
    assert_eq!(Opened::read(bytes.into()), Ok(Opened::Envelope(with_section())));
}

#[test]
fn news_of_a_member_are_read() {
    let member = Member { connection: Uuid::from_u128(7), user: "ann".into(), info: Bytes::new() };
    for (header, change) in [
        (JOINED_HEADER, PresenceChange::Joined(member.clone())),
        (LEFT_HEADER, PresenceChange::Left(member.clone())),
    ] {
        let message = [&header[..], &member.encode()].concat();
        assert_eq!(Opened::read(message.into()), Ok(Opened::Presence(change)));
    }
}

#[test]
fn foreign_bytes_are_publications() {
    for (bytes, kind) in [(&b"hello"[..], Kind::Text), (b"", Kind::Text), (b"\xC3\x28", Kind::Binary)] {
        let Ok(Opened::Foreign(publication)) = Opened::read(Bytes::copy_from_slice(bytes)) else {
            panic!("{bytes:?} is foreign");
        };
        assert_eq!((publication.kind, &publication.payload[..]), (kind, bytes));
        assert!(publication.published_at > 0 && publication.position.is_none());
    }
}

fn publication() -> impl Strategy<Value = Publication> {
    let info = ("[a-z]{0,3}", "[a-z]{0,3}", any::<Vec<u8>>(), any::<Vec<u8>>());
    let tags = prop::collection::btree_map(any::<String>(), any::<String>(), 1..4);
    let place = prop::option::of((any::<u64>(), any::<u64>()));
    (
        (any::<bool>(), any::<String>(), any::<Option<u128>>(), any::<u64>()),
        (place, prop::option::of(info), prop::option::of(tags)),
    )
        .prop_map(|((binary, payload, exclude, published_at), (place, info, tags))| Publication {
            kind: if binary { Kind::Binary } else { Kind::Text },
            payload: payload.into(),
            exclude: exclude.map(|id| Uuid::from_u128(id | 1)),
            published_at,
            position: place.map(|(offset, epoch)| Position { offset, epoch: Epoch::from_random(epoch) }),
            info: info.map(|(user, client, conn_info, chan_info)| {
                Arc::new(Info { user, client, conn_info: conn_info.into(), chan_info: chan_info.into() })
            }),
            tags: tags.map(Arc::new),
        })
}

proptest! {
    #[test]
    fn what_was_encoded_is_read_again(publication in publication(), sequence: u64) {
        let sent = Envelope { origin: Uuid::from_u128(1), sequence, publication };
        prop_assert_eq!(Opened::read(sent.encode()), Ok(Opened::Envelope(sent)));
    }

    #[test]
    fn no_bytes_break_the_reader(version in PLAIN..=WITH_SECTION, header in SHORT as u8..90, tail: Vec<u8>) {
        let mut bytes = vec![MAGIC, version, header, 1];
        bytes.extend([0; LONG]);
        bytes.extend(tail);
        let _ = Opened::read(bytes.into());
    }
}
