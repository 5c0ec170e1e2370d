//! A client of server-sent events that hides nothing: the head of the answer, every event with its id, every comment.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{DEADLINE, Response};

/// What stands between two empty lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    /// There was a comment in it, and nothing else.
    pub comment: bool,
}

/// An answer that does not end.
pub struct EventStream {
    stream: TcpStream,
    pub head: Response,
    /// Bytes of chunks that are not taken apart yet.
    raw: Vec<u8>,
    text: String,
    ended: bool,
}

impl EventStream {
    /// Asks for `path`; anything but 200 is an error.
    pub async fn try_connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n");
        for (key, value) in headers {
            request += &format!("{key}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        let head = loop {
            if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = raw.split_off(end + 4);
                break Response::from_head(&String::from_utf8(std::mem::replace(&mut raw, rest)).unwrap());
            }
            let read = timeout(DEADLINE, stream.read_buf(&mut raw)).await.expect("a head comes in time");
            assert!(read.unwrap() > 0, "the connection ended before the head did");
        };
        if head.status != 200 {
            stream.read_to_end(&mut raw).await.unwrap();
            return Err(Response { body: String::from_utf8_lossy(&raw).into(), ..head });
        }
        Ok(Self { stream, head, raw, text: String::new(), ended: false })
    }

    /// Asks for `path`, or panics.
    pub async fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let answer = Self::try_connect(address, path, headers).await;
        answer.unwrap_or_else(|answer| panic!("{path} was refused: {answer:?}"))
    }

    /// The next block, comments included; nothing at the end of the body.
    pub async fn block(&mut self) -> Option<Event> {
        timeout(DEADLINE, self.block_or_end()).await.expect("an event or the end comes in time")
    }

    /// The next event: no comment, and no mere id, which is kept for `id`.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.block().await {
                Some(event) if event.data.is_none() => {}
                other => return other,
            }
        }
    }

    /// The data of the next so many events.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.next().await.expect("the stream goes on").data.unwrap());
        }
        all
    }

    async fn block_or_end(&mut self) -> Option<Event> {
        loop {
            self.unchunk();
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                return Some(parse(&block));
            }
            if self.ended || self.stream.read_buf(&mut self.raw).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// RFC 9112 section 7.1; a chunk that has not come whole waits.
    fn unchunk(&mut self) {
        while !self.ended
            && let Some(end) = self.raw.windows(2).position(|window| window == b"\r\n")
        {
            let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..end]).unwrap(), 16).unwrap();
            let Some(chunk) = self.raw.get(end + 2..end + 2 + size + 2) else { return };
            let text = std::str::from_utf8(chunk).expect("events are text").strip_suffix("\r\n");
            self.text += text.expect("a chunk ends where it says");
            self.ended = size == 0;
            self.raw.drain(..end + 2 + size + 2);
        }
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines().filter(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("event", name)) => event.event = Some(name.to_owned()),
            Some(("data", data)) => {
                event.data = Some(match event.data.take() {
                    None => data.to_owned(),
                    Some(before) => before + "\n" + data,
                });
            }
            _ if line == ":" => event.comment = true,
            _ => panic!("not a line of an event: {line:?}"),
        }
    }
    event
}
