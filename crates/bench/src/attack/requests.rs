//! Attacks before the upgrade: requests that are too big, too many, absurd, or none at all. Those that hide a request
//! are in `smuggling`.

use std::io;

use super::assailant::{Assailant, FIN, TEXT, frame, handshake};
use super::{Answer, Blow, Counted, Field, Outcome};

/// One request's bytes, and what is answered.
pub(super) struct Request {
    /// As the report calls it.
    pub(super) name: String,
    /// What is sent on a connection of its own.
    pub(super) bytes: Vec<u8>,
    /// What must come back.
    pub(super) answer: Answer,
    /// Where it must be counted.
    pub(super) counted: Counted,
}

/// Sends each on a connection of its own, one after the other, until the time is over.
pub(super) fn send(field: &Field, requests: Vec<Request>) -> io::Result<Outcome> {
    let mut blows = Vec::new();
    for Request { name, bytes, answer, counted } in requests {
        if field.is_over() {
            break;
        }
        let mut socket = Assailant::connect(field)?;
        socket.write(field, &bytes);
        let got = socket.answers(field);
        blows.push(Blow::new(name, answer, counted, got));
    }
    Ok(Outcome::of(blows))
}

fn request(name: &str, bytes: impl Into<Vec<u8>>, status: u16, reason: &'static str) -> Request {
    let (answer, counted) = (Answer::Http(vec![status]), Counted::Rejected(reason));
    Request { name: name.to_owned(), bytes: bytes.into(), answer, counted }
}

pub(super) fn header_bombs(field: &Field) -> io::Result<Outcome> {
    let with = |lines: &str| handshake(field, "hostile-headers", lines);
    let large = "headers_too_large";
    let megabyte = "x".repeat(1 << 20);
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: 1\r\n")).collect::<String>();
    let requests = vec![
        request("a megabyte in one header", with(&format!("X-Huge: {megabyte}\r\n")), 431, large),
        request("a megabyte of a header's name", with(&format!("{megabyte}: 1\r\n")), 431, large),
        request("a megabyte without an end", format!("GET /ws/x HTTP/1.1\r\nX: {megabyte}"), 431, large),
        request("101 headers", with(&many(101)), 431, large),
        request("1,000 headers", with(&many(1_000)), 431, large),
        request("100,000 headers", with(&many(100_000)), 431, large),
        request("one header 2,000 times", with(&"X: 1\r\n".repeat(2_000)), 431, large),
        request("17 KiB of cookies", with(&format!("Cookie: {}\r\n", "a=b; ".repeat(3_500))), 431, large),
        request("a megabyte of path", format!("GET /ws/{megabyte} HTTP/1.1\r\nHost: x\r\n\r\n"), 431, large),
        request("a megabyte of method", format!("{} / HTTP/1.1\r\n\r\n", "X".repeat(1 << 20)), 431, large),
    ];
    send(field, requests)
}

pub(super) fn no_http(field: &Field) -> io::Result<Outcome> {
    let malformed = |name: &str, bytes: &[u8]| request(name, bytes, 400, "malformed");
    let mut requests = vec![
        malformed("zeros", &[0; 100]),
        malformed("the beginning of TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03"),
        malformed("a method alone", b"GET\r\n\r\n"),
        malformed("HTTP/9.9", b"GET / HTTP/9.9\r\n\r\n"),
        malformed("HTTP/0.9", b"GET /\r\n\r\n"),
        malformed("a frame", &frame(FIN | TEXT, b"hello")),
        malformed("SMTP", b"EHLO example.org\r\n"),
        malformed("a NUL in the path", b"GET /ws/\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        malformed("a NUL in a header", b"GET /ws/x HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n"),
        malformed("a space in the path", b"GET /ws/a b HTTP/1.1\r\nHost: x\r\n\r\n"),
        malformed("a header without a colon", b"GET /ws/x HTTP/1.1\r\nHost x\r\n\r\n"),
    ];
    // Who speaks HTTP/2 understands no answer in HTTP/1.1.
    requests
        .push(Request { answer: Answer::Cut, ..malformed("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") });
    let mut random = fastrand::Rng::with_seed(7);
    requests.extend((0..50).map(|number| {
        let mut bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        // Neither an empty line nor the beginning of a method, so that the answer is known at the first byte.
        bytes[0] = [0x80, 0xFF, 0x01, 0x7F][number % 4];
        request(&format!("noise {number}"), bytes, 400, "malformed")
    }));
    send(field, requests)
}

pub(super) fn pipelined(field: &Field) -> io::Result<Outcome> {
    // Of 14 KiB each: more than the kernel takes for a peer that does not read.
    const UNREAD: usize = 40;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", field.target.host).into_bytes();
    let upgrade = handshake(field, "hostile-pipeline", "").into_bytes();
    let hello = frame(FIN | TEXT, b"hello");
    let mut blows = Vec::new();

    // Requests, the upgrade and a frame in one piece: each is answered in its turn, and the frame is heard.
    let mut socket = Assailant::connect(field)?;
    socket.write(
        field,
        &[get("/instance").repeat(50), get("/nowhere"), upgrade.clone(), hello.clone()].concat(),
    );
    let statuses = [vec![200; 50], vec![404, 101]].concat();
    let mut got = socket.answers(field);
    if got == Answer::Http(statuses.clone()) {
        got = match socket.frame(field) {
            Ok(Some(heard)) if heard.payload == b"hello" => Answer::Http(statuses.clone()),
            _ => Answer::Nonsense("the frame was not heard".to_owned()),
        };
        let left = socket.leave(field);
        if left != Answer::Close(1000) {
            got = left;
        }
    }
    blows.push(Blow::new("before", Answer::Http(statuses), Counted::Closed("closed_by_client"), got));

    // What comes behind the upgrade is frames, whatever it looks like.
    for (name, behind, code) in [
        ("a request behind", get("/livez"), 1002),
        ("a thousand requests behind", get("/livez").repeat(1_000), 1002),
        ("another upgrade behind", upgrade.clone(), 1002),
    ] {
        let mut socket = Assailant::connect(field)?;
        socket.write(field, &[upgrade.clone(), behind].concat());
        let mut got = socket.answers(field);
        if got == Answer::Http(vec![101]) {
            got = socket.closed(field);
        }
        blows.push(Blow::new(name, Answer::Close(code), Counted::Closed("protocol_error"), got));
    }

    // Answers that nobody reads hold up nobody but their own connection.
    let mut deaf = Assailant::connect_narrow(field)?;
    deaf.write(field, &get("/page.js").repeat(UNREAD));
    let last =
        get("/page.js").strip_suffix(b"\r\n").map(|head| [head, b"Connection: close\r\n\r\n"].concat());
    let last = last.unwrap_or_default();
    deaf.write(field, &last);
    let mut other = Assailant::connect(field)?;
    other.write(field, &last);
    let answered = Answer::Http(vec![200]);
    blows.push(Blow::new("beside answers unread", answered, Counted::Nowhere, other.answers(field)));
    let all = Answer::Http(vec![200; UNREAD + 1]);
    blows.push(Blow::new("answers unread for a while", all, Counted::Nowhere, deaf.answers(field)));
    Ok(Outcome::of(blows))
}

pub(super) fn absurd_handshakes(field: &Field) -> io::Result<Outcome> {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let lines = |upgrade: &str, connection: &str, version: &str, key: &str, more: &str| {
        format!(
            "GET /ws/hostile-absurd HTTP/1.1\r\nHost: {}\r\n{upgrade}{connection}{version}{key}{more}\r\n",
            field.target.host
        )
    };
    let (upgrade, connection) = ("Upgrade: websocket\r\n", "Connection: Upgrade\r\n");
    let version = |value: &str| format!("Sec-WebSocket-Version: {value}\r\n");
    let key = |value: &str| format!("Sec-WebSocket-Key: {value}\r\n");
    let (v13, good) = (version("13"), key(KEY));
    let mut requests = Vec::new();
    let mut refused = |name: String, bytes: String, status: u16| {
        requests.push(request(&name, bytes, status, "malformed"));
    };
    for value in ["12", "14", "013", "13.0", "+13", "-13", "0x0d", "13 13", "13,13", "13;", "", "1\u{663}"] {
        refused(format!("version {value:?}"), lines(upgrade, connection, &version(value), &good, ""), 426);
    }
    refused("version twice".into(), lines(upgrade, connection, &v13.repeat(2), &good, ""), 426);
    refused(
        "a long version".into(),
        lines(upgrade, connection, &version(&"1".repeat(9_000)), &good, ""),
        426,
    );
    let keys = [
        "",
        "=",
        "====",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZXg=",
        "dGhl IHNhbXBsZSBub25jZQ==",
        "-_hlIHNhbXBsZSBub25jZQ==",
        "\"dGhlIHNhbXBsZSBub25jZQ==\"",
        "dGhlIHNhbXBsZSBub25jZQ==,dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for value in keys {
        refused(format!("key {value:?}"), lines(upgrade, connection, &v13, &key(value), ""), 400);
    }
    refused("two keys".into(), lines(upgrade, connection, &v13, &good.repeat(2), ""), 400);
    refused("a long key".into(), lines(upgrade, connection, &v13, &key(&"A".repeat(12_000)), ""), 400);
    for value in ["web socket", "websocket/13", "h2c", "websockets", "\"websocket\"", ""] {
        let line = format!("Upgrade: {value}\r\n");
        refused(format!("upgrade {value:?}"), lines(&line, connection, &v13, &good, ""), 400);
    }
    for value in ["keep-alive", "close", "Up grade", "Upgrade/1", "\"Upgrade\"", ""] {
        let line = format!("Connection: {value}\r\n");
        refused(format!("connection {value:?}"), lines(upgrade, &line, &v13, &good, ""), 400);
    }
    for value in [
        "x;",
        "x;;y",
        "x; =9",
        "x; y=",
        "x y",
        "x; y=\"",
        "x; y=\"\"",
        "x; y=\"a b\"",
        "\"x\"",
        "x; y=1; (z)",
    ] {
        let line = format!("Sec-WebSocket-Extensions: {value}\r\n");
        refused(format!("extensions {value:?}"), lines(upgrade, connection, &v13, &good, &line), 400);
    }
    let deflate = format!("Sec-WebSocket-Extensions: {}x;\r\n", "permessage-deflate, ".repeat(500));
    refused("the last of 501 extensions".into(), lines(upgrade, connection, &v13, &good, &deflate), 400);
    refused("no version".into(), lines(upgrade, connection, "", &good, ""), 426);
    refused("no key".into(), lines(upgrade, connection, &v13, "", ""), 400);
    refused("no upgrade".into(), lines("", connection, &v13, &good, ""), 400);
    refused("no connection".into(), lines(upgrade, "", &v13, &good, ""), 400);
    refused("HTTP/1.0".into(), handshake(field, "x", "").replace("HTTP/1.1", "HTTP/1.0"), 400);
    for method in ["POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", "GETGET"] {
        let text = handshake(field, "x", "").replacen("GET /ws/x", &format!("{method} /ws/x"), 1);
        refused(format!("method {method}"), text, 405);
    }
    for value in ["5", "00000000000000000005"] {
        refused(
            format!("a body of {value}"),
            handshake(field, "x", &format!("Content-Length: {value}\r\n")),
            400,
        );
    }
    refused("a chunked body".into(), handshake(field, "x", "Transfer-Encoding: chunked\r\n"), 400);
    let mut outcome = send(field, requests)?;

    // What is absurd and lawful is a handshake like any other, and nothing is agreed on that is not spoken.
    let lawful = [
        ("protocols", format!("Sec-WebSocket-Protocol: {}\r\n", "chat, ".repeat(2_000) + "x")),
        ("a protocol that is none", "Sec-WebSocket-Protocol: @@@ \"\"\r\n".to_owned()),
        ("an answer in the question", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n".to_owned()),
        ("an extension that nobody knows", "Sec-WebSocket-Extensions: x-nobody; a=1; b=\"2\"\r\n".to_owned()),
        ("a thousand extensions", format!("Sec-WebSocket-Extensions: {}x\r\n", "x; y=1, ".repeat(1_000))),
        (
            "a window that cannot be",
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n".to_owned(),
        ),
        (
            "a parameter twice",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; client_max_window_bits\r\n".to_owned(),
        ),
        (
            "a parameter that there is not",
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover=1\r\n".to_owned(),
        ),
        (
            "five hundred offers of the same",
            format!("Sec-WebSocket-Extensions: {}x\r\n", "permessage-deflate, ".repeat(500)),
        ),
        ("a body of nothing", "Content-Length: 0\r\n".to_owned()),
    ];
    for (name, more) in lawful {
        let mut socket = Assailant::connect(field)?;
        socket.write(field, handshake(field, "hostile-absurd", &more).as_bytes());
        let mut got = socket.answers(field);
        if got == Answer::Http(vec![101]) {
            got = socket.leave(field);
        }
        outcome.blows.push(Blow::new(name, Answer::Close(1000), Counted::Closed("closed_by_client"), got));
    }
    Ok(outcome)
}
