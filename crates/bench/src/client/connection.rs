//! One client's socket, from connect to its end, whatever carries what it hears. It owns no buffer while nothing is
//! incomplete: it reads into scratch memory that all connections of a thread share, and inflates with what they share.
//! It never decides to come back: that is the swarm's.

use std::io;
use std::sync::Arc;

use fanfare_protocol::centrifuge::{Format, SubscribeResult};
use fanfare_websocket::deflate::{Agreed, Inflater, Offer};
use fanfare_websocket::{CloseCode, Decoder, Event, Limits, Opcode, Role, client, put_masked_frame};
use mio::{Registry, Token};

use crate::client::body::{self, Body};
use crate::client::speech::{Dialogue, Said, Seat, Speech};
use crate::client::stream::Stream;
use crate::client::sys;
use crate::client::target::Target;
use crate::client::transport::Transport;

/// What a server may send at once; the runs here send much less.
const LIMITS: Limits = Limits { message: 16 << 20, fragments: 1 << 16 };

/// A connection to a server, or the attempt at one.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    state: State,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
    /// Where the client protocol is spoken.
    dialogue: Option<Dialogue>,
    /// When it began to connect.
    started: u64,
    /// We have said that we are going.
    leaving: bool,
}

/// What the connections of a thread share, because they take in one message at a time.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    inflater: Inflater,
    /// Of all of them together.
    pub(crate) traffic: Traffic,
}

/// What came over connections since their handshakes, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Everything.
    pub(crate) wire: u64,
    /// The payloads of the frames in it, inflated.
    pub(crate) payload: u64,
}

/// What happens on a connection while it lasts.
#[derive(Debug)]
pub(crate) enum Happening<'h> {
    /// The handshake is done, and what the client protocol begins with; it took so many nanoseconds from connect.
    Opened { took: u64, subscribed: Option<&'h SubscribeResult> },
    /// A message.
    Message(Message<'h>),
    /// The server has what was published.
    Published,
    /// An answer to our ping.
    Pong,
    /// What it has to say goes another way: the body of a request for it.
    Says(&'h [u8]),
}

/// What somebody published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'m> {
    /// Whether it came as text, where the protocol tells.
    pub(crate) text: bool,
    /// Inflated, and without what the protocol puts around it.
    pub(crate) payload: &'m [u8],
    /// Its place in the channel's history; 0, if it has none.
    pub(crate) offset: u64,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The server said why.
    Closed { code: Option<u16>, reason: String },
    /// We said that we were going, and the server let us.
    Left,
    /// It was cut without a word.
    Lost(String),
    /// The server broke the protocol.
    Offence(String),
    /// The request was answered with another status than 101, or 200 where a body was asked for.
    Refused(u16),
    /// There never was a connection.
    Unconnected(String),
}

#[derive(Debug)]
enum State {
    Handshaking(Box<Handshake>),
    Open(Reader),
}

#[derive(Debug)]
struct Handshake {
    awaited: Awaited,
    answer: Vec<u8>,
}

/// What the answer is to be.
#[derive(Debug)]
enum Awaited {
    /// To frames, in which the client protocol begins then.
    Frames { key: String, offer: Option<Offer>, speech: Option<Arc<Speech>>, seat: Option<Seat> },
    /// A body; where the client protocol is spoken, it has begun in the request.
    Body { transport: Transport, format: Option<Format> },
}

/// What takes apart what comes.
#[derive(Debug)]
enum Reader {
    Frames(Decoder),
    Body(Body),
}

impl Connection {
    /// Begins to connect. The rest happens in [`Connection::ready`].
    pub(crate) fn open(
        target: &Target,
        seat: Option<Seat>,
        registry: &Registry,
        token: Token,
    ) -> Result<Self, End> {
        let stream = Stream::connect(target, registry, token);
        let stream = stream.map_err(|error| End::Unconnected(why(&error)))?;
        let Target { host, path, offer, speech, transport, .. } = target;
        let (unsent, awaited, dialogue) = if *transport == Transport::WebSocket {
            let key = client::new_key();
            let request = client::request_offering(host, path, &key, offer.as_ref());
            (request, Awaited::Frames { key, offer: *offer, speech: speech.clone(), seat }, None)
        } else {
            let format = speech.as_ref().map(|speech| speech.format);
            let begun = speech.clone().map(|speech| Dialogue::begin(speech, seat.as_ref()));
            let (dialogue, commands) = begun.unzip();
            let request = transport.request(target, &commands.unwrap_or_default());
            (request, Awaited::Body { transport: *transport, format }, dialogue)
        };
        Ok(Self {
            stream,
            unsent,
            state: State::Handshaking(Box::new(Handshake { awaited, answer: Vec::new() })),
            dialogue,
            started: sys::monotonic(),
            leaving: false,
        })
    }

    /// Whether everything has been agreed on: the handshake and, in the client protocol, who it is and its
    /// subscription.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_)) && self.dialogue.as_ref().is_none_or(Dialogue::is_open)
    }

    /// Does what the socket is ready for. `hung_up` says that the server will send no more, so that the end
    /// of its stream has to be read and not only what came before it.
    pub(crate) fn ready(
        &mut self,
        hung_up: bool,
        scratch: &mut [u8],
        intake: &mut Intake,
        on: &mut impl FnMut(Happening<'_>, u64),
    ) -> Result<(), End> {
        self.flush()?;
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err(self.cut("the server hung up".to_owned())),
                Ok(read) => read,
                // What waits for TLS to be agreed on can go now, perhaps.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.has_waited() => {
                    return self.flush();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(self.cut(why(&error))),
            };
            let now = sys::monotonic();
            self.take(&mut scratch[..read], now, intake, on)?;
            // A short read means that the socket is empty: whatever comes later makes a new event (epoll(7)).
            // Reading once more to be told so would be the larger part of this program's work.
            if read < scratch.len() && !hung_up && self.stream.is_emptied_by_short_reads() {
                return Ok(());
            }
        }
    }

    /// Queues a message, or a ping; [`Connection::flush`] sends it.
    pub(crate) fn queue(&mut self, opcode: Opcode, payload: &[u8]) {
        put_masked_frame(&mut self.unsent, opcode, payload, fastrand::u32(..).to_ne_bytes());
    }

    /// Queues a publication of these bytes, as the connection's protocol has it.
    pub(crate) fn publish(&mut self, text: bool, payload: &[u8]) {
        let Some(dialogue) = &mut self.dialogue else {
            return self.queue(if text { Opcode::Text } else { Opcode::Binary }, payload);
        };
        let (opcode, frame) = (dialogue.opcode(), dialogue.publication(payload));
        self.queue(opcode, &frame);
    }

    /// Says that we are going; to whoever speaks in a body, by going.
    pub(crate) fn leave(&mut self) -> Result<(), End> {
        self.leaving = true;
        if matches!(self.state, State::Open(Reader::Body(_))) {
            return Err(End::Left);
        }
        self.queue(Opcode::Close, &CloseCode::NORMAL.get().to_be_bytes());
        self.flush()
    }

    /// Hands the socket as much as it takes.
    pub(crate) fn flush(&mut self) -> Result<(), End> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) if written == self.unsent.len() => self.unsent = Vec::new(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => break,
                Err(error) => return Err(self.cut(why(&error))),
            }
        }
        self.stream.flush().map_err(|error| self.cut(why(&error)))
    }

    /// Whether something waits behind a TLS handshake.
    fn has_waited(&self) -> bool {
        !self.unsent.is_empty() && !self.stream.is_emptied_by_short_reads()
    }

    /// Takes what was read apart.
    fn take(
        &mut self,
        bytes: &mut [u8],
        now: u64,
        intake: &mut Intake,
        on: &mut impl FnMut(Happening<'_>, u64),
    ) -> Result<(), End> {
        let State::Handshaking(handshake) = &mut self.state else {
            return self.decode(bytes, now, intake, on);
        };
        handshake.answer.extend_from_slice(bytes);
        let Some((length, agreed)) = handshake.answered()? else { return Ok(()) };
        let mut early = handshake.answer.split_off(length);
        let (reader, begun) = match &mut handshake.awaited {
            Awaited::Frames { speech, seat, .. } => {
                let decoder = agreed.map_or_else(
                    || Decoder::new(Role::Client),
                    |agreed| Decoder::with_deflate(Role::Client, &agreed),
                );
                let begun = speech.take().map(|speech| Dialogue::begin(speech, seat.as_ref()));
                (Reader::Frames(decoder), begun)
            }
            Awaited::Body { transport, format } => (Reader::Body(Body::new(*transport, *format)), None),
        };
        self.state = State::Open(reader);
        // Publishers are paced one by one; a delayed segment would be taken for the server's latency.
        self.stream.set_nodelay().map_err(|error| self.cut(why(&error)))?;
        if let Some((dialogue, frame)) = begun {
            self.queue(dialogue.opcode(), &frame);
            self.dialogue = Some(dialogue);
            self.flush()?;
        }
        if self.dialogue.is_none() {
            let took = now.saturating_sub(self.started);
            on(Happening::Opened { took, subscribed: None }, now);
        }
        self.decode(&mut early, now, intake, on)
    }

    /// Takes the messages in what was read.
    fn decode(
        &mut self,
        mut bytes: &mut [u8],
        now: u64,
        intake: &mut Intake,
        on: &mut impl FnMut(Happening<'_>, u64),
    ) -> Result<(), End> {
        let was_open = self.is_open();
        let Self { state: State::Open(reader), dialogue, started, .. } = self else { return Ok(()) };
        let Intake { inflater, traffic } = intake;
        let took = now.saturating_sub(*started);
        let mut heard = |text: bool, payload: &[u8], answers: &mut Vec<(Opcode, Vec<u8>)>| {
            traffic.payload += payload.len() as u64;
            let Some(dialogue) = dialogue else {
                on(Happening::Message(Message { text, payload, offset: 0 }), now);
                return Ok(());
            };
            let (is_text, mut out) = (dialogue.is_text(), Vec::new());
            let taken = dialogue.take(text, payload, &mut out, &mut |said| match said {
                Said::Open(subscribed) => on(Happening::Opened { took, subscribed }, now),
                Said::Publication(payload, offset) => {
                    on(Happening::Message(Message { text: is_text, payload, offset }), now);
                }
                Said::Published => on(Happening::Published, now),
            });
            if !out.is_empty() {
                answers.push((dialogue.opcode(), out));
            }
            taken
        };
        traffic.wire += bytes.len() as u64;
        let mut answers = Vec::new();
        let mut pongs = 0;
        let mut ended = None;
        match reader {
            Reader::Body(body) => {
                ended = body.take(bytes, &mut |text, said| heard(text, said, &mut answers)).err();
                for (_, said) in std::mem::take(&mut answers) {
                    if let Some(request) = dialogue.as_ref().and_then(|own| own.said_elsewhere(said)) {
                        on(Happening::Says(&request), now);
                    }
                }
            }
            Reader::Frames(decoder) => {
                while ended.is_none() {
                    match decoder.next_inflating(&mut bytes, &LIMITS, inflater) {
                        Ok(None) => break,
                        Ok(Some(Event::Text(payload))) => {
                            ended = heard(true, payload.as_bytes(), &mut answers).err();
                        }
                        Ok(Some(Event::Binary(payload))) => {
                            ended = heard(false, payload, &mut answers).err();
                        }
                        Ok(Some(Event::Pong(_))) => pongs += 1,
                        Ok(Some(Event::Ping(payload))) => answers.push((Opcode::Pong, payload.to_vec())),
                        Ok(Some(Event::Close(code, reason))) => {
                            let code = code.map(CloseCode::get);
                            let echo = code.map_or_else(Vec::new, |code| code.to_be_bytes().to_vec());
                            answers.push((Opcode::Close, echo));
                            ended = Some(End::Closed { code, reason: reason.to_owned() });
                        }
                        Err(offence) => ended = Some(End::Offence(offence.to_string())),
                    }
                }
            }
        }
        for _ in 0..pongs {
            on(Happening::Pong, now);
        }
        for (opcode, payload) in answers {
            if opcode != Opcode::Close || !self.leaving {
                self.queue(opcode, &payload);
            }
        }
        let flushed = self.flush();
        match ended {
            Some(End::Closed { .. }) if self.leaving => Err(End::Left),
            Some(end @ End::Closed { .. }) if !was_open && !self.is_open() => {
                Err(End::Unconnected(end.to_string()))
            }
            Some(end) => Err(end),
            None => flushed,
        }
    }

    /// What it means that the stream broke.
    fn cut(&self, why: String) -> End {
        match self.state {
            State::Handshaking(_) => End::Unconnected(why),
            State::Open(_) if self.leaving => End::Left,
            State::Open(_) if !self.is_open() => End::Unconnected(why),
            State::Open(_) => End::Lost(why),
        }
    }
}

impl Handshake {
    /// How long the head of the answer is, if it is whole and the one that is awaited, and what was agreed on for
    /// frames.
    fn answered(&self) -> Result<Option<(usize, Option<Agreed>)>, End> {
        match &self.awaited {
            Awaited::Frames { key, offer, .. } => {
                let answered = client::response_to(&self.answer, key, offer.as_ref()).map_err(refused)?;
                if offer.is_some() && answered.is_some_and(|(_, agreed)| agreed.is_none()) {
                    let problem = "the server does not agree to permessage-deflate";
                    return Err(End::Unconnected(problem.to_owned()));
                }
                Ok(answered)
            }
            Awaited::Body { .. } => Ok(body::begins_after(&self.answer)?.map(|length| (length, None))),
        }
    }
}

/// In a few words, and the same for the same cause: ends are counted by them.
fn why(error: &io::Error) -> String {
    match error.kind() {
        // TLS' own.
        io::ErrorKind::InvalidData => error.to_string(),
        kind => kind.to_string(),
    }
}

fn refused(error: client::ClientError) -> End {
    match error {
        client::ClientError::Refused { status, .. } => End::Refused(status),
        other => End::Unconnected(other.to_string()),
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { code: Some(code), reason } if reason.is_empty() => write!(f, "closed {code}"),
            Self::Closed { code: Some(code), reason } => write!(f, "closed {code} {reason}"),
            Self::Closed { code: None, .. } => write!(f, "closed without a code"),
            Self::Left => write!(f, "left"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::Offence(why) => write!(f, "protocol broken: {why}"),
            Self::Refused(status) => write!(f, "refused with HTTP {status}"),
            Self::Unconnected(why) => write!(f, "not connected: {why}"),
        }
    }
}
