//! What is said over a connection's frames: nothing but payloads, or the Centrifuge client protocol as one connection
//! of a run speaks it. It says who it is and subscribes, answers pings, publishes, and takes publications out of what
//! comes. It does not come back, and audits nothing.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_protocol::centrifuge::client::{Heard, Reply, emulation, heard, put_command};
use fanfare_protocol::centrifuge::{
    Answer, Command, ConnectRequest, EmulationRequest, Encoding, Error, Event, Format, PublishRequest,
    Request, SubscribeRequest, SubscribeResult,
};
use fanfare_websocket::Opcode;
use serde::{Deserialize, Serialize};

use crate::client::connection::End;

/// What a run's connections speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A message is a payload, and the path is the channel.
    #[default]
    Raw,
    /// The Centrifuge client protocol, version 2, in JSON.
    CentrifugeJson,
    /// The same in Protobuf.
    CentrifugeProtobuf,
}

/// What a connection has to know to speak the client protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Speech {
    /// JSON or Protobuf.
    pub(crate) format: Format,
    pub(crate) channel: Arc<str>,
    /// It subscribes to the channel.
    pub(crate) listens: bool,
    /// Payloads are text, which Protobuf does not tell.
    pub(crate) text: bool,
}

/// A connection's own channel, and from where on it wants what it has missed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) channel: Arc<str>,
    /// Where it was; nowhere yet, if there is no epoch.
    pub(crate) epoch: Option<Arc<str>>,
    /// The last offset that it has.
    pub(crate) offset: u64,
}

/// How far one connection has got.
#[derive(Debug)]
pub(crate) struct Dialogue {
    speech: Arc<Speech>,
    /// Its own, or that of all.
    channel: Arc<str>,
    stage: Stage,
    /// Pings are to be answered.
    pongs: bool,
    /// The last command's id.
    id: u32,
    /// Instance and session, by which whoever hears in a body names itself.
    name: Option<Box<(String, String)>>,
}

/// What came, as far as anybody wants to know.
#[derive(Debug)]
pub(crate) enum Said<'s> {
    /// The connection is as it was to be.
    Open(Option<&'s SubscribeResult>),
    /// Somebody's payload, and its offset.
    Publication(&'s [u8], u64),
    /// What was published is at the server.
    Published,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Subscribing,
    Open,
}

const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::CentrifugeJson, Self::CentrifugeProtobuf];

    /// The path that is used where a URL names none.
    pub fn default_path(self) -> &'static str {
        match self {
            Self::Raw => "/ws/bench",
            Self::CentrifugeJson | Self::CentrifugeProtobuf => "/connection/websocket",
        }
    }

    /// How its pushes are written, if it has any.
    pub(crate) fn format(self) -> Option<Format> {
        match self {
            Self::Raw => None,
            Self::CentrifugeJson => Some(Format::Json),
            Self::CentrifugeProtobuf => Some(Format::Protobuf),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::CentrifugeJson => "centrifuge-json",
            Self::CentrifugeProtobuf => "centrifuge-protobuf",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|protocol| protocol.name() == name);
        named.ok_or_else(|| "expected raw, centrifuge-json or centrifuge-protobuf".to_owned())
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Dialogue {
    /// Begins to speak; gives the first frame, in which clients send all that they know they will want.
    pub(crate) fn begin(speech: Arc<Speech>, seat: Option<&Seat>) -> (Self, Vec<u8>) {
        let channel = seat.map_or_else(|| speech.channel.clone(), |seat| seat.channel.clone());
        let mut frame = Vec::new();
        let connect = ConnectRequest { name: "fanfare-bench".to_owned(), ..ConnectRequest::default() };
        put(speech.encoding(), &mut frame, CONNECT, Request::Connect(Box::new(connect)));
        if speech.listens {
            let request = match seat {
                None => SubscribeRequest::default(),
                Some(seat) => SubscribeRequest {
                    recoverable: true,
                    positioned: true,
                    recover: seat.epoch.is_some(),
                    epoch: seat.epoch.as_deref().unwrap_or_default().to_owned(),
                    offset: seat.offset,
                    ..SubscribeRequest::default()
                },
            };
            let request = SubscribeRequest { channel: channel.to_string(), ..request };
            put(speech.encoding(), &mut frame, SUBSCRIBE, Request::Subscribe(Box::new(request)));
        }
        (Self { speech, channel, stage: Stage::Connecting, pongs: false, id: SUBSCRIBE, name: None }, frame)
    }

    /// Whether the connection is as it was to be.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// What its frames are.
    pub(crate) fn opcode(&self) -> Opcode {
        match self.speech.encoding() {
            Encoding::Json => Opcode::Text,
            Encoding::Protobuf => Opcode::Binary,
        }
    }

    /// Whether payloads are text.
    pub(crate) fn is_text(&self) -> bool {
        self.speech.text
    }

    /// A frame that publishes a payload, which in JSON must be JSON.
    pub(crate) fn publication(&mut self, payload: &[u8]) -> Vec<u8> {
        self.id = self.id.wrapping_add(1).max(SUBSCRIBE + 1);
        let mut frame = Vec::with_capacity(payload.len() + 64);
        let request = PublishRequest {
            channel: self.channel.to_string(),
            data: Bytes::copy_from_slice(payload),
            ..PublishRequest::default()
        };
        put(self.speech.encoding(), &mut frame, self.id, Request::Publish(request));
        frame
    }

    /// What says a frame's content to the session from elsewhere, if it is one that hears in a body.
    pub(crate) fn said_elsewhere(&self, said: Vec<u8>) -> Option<Vec<u8>> {
        let (node, session) = self.name.as_deref()?.clone();
        let data = said.into();
        Some(emulation(self.speech.encoding(), &EmulationRequest { node, session, data }))
    }

    /// Takes a server's frame apart. What is to be answered is put into `out`, a frame of its own.
    pub(crate) fn take(
        &mut self,
        text: bool,
        frame: &[u8],
        out: &mut Vec<u8>,
        on: &mut impl FnMut(Said<'_>),
    ) -> Result<(), End> {
        if text != (self.opcode() == Opcode::Text) {
            return Err(End::Offence("a frame of the wrong kind".to_owned()));
        }
        for message in heard(self.speech.format, frame) {
            match message.map_err(|offence| End::Offence(offence.to_string()))? {
                Heard::Publication { data, offset, .. } => on(Said::Publication(data, offset)),
                Heard::Other(reply) => self.hear(*reply, out, on)?,
            }
        }
        Ok(())
    }

    fn hear(&mut self, reply: Reply, out: &mut Vec<u8>, on: &mut impl FnMut(Said<'_>)) -> Result<(), End> {
        match (self.stage, reply) {
            (_, Reply::Ping) if self.pongs => self.speech.encoding().put_ping(out),
            (_, Reply::Ping) => {}
            (Stage::Connecting, Reply::Answer { id: CONNECT, answer: Answer::Connect(result) }) => {
                self.pongs = result.pong;
                if !result.session.is_empty() {
                    self.name = Some(Box::new((result.node, result.session)));
                }
                self.stage = if self.speech.listens { Stage::Subscribing } else { Stage::Open };
                if self.is_open() {
                    on(Said::Open(None));
                }
            }
            (Stage::Subscribing, Reply::Answer { id: SUBSCRIBE, answer: Answer::Subscribe(result) }) => {
                self.stage = Stage::Open;
                on(Said::Open(Some(&result)));
            }
            (Stage::Open, Reply::Answer { answer: Answer::Publish, .. }) => on(Said::Published),
            (Stage::Open, Reply::Answer { answer: Answer::Error(error), .. }) => {
                return Err(End::Offence(format!("a publication is {}", refused(&error))));
            }
            (_, Reply::Answer { id, answer: Answer::Error(error) }) => {
                let what = if id == CONNECT { "connecting" } else { "subscribing" };
                return Err(End::Unconnected(format!("{what} is {}", refused(&error))));
            }
            (_, Reply::Answer { id, .. }) => {
                return Err(End::Offence(format!("an answer to {id}, which was not asked")));
            }
            (_, Reply::Push(push)) => match push.event {
                Event::Unsubscribe(why) => {
                    let reason = format!("unsubscribed: {}", why.reason);
                    return Err(End::Closed { code: u16::try_from(why.code).ok(), reason });
                }
                // In a body; elsewhere a Close frame says it.
                Event::Disconnect(why) => {
                    return Err(End::Closed { code: u16::try_from(why.code).ok(), reason: why.reason });
                }
                _ => {}
            },
        }
        Ok(())
    }
}

impl Speech {
    fn encoding(&self) -> Encoding {
        self.format.encoding()
    }
}

fn put(encoding: Encoding, frame: &mut Vec<u8>, id: u32, request: Request) {
    put_command(encoding, frame, &Command { id, request })
        .expect("a run in JSON publishes only JSON, and nothing else has a payload");
}

fn refused(Error { code, message, .. }: &Error) -> String {
    format!("answered with {code} {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
            assert_eq!(serde_json::to_string(&protocol).unwrap(), format!("\"{protocol}\""));
        }
        let expected = "expected raw, centrifuge-json or centrifuge-protobuf".to_owned();
        assert_eq!("pusher".parse::<Protocol>(), Err(expected));
    }

    #[test]
    fn what_a_server_says_has_one_meaning() {
        // What it says after the first frame, whether it listens, and how that ends.
        let connect = r#"{"id":1,"connect":{"pong":true}}"#;
        let rows: &[(&[&str], bool, &str)] = &[
            (&[connect], false, "open"),
            (&[connect], true, "waiting"),
            (&[connect, r#"{"id":2,"subscribe":{}}"#], true, "open"),
            (&[connect, r#"{"id":2,"subscribe":{}}"#, "{}"], true, "open, answers {}"),
            (&["{}"], true, "waiting"),
            (
                &[r#"{"id":1,"error":{"code":109,"message":"token expired"}}"#],
                true,
                "not connected: connecting is answered with 109 token expired",
            ),
            (
                &[connect, r#"{"id":2,"error":{"code":102,"message":"unknown channel"}}"#],
                true,
                "not connected: subscribing is answered with 102 unknown channel",
            ),
            (
                &[connect, r#"{"id":3,"error":{"code":107,"message":"bad request"}}"#],
                false,
                "protocol broken: a publication is answered with 107 bad request",
            ),
            (&[connect, connect], true, "protocol broken: an answer to 1, which was not asked"),
            (
                &[
                    connect,
                    r#"{"id":2,"subscribe":{}}"#,
                    r#"{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
                ],
                true,
                "closed 2500 unsubscribed: insufficient state",
            ),
            (
                &[connect, r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}}"#],
                true,
                "closed 3001 shutdown",
            ),
            (&["x"], true, "protocol broken: "),
        ];
        for (said, listens, expected) in rows {
            let speech = Speech { format: Format::Json, channel: "c".into(), listens: *listens, text: true };
            let (mut dialogue, first) = Dialogue::begin(Arc::new(speech), None);
            assert_eq!(first.split(|byte| *byte == b'\n').count(), 1 + usize::from(*listens));
            let mut out = Vec::new();
            let result = said
                .iter()
                .try_for_each(|frame| dialogue.take(true, frame.as_bytes(), &mut out, &mut |_| {}));
            let mut outcome = match result {
                Err(end) => end.to_string(),
                Ok(()) if dialogue.is_open() => "open".to_owned(),
                Ok(()) => "waiting".to_owned(),
            };
            if !out.is_empty() {
                outcome += &format!(", answers {}", String::from_utf8(out).unwrap());
            }
            assert!(outcome.starts_with(expected), "{said:?}: {outcome}");
        }
    }
}
