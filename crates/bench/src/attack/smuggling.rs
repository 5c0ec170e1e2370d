//! Shapes in which a request can be hidden from an intermediary, or an intermediary's request from us: each is answered
//! once, and then the connection ends. What is hidden asks for `/livez`, whose 200 would give it away.

use std::io;

use super::assailant::handshake;
use super::requests::{Request, send};
use super::{Answer, Counted, Field, Outcome};

/// What is hidden.
const HIDDEN: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// What is answered, and whether it is counted as a refusal.
#[derive(Clone, Copy)]
enum Fate {
    /// 400, counted as malformed.
    Refused,
    /// The request itself is answered, as one that asked for nothing that is there: 404, or 405 where a handshake
    /// belongs, or 204 where a browser may ask what it may send.
    Missed,
    NotAllowed,
    Allowed,
}

pub(super) fn shapes(field: &Field) -> io::Result<Outcome> {
    let length = HIDDEN.len();
    let size = format!("{length:x}");
    let mut requests = Vec::new();
    let mut shape = |name: &str, head: &str, body: String, fate: Fate| {
        let text = head.replace('\n', "\r\n").replace("{LF}", "\n").replace("{CR}", "\r");
        let (status, counted) = match fate {
            Fate::Refused => (400, Counted::Rejected("malformed")),
            Fate::Missed => (404, Counted::Nowhere),
            Fate::NotAllowed => (405, Counted::Rejected("malformed")),
            Fate::Allowed => (204, Counted::Nowhere),
        };
        requests.push(Request {
            name: name.to_owned(),
            bytes: [text.into_bytes(), body.into_bytes()].concat(),
            answer: Answer::Http(vec![status]),
            counted,
        });
    };
    let hidden = || HIDDEN.to_owned();
    let ended = || format!("0\r\n\r\n{HIDDEN}");
    let post = "POST /nowhere HTTP/1.1\nHost: x\n";
    let with = |lines: &str| format!("{post}{lines}\n\n");

    // Two lengths.
    shape("CL.TE", &with("Content-Length: 5\nTransfer-Encoding: chunked"), ended(), Fate::Missed);
    shape("TE.CL", &with("Transfer-Encoding: chunked\nContent-Length: 5"), ended(), Fate::Missed);
    shape(
        "CL.TE at a WebSocket's path",
        &with("Content-Length: 5\nTransfer-Encoding: chunked").replace("/nowhere", "/ws/x"),
        ended(),
        Fate::NotAllowed,
    );
    shape("CL 0 and TE", &with("Content-Length: 0\nTransfer-Encoding: chunked"), ended(), Fate::Missed);
    shape("two CL", &with(&format!("Content-Length: 0\nContent-Length: {length}")), hidden(), Fate::Refused);
    shape("two CL in one line", &with(&format!("Content-Length: 0, {length}")), hidden(), Fate::Refused);
    shape("two equal CL in one line", &with("Content-Length: 5, 5"), hidden(), Fate::Refused);
    // A length that is no number, or another one elsewhere.
    for value in [
        "+0",
        "-1",
        "0x0",
        "0 0",
        "0;",
        "\"0\"",
        "1e1",
        "18446744073709551614",
        "18446744073709551615",
        "99999999999999999999",
        "\u{660}",
        "",
    ] {
        shape(&format!("CL {value:?}"), &with(&format!("Content-Length: {value}")), hidden(), Fate::Refused);
    }
    shape(
        "CL with a space before the colon",
        &with(&format!("Content-Length : {length}")),
        hidden(),
        Fate::Refused,
    );
    shape(
        "CL with a tab before the colon",
        &with(&format!("Content-Length\t: {length}")),
        hidden(),
        Fate::Refused,
    );
    shape("CL behind a space", &with(&format!("X: 1\n Content-Length: {length}")), hidden(), Fate::Refused);
    shape("CL in the first line", &format!("{post} Content-Length: {length}\n\n"), hidden(), Fate::Refused);
    for path in ["/sse/x", "/connection/sse", "/connection/uni_http_stream", "/emulation"] {
        let ask = |lines: &str| format!("OPTIONS {path} HTTP/1.1\nHost: x\n{lines}\n\n");
        let length = format!("Content-Length: {length}");
        for (lines, behind) in [
            (&length[..], hidden()),
            ("Transfer-Encoding: chunked", ended()),
            ("Content-Length: 5\nTransfer-Encoding: chunked", ended()),
            ("Connection: upgrade\nUpgrade: h2c", hidden()),
        ] {
            shape(&format!("a preflight of {path} with {lines:?}"), &ask(lines), behind, Fate::Allowed);
        }
    }
    shape(
        "a body of a GET",
        &format!("GET /nowhere HTTP/1.1\nHost: x\nContent-Length: {length}\n\n"),
        hidden() + HIDDEN,
        Fate::Missed,
    );
    shape(
        "a body of a DELETE",
        &format!("DELETE /ws/x HTTP/1.1\nHost: x\nContent-Length: {length}\n\n"),
        hidden() + HIDDEN,
        Fate::NotAllowed,
    );
    // Transfer encodings that one understands and another does not.
    for value in [
        "xchunked",
        "chunked, identity",
        "identity",
        "gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked,",
        "",
        "chunked\u{b}",
    ] {
        shape(
            &format!("TE {value:?}"),
            &with(&format!("Transfer-Encoding: {value}")),
            ended(),
            Fate::Refused,
        );
    }
    for value in ["CHUNKED", "\tchunked", "chunked ", "identity, chunked", "gzip, chunked"] {
        shape(&format!("TE {value:?}"), &with(&format!("Transfer-Encoding: {value}")), ended(), Fate::Missed);
    }
    shape(
        "TE twice, the last not chunked",
        &with("Transfer-Encoding: chunked\nTransfer-Encoding: x"),
        ended(),
        Fate::Refused,
    );
    shape("TE with a space before the colon", &with("Transfer-Encoding : chunked"), ended(), Fate::Refused);
    shape("TE folded", &with("Transfer-Encoding:\n chunked"), ended(), Fate::Refused);
    shape("TE folded into another", &with("X: 1\n Transfer-Encoding: chunked"), ended(), Fate::Refused);
    shape("TE behind a NUL", &with("\0Transfer-Encoding: chunked"), ended(), Fate::Refused);
    shape(
        "TE in HTTP/1.0",
        &with("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0"),
        ended(),
        Fate::Refused,
    );
    // Chunks of nasty sizes: the request is answered before they are read, and nothing after it.
    for chunk in [
        format!("{size};x=\"\n\"\r\n{HIDDEN}\r\n0\r\n\r\n"),
        format!("0{size}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        format!("-{size}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        format!("FFFFFFFFFFFFFFFF\r\n{HIDDEN}"),
        format!("100000000000000000000\r\n{HIDDEN}"),
        format!("0\n\n{HIDDEN}"),
        format!("0\r\n{HIDDEN}\r\n"),
        format!("0;{}\r\n\r\n{HIDDEN}", "x".repeat(20_000)),
        format!("0\r\n{}\r\n{HIDDEN}", "X: 1\r\n".repeat(5_000)),
    ] {
        let name = format!("a chunk that begins with {:?}", chunk.chars().take(12).collect::<String>());
        shape(&name, &with("Transfer-Encoding: chunked"), chunk, Fate::Missed);
    }
    // Lines that end otherwise.
    shape("bare LF in a header", "GET /nowhere HTTP/1.1\nHost: x\nX: 1{LF}Y: 2\n\n", hidden(), Fate::Refused);
    shape(
        "bare LF twice in a header",
        "GET /nowhere HTTP/1.1\nHost: x\nX: 1{LF}{LF}",
        hidden(),
        Fate::Refused,
    );
    shape("bare LF everywhere", "GET /nowhere HTTP/1.1{LF}Host: x{LF}{LF}", hidden(), Fate::Refused);
    shape("bare LF at the end", "GET /nowhere HTTP/1.1\nHost: x\n{LF}", hidden(), Fate::Refused);
    shape(
        "bare LF before CL",
        &with(&format!("X: 1{{LF}}Content-Length: {length}")),
        hidden() + HIDDEN,
        Fate::Refused,
    );
    shape("bare CR in a header", "GET /nowhere HTTP/1.1\nHost: x\nX: 1{CR}Y: 2\n\n", hidden(), Fate::Refused);
    shape("bare CR at the end", "GET /nowhere HTTP/1.1\nHost: x{CR}{CR}", hidden(), Fate::Refused);
    shape("CR CR LF", "GET /nowhere HTTP/1.1\nHost: x{CR}\n\n", hidden(), Fate::Refused);
    shape("a folded header", "GET /nowhere HTTP/1.1\nHost: x\nX: 1\n 2\n\n", hidden(), Fate::Refused);
    shape("a NUL in a name", "GET /nowhere HTTP/1.1\nHost: x\nX\0: 1\n\n", hidden(), Fate::Refused);
    shape("an empty name", "GET /nowhere HTTP/1.1\nHost: x\n: 1\n\n", hidden(), Fate::Refused);
    // An upgrade that does not come about: what is behind it was meant for somebody else.
    let refused = handshake(field, "x", "").replace("Version: 13", "Version: 8");
    requests.push(Request {
        name: "behind an upgrade of another version".to_owned(),
        bytes: [refused.as_bytes(), HIDDEN.as_bytes()].concat(),
        answer: Answer::Http(vec![426]),
        counted: Counted::Rejected("malformed"),
    });
    for (name, path, lines, status, counted) in [
        (
            "an upgrade with a body",
            "/ws/x",
            format!("Content-Length: {length}\r\n"),
            400,
            Counted::Rejected("malformed"),
        ),
        (
            "an upgrade with chunks",
            "/ws/x",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            400,
            Counted::Rejected("malformed"),
        ),
        ("an upgrade to h2c", "/nowhere", String::new(), 404, Counted::Nowhere),
        ("an upgrade where none is", "/nowhere", String::new(), 404, Counted::Nowhere),
    ] {
        let mut text = handshake(field, "x", &lines).replacen("/ws/x", path, 1);
        if name.ends_with("h2c") {
            text = text.replacen("Upgrade: websocket", "Upgrade: h2c", 1);
        }
        requests.push(Request {
            name: name.to_owned(),
            bytes: [text.as_bytes(), HIDDEN.as_bytes(), HIDDEN.as_bytes()].concat(),
            answer: Answer::Http(vec![status]),
            counted,
        });
    }
    // Hosts that disagree.
    for (name, head) in [
        ("two hosts", "GET /nowhere HTTP/1.1\nHost: x\nHost: y\n\n"),
        ("no host", "GET /nowhere HTTP/1.1\n\n"),
        ("a host of two", "GET /nowhere HTTP/1.1\nHost: x, y\n\n"),
        ("a host with a path", "GET /nowhere HTTP/1.1\nHost: x/y\n\n"),
        ("an absolute URI of another host", "GET http://y/nowhere HTTP/1.1\nHost: x\n\n"),
    ] {
        requests.push(Request {
            name: name.to_owned(),
            bytes: [head.replace('\n', "\r\n").as_bytes(), HIDDEN.as_bytes()].concat(),
            answer: Answer::Http(vec![400]),
            counted: Counted::Rejected("malformed"),
        });
    }
    send(field, requests)
}
