//! What is said to one client alone, in what carries it there: answers and pushes of the client protocol, and last
//! words.
//! What all subscribers of a channel get is carried by the relay, which shares it.

use bytes::{Bytes, BytesMut};
use fanfare_hub::{Carrier, Encoding, Format};
use fanfare_protocol::centrifuge::{Disconnect, Event, Format as PushFormat, Push, reconnects};
use fanfare_websocket::{CloseCode, Opcode, close_frame, frame_of, put_frame};

use super::stream;

/// Messages of the client protocol that lie together as in one of its frames, as this client gets them: each by itself
/// where its carrier or its format wants that, and all in one piece to be written.
pub fn carry(format: Format, messages: Vec<u8>) -> Bytes {
    match (format.carrier, format.encoding) {
        (Carrier::Events, _) => stream::events(&messages),
        (Carrier::Stream, encoding) => stream::lines(encoding, &messages),
        (_, Encoding::Uni) => {
            // Each message of theirs is a frame of its own.
            let mut frames = BytesMut::new();
            for line in messages.split(|byte| *byte == b'\n') {
                put_frame(&mut frames, Opcode::Text, line);
            }
            frames.freeze()
        }
        (_, Encoding::Protobuf | Encoding::ProtobufDelta) => frame_of(Opcode::Binary, messages),
        _ => frame_of(Opcode::Text, messages),
    }
}

/// The last words to a client. There is no Close frame in a body, so a push says it there, or to a client of an event
/// stream an event.
pub fn last_words(format: Format, code: CloseCode, reason: &str) -> Bytes {
    if !format.carrier.is_body() {
        return close_frame(code, reason);
    }
    if format.encoding == Encoding::Raw {
        return stream::close_event(code, reason);
    }
    let code = u32::from(code.get());
    let disconnect = Disconnect { code, reason: reason.to_owned(), reconnect: reconnects(code) };
    let push = Push { id: 0, channel: String::new(), event: Event::Disconnect(disconnect) };
    let mut unit = Vec::new();
    let written = push_format(format).put_push(&mut unit, &push);
    written.expect("a code and a text are JSON");
    stream::ended_by(&carry(format, unit))
}

/// How pushes are written to whoever gets publications in this format.
pub fn push_format(format: Format) -> PushFormat {
    match format.encoding {
        Encoding::Uni => PushFormat::UniJson,
        Encoding::Protobuf | Encoding::ProtobufDelta => PushFormat::Protobuf,
        Encoding::Raw | Encoding::Json | Encoding::JsonString | Encoding::JsonDelta => PushFormat::Json,
    }
}

#[cfg(test)]
mod tests {
    use fanfare_websocket::frame;

    use super::*;

    #[test]
    fn each_carrier_has_its_own_way() {
        use Carrier::{Events, Frame, Stream};
        use Encoding::{Json, Protobuf, Uni};
        let text = |payload: &str| frame(Opcode::Text, payload.as_bytes()).to_vec();
        for (encoding, carrier, messages, expected) in [
            (Json, Frame, "{}\n[1]", text("{}\n[1]")),
            (Uni, Frame, "{}\n[1]", [text("{}"), text("[1]")].concat()),
            (Protobuf, Frame, "\u{1}a\u{1}b", frame(Opcode::Binary, b"\x01a\x01b").to_vec()),
            (Json, Stream, "{}\n[1]", b"7\r\n{}\n[1]\n\r\n".to_vec()),
            (Uni, Stream, "{}\n[1]", b"7\r\n{}\n[1]\n\r\n".to_vec()),
            (Protobuf, Stream, "\u{1}a\u{1}b", b"4\r\n\x01a\x01b\r\n".to_vec()),
            (Json, Events, "{}\n[1]", b"15\r\ndata: {}\n\ndata: [1]\n\n\r\n".to_vec()),
            (Uni, Events, "{}", b"a\r\ndata: {}\n\n\r\n".to_vec()),
        ] {
            let format = Format { encoding, carrier };
            assert_eq!(carry(format, messages.as_bytes().to_vec()), expected, "{format:?} {messages:?}");
        }
    }
}
