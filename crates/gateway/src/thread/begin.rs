//! From a handshake that has been answered to the session that is spoken on its socket. What a session does is not
//! known here.

use std::rc::Rc;

use bytes::Bytes;
use fanfare_hub::{End, Heartbeat, Socket};
use fanfare_websocket::{Decoder, Role};
use tokio::task::spawn_local;

use crate::centrifuge;
use crate::http::{Events, Purpose, Upgrade, go_on};
use crate::session::listening::attend;
use crate::session::raw::Session;
use crate::worker::Worker;

/// Starts the session on a socket, in a task that holds no more than an idle connection needs. `early` is what came
/// behind the handshake.
pub fn begin(worker: Rc<Worker>, upgrade: Upgrade, socket: Socket, early: Bytes) {
    let Upgrade { placed, id, purpose, agreed, permit } = upgrade;
    let socket = Rc::new(socket);
    let decoder = agreed.as_ref().map(|agreed| Decoder::with_deflate(Role::Server, agreed));
    let decoder = decoder.unwrap_or(const { Decoder::new(Role::Server) });
    let key = placed.open(socket.clone(), decoder);
    if worker.is_draining() {
        worker.shard.end(key, End::Drained);
    }
    // Boxed by the task itself: a session is small, the handshake that ends here is not. And even an empty
    // remainder would keep the handshake's whole read buffer for the connection's life.
    match purpose {
        Purpose::Raw(terms, owner, behind) => {
            if let Some(behind) = behind {
                spawn_local(go_on(worker.clone(), key, behind));
            }
            let mut session = Session::new(worker.clone(), key, id, terms, permit);
            if !early.is_empty() {
                session.hear(&early);
            }
            drop(early);
            let session = session.run(socket);
            match owner {
                None => spawn_local(session),
                Some(owner) => spawn_local(owner.accompany(worker, session)),
            };
        }
        Purpose::Events(Events { channel, caught_up, owner }) => {
            drop(early);
            socket.give_up_after(worker.instance.config.idle_timeout);
            worker.shard.release(key, &channel, &caught_up.words, caught_up.after, true);
            if let Some(behind) = caught_up.behind {
                spawn_local(go_on(worker.clone(), key, behind));
            }
            let attention = attend(worker.clone(), key, socket, permit);
            match owner {
                None => spawn_local(attention),
                Some(owner) => spawn_local(owner.accompany(worker, attention)),
            };
        }
        Purpose::Client(dialect, limits) => {
            if dialect.heartbeat == Heartbeat::OneWay {
                socket.give_up_after(worker.instance.config.idle_timeout);
            }
            let mut session = centrifuge::Session::new(worker, key, id, dialect, limits, permit);
            if !early.is_empty() {
                session.hear(&early);
            }
            drop(early);
            spawn_local(session.run(socket));
        }
    }
}
