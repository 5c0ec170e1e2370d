//! Random conversations, judged by tungstenite, whose code shares nothing with ours.
//!
//! Lawful ones must come out as they went in, in both directions. Of random frames, lawful or not, both
//! implementations must make the same events and refuse the same streams, but for two differences, each with its
//! reason where it is allowed. However a stream is cut into pieces, the result is the same.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use fanfare_websocket::{CloseCode, Limits, Offence, Opcode, Role, close_frame, put_frame, put_masked_frame};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{
    CloseCode as TheirCode, Control, Data, OpCode,
};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role as TheirRole, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{ROOMY, Seen, decode};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn what_they_encode_we_decode(said in vec(saying(), 0..8), cuts in vec(any::<prop::sample::Index>(), 0..12)) {
        for (theirs, ours) in [(TheirRole::Client, Role::Server), (TheirRole::Server, Role::Client)] {
            let (stream, expected) = their_stream(theirs, &said);
            prop_assert_eq!(decode(ours, ROOMY, pieces(&stream, &cuts)), (expected, None));
        }
    }

    #[test]
    fn what_we_encode_they_decode(said in vec(seen(), 0..8), mask in any::<[u8; 4]>()) {
        let said = until_close(said);
        let mut server = BytesMut::new();
        let mut client = Vec::new();
        for event in &said {
            let (opcode, payload) = wire_form(event);
            match event {
                Seen::Close(Some(code), reason) => {
                    server.extend(close_frame(CloseCode::from_wire(*code).unwrap(), reason));
                }
                _ => put_frame(&mut server, opcode, &payload),
            }
            put_masked_frame(&mut client, opcode, &payload, mask);
        }
        prop_assert_eq!(their_decode(TheirRole::Client, ROOMY, &server), (said.clone(), None));
        prop_assert_eq!(their_decode(TheirRole::Server, ROOMY, &client), (said.clone(), None));
        prop_assert_eq!(decode(Role::Client, ROOMY, [&server[..]]), (said.clone(), None));
        prop_assert_eq!(decode(Role::Server, ROOMY, [&client[..]]), (said, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn of_random_frames_both_make_the_same(
        frames in vec(any_frame(), 0..8),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        server in prop::bool::weighted(0.8),
    ) {
        let limits = Limits { message: 400, fragments: u32::MAX };
        let (role, their_role) =
            if server { (Role::Server, TheirRole::Server) } else { (Role::Client, TheirRole::Client) };
        let stream = frames.iter().flat_map(|frame| frame.bytes(server)).collect::<Vec<_>>();

        let ours = decode(role, limits, [&stream[..]]);
        prop_assert_eq!(&decode(role, limits, pieces(&stream, &cuts)), &ours);
        prop_assert_eq!(&decode(role, limits, stream.chunks(1)), &ours);

        let (their_events, their_error) = their_decode(their_role, limits, &stream);
        match &ours {
            // They are more lenient, against the RFC: "the minimal number of bytes MUST be used to encode the
            // length" (§5.2).
            (events, Some(Offence::LengthNotMinimal(_))) => {
                prop_assert_eq!(their_events.get(..events.len()), Some(&events[..]));
            }
            // They are stricter: their list of close codes was made before 1014 was registered.
            (events, None) if matches!(events.last(), Some(Seen::Close(Some(1014), _))) => {
                prop_assert_eq!(&their_events[..], &events[..events.len() - 1]);
                prop_assert_eq!(their_error.as_deref(), Some(BAD_CLOSE_CODE));
            }
            (events, offence) => {
                prop_assert_eq!(&their_events, events);
                prop_assert_eq!(their_error.is_some(), offence.is_some(), "{:?}, {:?}", their_error, offence);
            }
        }
    }
}

/// Everything that tungstenite finds in a stream, until a close frame or an error, and that error.
fn their_decode(role: TheirRole, limits: Limits, stream: &[u8]) -> (Vec<Seen>, Option<String>) {
    let mut wire = Wire { input: stream, output: Vec::new() };
    let config = WebSocketConfig::default().max_message_size(Some(limits.message)).max_frame_size(None);
    let mut theirs = WebSocketContext::new(role, Some(config));
    let mut seen = Vec::new();
    loop {
        match theirs.read(&mut wire) {
            Ok(message) => seen.push(match message {
                Message::Text(text) => Seen::Text(text.to_string()),
                Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
                Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
                Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
                Message::Close(None) => Seen::Close(None, String::new()),
                // How it passes on, and answers, a close code that must not be sent.
                Message::Close(Some(frame))
                    if frame.code == TheirCode::Protocol && frame.reason == "Protocol violation" =>
                {
                    return (seen, Some(BAD_CLOSE_CODE.to_owned()));
                }
                Message::Close(Some(frame)) => Seen::Close(Some(frame.code.into()), frame.reason.to_string()),
                Message::Frame(_) => unreachable!("never read"),
            }),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (seen, None),
            Err(error) => return (seen, Some(error.to_string())),
        }
        if let Some(Seen::Close(..)) = seen.last() {
            return (seen, None);
        }
    }
}

const BAD_CLOSE_CODE: &str = "a close code that must not be sent";

/// Something said in a message of some fragments, with control frames among them.
#[derive(Clone, Debug)]
struct Saying {
    event: Seen,
    cuts: Vec<prop::sample::Index>,
    between: Vec<Seen>,
}

fn saying() -> impl Strategy<Value = Saying> {
    let between = prop_oneof![small().prop_map(Seen::Ping), small().prop_map(Seen::Pong)];
    (seen(), vec(any::<prop::sample::Index>(), 0..5), vec(between, 0..4))
        .prop_map(|(event, cuts, between)| Saying { event, cuts, between })
}

/// Encodes with tungstenite, and says what should be seen of it.
fn their_stream(role: TheirRole, said: &[Saying]) -> (Vec<u8>, Vec<Seen>) {
    let mut wire = Wire { input: &[], output: Vec::new() };
    let mut theirs = WebSocketContext::new(role, None);
    let mut expected = Vec::new();
    let mut send = |frame| theirs.write(&mut wire, Message::Frame(frame)).expect("a lawful frame");
    for Saying { event, cuts, between } in said {
        let (opcode, payload) = wire_form(event);
        let fragments = if opcode.is_control() { vec![&payload[..]] } else { pieces(&payload, cuts) };
        let mut between = between.iter();
        for (i, fragment) in fragments.iter().enumerate() {
            let opcode = if i == 0 { opcode } else { Opcode::Continuation };
            let last = i + 1 == fragments.len();
            if opcode.is_control() {
                send(their_control(event));
            } else {
                send(Frame::message(fragment.to_vec(), their_opcode(opcode), last));
            }
            if !last && let Some(control) = between.next() {
                send(their_control(control));
                expected.push(control.clone());
            }
        }
        expected.push(event.clone());
    }
    theirs.flush(&mut wire).expect("a vector takes everything");
    (wire.output, until_close(expected))
}

pub(crate) fn their_opcode(opcode: Opcode) -> OpCode {
    match opcode {
        Opcode::Continuation => OpCode::Data(Data::Continue),
        Opcode::Text => OpCode::Data(Data::Text),
        Opcode::Binary => OpCode::Data(Data::Binary),
        Opcode::Close => OpCode::Control(Control::Close),
        Opcode::Ping => OpCode::Control(Control::Ping),
        Opcode::Pong => OpCode::Control(Control::Pong),
    }
}

fn their_control(event: &Seen) -> Frame {
    match event {
        Seen::Ping(payload) => Frame::ping(payload.clone()),
        Seen::Pong(payload) => Frame::pong(payload.clone()),
        Seen::Close(None, _) => Frame::close(None),
        Seen::Close(Some(code), reason) => {
            Frame::close(Some(CloseFrame { code: TheirCode::from(*code), reason: reason.into() }))
        }
        Seen::Text(_) | Seen::Binary(_) => unreachable!("not a control frame"),
    }
}

/// Any event, rarely a close.
pub(crate) fn seen() -> impl Strategy<Value = Seen> {
    let code = prop_oneof![1000..=1003_u16, 1007..=1013_u16, 3000..=4999_u16];
    let reason = vec(any::<char>(), 0..30).prop_map(String::from_iter);
    let size = prop_oneof![8 => 0..300_usize, 1 => Just(65_535), 1 => Just(65_536)];
    prop_oneof![
        8 => vec(any::<char>(), 0..200).prop_map(|text| Seen::Text(text.into_iter().collect())),
        4 => (size, any::<u8>()).prop_map(|(size, byte)| Seen::Binary(vec![byte; size])),
        4 => vec(any::<u8>(), 0..300).prop_map(Seen::Binary),
        2 => small().prop_map(Seen::Ping),
        2 => small().prop_map(Seen::Pong),
        1 => Just(Seen::Close(None, String::new())),
        1 => (code, reason).prop_map(|(code, reason)| Seen::Close(Some(code), reason)),
    ]
}

pub(crate) fn small() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=125)
}

pub(crate) fn until_close(mut events: Vec<Seen>) -> Vec<Seen> {
    let close = events.iter().position(|event| matches!(event, Seen::Close(..)));
    events.truncate(close.map_or(events.len(), |close| close + 1));
    events
}

pub(crate) fn wire_form(event: &Seen) -> (Opcode, Vec<u8>) {
    match event {
        Seen::Text(text) => (Opcode::Text, text.clone().into_bytes()),
        Seen::Binary(bytes) => (Opcode::Binary, bytes.clone()),
        Seen::Ping(bytes) => (Opcode::Ping, bytes.clone()),
        Seen::Pong(bytes) => (Opcode::Pong, bytes.clone()),
        Seen::Close(None, _) => (Opcode::Close, Vec::new()),
        Seen::Close(Some(code), reason) => (Opcode::Close, [&code.to_be_bytes(), reason.as_bytes()].concat()),
    }
}

/// Cuts bytes into pieces, some of them empty.
pub(crate) fn pieces<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut ends = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect::<Vec<_>>();
    ends.sort_unstable();
    ends.push(bytes.len());
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, &end)| &bytes[start..end]).collect()
}

/// One frame that may break any rule but is complete, since tungstenite judges only complete frames.
#[derive(Clone, Debug)]
struct AnyFrame {
    first: u8,
    /// A mask where there should be none, or none where there should be one.
    wrongly_masked: bool,
    mask: [u8; 4],
    /// How much longer than needed the length is: 0, 1 or 2 steps of its three forms.
    longer: usize,
    payload: Vec<u8>,
}

fn any_frame() -> impl Strategy<Value = AnyFrame> {
    // Mostly lawful, or no stream would last beyond its first frame.
    let opcode = prop_oneof![
        9 => Just(1_u8), 3 => Just(2_u8), 9 => Just(0_u8), 2 => Just(9_u8), 2 => Just(10_u8), 2 => Just(8_u8),
        1 => 0..16_u8,
    ];
    let last = prop::bool::weighted(0.6);
    let reserved = prop_oneof![60 => Just(0_u8), 1 => 0..8_u8];
    let first =
        (opcode, last, reserved, prop::bool::weighted(0.9)).prop_map(|(opcode, last, reserved, mend)| {
            let last = last || (mend && opcode >= 8);
            u8::from(last) << 7 | reserved << 4 | opcode
        });
    let longer = prop_oneof![60 => Just(0_usize), 1 => 1..3_usize];
    let code = prop_oneof![4 => 990..1020_u16, 1 => any::<u16>()];
    let crab = (0..5_usize, 0..5_usize)
        .prop_map(|(a, b)| "🦀".as_bytes()[a.min(b).min(4)..a.max(b).min(4)].to_vec());
    let payload = prop_oneof![
        6 => vec(any::<char>(), 0..40).prop_map(|text| String::from_iter(text).into_bytes()),
        4 => crab,
        1 => vec(any::<u8>(), 0..8),
        1 => vec(b'a'..=b'z', 110..240),
        2 => (code, vec(any::<char>(), 0..9)).prop_map(|(code, reason)| {
            [&code.to_be_bytes(), String::from_iter(reason).as_bytes()].concat()
        }),
    ];
    let fields = (first, prop::bool::weighted(0.01), any::<[u8; 4]>(), longer, payload);
    fields.prop_map(|(first, wrongly_masked, mask, longer, payload)| {
        // To us a longer form is too long for a control frame whatever it says.
        let longer = if first & 0b1000 == 0 { longer } else { 0 };
        AnyFrame { first, wrongly_masked, mask, longer, payload }
    })
}

impl AnyFrame {
    fn bytes(&self, from_client: bool) -> Vec<u8> {
        let masked = from_client != self.wrongly_masked;
        let bit = u8::from(masked) << 7;
        let length = self.payload.len();
        let form = usize::from(length > 125) + self.longer;
        let mut bytes = vec![self.first];
        match form {
            0 => bytes.push(bit | length as u8),
            1 => bytes.extend([&[bit | 126][..], &(length as u16).to_be_bytes()].concat()),
            _ => bytes.extend([&[bit | 127][..], &(length as u64).to_be_bytes()].concat()),
        }
        if masked {
            bytes.extend(self.mask);
            bytes.extend(self.payload.iter().zip(self.mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

/// A stream that has what it has, and then would block.
struct Wire<'i> {
    input: &'i [u8],
    output: Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.input.read(buffer) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
