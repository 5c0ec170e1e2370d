//! The loop that takes connections from one listener. It ends with the runtime; it never gives up and
//! never spins, whatever `accept` says.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// How long a client that came when no file was left may take to send its request before it is
/// answered; also what keeps the loop from spinning.
const REFUSAL: Duration = Duration::from_millis(20);

/// So many connections that are there already are taken in a row before others have their turn: whoever waits, waits
/// behind few handshakes. To look for events between every two would cost each of them two microseconds.
const ROW: usize = 4;

/// What happened in the loop, for those who count.
pub trait Accepted {
    /// Resolves when another connection may come.
    fn room(&self) -> impl Future<Output = ()>;
    /// A connection came.
    fn connection(&self, stream: TcpStream, peer: SocketAddr);
    /// `accept` failed for a reason that is not the peer's.
    fn failed(&self, error: &io::Error);
    /// A connection was refused because no file was left.
    fn refused(&self, peer: SocketAddr);
    /// What a refused client is told to wait, in seconds; nothing where it could not understand a plain answer.
    fn retry_after(&self) -> Option<u64>;
}

/// Accepts until the future is dropped.
pub async fn accept(listener: TcpListener, accepted: impl Accepted) {
    let mut reserve = File::open("/dev/null").ok();
    let mut row = 0;
    loop {
        accepted.room().await;
        let error = match listener.accept().await {
            Ok((stream, peer)) => {
                accepted.connection(stream, peer);
                // Whoever is there already comes first: where many come at once, those who wait do so in the kernel,
                // and what is under way, deliveries included, waits behind few handshakes instead of all of them.
                row += 1;
                if row == ROW {
                    row = 0;
                    yield_now().await;
                }
                continue;
            }
            Err(error) => error,
        };
        if is_peers_fault(&error) {
            continue;
        }
        accepted.failed(&error);
        if !is_out_of_files(&error) {
            sleep(REFUSAL).await;
            continue;
        }
        // The reserve is given up for as long as it takes to tell one client so. Without it the client
        // would hang in the backlog, and `accept` would fail again at once, for ever.
        drop(reserve.take());
        match timeout(REFUSAL, listener.accept()).await {
            Ok(Ok((stream, peer))) => {
                accepted.refused(peer);
                refuse(stream, accepted.retry_after()).await;
            }
            Ok(Err(_)) => sleep(REFUSAL).await,
            // The kernel looks for a file before it looks for a client, and there was none. Whoever comes
            // later finds out then whether there is a file.
            Err(_) => {}
        }
        reserve = File::open("/dev/null").ok();
    }
}

async fn refuse(stream: TcpStream, retry_after: Option<u64>) {
    let Some(retry_after) = retry_after else { return };
    if timeout(REFUSAL, stream.readable()).await.is_ok() {
        // Unread bytes would turn the answer into a reset.
        let _ = stream.try_read(&mut [0; 4096]);
    }
    let says = "this instance has no open file left; try again later\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {retry_after}\r\nconnection: close\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{says}",
        says.len()
    );
    // One small write into an empty socket; if the client has gone, nobody is left to tell.
    let _ = stream.try_write(answer.as_bytes());
}

/// The connection died before it was accepted.
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_log::Log;

    /// Writes down who came, and when it was whose turn.
    impl Accepted for Log {
        async fn room(&self) {}

        fn connection(&self, _: TcpStream, _: SocketAddr) {
            self.put('c');
        }

        fn failed(&self, error: &io::Error) {
            panic!("{error}");
        }

        fn refused(&self, peer: SocketAddr) {
            panic!("{peer} is refused");
        }

        fn retry_after(&self) -> Option<u64> {
            None
        }
    }

    /// However many come at once, whoever is there already has a turn between few of them.
    #[tokio::test]
    async fn others_have_their_turn_between_few_connections() {
        const COMERS: usize = 5 * ROW;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let comers: Vec<_> = (0..COMERS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let log = Log::default();
        let (accepting, all_here) = (accept(listener, log.clone()), log.clone());
        let way = log
            .beside_others([async move {
                tokio::select! {
                    () = accepting => unreachable!("it accepts for as long as it is let"),
                    () = all_here.until('c', COMERS) => {}
                }
            }])
            .await;
        // Each goes round once; two rows in one are the end of one round and the beginning of the next.
        assert!(!way.contains(&"c".repeat(2 * ROW + 1)), "{way}");
        drop(comers);
    }
}
