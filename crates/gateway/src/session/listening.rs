//! The reading side of a connection whose client only listens: the body of an answer that does not end. It is read to
//! see that it ends, and to throw away what comes.

use std::io::ErrorKind;
use std::rc::Rc;

use fanfare_hub::{End, Key, Socket};

use crate::admission::limits::Permit;
use crate::session::inbound::Read;
use crate::worker::Worker;

/// Whoever sends more than so many bytes behind its request is not listening.
const MOST: usize = 64 << 10;

/// See the module.
pub struct Listening {
    worker: Rc<Worker>,
    key: Key,
    heard: usize,
}

impl Listening {
    /// Of a connection that has been opened.
    pub fn new(worker: Rc<Worker>, key: Key) -> Self {
        Self { worker, key, heard: 0 }
    }

    /// Reads once.
    pub fn read(&mut self, socket: &Socket) -> Read {
        let read = socket.try_read(&mut self.worker.scratch.borrow_mut());
        let sealed = socket.take_toll().sealed as usize;
        match read {
            Ok(0) => return Read::Ended,
            Ok(read) => self.heard += read.max(sealed),
            // With TLS there may be much, and nothing in it.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.heard += sealed,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.heard += sealed;
                return Read::Dry;
            }
            Err(_) => return Read::Ended,
        }
        if self.heard > MOST {
            self.worker.shard.end(self.key, End::NotPermitted);
            return Read::Ended;
        }
        Read::Some
    }
}

/// Waits until the client of an event stream has gone, or was made to.
pub async fn attend(worker: Rc<Worker>, key: Key, socket: Rc<Socket>, permit: Permit) {
    let (_permit, _alive) = (permit, worker.alive.clone());
    let mut listening = Listening::new(worker.clone(), key);
    while socket.readable().await.is_ok() {
        if let Read::Ended = listening.read(&socket) {
            break;
        }
    }
    worker.shard.remove(key);
    Box::pin(worker.shard.close(socket)).await;
}
