//! Whole conversations, in which both sides speak in turn over one connection: on one side our encoder, compressor and
//! decoder, on the other tungstenite's frames and miniz_oxide's DEFLATE, which share nothing with them. Either is the
//! server, compression is agreed on or not, and what each side keeps of earlier messages lives as long as the
//! connection.

use std::io::Cursor;

use bytes::BytesMut;
use fanfare_websocket::deflate::{Agreed, Compressor, Inflater, Level, Offer, Policy, Shared};
use fanfare_websocket::{CloseCode, Decoder, Opcode, Role, close_frame, put_frame, put_masked_frame};
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide};
use miniz_oxide::inflate::stream::InflateState;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::oracle::{pieces, seen, small, their_opcode, until_close, wire_form};
use crate::peers::{direction, their_inflated, their_message, words};
use crate::{ROOMY, Seen, decode_by};

/// One side says something. We always say it in one frame, they in some, and with pings between.
#[derive(Clone, Debug)]
struct Turn {
    ours: bool,
    event: Seen,
    compressed: bool,
    /// Ours, if it can be, is the frame that everybody gets.
    shared: bool,
    fragments: Vec<Index>,
    between: Vec<Vec<u8>>,
    /// Where what they send is cut on its way.
    cuts: Vec<Index>,
}

fn turn() -> impl Strategy<Value = Turn> {
    let event = prop_oneof![1 => seen(), 1 => words()];
    let indexes = || vec(any::<Index>(), 0..5);
    let switches = (any::<bool>(), prop::bool::weighted(0.8), any::<bool>());
    (switches, event, indexes(), vec(small(), 0..3), indexes()).prop_map(
        |((ours, compressed, shared), event, fragments, between, cuts)| Turn {
            ours,
            event,
            compressed,
            shared,
            fragments,
            between,
            cuts,
        },
    )
}

/// What comes of any offer and any policy.
fn negotiated() -> impl Strategy<Value = Option<Agreed>> {
    let window = || prop::option::of(9..=15_u8);
    let offer = (any::<bool>(), any::<bool>(), window(), window());
    let policy = (any::<bool>(), any::<bool>(), 9..=15_u8, 9..=15_u8);
    prop::option::weighted(0.8, (offer, policy)).prop_map(|negotiation| {
        let (offer, policy) = negotiation?;
        let offer = Offer {
            server_no_context_takeover: offer.0,
            client_no_context_takeover: offer.1,
            server_max_window_bits: offer.2,
            client_max_window_bits: offer.3,
        };
        let policy = Policy {
            server_context_takeover: policy.0,
            client_context_takeover: policy.1,
            server_max_window_bits: policy.2,
            client_max_window_bits: policy.3,
        };
        policy.answer(&offer)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn both_sides_understand_a_conversation(
        turns in vec(turn(), 0..12),
        agreed in negotiated(),
        server in any::<bool>(),
        level in 1..=9_u8,
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let mut ours = Ours::new(role, agreed, Level::new(level).unwrap());
        let mut theirs = Theirs::new(role, agreed, level);
        for turn in turns {
            let (sent, heard) = if turn.ours {
                let stream = ours.say(&turn);
                (vec![turn.event.clone()], theirs.hear(&stream))
            } else {
                let (stream, sent) = theirs.say(&turn);
                (sent, ours.hear(&stream, &turn.cuts))
            };
            prop_assert_eq!(&heard, &until_close(sent), "{:?}", turn);
            if let Some(Seen::Close(..)) = heard.last() {
                break;
            }
        }
    }
}

struct Ours {
    role: Role,
    decoder: Decoder,
    inflater: Inflater,
    compressor: Option<Compressor>,
    /// What makes the frames that everybody gets who agreed on the same, if anything.
    shared: Option<Compressor>,
}

impl Ours {
    fn new(role: Role, agreed: Option<Agreed>, level: Level) -> Self {
        Self {
            role,
            decoder: agreed.map_or(Decoder::new(role), |agreed| Decoder::with_deflate(role, &agreed)),
            inflater: Inflater::new(),
            compressor: agreed.map(|agreed| Compressor::for_connection(role, &agreed, level)),
            shared: agreed.and_then(|agreed| agreed.shared()).map(|shared| match shared {
                Shared::Widely => Compressor::shared(level),
                Shared::Narrowly => Compressor::shared_narrowly(level),
            }),
        }
    }

    fn say(&mut self, turn: &Turn) -> Vec<u8> {
        let (opcode, payload) = wire_form(&turn.event);
        let mask = [payload.len() as u8, 0x80, 0, 0x7f];
        let mut out = Vec::new();
        match (self.role, &mut self.compressor) {
            (Role::Server, Some(own)) if turn.compressed && !opcode.is_control() => {
                let compressor = self.shared.as_mut().filter(|_| turn.shared).unwrap_or(own);
                out.extend(compressor.compress_frame(opcode, &payload));
            }
            (Role::Client, Some(own)) if turn.compressed && !opcode.is_control() => {
                own.put_masked_frame(&mut out, opcode, &payload, mask);
            }
            (Role::Server, _) => {
                let mut frame = BytesMut::new();
                match &turn.event {
                    Seen::Close(Some(code), reason) => {
                        frame.extend(close_frame(
                            CloseCode::from_wire(*code).expect("one that may be sent"),
                            reason,
                        ));
                    }
                    _ => put_frame(&mut frame, opcode, &payload),
                }
                out.extend(frame);
            }
            (Role::Client, _) => put_masked_frame(&mut out, opcode, &payload, mask),
        }
        out
    }

    fn hear(&mut self, stream: &[u8], cuts: &[Index]) -> Vec<Seen> {
        let (seen, offence) = decode_by(&mut self.decoder, &mut self.inflater, ROOMY, pieces(stream, cuts));
        assert_eq!(offence, None, "after {seen:?}");
        assert!(self.decoder.is_idle() || matches!(seen.last(), Some(Seen::Close(..))), "more is waited for");
        seen
    }
}

struct Theirs {
    /// Of our side.
    role: Role,
    agreed: Option<Agreed>,
    level: u8,
    deflater: CompressorOxide,
    inflater: Box<InflateState>,
}

impl Theirs {
    fn new(role: Role, agreed: Option<Agreed>, level: u8) -> Self {
        let mut theirs =
            Self { role, agreed, level, deflater: CompressorOxide::default(), inflater: fresh_inflater() };
        theirs.deflater = theirs.fresh_deflater();
        theirs
    }

    fn fresh_deflater(&self) -> CompressorOxide {
        let bits = self.agreed.map_or(15, |agreed| direction(self.other(), &agreed).1);
        // Below 12 bits it does not keep to its window (miniz_oxide 0.9.1), unless it refers to nothing.
        let strategy =
            if bits < 12 { CompressionStrategy::HuffmanOnly } else { CompressionStrategy::Default };
        CompressorOxide::with_params(DataFormat::Raw, self.level, strategy, bits)
    }

    fn other(&self) -> Role {
        match self.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }

    /// The bytes, and what should be seen of them.
    fn say(&mut self, turn: &Turn) -> (Vec<u8>, Vec<Seen>) {
        let (opcode, mut payload) = wire_form(&turn.event);
        let mut compressed = false;
        if let Some(agreed) = self.agreed
            && turn.compressed
            && !opcode.is_control()
        {
            if !direction(self.other(), &agreed).0 {
                self.deflater = self.fresh_deflater();
            }
            payload = their_message(&mut self.deflater, &payload);
            compressed = true;
        }
        let fragments =
            if opcode.is_control() { vec![&payload[..]] } else { pieces(&payload, &turn.fragments) };
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (i, fragment) in fragments.iter().enumerate() {
            let header = FrameHeader {
                is_final: i + 1 == fragments.len(),
                rsv1: compressed && i == 0,
                opcode: their_opcode(if i == 0 { opcode } else { Opcode::Continuation }),
                ..FrameHeader::default()
            };
            self.put(&mut out, header, fragment);
            if i + 1 < fragments.len()
                && let Some(ping) = turn.between.get(i)
            {
                let header = FrameHeader { opcode: OpCode::Control(Control::Ping), ..FrameHeader::default() };
                self.put(&mut out, header, ping);
                expected.push(Seen::Ping(ping.clone()));
            }
        }
        expected.push(turn.event.clone());
        (out, expected)
    }

    fn put(&self, out: &mut Vec<u8>, mut header: FrameHeader, payload: &[u8]) {
        header.mask = (self.role == Role::Server).then_some([1, 0xff, payload.len() as u8, 0x80]);
        Frame::from_payload(header, payload.to_vec().into()).format(out).expect("a vector takes everything");
    }

    /// What we sent: whole frames, none of them in fragments.
    fn hear(&mut self, mut stream: &[u8]) -> Vec<Seen> {
        let mut heard = Vec::new();
        while !stream.is_empty() {
            let mut cursor = Cursor::new(stream);
            let (header, length) = FrameHeader::parse(&mut cursor).expect("lawful").expect("a whole header");
            let (payload, rest) = stream[cursor.position() as usize..].split_at(length as usize);
            stream = rest;
            assert_eq!(header.mask.is_some(), self.role == Role::Client, "masked");
            assert!(header.is_final && !header.rsv2 && !header.rsv3);
            let mask = header.mask.unwrap_or_default();
            let mut payload =
                payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect::<Vec<_>>();
            if header.rsv1 {
                let agreed = self.agreed.expect("compression was agreed on");
                if !direction(self.role, &agreed).0 {
                    self.inflater = fresh_inflater();
                }
                payload = their_inflated(&mut self.inflater, &payload);
            }
            heard.push(event(header.opcode, payload));
        }
        heard
    }
}

fn fresh_inflater() -> Box<InflateState> {
    InflateState::new_boxed(DataFormat::Raw)
}

fn event(opcode: OpCode, payload: Vec<u8>) -> Seen {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    match opcode {
        OpCode::Data(Data::Text) => Seen::Text(text(payload)),
        OpCode::Data(Data::Binary) => Seen::Binary(payload),
        OpCode::Control(Control::Ping) => Seen::Ping(payload),
        OpCode::Control(Control::Pong) => Seen::Pong(payload),
        OpCode::Control(Control::Close) => match payload.split_first_chunk() {
            None => Seen::Close(None, text(payload)),
            Some((code, reason)) => Seen::Close(Some(u16::from_be_bytes(*code)), text(reason.to_vec())),
        },
        other => panic!("we never send {other}"),
    }
}
