//! A client of the Centrifuge protocol in JSON that keeps no state but what it was told: it shares no code with the
//! server, and says whatever a test wants, also what no library would.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Frame, Socket};

/// One connection.
pub struct Caller {
    socket: Socket,
    /// What has come and nobody has asked for.
    heard: VecDeque<Value>,
    id: u32,
}

/// Code and reason of a close frame.
pub type Closed = (u16, String);

impl Caller {
    /// Only the handshake; it has yet to say who it is.
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_at(address, "/connection/websocket", &[]).await
    }

    /// The same at some path, with these headers.
    pub async fn open_at(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut socket = Socket::connect(address).await;
        let answer = socket.upgrade_at(path, headers).await;
        assert_eq!(answer.status, 101, "{path}");
        Self { socket, heard: VecDeque::new(), id: 0 }
    }

    /// One that has said who it is, without a token, and takes little that it does not read.
    pub async fn narrow(address: SocketAddr) -> Self {
        Self::narrow_as(address, json!({})).await
    }

    /// The same for whoever says this of itself.
    pub async fn narrow_as(address: SocketAddr, request: Value) -> Self {
        let mut socket = Socket::connect_narrow(address).await;
        assert_eq!(socket.upgrade_at("/connection/websocket", &[]).await.status, 101);
        Self { socket, heard: VecDeque::new(), id: 0 }.introduced(request).await
    }

    /// A connection that has said who it is.
    pub async fn connect(address: SocketAddr, request: Value) -> Self {
        Self::open(address).await.introduced(request).await
    }

    async fn introduced(mut self, request: Value) -> Self {
        let answer = self.call("connect", request).await;
        assert!(answer["connect"]["client"].is_string(), "{answer}");
        self
    }

    /// The same without a token.
    pub async fn anonymous(address: SocketAddr) -> Self {
        Self::connect(address, json!({})).await
    }

    /// The same at an instance that may be gone at any moment.
    pub async fn try_anonymous(address: SocketAddr) -> Option<Self> {
        let mut socket = Socket::over(TcpStream::connect(address).await.ok()?);
        let answer = socket.try_upgrade_at("/connection/websocket", &[]).await.ok()?;
        let mut caller = Self { socket, heard: VecDeque::new(), id: 0 };
        let connected =
            answer.status == 101 && caller.try_call("connect", json!({})).await.ok()?["connect"].is_object();
        connected.then_some(caller)
    }

    /// The connection underneath.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Sends a text message as it is. If the connection has ended, whoever reads will see that.
    pub async fn say(&mut self, text: &str) {
        let _ = self.socket.send(Frame::TEXT, text.as_bytes()).await;
    }

    /// Sends a command; gives its id.
    pub async fn ask(&mut self, method: &str, request: Value) -> u32 {
        self.id += 1;
        let mut command = json!({ "id": self.id });
        command[method] = request;
        self.say(&command.to_string()).await;
        self.id
    }

    /// Sends a command and gives its answer, or how the connection was closed.
    pub async fn try_call(&mut self, method: &str, request: Value) -> Result<Value, Closed> {
        let id = self.ask(method, request).await;
        let mut others = VecDeque::new();
        let answer = loop {
            let message = self.message().await?;
            if message["id"] == id {
                break message;
            }
            others.push_back(message);
        };
        others.append(&mut self.heard);
        self.heard = others;
        Ok(answer)
    }

    /// Sends a command and gives its answer.
    pub async fn call(&mut self, method: &str, request: Value) -> Value {
        let answer = self.try_call(method, request.clone()).await;
        answer.unwrap_or_else(|closed| panic!("{method} {request}: closed with {closed:?}"))
    }

    /// Sends a command that must succeed, and gives its result.
    pub async fn result(&mut self, method: &str, request: Value) -> Value {
        let mut answer = self.call(method, request.clone()).await;
        assert!(answer.get(method).is_some(), "{method} {request}: {answer}");
        answer[method].take()
    }

    /// Sends a command that must fail, and gives the code.
    pub async fn error(&mut self, method: &str, request: Value) -> u64 {
        let answer = self.call(method, request.clone()).await;
        answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {request}: {answer}"))
    }

    /// The next message that is no ping. Pings are answered.
    pub async fn message(&mut self) -> Result<Value, Closed> {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Ok(message);
            }
            let Some(frame) = self.socket.next().await else { return Err((1006, String::new())) };
            if let Some(closed) = frame.close() {
                return Err(closed);
            }
            let text = String::from_utf8(frame.payload).unwrap();
            for line in text.split('\n').filter(|_| frame.opcode == Frame::TEXT) {
                match line {
                    "{}" => self.say("{}").await,
                    line => self.heard.push_back(serde_json::from_str(line).unwrap()),
                }
            }
        }
    }

    /// What the next push holds: its channel, its kind, and that.
    pub async fn push(&mut self) -> (String, String, Value) {
        let message = self.message().await.unwrap_or_else(|closed| panic!("closed with {closed:?}"));
        let push = message["push"].as_object().unwrap_or_else(|| panic!("no push: {message}"));
        let channel = push.get("channel").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, event) = push.iter().find(|(key, _)| *key != "channel").unwrap();
        (channel, kind.clone(), event.clone())
    }

    /// The data of the next publication; what else is pushed is left aside.
    pub async fn publication(&mut self) -> Value {
        loop {
            let (_, kind, mut event) = self.push().await;
            if kind == "pub" {
                return event["data"].take();
            }
        }
    }

    /// How the connection is closed; what comes before is left aside.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.message().await {
                return closed;
            }
        }
    }

    /// Says goodbye, as a client does that will not come back.
    pub async fn leave(mut self) {
        let _ = self.socket.send(Frame::CLOSE, &1000_u16.to_be_bytes()).await;
        let _ = self.socket.closed().await;
    }
}
