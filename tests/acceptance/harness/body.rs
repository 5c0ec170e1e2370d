//! The body of an answer that does not end, as it comes: its head, and then bytes out of chunks that are each looked
//! at.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{DEADLINE, Response};

pub struct Body {
    stream: TcpStream,
    pub head: Response,
    /// Bytes of chunks that are not taken apart yet.
    raw: Vec<u8>,
    /// What was in chunks, and is not taken yet.
    pub bytes: Vec<u8>,
    pub ended: bool,
}

impl Body {
    /// Asks for `path`; anything but 200 is an error.
    pub async fn ask(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Self, Response> {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that the server soon finds that nothing is read.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        Self::ask_on(socket.connect(address).await.unwrap(), method, path, headers, body).await
    }

    async fn ask_on(
        mut stream: TcpStream,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Self, Response> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", stream.peer_addr().unwrap());
        if method == "POST" {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        for (key, value) in headers {
            request += &format!("{key}: {value}\r\n");
        }
        stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).await.unwrap();
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
        Ok(Self { stream, head, raw, bytes: Vec::new(), ended: false })
    }

    /// Takes everything up to and with the first `end`; nothing if the body ends before.
    pub async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        timeout(DEADLINE, async {
            loop {
                if let Some(at) = self.bytes.windows(end.len()).position(|window| window == end) {
                    return Some(self.bytes.drain(..at + end.len()).collect());
                }
                self.more().await?;
            }
        })
        .await
        .expect("something or the end comes in time")
    }

    /// Takes so many bytes; nothing if the body ends before.
    pub async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        timeout(DEADLINE, async {
            while self.bytes.len() < count {
                self.more().await?;
            }
            Some(self.bytes.drain(..count).collect())
        })
        .await
        .expect("something or the end comes in time")
    }

    /// Waits for more; nothing at the end.
    async fn more(&mut self) -> Option<()> {
        let before = self.bytes.len();
        loop {
            self.unchunk();
            if self.bytes.len() > before {
                return Some(());
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
            let bytes = chunk.strip_suffix(b"\r\n").expect("a chunk ends where it says");
            self.bytes.extend_from_slice(bytes);
            self.ended = size == 0;
            self.raw.drain(..end + 2 + size + 2);
        }
    }
}
