//! What sessions say whose answers come in a body: requests to `/emulation`, one behind the other on one connection for
//! all sessions of a thread at an instance. What was not answered when that ends is sent once more. Whether something
//! was refused is not looked at: a session that is not heard ends, and that is.

use std::collections::VecDeque;
use std::io;

use mio::{Registry, Token};

use crate::client::stream::Stream;
use crate::client::target::Target;
use crate::client::transport::post;

/// Requests that wait for their answers at a time.
const UNDER_WAY: usize = 64;

/// The way to one instance.
#[derive(Debug)]
pub(crate) struct Uplink {
    target: Target,
    token: Token,
    stream: Option<Stream>,
    /// Requests that are not answered; the first so many are under way.
    requests: VecDeque<Vec<u8>>,
    under_way: usize,
    /// Of those, what the socket has not taken yet.
    unsent: Vec<u8>,
    /// The beginning of an answer.
    answer: Vec<u8>,
    /// One has come since it connected.
    answered: bool,
}

impl Uplink {
    /// To this instance; its events have this token. It connects when there is something to say.
    pub(crate) fn new(target: &Target, token: Token) -> Self {
        Self {
            target: target.clone(),
            token,
            stream: None,
            requests: VecDeque::new(),
            under_way: 0,
            unsent: Vec::new(),
            answer: Vec::new(),
            answered: false,
        }
    }

    /// Says something; `body` names the session.
    pub(crate) fn say(&mut self, body: &[u8], registry: &Registry) {
        self.requests.push_back(post(&self.target, "/emulation", body));
        self.go_on(registry);
    }

    /// Does what the socket is ready for.
    pub(crate) fn ready(&mut self, scratch: &mut [u8], registry: &Registry) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            match stream.read(scratch) {
                Ok(0) => return self.lose(registry),
                Ok(read) => {
                    self.answer.extend_from_slice(&scratch[..read]);
                    if self.take().is_none() {
                        return self.lose(registry);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => return self.go_on(registry),
                Err(_) => return self.lose(registry),
            }
        }
    }

    /// Takes the answers that are there; nothing, if they are none.
    fn take(&mut self) -> Option<()> {
        loop {
            let mut lines = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut lines);
            let httparse::Status::Complete(length) = head.parse(&self.answer).ok()? else { return Some(()) };
            let mut said =
                head.headers.iter().filter(|line| line.name.eq_ignore_ascii_case("content-length"));
            let body = match said.next() {
                Some(line) => std::str::from_utf8(line.value).ok()?.parse::<usize>().ok()?,
                None => 0,
            };
            let whole = length.checked_add(body)?;
            if self.answer.len() < whole {
                return Some(());
            }
            self.answer.drain(..whole);
            self.answered = true;
            self.under_way = self.under_way.checked_sub(1)?;
            self.requests.pop_front();
        }
    }

    /// Sends what may be under way.
    fn go_on(&mut self, registry: &Registry) {
        while let Some(next) = self.requests.get(self.under_way).filter(|_| self.under_way < UNDER_WAY) {
            self.unsent.extend_from_slice(next);
            self.under_way += 1;
        }
        if self.stream.is_none() && !self.requests.is_empty() {
            self.stream = Stream::connect(&self.target, registry, self.token).ok();
        }
        let Some(stream) = &mut self.stream else { return };
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if waits(&error) => break,
                // Reading tells, and what waits is sent again.
                Err(_) => return,
            }
        }
        // Reading tells of this, too.
        let _ = stream.flush();
    }

    /// The connection has ended.
    fn lose(&mut self, registry: &Registry) {
        self.stream = None;
        self.under_way = 0;
        self.unsent.clear();
        self.answer.clear();
        if !std::mem::take(&mut self.answered) {
            // Where nothing is answered, trying for ever helps nobody.
            self.requests.pop_front();
        }
        self.go_on(registry);
    }
}

fn waits(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NotConnected, WouldBlock};
    matches!(error.kind(), WouldBlock | NotConnected | Interrupted)
}
