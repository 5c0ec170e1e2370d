//! A connection between the question whether there is room for it and the answer to its handshake. Whether there is
//! room, the registry has decided.

use std::rc::Rc;

use bytes::Bytes;
use fanfare_websocket::Decoder;

use crate::end::End;
use crate::registry::Key;
use crate::shard::Shard;
use crate::socket::Socket;

/// A place that was taken before the handshake is answered. Dropping it gives it back.
pub struct Placed {
    shard: Shard,
    key: Key,
    kept: bool,
}

impl Placed {
    pub(crate) fn new(shard: Shard, key: Key) -> Self {
        Self { shard, key, kept: false }
    }

    /// The connection's name for the shard.
    pub fn key(&self) -> Key {
        self.key
    }

    /// What is written first of all, when there is a socket: the head of an answer that is not hyper's.
    pub fn greet(&self, head: Bytes) {
        self.shard.with(|registry| registry.greet(self.key, head));
    }

    /// The handshake is answered, and this is the socket, which is read with `decoder`.
    pub fn open(mut self, socket: Rc<Socket>, decoder: Decoder) -> Key {
        self.kept = true;
        self.shard.with(|registry| registry.open(self.key, socket, decoder));
        self.key
    }

    /// The handshake was answered, and there is no socket.
    pub fn fail(mut self) {
        self.kept = true;
        self.shard.with(|registry| {
            registry.end(self.key, End::UpgradeFailed);
            registry.remove(self.key);
        });
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if !self.kept {
            self.shard.with(|registry| registry.abandon(self.key));
        }
    }
}
