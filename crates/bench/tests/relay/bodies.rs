//! Listeners of the relay that hear in the body of an answer, and what their sessions say elsewhere.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use fanfare_bench::Transport;
use fanfare_protocol::centrifuge::{
    Answer, ConnectResult, EmulationRequest, ErrorCode, Format, Request, SubscribeResult,
};
use percent_encoding::percent_decode_str;

use super::requests::{content_length, read_body, read_head, read_some};
use super::{CHANNEL, Channel, Subscriber};

/// Answers with a body that does not end, to a subscriber of the one channel.
pub(super) fn serve_body(
    socket: &Arc<TcpStream>,
    channel: &Mutex<Channel>,
    request: &str,
    begun: Vec<u8>,
) -> Option<()> {
    let format = channel.lock().unwrap().format;
    let path = request.split(' ').nth(1)?;
    let transport = if path.ends_with("stream") { Transport::HttpStream } else { Transport::Sse };
    let commands = match path.split_once("?cf_connect=") {
        Some((_, commands)) => percent_decode_str(commands).collect(),
        None => read_body(socket, request, begun)?,
    };
    let mut answers = Vec::new();
    let encoding = format.map(Format::encoding);
    for command in encoding.into_iter().flat_map(|encoding| encoding.commands(&commands)) {
        let command = command.ok()?;
        let (node, session) = ("n".to_owned(), "s".to_owned());
        let connected = ConnectResult { ping: 25, pong: true, node, session, ..ConnectResult::default() };
        let answer = match command.request {
            Request::Connect(_) => Answer::Connect(connected),
            Request::Subscribe(request) if request.channel == CHANNEL => {
                Answer::Subscribe(SubscribeResult::default())
            }
            _ => ErrorCode::PermissionDenied.into(),
        };
        encoding?.put_answer(&mut answers, command.id, &answer).unwrap();
    }
    let mut channel = channel.lock().unwrap();
    let subscriber = Subscriber { socket: Arc::clone(socket), compressor: None, format, transport };
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = if answers.is_empty() { Vec::new() } else { carried(transport, format, &answers) };
    (&**socket).write_all(&[&head[..], &first].concat()).ok()?;
    channel.subscribers.push(subscriber);
    drop(channel);
    // Until it goes.
    read_some(socket);
    Some(())
}

/// What sessions say from elsewhere: nothing but that they live.
pub(super) fn serve_requests(
    mut socket: &TcpStream,
    channel: &Mutex<Channel>,
    mut request: String,
    mut begun: Vec<u8>,
) -> Option<()> {
    let encoding = channel.lock().unwrap().format?.encoding();
    loop {
        let length = content_length(&request)?;
        while begun.len() < length {
            begun.extend_from_slice(&read_some(socket)?);
        }
        let next = begun.split_off(length);
        let said = EmulationRequest::read(encoding, &begun).ok()?;
        assert_eq!((said.node.as_str(), said.session.as_str()), ("n", "s"));
        // Whoever had no turn for a while answers several pings with one request.
        for command in encoding.commands(&said.data) {
            assert_eq!(command.unwrap().request, Request::Pong);
            channel.lock().unwrap().pongs += 1;
        }
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
        (request, begun) = read_head(socket, next)?;
    }
}

/// Messages as a body has them, in two chunks.
pub(super) fn carried(transport: Transport, format: Option<Format>, messages: &[u8]) -> Vec<u8> {
    let text = || String::from_utf8(messages.to_vec()).unwrap();
    let body = match (transport, format) {
        (Transport::HttpStream, Some(Format::Protobuf)) => messages.to_vec(),
        (Transport::HttpStream, _) => text().into_bytes().into_iter().chain(*b"\n").collect(),
        _ => text().lines().map(|line| format!("data: {line}\n\n")).collect::<String>().into_bytes(),
    };
    chunks(&body)
}

pub(super) fn chunks(body: &[u8]) -> Vec<u8> {
    let (one, other) = body.split_at(body.len() / 2);
    let chunk = |bytes: &[u8]| [format!("{:X}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    [one, other].into_iter().filter(|bytes| !bytes.is_empty()).flat_map(chunk).collect()
}
