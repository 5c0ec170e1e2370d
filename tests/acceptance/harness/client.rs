//! A well-behaved WebSocket client on an implementation that is not Fanfare's.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::tls::Stream;
use super::{DEADLINE, Response};

/// One message, with its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Text(String),
    Binary(Vec<u8>),
}

impl From<&str> for Said {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// One connection.
pub struct Client {
    stream: WebSocketStream<Stream>,
}

impl Client {
    /// Connects, or panics.
    pub async fn connect(url: impl AsRef<str>) -> Self {
        let url = url.as_ref();
        Self::try_connect(url, &[]).await.unwrap_or_else(|answer| panic!("{url} was refused: {answer:?}"))
    }

    /// Connects with these headers; `Err` is the answer that was not 101.
    pub async fn try_connect(url: &str, headers: &[(&str, &str)]) -> Result<Self, Response> {
        let authority = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next());
        let stream = TcpStream::connect(authority.expect("a URL that begins with ws://")).await;
        let stream = stream.unwrap_or_else(|error| panic!("{url}: {error}"));
        stream.set_nodelay(true).unwrap();
        Self::try_over(stream.into(), url, headers).await
    }

    /// The same over a stream that is there.
    pub async fn try_over(stream: Stream, url: &str, headers: &[(&str, &str)]) -> Result<Self, Response> {
        let mut request = url.into_client_request().unwrap();
        for (key, value) in headers {
            let key = HeaderName::from_bytes(key.as_bytes()).unwrap();
            request.headers_mut().append(key, HeaderValue::from_str(value).unwrap());
        }
        // Its own default of 128 KiB for each connection would fill the machine before the gateway does.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let connecting = client_async_with_config(request, stream, Some(config));
        match timeout(DEADLINE, connecting).await.expect("the handshake ends in time") {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(Error::Http(answer)) => Err(Response {
                status: answer.status().as_u16(),
                headers: answer
                    .headers()
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.to_str().unwrap_or_default().to_owned()))
                    .collect(),
                body: answer
                    .body()
                    .as_ref()
                    .map(|body| String::from_utf8_lossy(body).into())
                    .unwrap_or_default(),
            }),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    pub async fn send(&mut self, said: impl Into<Said>) {
        let message = match said.into() {
            Said::Text(text) => Message::text(text),
            Said::Binary(bytes) => Message::binary(bytes),
        };
        self.stream.send(message).await.expect("the message can be sent");
    }

    /// As `send`, on a connection that may have been closed.
    pub async fn try_send(&mut self, said: impl Into<Said>) -> bool {
        let message = match said.into() {
            Said::Text(text) => Message::text(text),
            Said::Binary(bytes) => Message::binary(bytes),
        };
        self.stream.send(message).await.is_ok()
    }

    /// The next text or binary message. Pings are answered on the way.
    pub async fn next(&mut self) -> Said {
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => return Said::Text(text.to_string()),
                Some(Ok(Message::Binary(bytes))) => return Said::Binary(bytes.to_vec()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    /// The next `count` messages.
    pub async fn take(&mut self, count: usize) -> Vec<Said> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.next().await);
        }
        all
    }

    /// Waits for the other side's close frame: code and reason. 1006 is an end without one. Messages on the
    /// way are left aside.
    pub async fn closed(&mut self) -> (u16, String) {
        self.rest().await.1
    }

    /// All messages until the end, and the end.
    pub async fn rest(&mut self) -> (Vec<Said>, (u16, String)) {
        let mut messages = Vec::new();
        loop {
            match self.frame().await {
                Some(Ok(Message::Text(text))) => messages.push(Said::Text(text.to_string())),
                Some(Ok(Message::Binary(bytes))) => messages.push(Said::Binary(bytes.to_vec())),
                Some(Ok(Message::Close(Some(close)))) => {
                    return (messages, (close.code.into(), close.reason.to_string()));
                }
                Some(Ok(Message::Close(None))) => return (messages, (1005, String::new())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (messages, (1006, String::new())),
            }
        }
    }

    /// Closes from this side and waits until the other has answered; gives the code that it echoed.
    pub async fn close(mut self) -> u16 {
        let _ = self.stream.close(None).await;
        self.closed().await.0
    }

    async fn frame(&mut self) -> Option<Result<Message, Error>> {
        timeout(DEADLINE, self.stream.next()).await.expect("a frame arrives in time")
    }
}

/// Shows that nothing else is on its way: `from` says something, and it is the next thing that `to` hears.
pub async fn fence(from: &mut Client, to: &mut Client) {
    let mark = format!("fence {}", fastrand::u64(..));
    from.send(mark.as_str()).await;
    assert_eq!(to.next().await, Said::Text(mark));
}
