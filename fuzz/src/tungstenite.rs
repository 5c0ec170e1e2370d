//! An independent implementation, which must make the same of a stream without compression.
//!
//! It differs in a few ways that are all named here, and none of them is ours to copy: it judges frames only when they
//! are whole, has no limit of fragments, and reads lengths and close codes otherwise.

use std::io::{self, Read, Write};

use fanfare_websocket::{Limits, Offence, Role};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::decoder::{Outcome, Seen};

/// Panics if it makes of this stream something else than we did.
pub fn check(role: Role, limits: Limits, stream: &[u8], ours: &Outcome) {
    let (events, end) = decode(role, limits, stream);
    match (ours.offence, ours.events.last()) {
        // "The minimal number of bytes MUST be used to encode the length" (RFC 6455 §5.2), and it looks away, also
        // where that makes a control frame too long; and it counts no fragments.
        (
            Some(Offence::LengthNotMinimal(_) | Offence::ControlTooLong | Offence::TooManyFragments { .. }),
            _,
        ) => {
            assert_eq!(events.get(..ours.events.len()), Some(&ours.events[..]));
        }
        // Its list of close codes was made before 1014 was registered.
        (None, Some(Seen::Close(Some(1014), _))) => {
            assert_eq!((&events[..], end), (&ours.events[..ours.events.len() - 1], End::Error));
        }
        // As it says that a code must not be sent.
        (None, Some(Seen::Close(Some(1002), reason))) if reason == VIOLATION => {
            assert_eq!((&events[..], end), (&ours.events[..ours.events.len() - 1], End::Error));
        }
        (None, Some(Seen::Close(..))) => assert_eq!((&events, end), (&ours.events, End::Close)),
        (None, _) => assert_eq!((&events, end), (&ours.events, End::More)),
        // We refuse a frame by its header, and text by its first wrong byte; it may still wait for the rest.
        (Some(offence), _) => {
            assert_eq!(events, ours.events);
            assert!(matches!(end, End::Error | End::More), "{offence}");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It waits for more.
    More,
    Close,
    Error,
}

fn decode(role: Role, limits: Limits, stream: &[u8]) -> (Vec<Seen>, End) {
    let role = match role {
        Role::Server => TheirRole::Server,
        Role::Client => TheirRole::Client,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(limits.message))
        // It makes room for a frame by its header alone, so it needs a limit there.
        .max_frame_size(Some(limits.message.max(125)));
    let mut wire = Wire(stream);
    let mut theirs = WebSocketContext::new(role, Some(config));
    let mut seen = Vec::new();
    loop {
        let event = match theirs.read(&mut wire) {
            Ok(Message::Text(text)) => Seen::Text(text.to_string()),
            Ok(Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
            Ok(Message::Close(None)) => Seen::Close(None, String::new()),
            // How it passes on, and answers, a close code that must not be sent.
            Ok(Message::Close(Some(frame)))
                if frame.code == CloseCode::Protocol && frame.reason == VIOLATION =>
            {
                return (seen, End::Error);
            }
            Ok(Message::Close(Some(frame))) => Seen::Close(Some(frame.code.into()), frame.reason.to_string()),
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (seen, End::More),
            Err(_) => return (seen, End::Error),
        };
        seen.push(event);
        if let Some(Seen::Close(..)) = seen.last() {
            return (seen, End::Close);
        }
    }
}

const VIOLATION: &str = "Protocol violation";

/// A stream that has what it has, and then would block. What is written to it is forgotten.
struct Wire<'s>(&'s [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
