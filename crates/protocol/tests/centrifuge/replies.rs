//! What the server says.

use std::sync::Arc;

use fanfare_protocol::centrifuge::client::{self, Reply};
use fanfare_protocol::centrifuge::{
    Answer, ClientInfo, Connect, ConnectResult, Disconnect, DisconnectCode, Encoding, Error, ErrorCode,
    Event, Format, HistoryResult, Join, Message, NotJson, PresenceResult, PresenceStatsResult, Publication,
    Push, Refresh, RefreshResult, RpcResult, SubRefreshResult, Subscribe, SubscribeResult, Unsubscribe,
    UnsubscribeCode,
};

use fanfare_protocol::{Epoch, Info, Kind, Position};

use crate::wire::{Value, bytes, fields, frame, int, message, unframe};

/// Every answer with every field, and with none: the JSON to the letter, the Protobuf field by field, and the
/// client's side reads both.
#[test]
fn every_answer_is_written_in_both_encodings() {
    let check = |answer: Answer, json: &str, number: u32, body: &[(u32, Value)]| {
        let mut text = Vec::new();
        Encoding::Json.put_answer(&mut text, 7, &answer).expect("JSON");
        assert_eq!(String::from_utf8(text.clone()).unwrap(), format!("{{\"id\":7,{json}}}"));
        let mut binary = Vec::new();
        Encoding::Protobuf.put_answer(&mut binary, 7, &answer).expect("anything");
        let expected = message(&[int(1, 7), bytes(number, message(body))]);
        let [got] = &unframe(&binary)[..] else { panic!("{binary:?}") };
        assert_eq!(fields(got), fields(&expected), "{json}");
        assert_eq!(got, &expected, "{json}");
        for (format, frame) in [(Format::Json, &text), (Format::Protobuf, &binary)] {
            let replies = client::replies(format, frame).collect::<Vec<_>>();
            assert_eq!(replies, [Ok(Reply::Answer { id: 7, answer: answer.clone() })], "{json}");
        }
    };
    check(
        ErrorCode::PermissionDenied.into(),
        r#""error":{"code":103,"message":"permission denied"}"#,
        2,
        &[int(1, 103), bytes(2, "permission denied")],
    );
    check(
        Answer::Error(Error { code: 1999, message: "\"<é\n>\"".into(), temporary: true }),
        r#""error":{"code":1999,"message":"\"<é\n>\"","temporary":true}"#,
        2,
        &[int(1, 1999), bytes(2, "\"<é\n>\""), int(3, 1)],
    );
    check(Answer::Connect(ConnectResult::default()), r#""connect":{}"#, 5, &[]);
    check(
        Answer::Connect(ConnectResult {
            client: "c".into(),
            version: "v".into(),
            expires: true,
            ttl: u32::MAX,
            data: "{}".into(),
            subs: vec![("s", SubscribeResult { offset: 3, ..Default::default() }).into()],
            ping: 25,
            pong: true,
            session: "se".into(),
            node: "n".into(),
            time: 1 << 50,
            flag: -1,
        }),
        r#""connect":{"client":"c","version":"v","expires":true,"ttl":4294967295,"data":{},"subs":{"s":{"offset":3}},"ping":25,"pong":true,"session":"se","node":"n","time":1125899906842624,"flag":-1}"#,
        5,
        &[
            bytes(1, "c"),
            bytes(2, "v"),
            int(3, 1),
            int(4, u32::MAX.into()),
            bytes(5, "{}"),
            bytes(6, message(&[bytes(1, "s"), bytes(2, message(&[int(9, 3)]))])),
            int(7, 25),
            int(8, 1),
            bytes(9, "se"),
            bytes(10, "n"),
            int(11, 1 << 50),
            int(12, u64::MAX),
        ],
    );
    check(Answer::Subscribe(SubscribeResult::default()), r#""subscribe":{}"#, 6, &[]);
    check(
        Answer::Subscribe(SubscribeResult {
            expires: true,
            ttl: 1,
            recoverable: true,
            epoch: "e".into(),
            publications: vec![publication()],
            recovered: true,
            offset: u64::MAX,
            positioned: true,
            data: "[]".into(),
            was_recovering: true,
            delta: true,
            id: -3,
            r#type: 1,
            phase: 2,
            cursor: "x".into(),
            state: vec![Publication::default()],
            publish_debounce: 9,
        }),
        &format!(
            r#""subscribe":{{"expires":true,"ttl":1,"recoverable":true,"epoch":"e","publications":[{PUBLICATION}],"recovered":true,"offset":18446744073709551615,"positioned":true,"data":[],"was_recovering":true,"delta":true,"id":-3,"type":1,"phase":2,"cursor":"x","state":[{{}}],"publish_debounce":9}}"#
        ),
        6,
        &[
            int(1, 1),
            int(2, 1),
            int(3, 1),
            bytes(6, "e"),
            bytes(7, publication_fields()),
            int(8, 1),
            int(9, u64::MAX),
            int(10, 1),
            bytes(11, "[]"),
            int(12, 1),
            int(13, 1),
            int(14, -3_i64 as u64),
            int(15, 1),
            int(16, 2),
            bytes(17, "x"),
            bytes(18, ""),
            int(19, 9),
        ],
    );
    check(Answer::Unsubscribe, r#""unsubscribe":{}"#, 7, &[]);
    check(Answer::Publish, r#""publish":{}"#, 8, &[]);
    check(Answer::Presence(PresenceResult::default()), r#""presence":{"presence":{}}"#, 9, &[]);
    check(
        Answer::Presence(PresenceResult {
            presence: vec![("a", ClientInfo::default()).into(), ("b", info()).into()],
        }),
        r#""presence":{"presence":{"a":{"user":"","client":""},"b":{"user":"u","client":"c","conn_info":{"a":1},"chan_info":"x"}}}"#,
        9,
        &[
            bytes(1, message(&[bytes(1, "a"), bytes(2, "")])),
            bytes(1, message(&[bytes(1, "b"), bytes(2, message(&info_fields()))])),
        ],
    );
    check(
        Answer::PresenceStats(PresenceStatsResult::default()),
        r#""presence_stats":{"num_clients":0,"num_users":0}"#,
        10,
        &[],
    );
    check(
        Answer::PresenceStats(PresenceStatsResult { num_clients: 3, num_users: 2 }),
        r#""presence_stats":{"num_clients":3,"num_users":2}"#,
        10,
        &[int(1, 3), int(2, 2)],
    );
    check(
        Answer::History(HistoryResult::default()),
        r#""history":{"publications":[],"epoch":"","offset":0}"#,
        11,
        &[],
    );
    check(
        Answer::History(HistoryResult { publications: vec![publication()], epoch: "e".into(), offset: 5 }),
        &format!(r#""history":{{"publications":[{PUBLICATION}],"epoch":"e","offset":5}}"#),
        11,
        &[bytes(1, publication_fields()), bytes(2, "e"), int(3, 5)],
    );
    check(Answer::Rpc(RpcResult::default()), r#""rpc":{}"#, 13, &[]);
    check(Answer::Rpc(RpcResult { data: "-0.5".into() }), r#""rpc":{"data":-0.5}"#, 13, &[bytes(1, "-0.5")]);
    check(Answer::Refresh(RefreshResult::default()), r#""refresh":{}"#, 14, &[]);
    check(
        Answer::Refresh(RefreshResult { client: "c".into(), version: "v".into(), expires: true, ttl: 4 }),
        r#""refresh":{"client":"c","version":"v","expires":true,"ttl":4}"#,
        14,
        &[bytes(1, "c"), bytes(2, "v"), int(3, 1), int(4, 4)],
    );
    check(
        Answer::SubRefresh(SubRefreshResult { expires: true, ttl: 4, items: vec![Publication::default()] }),
        r#""sub_refresh":{"expires":true,"ttl":4,"items":[{}]}"#,
        15,
        &[int(1, 1), int(2, 4), bytes(3, "")],
    );
}

/// Every push with every field, in each of the three formats.
#[test]
fn every_push_is_written_in_every_format() {
    let check = |event: Event, json: &str, number: u32, body: &[(u32, Value)]| {
        for (id, channel) in [(0, "c\"ä"), (0, ""), (-9, ""), (5, "both")] {
            let push = Push { id, channel: channel.to_owned(), event: event.clone() };
            let mut head = String::new();
            let mut expected = vec![];
            if id != 0 {
                head += &format!("\"id\":{id},");
                expected.push(int(1, id as u64));
            }
            if !channel.is_empty() {
                head += &format!(
                    "\"channel\":{},",
                    channel.replace("c\"ä", "\"c\\\"ä\"").replace("both", "\"both\"")
                );
                expected.push(bytes(2, channel));
            }
            expected.push(bytes(number, message(body)));
            let bare = format!("{{{head}{json}}}");
            let expected = [
                (Format::Json, format!("{{\"push\":{bare}}}").into_bytes()),
                (Format::Protobuf, frame(&[message(&[bytes(4, message(&expected))])])),
                (Format::UniJson, bare.into_bytes()),
            ];
            for (format, expected) in expected {
                let mut unit = Vec::new();
                format.put_push(&mut unit, &push).expect("JSON");
                assert_eq!(unit, expected, "{format:?} {}", String::from_utf8_lossy(&unit));
                assert_eq!(
                    client::replies(format, &unit).collect::<Vec<_>>(),
                    [Ok(Reply::Push(push.clone()))],
                    "{format:?}"
                );
                if let (0, Event::Publication(publication)) = (id, &event) {
                    let mut alone = Vec::new();
                    format.put_publication(&mut alone, channel, publication).expect("JSON");
                    assert_eq!(alone, unit);
                }
            }
        }
    };
    check(Event::Publication(Publication::default()), r#""pub":{}"#, 4, &[]);
    check(
        Event::Publication(publication()),
        &format!(r#""pub":{PUBLICATION}"#),
        4,
        &fields(&publication_fields()),
    );
    check(
        Event::Join(Join { info: Some(info()) }),
        r#""join":{"info":{"user":"u","client":"c","conn_info":{"a":1},"chan_info":"x"}}"#,
        5,
        &[bytes(1, message(&info_fields()))],
    );
    check(
        Event::Leave(Join { info: Some(ClientInfo::default()) }),
        r#""leave":{"info":{"user":"","client":""}}"#,
        6,
        &[bytes(1, "")],
    );
    check(
        Event::Unsubscribe(UnsubscribeCode::InsufficientState.into()),
        r#""unsubscribe":{"code":2500,"reason":"insufficient state"}"#,
        7,
        &[int(2, 2500), bytes(3, "insufficient state")],
    );
    check(Event::Unsubscribe(Unsubscribe::default()), r#""unsubscribe":{}"#, 7, &[]);
    check(
        Event::Message(Message { data: "[1, 2]".into() }),
        r#""message":{"data":[1, 2]}"#,
        8,
        &[bytes(1, "[1, 2]")],
    );
    check(
        Event::Subscribe(Subscribe {
            recoverable: true,
            epoch: "e".into(),
            offset: 1,
            positioned: true,
            data: "1".into(),
        }),
        r#""subscribe":{"recoverable":true,"epoch":"e","offset":1,"positioned":true,"data":1}"#,
        9,
        &[int(1, 1), bytes(4, "e"), int(5, 1), int(6, 1), bytes(7, "1")],
    );
    check(
        Event::Connect(Connect {
            client: "c".into(),
            version: "v".into(),
            data: "{}".into(),
            subs: vec![("s", SubscribeResult::default()).into()],
            expires: true,
            ttl: 1,
            ping: 2,
            pong: true,
            session: "se".into(),
            node: "n".into(),
            time: 3,
        }),
        r#""connect":{"client":"c","version":"v","data":{},"subs":{"s":{}},"expires":true,"ttl":1,"ping":2,"pong":true,"session":"se","node":"n","time":3}"#,
        10,
        &[
            bytes(1, "c"),
            bytes(2, "v"),
            bytes(3, "{}"),
            bytes(4, message(&[bytes(1, "s"), bytes(2, "")])),
            int(5, 1),
            int(6, 1),
            int(7, 2),
            int(8, 1),
            bytes(9, "se"),
            bytes(10, "n"),
            int(11, 3),
        ],
    );
    check(
        Event::Disconnect(DisconnectCode::Shutdown.into()),
        r#""disconnect":{"code":3001,"reason":"shutdown","reconnect":true}"#,
        11,
        &[int(1, 3001), bytes(2, "shutdown"), int(3, 1)],
    );
    check(
        Event::Disconnect(Disconnect::from(DisconnectCode::Stale)),
        r#""disconnect":{"code":3502,"reason":"stale"}"#,
        11,
        &[int(1, 3502), bytes(2, "stale")],
    );
    check(
        Event::Refresh(Refresh { expires: true, ttl: 60 }),
        r#""refresh":{"expires":true,"ttl":60}"#,
        12,
        &[int(1, 1), int(2, 60)],
    );
}

/// The examples of section 2, and frames of several.
#[test]
fn the_examples_are_those_that_client_libraries_read() {
    let mut frame = Vec::new();
    let connect = ConnectResult {
        client: "9f…".into(),
        version: "0.1 RS".into(),
        ping: 25,
        pong: true,
        ..Default::default()
    };
    let subscribe = SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: "kRtA".into(),
        offset: 41,
        recovered: true,
        was_recovering: true,
        publications: vec![Publication { data: "{\"n\":1}".into(), offset: 42, ..Default::default() }],
        ..Default::default()
    };
    Encoding::Json.put_answer(&mut frame, 1, &Answer::Connect(connect)).unwrap();
    Encoding::Json.put_answer(&mut frame, 2, &Answer::Subscribe(subscribe)).unwrap();
    let live = Publication { data: "{\"n\":2}".into(), offset: 43, ..Default::default() };
    Format::Json.put_publication(&mut frame, "news", &live).unwrap();
    Encoding::Json.put_ping(&mut frame);
    let lines = String::from_utf8(frame.clone()).unwrap();
    let expected = [
        r#"{"id":1,"connect":{"client":"9f…","version":"0.1 RS","ping":25,"pong":true}}"#,
        r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"kRtA","publications":[{"data":{"n":1},"offset":42}],"recovered":true,"offset":41,"positioned":true,"was_recovering":true}}"#,
        r#"{"push":{"channel":"news","pub":{"data":{"n":2},"offset":43}}}"#,
        "{}",
    ];
    assert_eq!(lines.split('\n').collect::<Vec<_>>(), expected);
    let replies = client::replies(Format::Json, &frame).collect::<Result<Vec<_>, _>>().unwrap();
    assert!(matches!(
        replies[..],
        [Reply::Answer { id: 1, .. }, Reply::Answer { id: 2, .. }, Reply::Push(_), Reply::Ping]
    ));

    let mut frame = Vec::new();
    for _ in 0..2 {
        Encoding::Protobuf.put_ping(&mut frame);
        Encoding::Protobuf.put_unit(&mut frame, b"\x02\x08\x05");
    }
    assert_eq!(frame, b"\x00\x02\x08\x05\x00\x02\x08\x05");
}

/// Section 1.2: what JSON clients get is one line; what is not JSON they do not get, and nothing else is broken.
#[test]
fn payloads_are_embedded_on_one_line_or_not_at_all() {
    let check = |payload: &[u8], expected: Result<&str, NotJson>| {
        let publication = Publication { data: payload.to_vec().into(), ..Default::default() };
        let mut frame = b"before".to_vec();
        let done = Format::Json.put_publication(&mut frame, "c", &publication);
        let expected = expected
            .map(|data| format!("before\n{{\"push\":{{\"channel\":\"c\",\"pub\":{{\"data\":{data}}}}}}}"));
        assert_eq!(done.map(|()| String::from_utf8(frame.clone()).unwrap()), expected);
        if done.is_err() {
            assert_eq!(frame, b"before", "nothing is left of it");
            assert_eq!(NotJson.disconnect(), DisconnectCode::InappropriateProtocol);
        }
        let mut frame = Vec::new();
        Format::Protobuf.put_publication(&mut frame, "c", &publication).expect("anything");
        let replies = client::replies(Format::Protobuf, &frame).collect::<Vec<_>>();
        let event = Event::Publication(publication);
        assert_eq!(replies, [Ok(Reply::Push(Push { id: 0, channel: "c".into(), event }))]);
    };
    check(br#"{"a": "\n"}"#, Ok(r#"{"a": "\n"}"#));
    check(b"\n{\r\n  \"a\":\n\t[1,\r2]\n}\n", Ok("{  \"a\":\t[12]}".replace("12", "1,2").as_str()));
    check("\"\u{2028}é\"".as_bytes(), Ok("\"\u{2028}é\""));
    check(b"null", Ok("null"));
    check(b"\"\\ud800\"", Ok("\"\\ud800\""));
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    check(nested(128).as_bytes(), Ok(&nested(128)));
    check(nested(129).as_bytes(), Err(NotJson));
    check(nested(100_000).as_bytes(), Err(NotJson));
    for broken in [
        &b"x"[..],
        b" ",
        b"{",
        b"{}{}",
        b"1\n2",
        b"\"a\nb\"",
        b"\"\xff\"",
        b"\xef\xbb\xbf{}",
        b"nul",
        b"{}\0",
        b"{\"a\":1},\"id\":7",
        &[b'['; 1 << 20],
    ] {
        check(broken, Err(NotJson));
    }
}

/// What a token says of its bearer may be any bytes: no reader of JSON is cut for it, it is merely not told.
#[test]
fn what_others_are_said_to_be_is_told_if_it_can_be() {
    let deep = "[".repeat(129) + &"]".repeat(129);
    for (info, shown) in
        [("x", ""), (&deep, ""), ("", ""), (r#"{"a":1}"#, r#","conn_info":{"a":1},"chan_info":{"a":1}"#)]
    {
        let info = bytes::Bytes::from(info.to_owned());
        let client = ClientInfo { conn_info: info.clone(), chan_info: info.clone(), ..Default::default() };
        let answer = Answer::Presence(PresenceResult { presence: vec![("a", client.clone()).into()] });
        let mut frame = Vec::new();
        Encoding::Json.put_answer(&mut frame, 1, &answer).unwrap();
        let client_json = format!(r#"{{"user":"","client":""{shown}}}"#);
        let expected = format!(r#"{{"id":1,"presence":{{"presence":{{"a":{client_json}}}}}}}"#);
        assert_eq!(String::from_utf8(frame).unwrap(), expected);
        let publication = Publication { data: "1".into(), info: Some(client), ..Default::default() };
        let mut frame = Vec::new();
        Format::Json.put_publication(&mut frame, "c", &publication).unwrap();
        let expected = format!(r#"{{"push":{{"channel":"c","pub":{{"data":1,"info":{client_json}}}}}}}"#);
        assert_eq!(String::from_utf8(frame).unwrap(), expected);
        let mut frame = Vec::new();
        Encoding::Protobuf.put_answer(&mut frame, 1, &answer).unwrap();
        assert_eq!(frame.windows(info.len().max(1)).any(|bytes| bytes == info), !info.is_empty());
    }
}

/// What is relayed is what a client is told, with and without all that may come with it.
#[test]
fn a_relayed_publication_is_told_in_full() {
    let mut relayed = fanfare_protocol::Publication::new(Kind::Text, "{}".into());
    let told = |relayed: &fanfare_protocol::Publication| {
        let mut frame = Vec::new();
        Format::UniJson.put_publication(&mut frame, "c", &relayed.into()).expect("JSON");
        String::from_utf8(frame).unwrap()
    };
    assert_eq!(told(&relayed), r#"{"channel":"c","pub":{"data":{}}}"#);
    relayed.position = Some(Position { offset: 3, epoch: Epoch::from_random(1) });
    relayed.info = Some(Arc::new(Info { user: "u".into(), conn_info: "{}".into(), ..Info::default() }));
    relayed.tags = Some(Arc::new([("k".to_owned(), "v".to_owned())].into()));
    assert_eq!(
        told(&relayed),
        r#"{"channel":"c","pub":{"data":{},"info":{"user":"u","client":"","conn_info":{}},"offset":3,"tags":{"k":"v"}}}"#
    );
}

fn info() -> ClientInfo {
    ClientInfo {
        user: "u".into(),
        client: "c".into(),
        conn_info: r#"{"a":1}"#.into(),
        chan_info: r#""x""#.into(),
    }
}

fn info_fields() -> [(u32, Value); 4] {
    [bytes(1, "u"), bytes(2, "c"), bytes(3, r#"{"a":1}"#), bytes(4, r#""x""#)]
}

fn publication() -> Publication {
    Publication {
        data: r#"{"n":[1,"é"]}"#.into(),
        info: Some(info()),
        offset: 1 << 53,
        tags: [("k".to_owned(), "v".to_owned())].into(),
        delta: true,
        time: -5,
        channel: "c".into(),
        key: "k".into(),
        removed: true,
        score: -2,
        epoch: "e".into(),
        prev_data: "0".into(),
        version: 8,
    }
}

const PUBLICATION: &str = r#"{"data":{"n":[1,"é"]},"info":{"user":"u","client":"c","conn_info":{"a":1},"chan_info":"x"},"offset":9007199254740992,"tags":{"k":"v"},"delta":true,"time":-5,"channel":"c","key":"k","removed":true,"score":-2,"epoch":"e","prev_data":0,"version":8}"#;

fn publication_fields() -> Vec<u8> {
    message(&[
        bytes(4, r#"{"n":[1,"é"]}"#),
        bytes(5, message(&info_fields())),
        int(6, 1 << 53),
        bytes(7, message(&[bytes(1, "k"), bytes(2, "v")])),
        int(8, 1),
        int(9, -5_i64 as u64),
        bytes(10, "c"),
        bytes(11, "k"),
        int(12, 1),
        int(13, 3), // -2 in zigzag
        bytes(14, "e"),
        bytes(15, "0"),
        int(16, 8),
    ])
}
