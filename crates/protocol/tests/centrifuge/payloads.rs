//! What a payload may be.

use fanfare_protocol::payload::{DataFormat, MAX_DEPTH, PayloadError, check_json};

#[test]
fn payloads_are_judged_by_their_channel_s_format() {
    use PayloadError::{Empty, NotJson, NotObject, TooDeep};
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let check = |payload: &[u8], json: Result<(), PayloadError>, object: Result<(), PayloadError>| {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(40)]);
        assert_eq!(DataFormat::Binary.check(payload), Ok(()), "{shown}");
        let any = if payload.is_empty() { Err(Empty) } else { Ok(()) };
        assert_eq!(DataFormat::Any.check(payload), any, "{shown}");
        assert_eq!(DataFormat::Json.check(payload), json, "{shown}");
        assert_eq!(check_json(payload), json, "{shown}");
        assert_eq!(DataFormat::JsonObject.check(payload), object, "{shown}");
    };
    check(b"", Err(Empty), Err(Empty));
    check(b" ", Err(NotJson), Err(NotJson));
    check(b"{}", Ok(()), Ok(()));
    check(b" \r\n{\"a\": [1, null, \"\\u00e9\"]}\n", Ok(()), Ok(()));
    check(b"[]", Ok(()), Err(NotObject));
    check(b"null", Ok(()), Err(NotObject));
    check(b"-0.5e-7", Ok(()), Err(NotObject));
    check(b"\"{}\"", Ok(()), Err(NotObject));
    check(b"{}x", Err(NotJson), Err(NotJson));
    check(b"{'a':1}", Err(NotJson), Err(NotJson));
    check(b"NaN", Err(NotJson), Err(NotJson));
    check(b"\xff\xfe", Err(NotJson), Err(NotJson));
    check(b"\"\xc3\"", Err(NotJson), Err(NotJson));
    check(b"\"\x01\"", Err(NotJson), Err(NotJson));
    check(deep(MAX_DEPTH).as_bytes(), Ok(()), Err(NotObject));
    check(deep(MAX_DEPTH + 1).as_bytes(), Err(TooDeep), Err(TooDeep));
    check("[".repeat(1 << 20).as_bytes(), Err(TooDeep), Err(TooDeep));
    check("{\"a\":".repeat(1 << 20).as_bytes(), Err(TooDeep), Err(TooDeep));
    // Brackets in strings are none, and an escaped quote ends no string.
    let brackets = format!(r#"["{}\"{}"]"#, "[".repeat(500), "[".repeat(500));
    check(brackets.as_bytes(), Ok(()), Err(NotObject));
    let wide = format!("[{}1]", "[[]],".repeat(10_000));
    check(wide.as_bytes(), Ok(()), Err(NotObject));
}
