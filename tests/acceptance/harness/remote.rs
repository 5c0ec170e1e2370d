//! A client of the Centrifuge protocol in JSON that listens to the body of an answer and speaks, if at all, by
//! requests. Like the one on WebSockets it keeps no state but what it was told.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Body, Response, post};

/// One connection.
pub struct Remote {
    body: Body,
    /// Each message is an event; otherwise it is a line.
    by_events: bool,
    /// Where it sends what it says.
    pub uplink: SocketAddr,
    pub session: String,
    pub node: String,
    pub client: String,
    id: u32,
    /// How many pings it was sent.
    pub pings: usize,
}

/// What a query says, so that nothing in it is special.
pub fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl Remote {
    /// The paths at which there are such sessions.
    pub const PATHS: [&str; 2] = ["/connection/sse", "/connection/http_stream"];

    /// Begins with these words: in the query where that is possible, in the body elsewhere.
    pub async fn open(address: SocketAddr, path: &str, words: &str) -> Result<Self, Response> {
        if path.ends_with("http_stream") {
            Self::open_by_post(address, path, words).await
        } else {
            let body =
                Body::ask(address, "GET", &format!("{path}?cf_connect={}", encoded(words)), &[], b"").await?;
            Ok(Self::over(body, path, address))
        }
    }

    /// The same with a body in any case.
    pub async fn open_by_post(address: SocketAddr, path: &str, words: &str) -> Result<Self, Response> {
        let headers = [("Content-Type", "application/json")];
        let body = Body::ask(address, "POST", path, &headers, words.as_bytes()).await?;
        Ok(Self::over(body, path, address))
    }

    fn over(body: Body, path: &str, uplink: SocketAddr) -> Self {
        let (session, node, client) = Default::default();
        Self { body, by_events: path.ends_with("sse"), uplink, session, node, client, id: 1, pings: 0 }
    }

    /// A session that has said who it is.
    pub async fn connect(address: SocketAddr, path: &str, request: Value) -> Self {
        let words = json!({ "id": 1, "connect": request }).to_string();
        let mut remote = Self::open(address, path, &words).await.unwrap();
        let answer = remote.message().await.unwrap();
        remote.remember(&answer);
        remote
    }

    /// Takes what a connect was answered with.
    pub fn remember(&mut self, answer: &Value) {
        let text = |key: &str| {
            let value = answer["connect"][key].as_str();
            value.unwrap_or_else(|| panic!("no {key}: {answer}")).to_owned()
        };
        (self.session, self.node, self.client) = (text("session"), text("node"), text("client"));
    }

    /// The head of the answer.
    pub fn head(&self) -> &Response {
        &self.body.head
    }

    /// The next message that is no ping; nothing at the end. Pings are answered, if somebody can.
    pub async fn message(&mut self) -> Option<Value> {
        loop {
            let text = if self.by_events {
                let block = String::from_utf8(self.body.until(b"\n\n").await?).unwrap();
                // The empty line at the very beginning belongs to no event.
                let event = block.trim_start_matches("\r\n");
                let data = event.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
                data.unwrap_or_else(|| panic!("not an event with one line of data: {block:?}")).to_owned()
            } else {
                String::from_utf8(self.body.until(b"\n").await?).unwrap()
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message != json!({}) {
                return Some(message);
            }
            self.pings += 1;
            if !self.session.is_empty() {
                self.say("{}").await;
            }
        }
    }

    /// The next message that is no ping and that nobody answers.
    pub async fn unanswered(&mut self) -> Option<Value> {
        let session = std::mem::take(&mut self.session);
        let message = self.message().await;
        self.session = session;
        message
    }

    /// What a request holds that says this.
    pub fn request(&self, words: &str) -> Value {
        json!({ "session": self.session, "node": self.node, "data": words })
    }

    /// Says this; gives the status of the answer.
    pub async fn say(&self, words: &str) -> u16 {
        let body = self.request(words).to_string();
        let headers = [("Content-Type", "application/json")];
        post(self.uplink, "/emulation", &headers, body.as_bytes()).await.unwrap().status
    }

    /// Sends a command and gives its answer; what comes before it is left aside.
    pub async fn call(&mut self, method: &str, request: Value) -> Value {
        self.id += 1;
        let mut command = json!({ "id": self.id });
        command[method] = request.clone();
        assert_eq!(self.say(&command.to_string()).await, 204, "{command}");
        loop {
            let message = self.message().await.unwrap_or_else(|| panic!("{method} {request}: it ended"));
            if message["id"] == self.id {
                return message;
            }
        }
    }

    /// Sends a command that must succeed, and gives its result.
    pub async fn result(&mut self, method: &str, request: Value) -> Value {
        let mut answer = self.call(method, request.clone()).await;
        assert!(answer.get(method).is_some(), "{method} {request}: {answer}");
        answer[method].take()
    }

    /// The next push's publication; what else is pushed is left aside.
    pub async fn publication(&mut self) -> Value {
        loop {
            let mut message = self.message().await.expect("it goes on");
            if message["push"].get("pub").is_some() {
                return message["push"]["pub"]["data"].take();
            }
        }
    }

    /// With which code it ends, and that nothing comes behind that; what comes before is left aside.
    pub async fn closed(&mut self) -> u64 {
        let mut last = None;
        while let Some(message) = self.message().await {
            assert!(last.is_none(), "behind the last words: {message}");
            let push = if message.get("push").is_some() { &message["push"] } else { &message };
            last = push["disconnect"]["code"].as_u64();
        }
        assert!(self.body.ended, "the body ends as bodies do");
        last.expect("it is told why it ends")
    }
}
