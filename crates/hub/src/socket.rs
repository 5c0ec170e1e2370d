//! The byte stream of one connection, plain or TLS, as the shard writes it and the session reads it: only what does not
//! wait, and two ways to wait. It knows nothing of frames.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{Tls, Toll};

/// A connected socket. Without TLS it has no buffer of its own; with TLS it may hold a few records that the kernel did
/// not take.
pub struct Socket(Stream);

enum Stream {
    Plain(TcpStream),
    /// Boxed, because keys are forty times the size of a plain socket.
    Tls(Box<Sealed>),
}

struct Sealed {
    stream: TcpStream,
    tls: RefCell<Tls>,
}

impl Socket {
    /// Takes the stream out of the handshake.
    pub fn new(stream: TcpStream) -> Self {
        forget_who_waits(&stream);
        Self(Stream::Plain(stream))
    }

    /// The same for one on which TLS is spoken, and has been agreed upon.
    pub fn secure(stream: TcpStream, tls: Tls) -> Self {
        forget_who_waits(&stream);
        Self(Stream::Tls(Box::new(Sealed { stream, tls: RefCell::new(tls) })))
    }

    /// Resolves when `try_read` may find something, an end or an error included.
    pub async fn readable(&self) -> io::Result<()> {
        if let Stream::Tls(sealed) = &self.0
            && sealed.tls.borrow().has_news()
        {
            return Ok(());
        }
        self.stream().readable().await
    }

    /// Resolves when `try_write` or `flush` may get rid of something.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream().writable().await
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 at the end. With TLS `Interrupted` if there was much, and
    /// nothing in it: others should have their turn before it is called again.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Stream::Plain(stream) => stream.try_read(into),
            Stream::Tls(sealed) => sealed.tls.borrow_mut().read(&sealed.stream, into),
        }
    }

    /// Whether the peer has sent something that is not read yet. Its end is nothing.
    pub fn has_unread(&self) -> bool {
        let is_taken = match &self.0 {
            Stream::Plain(_) => false,
            Stream::Tls(sealed) => sealed.tls.borrow().has_news(),
        };
        let (mut byte, mut context) = ([0], Context::from_waker(Waker::noop()));
        let peeked = self.stream().poll_peek(&mut context, &mut ReadBuf::new(&mut byte));
        is_taken || matches!(peeked, Poll::Ready(Ok(1..)))
    }

    /// What reading took, since this was last asked, that cannot be seen in what was read. Without TLS nothing.
    pub fn take_toll(&self) -> Toll {
        match &self.0 {
            Stream::Plain(_) => Toll::default(),
            Stream::Tls(sealed) => sealed.tls.borrow_mut().take_toll(),
        }
    }

    /// Takes what the kernel takes at once, and with TLS a few records more, for which `is_flushed` is to be asked;
    /// `WouldBlock` if nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Stream::Plain(stream) => send(stream, bytes, 0),
            Stream::Tls(sealed) => sealed.tls.borrow_mut().write(&sealed.stream, &[IoSlice::new(bytes)]),
        }
    }

    /// The same for the last bytes of all, behind which the socket is closed, or finished, at once: without TLS the
    /// kernel sends both as one packet, which spares it a third of what an end costs.
    pub(crate) fn try_write_last(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Stream::Plain(stream) => send(stream, bytes, libc::MSG_MORE),
            Stream::Tls(_) => self.try_write(bytes),
        }
    }

    /// The same for several slices.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Stream::Plain(stream) => stream.try_write_vectored(slices),
            Stream::Tls(sealed) => sealed.tls.borrow_mut().write(&sealed.stream, slices),
        }
    }

    /// Ends the connection when what was written has not been confirmed by the peer for so long: one that is gone
    /// without a word, and from which nothing is awaited, is found out by that.
    pub fn give_up_after(&self, span: Duration) {
        // An error means that the kernel's own patience holds.
        let _ = SockRef::from(self.stream()).set_tcp_user_timeout(Some(span));
    }

    /// Whether the peer has said, as TLS has it, that it sends no more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(&self.0, Stream::Tls(sealed) if sealed.tls.borrow().has_ended())
    }

    /// Bytes of kernel memory in this socket's queues, in both directions.
    #[expect(unsafe_code, reason = "one call of libc with an array on the stack")]
    pub(crate) fn kernel_bytes(&self) -> usize {
        // include/uapi/linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_WMEM_QUEUED of nine.
        const RECEIVED: usize = 0;
        const QUEUED: usize = 5;
        const COUNT: usize = 9;
        let mut answer = [0_u32; COUNT];
        let mut length = size_of_val(&answer) as libc::socklen_t;
        // SAFETY: `answer` and `length` are valid for the whole call, and `length` is the size of `answer`.
        let status = unsafe {
            libc::getsockopt(
                self.stream().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                (&raw mut answer).cast(),
                &raw mut length,
            )
        };
        if status == 0 { answer[RECEIVED] as usize + answer[QUEUED] as usize } else { 0 }
    }

    /// Whether all that was taken has reached the kernel. If not, `flush` is to be called when the socket is writable.
    pub(crate) fn is_flushed(&self) -> bool {
        match &self.0 {
            Stream::Plain(_) => true,
            Stream::Tls(sealed) => sealed.tls.borrow().is_flushed(),
        }
    }

    /// How many bytes were taken and have not reached the kernel.
    pub(crate) fn waiting(&self) -> usize {
        match &self.0 {
            Stream::Plain(_) => 0,
            Stream::Tls(sealed) => sealed.tls.borrow().waiting(),
        }
    }

    /// Bytes of our own memory that it holds, in both directions.
    pub(crate) fn held(&self) -> usize {
        match &self.0 {
            Stream::Plain(_) => 0,
            Stream::Tls(sealed) => sealed.tls.borrow().held(),
        }
    }

    /// Gives the kernel what waits. Whether nothing is left.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        match &self.0 {
            Stream::Plain(_) => Ok(true),
            Stream::Tls(sealed) => sealed.tls.borrow_mut().flush(&sealed.stream),
        }
    }

    /// Says that nothing more will be written; what the peer still sends can be read. False if the socket is too full
    /// even for that: it is to be called again when it is writable.
    pub(crate) fn finish_writing(&self) -> bool {
        let said = self.say_end();
        if said {
            // An error means that the peer has gone, which the reader finds out by itself.
            let _ = SockRef::from(self.stream()).shutdown(Shutdown::Write);
        }
        said
    }

    /// TLS has a word of its own for it.
    fn say_end(&self) -> bool {
        match &self.0 {
            Stream::Plain(_) => true,
            Stream::Tls(sealed) => sealed.tls.borrow_mut().finish(&sealed.stream).unwrap_or(true),
        }
    }

    /// Ends both directions now, so that the reader wakes; what waits in the kernel is thrown away, which frees the
    /// memory that a peer who does not read would hold for minutes. What we hold is freed before the reader wakes.
    pub(crate) fn cut(&self) {
        if let Stream::Tls(sealed) = &self.0 {
            sealed.tls.borrow_mut().let_go();
        }
        let socket = SockRef::from(self.stream());
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(Shutdown::Both);
    }

    fn stream(&self) -> &TcpStream {
        match &self.0 {
            Stream::Plain(stream) => stream,
            Stream::Tls(sealed) => &sealed.stream,
        }
    }
}

/// `try_write` that does not look first whether tokio takes the stream for writable. Mostly it is, and that stands in
/// a place of its own in memory, which is cold for each of many connections: 0.1 µs for each delivery.
fn send(stream: &TcpStream, bytes: &[u8], flags: i32) -> io::Result<usize> {
    match SockRef::from(stream).send_with_flags(bytes, libc::MSG_NOSIGNAL | flags) {
        // Now tokio has to know, or nobody would be told when it is writable again.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            stream.try_io(Interest::WRITABLE, || Err(error))
        }
        sent => sent,
    }
}

/// A stream remembers the task that last waited for it by polling, and with it all memory of that task: a
/// handshake's, which is over, is 2 KiB. Nobody polls from here on, so nobody would take its place.
fn forget_who_waits(stream: &TcpStream) {
    let mut nobody = Context::from_waker(Waker::noop());
    let _ = stream.poll_read_ready(&mut nobody);
    let _ = stream.poll_write_ready(&mut nobody);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_plain_socket_costs_what_a_stream_costs() {
        assert_eq!(size_of::<Socket>(), size_of::<TcpStream>());
    }

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0), peer)
    }

    #[tokio::test]
    async fn a_socket_that_was_full_is_not_writable_before_the_peer_has_read() {
        let (socket, mut peer) = pair().await;
        let mut filled = 0;
        // The peer's kernel takes some of it by itself, so it may be full more than once.
        loop {
            while socket.try_write(&[b'x'; 64 << 10]).is_ok() {}
            filled += 1;
            assert!(filled < 100, "it is always writable");
            let some_turns = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                writable = socket.writable() => writable.unwrap(),
                () = some_turns => break,
            }
        }
        let read = async { while peer.read(&mut [0; 64 << 10]).await.unwrap() > 0 {} };
        tokio::select! {
            writable = socket.writable() => writable.unwrap(),
            () = read => panic!("the socket has ended"),
        }
    }

    /// The kernel would go on for minutes to offer it to a peer that does not read.
    #[tokio::test]
    async fn what_the_kernel_holds_of_whoever_is_cut_is_thrown_away() {
        let (socket, mut peer) = pair().await;
        let mut written = 0;
        while let Ok(more) = socket.try_write(&[b'x'; 64 << 10]) {
            written += more;
        }
        assert!(socket.kernel_bytes() > 0, "nothing waits");
        socket.cut();
        drop(socket);
        let mut read = Vec::new();
        let end = peer.read_to_end(&mut read).await.map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "{} of {written} bytes", read.len());
        assert!(read.len() < written);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_word_is_given_up() {
        let (socket, _peer) = pair().await;
        socket.give_up_after(Duration::from_secs(7));
        let span = SockRef::from(socket.stream()).tcp_user_timeout().unwrap();
        assert_eq!(span, Some(Duration::from_secs(7)));
    }
}
