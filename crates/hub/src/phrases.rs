//! What the hub says of its own accord, in the words of each client's protocol: it knows when, and who runs it
//! knows how.

use bytes::Bytes;
use fanfare_protocol::Channel;
use fanfare_websocket::{Opcode, close_frame, frame};

use crate::end::End;
use crate::format::Format;

/// How to say it; nothing where a format has no words for it.
#[derive(Debug, Clone, Copy)]
pub struct Phrases {
    /// Asks for, or gives, a sign of life, where a WebSocket's own ping is not what the client is asked by.
    pub ping: fn(Format) -> Bytes,
    /// Publications of this channel may have been missed.
    pub gap: fn(Format, &Channel) -> Option<Bytes>,
    /// The last words to a client; without any, it is cut.
    pub goodbye: fn(Format, End) -> Option<Bytes>,
}

impl Phrases {
    /// Those of a WebSocket whose messages are publications, without words for a gap.
    pub const WEBSOCKET: Self = Self {
        ping: |_| frame(Opcode::Ping, b""),
        gap: |_, _| None,
        goodbye: |_, end| end.close().map(|(code, reason)| close_frame(code, reason)),
    };
}
