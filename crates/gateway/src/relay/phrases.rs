//! What the hub says to clients of its own accord, in each one's protocol. When it says it is the hub's business.

use bytes::Bytes;
use fanfare_hub::{Encoding, End, Format, Phrases};
use fanfare_protocol::Channel;
use fanfare_websocket::{CloseCode, Opcode, close_frame, frame};

/// See the module.
pub const PHRASES: Phrases = Phrases { ping, gap, goodbye };

fn ping(format: Format) -> Bytes {
    match format.encoding {
        // Who only listens to frames has a library that answers WebSocket's own.
        Encoding::Raw | Encoding::Uni => frame(Opcode::Ping, b""),
        Encoding::Json | Encoding::JsonString | Encoding::JsonDelta => frame(Opcode::Text, b"{}"),
        Encoding::Protobuf | Encoding::ProtobufDelta => frame(Opcode::Binary, &[0]),
    }
}

fn gap(format: Format, channel: &Channel) -> Option<Bytes> {
    (format.encoding == Encoding::Raw).then(|| gap_notice(channel))
}

fn goodbye(format: Format, end: End) -> Option<Bytes> {
    let disconnect = match format.encoding {
        Encoding::Raw => None,
        _ => end.disconnect(),
    };
    let code = disconnect.and_then(|why| CloseCode::from_wire(u16::try_from(why.code()).ok()?));
    match disconnect.zip(code) {
        Some((why, code)) => Some(close_frame(code, why.text())),
        None => end.close().map(|(code, reason)| close_frame(code, reason)),
    }
}

/// The text message that tells a client of a gap, for those who asked by `?notices=true`. Clients may know
/// it by how it begins, so it is always written in this one way.
fn gap_notice(channel: &Channel) -> Bytes {
    let channel = serde_json::Value::from(channel.as_str());
    frame(Opcode::Text, format!(r#"{{"fanfare":"gap","channel":{channel}}}"#).as_bytes())
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
            assert_eq!(gap_notice(&channel)[2..], *notice.as_bytes());
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
    }
}
