//! Heavy work of many connections, a piece at a time: what a socket takes that was full, or what the kernel frees
//! with it, may be megabytes, and where many come in the same moment everybody else would wait for all of them. It
//! does none of that work itself.

use std::cell::Cell;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Everybody else has a turn after so many bytes: a tenth of a millisecond, or two.
const TURN: usize = 256 << 10;

/// One worker's heavy work, first come, first served.
pub(crate) struct Turns {
    place: Semaphore,
    done: Cell<usize>,
}

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { place: Semaphore::const_new(1), done: Cell::new(0) }
    }

    /// Does a piece of work when its turn has come. The work says for how many bytes it counts.
    pub(crate) async fn take<T>(&self, work: impl FnOnce() -> (T, usize)) -> T {
        // Never closed; and were it, the work must be done all the same.
        let _place = self.place.acquire().await;
        let (result, bytes) = work();
        let done = self.done.get() + bytes;
        self.done.set(if done < TURN { done } else { 0 });
        if done >= TURN {
            yield_now().await;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::rc::{Rc, Weak};
    use std::thread;
    use std::time::Duration;

    use bytes::Bytes;
    use fanfare_protocol::{Channel, ConnectionId};
    use fanfare_websocket::{Decoder, Role};
    use socket2::{Domain, SockRef, Type};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::{Bounds, Format, Heartbeat, Hub, Key, Observer, Opening, Phrases, Settings, Shard, Socket};

    /// How many come in the same moment, and what each has in its queue beyond what the kernel holds.
    const MANY: usize = 8;
    const WAITING: usize = 4 * TURN;

    /// The most that one visit to a full socket takes, and so the most beyond a turn.
    const PIECE: usize = 64 << 10;

    struct Nobody;

    impl Observer for Nobody {
        fn released(&self, _: &Channel) {}

        fn lapsed(&self, _: Key, _: &Channel) {}
    }

    fn settings() -> Settings {
        const LONG: Duration = Duration::from_secs(600);
        Settings {
            ping_interval: LONG,
            idle_timeout: LONG,
            close_timeout: LONG,
            client_ping_interval: LONG,
            pong_timeout: LONG,
            stale_timeout: LONG,
            weigh_sockets: false,
        }
    }

    fn with_shard(test: impl AsyncFnOnce(Shard)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (_hub, mut inboxes) = Hub::new(1, Bounds::default(), Phrases::WEBSOCKET);
            let lag = metrics::Histogram::noop();
            test(Shard::start(inboxes.remove(0), settings(), lag, Nobody, || 0)).await;
        });
    }

    /// A peer, and a stream to it into which the kernel takes much at once.
    async fn wide_pair() -> (std::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        peer.set_recv_buffer_size(PIECE).expect("a buffer");
        peer.connect(&listener.local_addr().expect("bound").into()).expect("connects");
        peer.set_nonblocking(true).expect("a socket that does not wait");
        let (stream, _) = listener.accept().await.expect("a peer");
        SockRef::from(&stream).set_send_buffer_size(2 * TURN).expect("a buffer");
        (peer.into(), stream)
    }

    /// Full sockets become writable in the same moment, and each could take a megabyte: between two turns of everybody
    /// else's there is one turn for all of them together.
    #[test]
    fn what_full_sockets_take_has_one_turn_at_a_time() {
        with_shard(async |shard| {
            let (mut peers, mut queued) = (Vec::new(), 0);
            for _ in 0..MANY {
                let (peer, stream) = wide_pair().await;
                let socket = Rc::new(Socket::new(stream));
                let placed = shard.place(Opening {
                    id: ConnectionId::now_v7(),
                    format: Format::PLAIN,
                    heartbeat: Heartbeat::AnyFrame,
                    outbox_limit: usize::MAX,
                    context: None,
                });
                let key = placed.open(socket.clone(), Decoder::new(Role::Server));
                socket.writable().await.expect("an empty socket");
                // Twice, because the first may take less than it could.
                for _ in 0..2 {
                    shard.send(key, &Bytes::from(vec![0; WAITING]));
                }
                queued += 2 * WAITING;
                peers.push(peer);
            }
            let waiting = || shard.with(|registry| registry.census().outbox_bytes) as usize;
            assert!(waiting() > MANY * WAITING / 2, "{} of {queued} wait", waiting());
            let mut read = 0;
            while read < queued {
                // The peers take all that the kernel has for them, while nobody else has a turn.
                let gone = queued - waiting();
                while read < gone {
                    for peer in &mut peers {
                        read += std::io::Read::read(peer, &mut [0; PIECE]).unwrap_or(0);
                    }
                    thread::yield_now();
                }
                let before = waiting();
                yield_now().await;
                let taken = before - waiting();
                assert!(taken < TURN + PIECE, "{taken} bytes in one turn");
            }
        });
    }

    /// What the kernel frees with a socket counts like what is written.
    #[test]
    fn what_is_freed_with_sockets_has_one_turn_at_a_time() {
        with_shard(async |shard| {
            let (mut peers, mut full, mut most) = (Vec::new(), Vec::new(), 0);
            for _ in 0..MANY {
                let (peer, stream) = wide_pair().await;
                let socket = Rc::new(Socket::new(stream));
                socket.writable().await.expect("an empty socket");
                while socket.try_write(&[0; PIECE]).is_ok() {}
                most = most.max(socket.kernel_bytes());
                peers.push(peer);
                full.push(socket);
            }
            let sockets: Vec<Weak<Socket>> = full.iter().map(Rc::downgrade).collect();
            for socket in full {
                let shard = shard.clone();
                spawn_local(async move { shard.close(socket).await });
            }
            let open = || sockets.iter().filter(|socket| socket.strong_count() > 0).count();
            assert!(most > TURN / 2 && open() == MANY, "{most}");
            while open() > 0 {
                let before = open();
                yield_now().await;
                let freed = (before - open()) * most;
                assert!(freed < TURN + 2 * most, "{freed} bytes in one turn");
            }
        });
    }
}
