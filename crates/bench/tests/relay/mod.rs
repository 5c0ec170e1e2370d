//! A relay of one channel, small and slow, that can be told to do wrong: what the auditor must notice. It speaks
//! payloads, or the client protocol; to listeners in frames, or in the body of an answer.
#![allow(dead_code, reason = "each test program uses its part of it")]

mod bodies;
mod requests;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanfare_bench::{Protocol, Target, Transport};
use fanfare_protocol::centrifuge::{
    Answer, ConnectResult, Disconnect, Encoding, ErrorCode, Event as Told, Format, Publication, Push,
    Request, SubscribeRequest, SubscribeResult,
};
use fanfare_websocket::deflate::{Compressor, Level, Policy};
use fanfare_websocket::{CloseCode, Decoder, Event, Limits, Opcode, Role, close_frame, frame};

use bodies::{carried, chunks, serve_body, serve_requests};
use requests::{answer, read_request};

/// What it does to the `nth` message that is published (from 0), for its first subscriber unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Drop,
    DropAndTell,
    Double,
    /// After the next one.
    Swap,
    Alter,
    /// The subscriber is sent away, and does not get this one either.
    SendAway,
    /// The subscriber's connection is cut without a word.
    Cut,
    /// The publisher's connection is cut, and nobody gets the message.
    CutPublisher,
    /// Every handshake is answered with 503.
    Refuse,
    /// The last of what a client recovers is left out.
    Withhold,
    /// The last of it comes again.
    Repeat,
    /// Nobody recovers anything.
    Forget,
}

/// The one channel of those that speak the client protocol.
pub const CHANNEL: &str = "bench";

/// A relay that serves until its process ends.
#[derive(Debug, Clone)]
pub struct Relay {
    address: SocketAddr,
    protocol: Protocol,
    channel: Arc<Mutex<Channel>>,
}

#[derive(Debug)]
struct Channel {
    fault: Fault,
    nth: u64,
    policy: Option<Policy>,
    format: Option<Format>,
    pongs: usize,
    /// Who is in other channels than the one, and what was said there.
    members: Vec<(String, Arc<TcpStream>)>,
    histories: BTreeMap<String, Vec<Publication>>,
    published: u64,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Arc<TcpStream>>,
    held_back: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Subscriber {
    socket: Arc<TcpStream>,
    compressor: Option<Compressor>,
    format: Option<Format>,
    transport: Transport,
}

impl Relay {
    pub fn start(fault: Fault, nth: u64) -> Self {
        Self::launch(fault, nth, None, Protocol::Raw)
    }

    /// One that speaks this.
    pub fn start_speaking(protocol: Protocol, fault: Fault, nth: u64) -> Self {
        Self::launch(fault, nth, None, protocol)
    }

    /// One that compresses for who offers it.
    pub fn start_compressing(fault: Fault, nth: u64, policy: Policy) -> Self {
        Self::launch(fault, nth, Some(policy), Protocol::Raw)
    }

    fn launch(fault: Fault, nth: u64, policy: Option<Policy>, protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Channel {
            fault,
            nth,
            policy,
            format: match protocol {
                Protocol::Raw => None,
                Protocol::CentrifugeJson => Some(Format::Json),
                Protocol::CentrifugeProtobuf => Some(Format::Protobuf),
            },
            pongs: 0,
            members: Vec::new(),
            histories: BTreeMap::new(),
            published: 0,
            subscribers: Vec::new(),
            publishers: Vec::new(),
            held_back: None,
        };
        let channel = Arc::new(Mutex::new(channel));
        let serving = Arc::clone(&channel);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, channel) = (Arc::new(socket.unwrap()), Arc::clone(&serving));
                std::thread::spawn(move || serve(&socket, &channel));
            }
        });
        Self { address, protocol, channel }
    }

    pub fn target(&self) -> Target {
        Target::speaking(&format!("ws://{}/", self.address), self.protocol, CHANNEL).unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many pings were answered.
    pub fn pongs(&self) -> usize {
        self.channel.lock().unwrap().pongs
    }
}

fn serve(socket: &Arc<TcpStream>, channel: &Mutex<Channel>) -> Option<()> {
    let mut scratch = vec![0; 64 * 1024];
    let (request, begun) = read_request(socket)?;
    if channel.lock().unwrap().fault == Fault::Refuse {
        return (&**socket).write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let path = request.split(' ').nth(1)?;
    if path == "/emulation" {
        return serve_requests(socket, channel, request, begun);
    }
    if path.starts_with("/sse/") || path.starts_with("/connection/sse") || path == "/connection/http_stream" {
        return serve_body(socket, channel, &request, begun);
    }
    {
        // Joined before the answer: whoever has that may rely on getting everything.
        let mut channel = channel.lock().unwrap();
        let agreed = answer(socket, &request, channel.policy)?;
        let socket = Arc::clone(socket);
        if channel.format.is_some() {
            // Who this is becomes clear by what it says.
        } else if request.contains("echo=false") {
            assert_eq!(agreed, None, "publishers offer nothing");
            channel.publishers.push(socket);
        } else {
            let compressor = agreed
                .map(|agreed| Compressor::for_connection(Role::Server, &agreed, Level::new(6).unwrap()));
            let transport = Transport::WebSocket;
            channel.subscribers.push(Subscriber { socket, compressor, format: None, transport });
        }
    }
    let format = channel.lock().unwrap().format;
    let mut decoder = Decoder::new(Role::Server);
    let limits = Limits { message: 1 << 20, fragments: 16 };
    loop {
        let read = (&**socket).read(&mut scratch).ok().filter(|read| *read > 0)?;
        let mut bytes = &mut scratch[..read];
        while let Some(event) = decoder.next(&mut bytes, &limits).ok()? {
            match event {
                Event::Text(frame) if format == Some(Format::Json) => {
                    obey(channel, socket, Encoding::Json, frame.as_bytes())?;
                }
                Event::Binary(frame) if format == Some(Format::Protobuf) => {
                    obey(channel, socket, Encoding::Protobuf, frame)?;
                }
                Event::Text(text) => publish(channel, socket, Opcode::Text, text.as_bytes())?,
                Event::Binary(payload) => publish(channel, socket, Opcode::Binary, payload)?,
                Event::Ping(payload) => (&**socket).write_all(&frame(Opcode::Pong, payload)).ok()?,
                Event::Pong(_) => {}
                Event::Close(..) => {
                    forget(channel, socket);
                    return (&**socket).write_all(&close_frame(CloseCode::NORMAL, "")).ok();
                }
            }
        }
    }
}

/// Carries out what a client of the protocol asks for. Everybody may publish in one channel and nobody in others.
fn obey(channel: &Mutex<Channel>, socket: &Arc<TcpStream>, encoding: Encoding, frame: &[u8]) -> Option<()> {
    for command in encoding.commands(frame) {
        let command = command.ok()?;
        let answer = match command.request {
            Request::Pong => {
                channel.lock().unwrap().pongs += 1;
                continue;
            }
            Request::Connect(_) => {
                Answer::Connect(ConnectResult { ping: 25, pong: true, ..ConnectResult::default() })
            }
            Request::Subscribe(request) if request.channel != CHANNEL => {
                let mut channel = channel.lock().unwrap();
                let result = channel.recover(&request);
                answer_to(socket, encoding, command.id, &Answer::Subscribe(result))?;
                channel.members.push((request.channel, Arc::clone(socket)));
                continue;
            }
            Request::Subscribe(_) => {
                let (socket, format) = (Arc::clone(socket), Some(encoding.format()));
                let transport = Transport::WebSocket;
                let subscriber = Subscriber { socket, compressor: None, format, transport };
                let mut channel = channel.lock().unwrap();
                answer_to(
                    &subscriber.socket,
                    encoding,
                    command.id,
                    &Answer::Subscribe(SubscribeResult::default()),
                )?;
                channel.subscribers.push(subscriber);
                continue;
            }
            Request::Publish(request) if request.channel == CHANNEL => {
                publish(channel, socket, opcode(encoding), &request.data)?;
                Answer::Publish
            }
            Request::Publish(request) if request.channel.starts_with(CHANNEL) => {
                channel.lock().unwrap().remember(&request.channel, request.data, encoding);
                Answer::Publish
            }
            _ => ErrorCode::PermissionDenied.into(),
        };
        answer_to(socket, encoding, command.id, &answer)?;
    }
    Some(())
}

fn answer_to(mut socket: &TcpStream, encoding: Encoding, id: u32, answer: &Answer) -> Option<()> {
    let mut out = Vec::new();
    encoding.put_answer(&mut out, id, answer).unwrap();
    socket.write_all(&frame(opcode(encoding), &out)).ok()
}

fn opcode(encoding: Encoding) -> Opcode {
    if encoding == Encoding::Json { Opcode::Text } else { Opcode::Binary }
}

fn publish(channel: &Mutex<Channel>, from: &TcpStream, opcode: Opcode, payload: &[u8]) -> Option<()> {
    let mut channel = channel.lock().unwrap();
    let fault = if channel.published == channel.nth { channel.fault } else { Fault::None };
    channel.published += 1;
    if fault == Fault::CutPublisher {
        from.shutdown(std::net::Shutdown::Both).ok();
        return None;
    }
    for mut socket in channel.publishers.iter().map(|socket| &**socket) {
        if !std::ptr::eq(socket, from) {
            socket.write_all(&frame(opcode, payload)).ok();
        }
    }
    let (first, others) = channel.subscribers.split_first_mut()?;
    for subscriber in others {
        let bytes = subscriber.frame(opcode, payload);
        (&*subscriber.socket).write_all(&bytes).ok();
    }
    let mut payload = payload.to_vec();
    if fault == Fault::Alter {
        // Still JSON, where it was.
        *payload.iter_mut().rfind(|byte| byte.is_ascii_alphanumeric())? ^= 1;
    }
    let whole = first.frame(opcode, &payload);
    let bytes = match fault {
        Fault::Drop | Fault::Cut => Vec::new(),
        Fault::DropAndTell => first.notice(),
        Fault::Double => [whole.clone(), whole].concat(),
        Fault::Swap => {
            channel.held_back = Some(whole);
            return Some(());
        }
        Fault::SendAway => first.farewell(),
        _ => whole,
    };
    (&*first.socket).write_all(&bytes).ok();
    if fault == Fault::Cut {
        first.socket.shutdown(std::net::Shutdown::Both).ok();
    }
    if matches!(fault, Fault::Cut | Fault::SendAway) {
        channel.subscribers.remove(0);
    } else if let Some(held_back) = channel.held_back.take() {
        (&*channel.subscribers[0].socket).write_all(&held_back).ok();
    }
    Some(())
}

impl Channel {
    fn remember(&mut self, name: &str, data: bytes::Bytes, encoding: Encoding) {
        let history = self.histories.entry(name.to_owned()).or_default();
        let offset = history.len() as u64 + 1;
        let publication = Publication { data, offset, ..Publication::default() };
        let (mut unit, mut out) = (Vec::new(), Vec::new());
        encoding.format().put_publication(&mut unit, name, &publication).unwrap();
        encoding.put_unit(&mut out, &unit);
        history.push(publication);
        for (_, mut socket) in self.members.iter().filter(|(of, _)| of == name).map(|(of, to)| (of, &**to)) {
            socket.write_all(&frame(opcode(encoding), &out)).ok();
        }
    }

    fn recover(&self, request: &SubscribeRequest) -> SubscribeResult {
        let none = Vec::new();
        let history = self.histories.get(&request.channel).unwrap_or(&none);
        let mut publications = history.get(request.offset as usize..).unwrap_or_default().to_vec();
        match (self.fault, publications.last().cloned()) {
            (Fault::Withhold, Some(_)) => drop(publications.pop()),
            (Fault::Repeat, Some(last)) => publications.push(last),
            _ => {}
        }
        let recovered = request.recover && self.fault != Fault::Forget;
        SubscribeResult {
            epoch: "here".to_owned(),
            offset: if recovered { request.offset } else { history.len() as u64 },
            recoverable: true,
            positioned: true,
            was_recovering: request.recover,
            recovered,
            publications: if recovered { publications } else { Vec::new() },
            ..SubscribeResult::default()
        }
    }
}

impl Subscriber {
    /// A message as this one wants it.
    fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        if let Some(format) = self.format {
            let (mut unit, mut out) = (Vec::new(), Vec::new());
            let data = bytes::Bytes::copy_from_slice(payload);
            format
                .put_publication(&mut unit, CHANNEL, &Publication { data, ..Publication::default() })
                .unwrap();
            // A ping may stand in the same frame.
            format.encoding().put_ping(&mut out);
            format.encoding().put_unit(&mut out, &unit);
            return match self.transport {
                Transport::WebSocket => frame(opcode, &out).to_vec(),
                transport => carried(transport, Some(format), &out),
            };
        }
        if self.transport == Transport::Sse {
            return match opcode {
                Opcode::Text => carried(self.transport, None, payload),
                _ => chunks(format!("event: binary\ndata: {}\n\n", STANDARD.encode(payload)).as_bytes()),
            };
        }
        match &mut self.compressor {
            Some(compressor) => compressor.compress_frame(opcode, payload).to_vec(),
            None => frame(opcode, payload).to_vec(),
        }
    }
}

impl Subscriber {
    fn notice(&self) -> Vec<u8> {
        let notice = r#"{"fanfare":"gap","channel":"bench"}"#;
        match self.transport {
            Transport::WebSocket => frame(Opcode::Text, notice.as_bytes()).to_vec(),
            _ => chunks(format!("event: gap\ndata: {notice}\n\n").as_bytes()),
        }
    }

    fn farewell(&self) -> Vec<u8> {
        let (code, reason) = (CloseCode::SERVICE_RESTART, "service restart");
        let body = match (self.transport, self.format) {
            (Transport::WebSocket, _) => return close_frame(code, reason).to_vec(),
            (_, None) => chunks(b"event: close\ndata: {\"code\":1012,\"reason\":\"service restart\"}\n\n"),
            (transport, Some(format)) => {
                let code = u32::from(code.get());
                let away = Disconnect { code, reason: reason.to_owned(), reconnect: true };
                let (mut unit, mut out) = (Vec::new(), Vec::new());
                let push = Push { id: 0, channel: String::new(), event: Told::Disconnect(away) };
                format.put_push(&mut unit, &push).unwrap();
                format.encoding().put_unit(&mut out, &unit);
                carried(transport, Some(format), &out)
            }
        };
        [&body[..], b"0\r\n\r\n"].concat()
    }
}

fn forget(channel: &Mutex<Channel>, socket: &Arc<TcpStream>) {
    let mut channel = channel.lock().unwrap();
    channel.members.retain(|(_, other)| !Arc::ptr_eq(other, socket));
    channel.subscribers.retain(|other| !Arc::ptr_eq(&other.socket, socket));
    channel.publishers.retain(|other| !Arc::ptr_eq(other, socket));
}
