//! Publications as receivers with deltas get them.

use fanfare_protocol::centrifuge::{Delta, Encoding, Format, NotJson, Publication};
use fanfare_protocol::delta;

/// Section 4.6: the first is whole, the others patch the one before; in JSON all are strings.
#[test]
fn a_receiver_with_deltas_sees_every_payload() {
    let price = |price: u32| {
        format!(
            "{{\n \"symbol\": \"€USD – a long name that stays\",\r\n \"price\": {price}, \"in\": [\"{}\"]}}",
            'ü'
        )
    };
    let payloads = [price(1), price(2), price(2), "1".to_owned(), price(3), price(33)];
    let publications = payloads
        .iter()
        .zip(1..)
        .map(|(payload, offset)| Publication { data: payload.clone().into(), offset, ..Default::default() })
        .collect::<Vec<_>>();
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let sent = encoding.with_deltas(&publications).expect("JSON");
        let patched = sent.iter().map(|publication| publication.delta).collect::<Vec<_>>();
        assert_eq!(patched, [false, true, true, false, false, true], "{encoding:?}");
        let mut shown = Vec::<u8>::new();
        for (publication, payload) in sent.iter().zip(&payloads) {
            assert!(!publication.data.is_empty());
            let data = match encoding {
                Encoding::Json => {
                    serde_json::from_slice::<String>(&publication.data).expect("a string").into_bytes()
                }
                Encoding::Protobuf => publication.data.to_vec(),
            };
            shown =
                if publication.delta { delta::apply(&shown, &data, 1 << 16).expect("a patch") } else { data };
            assert_eq!(shown, payload.as_bytes(), "{encoding:?}");
            let mut unit = Vec::new();
            encoding.format().put_publication(&mut unit, "c", publication).expect("JSON");
            assert!(encoding == Encoding::Protobuf || !unit.contains(&b'\n'));
        }
        assert!(sent.iter().zip(1..).all(|(publication, offset)| publication.offset == offset));
    }
}

/// A patch serves all who share the predecessor; who cannot take it, or has none, gets the payload.
#[test]
fn what_cannot_be_patched_is_whole() {
    let text = format!("\"{}\"", "x".repeat(100));
    let publication = Publication { data: text.clone().into(), delta: true, ..Default::default() };
    let check = |encoding: Encoding, delta: &Delta, expected: Result<(&str, bool), NotJson>| {
        let sent = encoding.with_delta(&publication, delta);
        let sent = sent.map(|sent| (String::from_utf8(sent.data.to_vec()).unwrap(), sent.delta));
        assert_eq!(sent, expected.map(|(data, delta)| (data.to_owned(), delta)));
    };
    let string = serde_json::to_string(&text).unwrap();
    assert_eq!(Delta::between(None, text.as_bytes()), Delta::Whole);
    assert_eq!(Delta::between(Some(b"nothing alike"), text.as_bytes()), Delta::Whole);
    check(Encoding::Protobuf, &Delta::Whole, Ok((&text, false)));
    check(Encoding::Json, &Delta::Whole, Ok((&string, false)));
    let patch = Delta::between(Some(text.as_bytes()), text.as_bytes());
    assert!(matches!(patch, Delta::Patch(_)));
    assert!(Encoding::Protobuf.with_delta(&publication, &patch).unwrap().delta);
    check(Encoding::Json, &Delta::Patch(b"\xff".as_slice().into()), Ok((&string, false)));

    let deep = "[".repeat(129) + &"]".repeat(129);
    for binary in [&b"\xff"[..], b"x", b"", b"{}{}", deep.as_bytes()] {
        let publication = Publication { data: binary.to_vec().into(), ..Default::default() };
        assert_eq!(Encoding::Json.with_delta(&publication, &Delta::Whole), Err(NotJson));
        assert!(Encoding::Protobuf.with_delta(&publication, &Delta::Whole).is_ok());
        let mut frame = Vec::new();
        assert_eq!(
            Format::Json.put_publication(&mut frame, "c", &publication),
            if binary.is_empty() { Ok(()) } else { Err(NotJson) }
        );
    }
}
