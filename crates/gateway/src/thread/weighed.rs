//! A stream on which somebody asks for something, as the memory sees it: how much has come of what is not whole is
//! known to its place in the line of the unfinished, and while memory has run out it is not read. Who is cut then is
//! decided there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::admission::unfinished::Place;
use crate::memory::Budget;

/// What may be weighed.
pub trait Source {
    /// Bytes that it keeps of what has come.
    fn held(&self) -> usize;

    /// The connection underneath.
    fn tcp(&self) -> &TcpStream;
}

/// See the module.
pub struct Weighed<'a, S> {
    stream: S,
    memory: &'a Budget,
    place: &'a Place,
    /// What is waited for, while memory has run out.
    relief: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

impl<'a, S> Weighed<'a, S> {
    /// A stream that belongs to this place.
    pub fn new(stream: S, memory: &'a Budget, place: &'a Place) -> Self {
        Self { stream, memory, place, relief: None }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Source + AsyncRead + Unpin> AsyncRead for Weighed<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, memory, place, relief } = &mut *self;
        // All who wait are woken together, and the first of them may have taken what room there was.
        while relief.is_some() || memory.is_past() {
            let memory: &Budget = memory;
            place.press(stream.tcp());
            ready!(relief.get_or_insert_with(|| Box::pin(memory.relieved())).as_mut().poll(cx));
            *relief = None;
        }
        let before = into.filled().len();
        let polled = Pin::new(&mut *stream).poll_read(cx, into);
        place.holds(into.filled().len() - before, stream.held());
        memory.tally();
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Weighed<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
