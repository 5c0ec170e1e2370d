//! What is wrong with what a client says: what is not the protocol, and what a command alone shows to be wrong.

use fanfare_protocol::centrifuge::{
    Command, DisconnectCode, Encoding, ErrorCode, Refusal, Request, RpcRequest,
};

use crate::commands::read;
use crate::wire::{bytes, frame, int, message};

/// What is not the protocol is named, and ends the connection with 3501.
#[test]
fn what_is_malformed_is_named() {
    let check = |encoding, frame: &[u8], expected: &str| {
        let read = read(encoding, frame);
        let [Err(offence)] = &read[..] else { panic!("{:?}: {read:?}", String::from_utf8_lossy(frame)) };
        assert!(offence.to_string().contains(expected), "{offence}; expected {expected}");
        assert_eq!(offence.disconnect(), DisconnectCode::BadRequest);
    };
    let mega = |byte: &str| byte.repeat(1 << 20);
    let deep = |depth: usize| {
        format!(r#"{{"id":1,"publish":{{"data":{}1{}}}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let filter = |depth: usize| {
        let nodes = r#"{"op":"not","nodes":["#.repeat(depth) + "{}" + &"]}".repeat(depth);
        format!(r#"{{"id":1,"subscribe":{{"tf":{nodes}}}}}"#)
    };
    for (json, expected) in [
        ("", "a frame is empty"),
        ("\n", "a line is empty"),
        ("\n{}", "a line is empty"),
        ("\r\n{}", "does not begin with a brace"),
        (" ", "does not begin with a brace"),
        ("null", "does not begin with a brace"),
        ("1", "does not begin with a brace"),
        ("\"{}\"", "does not begin with a brace"),
        ("[{}]", "does not begin with a brace"),
        ("\u{feff}{}", "does not begin with a brace"),
        ("{", "EOF while parsing"),
        ("{}{}", "trailing characters"),
        ("{} x", "trailing characters"),
        (r#"{"id":1,}"#, "trailing comma"),
        (r#"{id:1}"#, "key must be a string"),
        (r#"{"id":-1,"rpc":{}}"#, "invalid value: integer `-1`, expected u32"),
        (r#"{"id":4294967296,"rpc":{}}"#, "invalid value: integer `4294967296`, expected u32"),
        (r#"{"id":1.5,"rpc":{}}"#, "invalid type: floating point `1.5`, expected u32"),
        (r#"{"id":1e99999,"rpc":{}}"#, "number out of range"),
        (r#"{"id":"1","rpc":{}}"#, r#"invalid type: string "1", expected u32"#),
        (r#"{"id":true,"rpc":{}}"#, "invalid type: boolean `true`, expected u32"),
        (r#"{"id":[1],"rpc":{}}"#, "invalid type: sequence, expected u32"),
        (r#"{"id":1,"id":2,"rpc":{}}"#, "duplicate field `id`"),
        (r#"{"id":1,"rpc":{},"rpc":{}}"#, "duplicate field `rpc`"),
        (r#"{"id":1,"publish":{"data":1,"data":2}}"#, "duplicate field `data`"),
        (r#"{"id":1,"connect":[]}"#, "invalid type: sequence, expected an object"),
        (r#"{"id":1,"connect":["t"]}"#, "invalid type: sequence, expected an object"),
        (r#"{"id":1,"connect":"t"}"#, r#"invalid type: string "t", expected an object"#),
        (r#"{"id":1,"connect":{"token":1}}"#, "invalid type: integer `1`, expected a string"),
        (r#"{"id":1,"connect":{"subs":[]}}"#, "invalid type: sequence, expected a map"),
        (r#"{"id":1,"connect":{"subs":{"c":null}}}"#, "invalid type: null, expected an object"),
        (r#"{"id":1,"connect":{"subs":{"c":[]}}}"#, "invalid type: sequence, expected an object"),
        (r#"{"id":1,"connect":{"headers":{"h":1}}}"#, "invalid type: integer `1`, expected a string"),
        (r#"{"id":1,"subscribe":{"offset":-1}}"#, "invalid value: integer `-1`, expected u64"),
        (r#"{"id":1,"subscribe":{"offset":18446744073709551616}}"#, "expected u64"),
        (r#"{"id":1,"subscribe":{"recover":"true"}}"#, "expected a boolean"),
        (r#"{"id":1,"subscribe":{"recover":1}}"#, "expected a boolean"),
        (r#"{"id":1,"subscribe":{"type":2147483648}}"#, "expected i32"),
        (r#"{"id":1,"subscribe":{"tf":[]}}"#, "expected an object"),
        (r#"{"id":1,"subscribe":{"tf":{"nodes":[[]]}}}"#, "expected an object"),
        (r#"{"id":1,"subscribe":{"tf":{"vals":[null]}}}"#, "expected a string"),
        (r#"{"id":1,"history":{"since":7}}"#, "expected an object"),
        (r#"{"id":1,"publish":{"data":}}"#, "expected value"),
        (r#"{"id":1,"publish":{"data":tru}}"#, "expected ident"),
        (r#"{"id":1,"publish":{"data":01}}"#, "invalid number"),
        ("{\"id\":1,\"publish\":{\"data\":\"\t\"}}", "control character"),
        (r#"{"id":1,"publish":{"channel":"\ud800"}}"#, "unexpected end of hex escape"),
        (r#"{"id":1,"publish":{"channel":"\x"}}"#, "invalid escape"),
        (&mega("["), "does not begin with a brace"),
        (&mega("{"), "key must be a string"),
        (&mega(r#"{"x":"#), "EOF while parsing"),
        (&format!(r#"{{"x":{}"#, mega("[")), "EOF while parsing"),
        (&format!(r#"{{"id":1,"publish":{{"data":{}"#, mega("[")), "EOF while parsing"),
        (&deep(1 << 20), "nested too deeply"),
        (&deep(129), "nested too deeply"),
        (&filter(1 << 10), "recursion limit exceeded"),
        (&format!(r#"{{"id":"{}"}}"#, mega("x")), "invalid type: string \"xxxx"),
    ] {
        check(Encoding::Json, json.as_bytes(), expected);
    }
    check(Encoding::Json, b"{\"id\":1,\"publish\":{\"channel\":\"\xff\"}}", "not UTF-8");
    check(Encoding::Json, b"{\"id\":1,\"x\":\"\xc3\"}", "not UTF-8");
    check(Encoding::Json, b"\x00", "does not begin with a brace");
    let long = read(Encoding::Json, format!(r#"{{"id":"{}"}}"#, mega("é")).as_bytes());
    assert!(long[0].as_ref().unwrap_err().to_string().len() < 300, "an error is not as long as its cause");
    assert_eq!(read(Encoding::Json, deep(128).as_bytes()).len(), 1);
    assert!(read(Encoding::Json, deep(128).as_bytes())[0].is_ok());
    // Nested without end, but in a field that nobody reads.
    let unknown = format!(r#"{{"id":1,"rpc":{{}},"x":{}{}}}"#, mega("["), mega("]"));
    assert!(read(Encoding::Json, unknown.as_bytes())[0].is_ok());

    let in_rpc = |field: &[u8]| {
        frame(&[[&message(&[int(1, 1)])[..], &[13 << 3 | 2, field.len() as u8], field].concat()])
    };
    for (frame, expected) in [
        (vec![], "a frame is empty"),
        (vec![0x80], "a length prefix is broken"),
        (vec![0xff; 9], "a length prefix is broken"),
        (vec![0xff; 11], "a length prefix is broken"),
        ([vec![0xff; 9], vec![0x02]].concat(), "a length prefix is broken"),
        ([vec![0xff; 9], vec![0x01]].concat(), "claims 18446744073709551615 bytes, and 0 follow"),
        (b"\xff\xff\xff\xff\x0f".to_vec(), "claims 4294967295 bytes, and 0 follow"),
        (b"\x03\x08\x01".to_vec(), "claims 3 bytes, and 2 follow"),
        (b"\x01\x08".to_vec(), "Protobuf message cannot be read"),
        // A field number of 0, a group that nothing opened, a wire type that does not exist.
        (b"\x01\x00".to_vec(), "invalid tag value: 0"),
        (b"\x01\x0c".to_vec(), "Protobuf message cannot be read"),
        (b"\x01\x0f".to_vec(), "invalid wire type"),
        // An id that is text, a request that is a number.
        (frame(&[message(&[bytes(1, "1")])]), "invalid wire type"),
        (frame(&[message(&[int(1, 1), int(4, 1)])]), "invalid wire type"),
        // Within a request: a field that claims more than there is, text that is not UTF-8.
        (in_rpc(b"\x12\xff\xff\xff\xff\x0f"), "Protobuf message cannot be read"),
        (in_rpc(b"\x12\x01\xff"), "RpcRequest.method: CommandFields.rpc: invalid string value"),
        (in_rpc(b"\x12"), "Protobuf message cannot be read"),
        (frame(&[message(&[int(1, 1), bytes(5, nested_filter(200))])]), "recursion limit reached"),
    ] {
        check(Encoding::Protobuf, &frame, expected);
    }
}

/// An id of more than 32 bits cannot be told from one of 32 in Protobuf: a decoder keeps the low bits.
#[test]
fn a_long_id_in_protobuf_is_cut() {
    let frame = frame(&[message(&[int(1, 1 << 32 | 7), bytes(13, "")])]);
    assert_eq!(
        read(Encoding::Protobuf, &frame),
        [Ok(Command { id: 7, request: Request::Rpc(RpcRequest::default()) })]
    );
}

/// Sections 3.4, 4.1, 4.9 and 5: what a command alone shows to be wrong.
#[test]
fn what_is_wrong_in_itself_is_refused() {
    let check = |json: &str, expected: Result<(), Refusal>| {
        let read = read(Encoding::Json, format!("{{\"id\":1,{json}}}").as_bytes());
        let [Ok(command)] = &read[..] else { panic!("{json}: {read:?}") };
        assert_eq!(command.request.check(), expected, "{json}");
    };
    let close = || Err(Refusal::Disconnect(DisconnectCode::BadRequest));
    let error = |error| Err(Refusal::Error(error));
    let named = |bytes: usize| format!(r#""channel":"{}""#, "x".repeat(bytes));
    for request in
        ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "sub_refresh"]
    {
        check(&format!(r#""{request}":{{"token":"t"}}"#), close());
        check(&format!(r#""{request}":{{"token":"t",{}}}"#, named(255)), Ok(()));
        check(&format!(r#""{request}":{{"token":"t",{}}}"#, named(256)), error(ErrorCode::BadRequest));
    }
    for (json, expected) in [
        (r#""connect":{}"#, Ok(())),
        (r#""rpc":{}"#, Ok(())),
        (r#""send":{}"#, Ok(())),
        (r#""refresh":{}"#, close()),
        (r#""refresh":{"token":"t"}"#, Ok(())),
        (r#""sub_refresh":{"channel":"c"}"#, error(ErrorCode::BadRequest)),
        (r#""sub_refresh":{"channel":"c","type":1}"#, error(ErrorCode::NotAvailable)),
        (r#""subscribe":{"channel":"c","delta":"fossil"}"#, Ok(())),
        (r#""subscribe":{"channel":"c","delta":"Fossil"}"#, close()),
        (r#""subscribe":{"channel":"c","delta":"vcdiff"}"#, close()),
        (r#""subscribe":{"channel":"c","type":1}"#, error(ErrorCode::PermissionDenied)),
        (r#""subscribe":{"channel":"c","type":3}"#, error(ErrorCode::PermissionDenied)),
        (r#""subscribe":{"channel":"c","type":4}"#, error(ErrorCode::NotAvailable)),
        (r#""subscribe":{"channel":"c","type":-1}"#, error(ErrorCode::PermissionDenied)),
        (r#""publish":{"channel":"c","data":{},"type":1}"#, error(ErrorCode::NotAvailable)),
        (r#""publish":{"channel":"c","removed":true}"#, error(ErrorCode::NotAvailable)),
        (r#""publish":{"channel":"c","key":"k"}"#, error(ErrorCode::NotAvailable)),
        (r#""history":{"channel":"c","reverse":true}"#, Ok(())),
        (r#""history":{"channel":"c","reverse":true,"since":{"offset":1}}"#, Ok(())),
        (r#""history":{"channel":"c","reverse":true,"since":{"epoch":"e"}}"#, error(ErrorCode::BadRequest)),
        (r#""history":{"channel":"c","since":{"epoch":"e"}}"#, Ok(())),
    ] {
        check(json, expected);
    }
}

fn nested_filter(depth: usize) -> Vec<u8> {
    let mut node = Vec::new();
    for _ in 0..depth {
        node = message(&[bytes(6, node)]);
    }
    message(&[bytes(13, node)])
}
