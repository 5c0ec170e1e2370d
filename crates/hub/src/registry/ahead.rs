//! What the next members of a round will need is fetched while the kernel sends for the one before them. Of each of
//! thousands of connections that are written to now and then nothing is near the processor, and to wait for its parts
//! one after the other is most of what a visit costs beside the kernel.

use slab::Slab;

use crate::connection::Connection;
use crate::room::Room;

/// Fetches the connection of the member after the next, and the next one's socket, whose connection was fetched a
/// visit ago.
pub(super) fn look_ahead(room: &Room, connections: &Slab<Connection>) {
    let [next, one_more] = [0, 1].map(|visits| connections.get(room.to_come(visits)?.connection as usize));
    if let Some(socket) = next.and_then(|connection| connection.socket.as_deref()) {
        fetch(socket);
    }
    if let Some(connection) = one_more {
        fetch(connection);
    }
}

/// Has the processor fetch all of it, and does not wait.
fn fetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = (&raw const *what).cast::<i8>().wrapping_add(line);
        // SAFETY: a hint that every x86-64 processor takes. It reads and writes nothing that the program could notice,
        // and an address at which there is no memory is no fault.
        #[expect(unsafe_code, reason = "the standard library marks it so, because it takes a pointer")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(place);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use bytes::Bytes;
    use fanfare_protocol::{Channel, ConnectionId};
    use smallvec::SmallVec;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::{Life, State};
    use crate::format::{Format, Frames};
    use crate::mailbox::Delivery;
    use crate::room::Membership;
    use crate::socket::Socket;
    use crate::subscription::Subscription;

    /// Two rounds through rooms of none, one and more members, of whom every second has a socket and the last has no
    /// connection any more: whoever is looked ahead to is the next to be visited, and behind the last there is nobody.
    #[tokio::test]
    async fn what_is_looked_ahead_to_is_what_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Rc::new(Socket::new(stream));
        for members in 0..5 {
            let mut room = Room::new(Channel::lobby(), 0);
            let mut connections = Slab::new();
            for member in 0..members {
                let at = connections.insert(connection((member % 2 == 0).then(|| socket.clone())));
                let subscription = Subscription::new(Channel::lobby(), Format::PLAIN);
                room.join(Membership::new(at as u32, 0, &subscription));
            }
            look_ahead(&room, &connections);
            if members > 1 {
                connections.remove(members - 1);
            }
            let mut visited = Vec::new();
            for _ in 0..2 {
                room.keep(delivery());
                let mut next = room.to_come(0).map(|member| member.connection);
                while let Some((place, member)) = room.advance() {
                    assert!(next.is_none_or(|next| next == member.connection), "{members} members");
                    look_ahead(&room, &connections);
                    next = room.to_come(0).map(|member| member.connection);
                    visited.push(place);
                }
                assert!(room.to_come(members).is_none(), "{members} members");
                room.tidy();
            }
            let circle: Vec<usize> = (0..members).chain(0..members).collect();
            assert_eq!(visited, circle, "{members} members");
        }
    }

    fn connection(socket: Option<Rc<Socket>>) -> Connection {
        Connection {
            serial: 0,
            state: State::Open,
            life: Life::Heard,
            presumed: 0,
            format: Format::PLAIN,
            flushing: false,
            seats: SmallVec::new(),
            kept_beside: 0,
            outbox_limit: 0,
            socket,
            outbox: None,
            decoder: None,
            context: None,
            held: None,
            filters: Vec::new(),
            heard: 0,
            due: 0,
            id: ConnectionId::nil(),
            opened: Instant::now(),
        }
    }

    fn delivery() -> Delivery {
        let frames = Frames::new([(Format::PLAIN, Some(Bytes::from_static(b"a")))]);
        Delivery { frames, exclude: None, published_at: 0, offset: 0, tags: None, news: false }
    }
}
