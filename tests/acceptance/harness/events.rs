//! A client of server-sent events that hides nothing: the head of the answer, every event with its id, every comment.

use std::net::SocketAddr;

use super::{Body, Response};

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
    body: Body,
    pub head: Response,
}

impl EventStream {
    /// Asks for `path`; anything but 200 is an error.
    pub async fn try_connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let headers = [&[("Accept", "text/event-stream")], headers].concat();
        let body = Body::ask(address, "GET", path, &headers, b"").await?;
        Ok(Self { head: body.head.clone(), body })
    }

    /// Asks for `path`, or panics.
    pub async fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let answer = Self::try_connect(address, path, headers).await;
        answer.unwrap_or_else(|answer| panic!("{path} was refused: {answer:?}"))
    }

    /// The next block, comments included; nothing at the end of the body.
    pub async fn block(&mut self) -> Option<Event> {
        let block = self.body.until(b"\n\n").await?;
        Some(parse(std::str::from_utf8(&block).expect("events are text")))
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
