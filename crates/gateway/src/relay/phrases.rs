//! What the hub says to clients of its own accord, in each one's protocol. When it says it is the hub's business.

use bytes::Bytes;
use fanfare_hub::{Carrier, Encoding, End, Format, Phrases};
use fanfare_protocol::{Channel, Position};
use fanfare_websocket::{CloseCode, Opcode, frame};

use super::carriage::{carry, last_words};
use super::stream;

/// See the module.
pub const PHRASES: Phrases = Phrases { ping, gap, goodbye };

fn ping(format: Format) -> Bytes {
    match (format.encoding, format.carrier.is_body()) {
        (Encoding::Raw, true) => stream::comment(),
        // Who only listens to frames has a library that answers WebSocket's own.
        (Encoding::Raw | Encoding::Uni, false) => frame(Opcode::Ping, b""),
        (Encoding::Protobuf | Encoding::ProtobufDelta, _) => carry(format, vec![0]),
        _ => carry(format, b"{}".to_vec()),
    }
}

fn gap(format: Format, channel: &Channel) -> Option<Bytes> {
    (format.encoding == Encoding::Raw).then(|| match format.carrier {
        Carrier::Events => stream::gap_event(channel),
        _ => gap_frame(channel),
    })
}

fn goodbye(format: Format, end: End) -> Option<Bytes> {
    let disconnect = match format.encoding {
        Encoding::Raw => None,
        _ => end.disconnect(),
    };
    let code = disconnect.and_then(|why| CloseCode::from_wire(u16::try_from(why.code()).ok()?));
    let (code, reason) = match disconnect.zip(code) {
        Some((why, code)) => (code, why.text()),
        None => end.close()?,
    };
    Some(last_words(format, code, reason))
}

fn gap_frame(channel: &Channel) -> Bytes {
    frame(Opcode::Text, gap_notice(channel).as_bytes())
}

/// What tells a client of a gap, for those who asked by `?notices=true`. Clients may know it by how it begins, so it is
/// always written in this one way.
pub fn gap_notice(channel: &Channel) -> String {
    let channel = serde_json::Value::from(channel.as_str());
    format!(r#"{{"fanfare":"gap","channel":{channel}}}"#)
}

/// What tells a client where it is, for those who asked by `?since=…`: written in this one way as well.
pub fn place_notice(channel: &Channel, position: Position) -> String {
    let channel = serde_json::Value::from(channel.as_str());
    format!(r#"{{"fanfare":"position","channel":{channel},"since":"{position}"}}"#)
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::centrifuge::DisconnectCode;

    use super::*;

    #[test]
    fn a_notice_is_written_as_it_is_documented() {
        for (name, notice) in [
            ("news", r#"{"fanfare":"gap","channel":"news"}"#),
            ("a \"b\"\n", r#"{"fanfare":"gap","channel":"a \"b\"\n"}"#),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!(gap_notice(&channel), notice);
        }
    }

    #[test]
    fn the_last_words_are_in_the_clients_protocol() {
        let json = Format { encoding: Encoding::Json, ..Format::PLAIN };
        for (format, end, code) in [
            (Format::PLAIN, End::Drained, Some(1012)),
            (json, End::Drained, Some(3001)),
            (json, End::TimedOut, Some(3012)),
            (Format::PLAIN, End::TimedOut, Some(1001)),
            (json, End::SlowConsumer, Some(3008)),
            (json, End::TooBig, Some(1009)),
            (json, End::Vanished, None),
            (json, End::Disconnected(DisconnectCode::BadRequest), Some(3501)),
            (json, End::ClosedByClient(None), Some(1000)),
        ] {
            let words = goodbye(format, end);
            let said = words.map(|words| u16::from_be_bytes([words[2], words[3]]));
            assert_eq!(said, code, "{format:?} {end:?}");
        }
        let words = |encoding, carrier, end| {
            let words = goodbye(Format { encoding, carrier }, end)?;
            let body = words.strip_suffix(b"\r\n0\r\n\r\n").expect("then the body ends");
            let start = body.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            Some(String::from_utf8_lossy(&body[start..]).into_owned())
        };
        let drained = r#"{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}"#;
        let refused = r#"{"push":{"disconnect":{"code":3501,"reason":"bad request"}}}"#;
        let pressed = r#"{"disconnect":{"code":1013,"reason":"memory pressure","reconnect":true}}"#;
        let bad_request = End::Disconnected(DisconnectCode::BadRequest);
        let closed = "event: close\ndata: {\"code\":1012,\"reason\":\"service restart\"}\n\n";
        for (encoding, carrier, end, expected) in [
            (Encoding::Raw, Carrier::Events, End::Drained, Some(closed.to_owned())),
            (Encoding::Raw, Carrier::Events, End::Vanished, None),
            (Encoding::Uni, Carrier::Stream, End::Drained, Some(format!("{drained}\n"))),
            (Encoding::Uni, Carrier::Events, End::Drained, Some(format!("data: {drained}\n\n"))),
            (Encoding::JsonDelta, Carrier::Events, bad_request, Some(format!("data: {refused}\n\n"))),
            (Encoding::Uni, Carrier::Stream, End::MemoryPressure, Some(format!("{pressed}\n"))),
            (Encoding::Json, Carrier::Stream, End::Vanished, None),
        ] {
            assert_eq!(words(encoding, carrier, end), expected, "{encoding:?} {carrier:?} {end:?}");
        }
    }
}
