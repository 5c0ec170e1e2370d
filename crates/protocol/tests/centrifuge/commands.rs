//! What a client says, as it is meant. What is wrong with it is the next file's.

use fanfare_protocol::centrifuge::{
    Command, ConnectRequest, EmulationRequest, Encoding, FilterNode, HistoryRequest, KeyedItem, Offence,
    PresenceRequest, PresenceStatsRequest, PublishRequest, RefreshRequest, Request, RpcRequest, SendRequest,
    StreamPosition, SubRefreshRequest, SubscribeRequest, TrackBatch, UnsubscribeRequest,
};

use crate::wire::{bytes, frame, int, message};

/// Every field of every request, in JSON and in Protobuf, is the same request.
#[test]
fn every_field_is_read_in_both_encodings() {
    let check = |json: &str, protobuf: Vec<u8>, id: u32, request: Request| {
        let expected = vec![Ok(Command { id, request })];
        assert_eq!(read(Encoding::Json, json.as_bytes()), expected, "{json}");
        assert_eq!(read(Encoding::Protobuf, &frame(&[protobuf])), expected, "{json}");
    };
    let position =
        || SubscribeRequest { recover: true, epoch: "e".into(), offset: u64::MAX, ..Default::default() };
    check(
        r#"{"id":1,"connect":{"token":"t","data":{"a": [1]},"subs":{"c":{"recover":true,"epoch":"e","offset":18446744073709551615}},"name":"js","version":"5","headers":{"h":"v"},"flag":-1,"dict":"d","profile":"p"}}"#,
        message(&[
            int(1, 1),
            bytes(
                4,
                message(&[
                    bytes(1, "t"),
                    bytes(2, r#"{"a": [1]}"#),
                    bytes(
                        3,
                        message(&[
                            bytes(1, "c"),
                            bytes(2, message(&[int(3, 1), bytes(6, "e"), int(7, u64::MAX)])),
                        ]),
                    ),
                    bytes(4, "js"),
                    bytes(5, "5"),
                    bytes(6, message(&[bytes(1, "h"), bytes(2, "v")])),
                    int(7, u64::MAX),
                    bytes(8, "d"),
                    bytes(9, "p"),
                ]),
            ),
        ]),
        1,
        Request::Connect(Box::new(ConnectRequest {
            token: "t".into(),
            data: r#"{"a": [1]}"#.into(),
            subs: [("c".to_owned(), position())].into(),
            name: "js".into(),
            version: "5".into(),
            headers: [("h".to_owned(), "v".to_owned())].into(),
            flag: -1,
            dict: "d".into(),
            profile: "p".into(),
        })),
    );
    check(
        r#"{"id":4294967295,"subscribe":{"channel":"c","token":"t","recover":true,"epoch":"e","offset":18446744073709551615,"data":1,"positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","tf":{"op":"and","nodes":[{"key":"k","cmp":"in","vals":["a","b"]},{"key":"k","cmp":"eq","val":"v"}]},"flag":3,"type":4,"phase":2,"cursor":"x","limit":-5,"asc":true}}"#,
        message(&[
            int(1, u32::MAX.into()),
            bytes(
                5,
                message(&[
                    bytes(1, "c"),
                    bytes(2, "t"),
                    int(3, 1),
                    bytes(6, "e"),
                    int(7, u64::MAX),
                    bytes(8, "1"),
                    int(9, 1),
                    int(10, 1),
                    int(11, 1),
                    bytes(12, "fossil"),
                    bytes(
                        13,
                        message(&[
                            bytes(1, "and"),
                            bytes(6, message(&[bytes(2, "k"), bytes(3, "in"), bytes(5, "a"), bytes(5, "b")])),
                            bytes(6, message(&[bytes(2, "k"), bytes(3, "eq"), bytes(4, "v")])),
                        ]),
                    ),
                    int(14, 3),
                    int(15, 4),
                    int(16, 2),
                    bytes(17, "x"),
                    int(18, -5_i64 as u64),
                    int(19, 1),
                ]),
            ),
        ]),
        u32::MAX,
        Request::Subscribe(Box::new(SubscribeRequest {
            channel: "c".into(),
            token: "t".into(),
            data: "1".into(),
            positioned: true,
            recoverable: true,
            join_leave: true,
            delta: "fossil".into(),
            tf: Some(FilterNode {
                op: "and".into(),
                nodes: vec![
                    FilterNode {
                        key: "k".into(),
                        cmp: "in".into(),
                        vals: vec!["a".into(), "b".into()],
                        ..Default::default()
                    },
                    FilterNode { key: "k".into(), cmp: "eq".into(), val: "v".into(), ..Default::default() },
                ],
                ..Default::default()
            }),
            flag: 3,
            r#type: 4,
            phase: 2,
            cursor: "x".into(),
            limit: -5,
            asc: true,
            ..position()
        })),
    );
    check(
        r#"{"unsubscribe":{"channel":"c"},"id":2}"#,
        message(&[bytes(6, message(&[bytes(1, "c")])), int(1, 2)]),
        2,
        Request::Unsubscribe(UnsubscribeRequest { channel: "c".into() }),
    );
    check(
        r#"{"id":2,"publish":{"channel":"c","data":"x\ny","type":1,"key":"k","removed":true}}"#,
        message(&[
            int(1, 2),
            bytes(7, message(&[bytes(1, "c"), bytes(2, r#""x\ny""#), int(3, 1), bytes(4, "k"), int(5, 1)])),
        ]),
        2,
        Request::Publish(PublishRequest {
            channel: "c".into(),
            data: r#""x\ny""#.into(),
            r#type: 1,
            key: "k".into(),
            removed: true,
        }),
    );
    check(
        r#"{"id":2,"presence":{"channel":"c"}}"#,
        message(&[int(1, 2), bytes(8, message(&[bytes(1, "c")]))]),
        2,
        Request::Presence(PresenceRequest { channel: "c".into() }),
    );
    check(
        r#"{"id":2,"presence_stats":{"channel":"c"}}"#,
        message(&[int(1, 2), bytes(9, message(&[bytes(1, "c")]))]),
        2,
        Request::PresenceStats(PresenceStatsRequest { channel: "c".into() }),
    );
    check(
        r#"{"id":2,"history":{"channel":"c","limit":-1,"since":{"offset":7,"epoch":"e"},"reverse":true}}"#,
        message(&[
            int(1, 2),
            bytes(
                10,
                message(&[
                    bytes(1, "c"),
                    int(7, u64::MAX),
                    bytes(8, message(&[int(1, 7), bytes(2, "e")])),
                    int(9, 1),
                ]),
            ),
        ]),
        2,
        Request::History(HistoryRequest {
            channel: "c".into(),
            limit: -1,
            since: Some(StreamPosition { offset: 7, epoch: "e".into() }),
            reverse: true,
        }),
    );
    check(
        r#"{"id":2,"rpc":{"data":[],"method":"m"}}"#,
        message(&[int(1, 2), bytes(13, message(&[bytes(1, "[]"), bytes(2, "m")]))]),
        2,
        Request::Rpc(RpcRequest { data: "[]".into(), method: "m".into() }),
    );
    check(
        r#"{"send":{"data":null}}"#,
        message(&[bytes(12, "")]),
        0,
        Request::Send(SendRequest { data: "".into() }),
    );
    check(
        r#"{"id":9,"send":{"data":false}}"#,
        message(&[int(1, 9), bytes(12, message(&[bytes(1, "false")]))]),
        9,
        Request::Send(SendRequest { data: "false".into() }),
    );
    check(
        r#"{"id":2,"refresh":{"token":"t"}}"#,
        message(&[int(1, 2), bytes(14, message(&[bytes(1, "t")]))]),
        2,
        Request::Refresh(RefreshRequest { token: "t".into() }),
    );
    check(
        r#"{"id":2,"sub_refresh":{"channel":"c","token":"t","type":1,"track":[{"signature":"s","items":[{"key":"k","version":3}]}],"untrack":["u"]}}"#,
        message(&[
            int(1, 2),
            bytes(
                15,
                message(&[
                    bytes(1, "c"),
                    bytes(2, "t"),
                    int(3, 1),
                    bytes(4, message(&[bytes(1, "s"), bytes(2, message(&[bytes(1, "k"), int(2, 3)]))])),
                    bytes(5, "u"),
                ]),
            ),
        ]),
        2,
        Request::SubRefresh(SubRefreshRequest {
            channel: "c".into(),
            token: "t".into(),
            r#type: 1,
            track: vec![TrackBatch {
                signature: "s".into(),
                items: vec![KeyedItem { key: "k".into(), version: 3 }],
            }],
            untrack: vec!["u".into()],
        }),
    );
}

/// Section 1 and 3.1: which request counts, what is a pong, what is nothing.
#[test]
fn the_first_request_counts_and_no_id_is_a_pong() {
    let check =
        |json: &str, protobuf: &[(u32, crate::wire::Value)], expected: Result<(u32, &str), Offence>| {
            let name = |read: Vec<Result<Command, Offence>>| match &read[..] {
                [one] => one.clone().map(|command| (command.id, command.request.name())),
                other => panic!("{json}: {other:?}"),
            };
            let protobuf = frame(&[message(protobuf)]);
            assert_eq!(name(read(Encoding::Json, json.as_bytes())), expected, "{json}");
            assert_eq!(name(read(Encoding::Protobuf, &protobuf)), expected, "{json}");
        };
    let all = [4, 5, 6, 7, 8, 9, 10, 13, 12, 14, 15];
    let names = [
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "rpc",
        "send",
        "refresh",
        "sub_refresh",
    ];
    for first in 0..all.len() {
        // From the last to the first, so that none wins by its place in the message.
        let json = names[first..].iter().rev().map(|name| format!(",\"{name}\":{{}}")).collect::<String>();
        let json = format!("{{\"id\":7{json}}}");
        let mut protobuf = vec![int(1, 7)];
        protobuf.extend(all[first..].iter().rev().map(|number| bytes(*number, "")));
        check(&json, &protobuf, Ok((7, names[first])));
    }
    check(
        r#"{"id":7,"ping":{},"connect":{}}"#,
        &[int(1, 7), bytes(11, ""), bytes(4, "")],
        Ok((7, "connect")),
    );
    check(
        r#"{"id":7,"ping":{},"subscribe":{}}"#,
        &[int(1, 7), bytes(11, ""), bytes(5, "")],
        Err(Offence::Ping(7)),
    );
    check("{}", &[], Ok((0, "pong")));
    check(r#"{"id":0,"connect":{}}"#, &[int(1, 0), bytes(4, "")], Ok((0, "pong")));
    check(r#"{"publish":{"channel":"c"}}"#, &[bytes(7, message(&[bytes(1, "c")]))], Ok((0, "pong")));
    check(r#"{"ping":{}}"#, &[bytes(11, "")], Ok((0, "pong")));
    check(r#"{"id":null,"send":{}}"#, &[bytes(12, "")], Ok((0, "send")));
    check(r#"{"id":5}"#, &[int(1, 5)], Err(Offence::NoRequest(5)));
    check(
        r#"{"id":5,"connect":null,"x":{"y":[]}}"#,
        &[int(1, 5), bytes(99, "x")],
        Err(Offence::NoRequest(5)),
    );
    check(
        r#"{"id":5,"method":1,"params":{},"rpc":{"unknown":[[1],{}],"method":null}}"#,
        &[int(1, 5), int(2, 1), bytes(3, "p"), bytes(13, message(&[bytes(77, "x"), int(78, 1)]))],
        Ok((5, "rpc")),
    );
}

/// Section 1.1: several in a frame, one after the other; an offence leaves what came before it.
#[test]
fn frames_hold_several_commands() {
    let unsubscribe = |id, channel: &str| {
        Ok(Command { id, request: Request::Unsubscribe(UnsubscribeRequest { channel: channel.into() }) })
    };
    let pong = || Ok(Command { id: 0, request: Request::Pong });
    let json = "{\"id\":1,\"unsubscribe\":{\"channel\":\"a\\nb\"}}\n{}\n {\"id\":2,\"unsubscribe\":{}} \r";
    for end in ["", "\n"] {
        assert_eq!(
            read(Encoding::Json, format!("{json}{end}").as_bytes()),
            [unsubscribe(1, "a\nb"), pong(), unsubscribe(2, "")]
        );
    }
    let first = message(&[int(1, 1), bytes(6, message(&[bytes(1, "a\nb")]))]);
    let last = message(&[int(1, 2), bytes(6, "")]);
    let protobuf = frame(&[first, vec![], last]);
    assert_eq!(read(Encoding::Protobuf, &protobuf), [unsubscribe(1, "a\nb"), pong(), unsubscribe(2, "")]);
    // A length in more bytes than it needs is still that length.
    assert_eq!(read(Encoding::Protobuf, b"\x80\x80\x00\x00"), [pong(), pong()]);

    let broken = [protobuf, vec![0x80]].concat();
    assert_eq!(read(Encoding::Protobuf, &broken)[3], Err(Offence::Varint));
    assert_eq!(read(Encoding::Json, b"{}\n{}\n\n{}\n{}"), [pong(), pong(), Err(Offence::EmptyLine)]);
    assert_eq!(read(Encoding::Json, b"{}\n[]\n{}"), [pong(), Err(Offence::NotObject)]);
    assert_eq!(
        read(Encoding::Json, b"{}\n{\"id\":3}\n{}"),
        [pong(), Err(Offence::NoRequest(3))],
        "nothing after an offence"
    );
}

#[test]
fn emulation_and_unidirectional_requests_are_read() {
    let emulation =
        EmulationRequest { node: "n".into(), session: "s".into(), data: "{\"id\":2,\"rpc\":{}}\n{}".into() };
    let json = br#"{"session":"s","node":"n","data":"{\"id\":2,\"rpc\":{}}\n{}","x":1}"#;
    assert_eq!(EmulationRequest::read(Encoding::Json, json), Ok(emulation.clone()));
    let protobuf = message(&[bytes(1, "n"), bytes(2, "s"), bytes(3, &emulation.data)]);
    assert_eq!(EmulationRequest::read(Encoding::Protobuf, &protobuf), Ok(emulation.clone()));
    assert_eq!(Encoding::Json.commands(&emulation.data).filter_map(Result::ok).count(), 2);

    for body in ["", "x", "[]", "null", r#"{"data":{}}"#, r#"{"node":1}"#] {
        assert!(EmulationRequest::read(Encoding::Json, body.as_bytes()).is_err(), "{body}");
        assert!(
            ConnectRequest::read(Encoding::Json, body.replace("node", "name").as_bytes())
                .is_ok_and(|r| r.data == "{}")
                == (body == r#"{"data":{}}"#),
            "{body}"
        );
    }
    let connect =
        ConnectRequest::read(Encoding::Json, br#" {"token":"t","subs":{"a":{},"b":{"offset":1}}} "#);
    let connect = connect.expect("a request");
    assert_eq!((&connect.token[..], connect.subs.len()), ("t", 2));
}

/// Every command of a frame, up to its first offence.
pub fn read(encoding: Encoding, frame: &[u8]) -> Vec<Result<Command, Offence>> {
    encoding.commands(frame).collect()
}
