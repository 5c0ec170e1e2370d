//! A connection that carries server-sent events: it is written to by the hub, and read only to see that it ends.

use std::io::ErrorKind;
use std::rc::Rc;

use fanfare_hub::{End, Key, Socket};

use crate::admission::Permit;
use crate::worker::Worker;

/// Whoever sends more than so many bytes behind its request is not listening.
const MOST: usize = 64 << 10;

/// Waits until the client has gone, or was made to.
pub async fn attend(worker: Rc<Worker>, key: Key, socket: Rc<Socket>, permit: Permit) {
    let (_permit, _alive) = (permit, worker.alive.clone());
    let mut heard = 0;
    while socket.readable().await.is_ok() {
        let read = socket.try_read(&mut worker.scratch.borrow_mut());
        match read {
            Ok(0) => break,
            Ok(read) => heard += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if heard > MOST {
            worker.shard.end(key, End::NotPermitted);
            break;
        }
    }
    worker.shard.remove(key);
}
