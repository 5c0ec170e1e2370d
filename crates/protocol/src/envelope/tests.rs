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

fn bundle(envelopes: &[Envelope], first: Position) -> Bytes {
    let mut bundled = BytesMut::new();
    envelopes.iter().for_each(|envelope| envelope.encode_into(&mut bundled));
    Bundle::new(first, bundled.freeze()).encode()
}

fn read_bundle(message: impl Into<Bytes>) -> Vec<Result<Envelope, EnvelopeError>> {
    match Opened::read(message.into()) {
        Ok(Opened::Bundle(bundle)) => bundle.envelopes().collect(),
        other => panic!("no bundle: {other:?}"),
    }
}

#[test]
fn a_bundle_gives_its_publications_positions_one_after_the_other() {
    let envelopes = [envelope(true), with_section(), envelope(false)];
    let expected: Vec<_> = (7..)
        .zip(envelopes.clone())
        .map(|(offset, envelope)| {
            let publication = Publication { position: Some(position(offset)), ..envelope.publication };
            Ok(Envelope { publication, ..envelope })
        })
        .collect();
    let message = bundle(&envelopes, position(7));
    assert_eq!(read_bundle(message.clone()), expected);
    assert_eq!(first_release_reads(&message), None, "it counts and drops what is too new");
    let longer = [&message[..2], &[30], &message[3..28], &[1, 2], &message[28..]].concat();
    assert_eq!(read_bundle(longer), expected, "a longer header");
    assert_eq!(read_bundle(bundle(&[], position(1))), []);
}

#[test]
fn what_is_broken_in_a_bundle_spoils_nothing_else() {
    let whole = bundle(&[envelope(false), envelope(false)], position(1)).to_vec();
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let second = |offset| {
        let publication = Publication { position: Some(position(offset)), ..envelope(false).publication };
        Ok(Envelope { publication, ..envelope(false) })
    };
    let rows = [
        (with(BUNDLE_HEADER + 4, b'x'), vec![Err(EnvelopeError::Bundle), second(2)]),
        (with(BUNDLE_HEADER + 5, 9), vec![Err(EnvelopeError::Version(9)), second(2)]),
        (with(BUNDLE_HEADER + 7, JOINED), vec![Err(EnvelopeError::Member), second(2)]),
        (with(BUNDLE_HEADER, 0xFF), vec![Err(EnvelopeError::Truncated)]),
        (whole[..whole.len() - 1].to_vec(), vec![second(1), Err(EnvelopeError::Truncated)]),
        (whole[..BUNDLE_HEADER + 3].to_vec(), vec![Err(EnvelopeError::Truncated)]),
    ];
    for (bytes, expected) in rows {
        assert_eq!(read_bundle(bytes), expected);
    }
    let inner = bundle(&[], position(1));
    let nested = [&whole[..BUNDLE_HEADER], &[0, 0, 0, inner.len() as u8], &inner].concat();
    assert_eq!(read_bundle(nested), [Err(EnvelopeError::Bundle)], "one in another");
    for (bytes, expected) in [
        (whole[..27].to_vec(), EnvelopeError::Truncated),
        (with(2, 27), EnvelopeError::Truncated),
        (with(2, 255), EnvelopeError::Truncated),
        (with(12, 16), EnvelopeError::Epoch),
        (with(12, 0), EnvelopeError::Epoch),
        (with(13, b' '), EnvelopeError::Epoch),
    ] {
        assert_eq!(Opened::read(bytes.into()), Err(expected));
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
        (with(&whole, 1, 4), EnvelopeError::Version(4)),
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
    fn no_bytes_break_the_reader(version in PLAIN..=BUNDLE, header in SHORT as u8..90, tail: Vec<u8>) {
        let mut bytes = vec![MAGIC, version, header, 1];
        bytes.extend([0; LONG]);
        bytes.extend(tail);
        if let Ok(Opened::Bundle(bundle)) = Opened::read(bytes.into()) {
            let _ = bundle.envelopes().count();
        }
    }
}
