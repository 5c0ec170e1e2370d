//! What is said on an accepted connection before it is a WebSocket or an event stream: whom a proxy names, TLS, and
//! HTTP/1.1. What becomes of it then stands in `begin`.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use fanfare_hub::Socket;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1::{self, Connection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::ServiceExt;

use super::Thread;
use super::begin::begin;
use super::weighed::{Source, Weighed};
use crate::admission::unfinished::Place;
use crate::http::{Goes, Handoff, Rejection, Upgrade, emulate, is_emulation, is_upgrade, judge, upgrade};
use crate::listener::{Heads, read_header};
use crate::tls::{Handshake, LiveCertificate, TlsStream, refuse_plain_http, shake_hands};

/// How long a connection may be used for ordinary requests.
const ORDINARY: Duration = Duration::from_secs(60);

/// Requests that came in one piece, as only a flood does, are answered one after each of these.
const BETWEEN: Duration = Duration::from_millis(1);

/// A request's headers may take so much together.
const HEADERS: usize = 16 << 10;

impl Thread {
    /// Everything that happens on one accepted connection until it is a WebSocket or has ended, or others have come
    /// in its place.
    pub(super) async fn receive(self: Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let _alive = self.worker.alive.clone();
        let place = self.worker.instance.unfinished.begin();
        // In its place from the start: what is moved there is kept twice.
        let mut conversation = pin!(self.converse(stream, peer, &place));
        tokio::select! {
            biased;
            why = place.cut() => Rejection::from(why).count(&self.worker.instance.rejected, peer.ip()),
            () = &mut conversation => {}
        }
    }

    async fn converse(self: &Rc<Self>, mut stream: TcpStream, mut peer: SocketAddr, place: &Place) {
        let config = &self.worker.instance.config;
        let deadline = Instant::now() + config.handshake_timeout;
        if config.proxy_protocol && config.trusts(peer.ip()) {
            match timeout_at(deadline, read_header(&mut stream, peer)).await {
                Ok(Ok(Some(client))) => peer = client,
                Ok(Ok(None)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, "no PROXY header: {error}");
                    return Rejection::ProxyHeader.count(&self.worker.instance.rejected, peer.ip());
                }
                Err(_) => return Rejection::Timeout.count(&self.worker.instance.rejected, peer.ip()),
            }
        }
        if !config.trusts(peer.ip()) {
            place.belongs_to(peer.ip());
        }
        match &self.worker.instance.certificate {
            None => self.speak_http(stream, peer, deadline, place).await,
            Some(certificate) => {
                if let Some(stream) = self.secure(stream, peer, deadline, certificate, place).await {
                    self.speak_http(stream, peer, deadline, place).await;
                }
            }
        }
    }

    /// Agrees on TLS in time, or counts why not.
    async fn secure(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        deadline: Instant,
        certificate: &LiveCertificate,
        place: &Place,
    ) -> Option<TlsStream> {
        let (reckoning, memory) = (&self.reckoning, &self.worker.instance.memory);
        let shaking = shake_hands(stream, certificate.server(), reckoning, memory, place);
        let rejection = match timeout_at(deadline, shaking).await {
            Ok(Handshake::Done(stream)) => return Some(stream),
            Ok(Handshake::Nothing) => return None,
            Ok(Handshake::PlainHttp(stream)) => {
                Rejection::Tls.count(&self.worker.instance.rejected, peer.ip());
                let _ = timeout_at(deadline, refuse_plain_http(stream)).await;
                return None;
            }
            Ok(Handshake::Failed(error)) => {
                tracing::debug!(%peer, "TLS handshake failed: {error}");
                Rejection::Tls
            }
            Err(_) => Rejection::Timeout,
        };
        rejection.count(&self.worker.instance.rejected, peer.ip());
        None
    }

    async fn speak_http<S: Stream>(
        self: &Rc<Self>,
        stream: S,
        peer: SocketAddr,
        deadline: Instant,
        place: &Place,
    ) {
        let config = &self.worker.instance.config;
        let stream = Weighed::new(stream, &self.worker.instance.memory, place);
        let (handoff, kept, news) = (Handoff::default(), Cell::new(false), Rc::<Cell<bool>>::default());
        let service = service_fn(|request| {
            // A connection that was kept open and asks again begins anew.
            let again = kept.replace(true);
            let deadline = if again { Instant::now() + config.handshake_timeout } else { deadline };
            let came = news.replace(false);
            self.answer(peer.ip(), deadline, again && !came, request, &handoff, place)
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .half_close(false)
            .max_buf_size(HEADERS)
            .serve_connection(TokioIo::new(Heads::new(stream, news.clone())), service);
        // Its answer is not hyper's any more, which waits for one.
        let is_taken = || handoff.borrow().as_ref().is_some_and(Upgrade::answers_itself);
        let ended = converse_for([ORDINARY; 2], deadline, &kept, is_taken, &mut connection).await;
        let (whole, upgrade) = (matches!(ended, Some(Ok(()))), handoff.take());
        // The stream under a connection that hyper has let go of, and what came behind the handshake.
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner().into_inner().into_inner();
        if let Some(rejection) = unanswered(&ended, kept.get(), news.get(), stream.is_broken()) {
            rejection.count(&self.worker.instance.rejected, peer.ip());
        }
        if let Some(Err(error)) = ended {
            tracing::debug!(%peer, "HTTP connection ended: {error}");
        }
        if !whole {
            upgrade.into_iter().for_each(|upgrade| upgrade.placed.fail());
            // hyper says goodbye only where it has said all. Once: who does not take it is not waited for.
            let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_shutdown(cx))).await;
            return;
        }
        if let Some(upgrade) = upgrade {
            begin(self.worker.clone(), upgrade, stream.into_socket(), parts.read_buf);
        }
    }

    async fn answer(
        &self,
        peer: IpAddr,
        deadline: Instant,
        in_one_piece: bool,
        request: http::Request<Incoming>,
        handoff: &Handoff,
        place: &Place,
    ) -> Result<http::Response<Body>, Infallible> {
        if !place.leave() {
            // It was cut before it had asked, and is about to hear of it.
            return pending().await;
        }
        if in_one_piece {
            sleep(BETWEEN).await;
        }
        let response = match judge(&request) {
            Err(rejection) => {
                rejection.count(&self.worker.instance.rejected, peer);
                rejection.answer(self.worker.instance.config.retry_after_seconds())
            }
            Ok(goes) => {
                let path = request.uri().path();
                let mut response = if is_upgrade(&self.worker.instance.config, path) {
                    upgrade(&self.worker, peer, deadline, request, handoff, place).await
                } else if is_emulation(path) {
                    emulate(&self.worker, peer, deadline, request, place).await
                } else {
                    self.router.clone().oneshot(request.map(Body::new)).await?
                };
                // Whoever is handed on goes on with something else than requests.
                if handoff.borrow().is_none() && (self.worker.is_draining() || goes == Goes::NoFurther) {
                    response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
                }
                response
            }
        };
        if handoff.borrow().is_none() {
            place.wait();
        }
        Ok(response)
    }
}

/// What hyper refused by itself, with 400 or 431 or without a word, and who broke off before its first request was
/// whole. Nothing is who went without a byte of one, be it after a TLS handshake: looking whether that can be done is
/// no handshake. One that was kept open and asks for nothing more has not tried to shake hands.
fn unanswered(
    ended: &Option<hyper::Result<()>>,
    kept: bool,
    has_begun: bool,
    is_broken: bool,
) -> Option<Rejection> {
    match ended {
        None => Some(Rejection::Timeout),
        Some(Err(error)) if error.is_parse_too_large() => Some(Rejection::HeadersTooLarge),
        Some(Err(error)) if error.is_parse() => Some(Rejection::NotHttp),
        _ if kept => None,
        // hyper takes it for an end like any other where no request has begun.
        _ if is_broken => Some(Rejection::Tls),
        Some(Err(error)) if error.is_timeout() => Some(Rejection::Timeout),
        Some(Err(_)) if has_begun => Some(Rejection::Abandoned),
        // Be it by a reset, as of a client that leaves its TLS tickets unread.
        Some(_) => None,
    }
}

/// Lets a client talk HTTP for so long, and then so long for the answer that is on its way: one that never reads its
/// answers must not hold a file for ever. A connection `is_taken` from hyper whenever what was asked for is no answer
/// of hyper's. One that has not asked for anything by `deadline`, because what came before HTTP took its time, is
/// cut: nothing.
async fn converse_for<I, S>(
    [span, last]: [Duration; 2],
    deadline: Instant,
    has_asked: &Cell<bool>,
    is_taken: impl Fn() -> bool,
    connection: &mut Connection<I, S>,
) -> Option<hyper::Result<()>>
where
    I: Read + Write + Unpin,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_over = Cell::new(false);
    let mut conversation = pin!(poll_fn(|cx| {
        if is_over.take() {
            Pin::new(&mut *connection).graceful_shutdown();
        }
        match Pin::new(&mut *connection).poll(cx) {
            Poll::Pending if is_taken() => Poll::Ready(Ok(())),
            polled => polled,
        }
    }));
    if let Ok(ended) = timeout_at(deadline, conversation.as_mut()).await {
        return Some(ended);
    }
    if !has_asked.get() {
        return None;
    }
    if let Ok(ended) = timeout(span, conversation.as_mut()).await {
        return Some(ended);
    }
    is_over.set(true);
    Some(timeout(last, conversation).await.unwrap_or(Ok(())))
}

/// What HTTP is spoken on.
trait Stream: Source + AsyncRead + AsyncWrite + Unpin {
    /// Whether the client has broken what HTTP is spoken on, which is more than that it has gone.
    fn is_broken(&self) -> bool;

    /// The hub's view of it; nothing that has come or is to go is lost.
    fn into_socket(self) -> Socket;
}

impl Source for TcpStream {
    fn held(&self) -> usize {
        0
    }

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TcpStream {
    fn is_broken(&self) -> bool {
        false
    }

    fn into_socket(self) -> Socket {
        Socket::new(self)
    }
}

impl Source for TlsStream {
    fn held(&self) -> usize {
        self.held()
    }

    fn tcp(&self) -> &TcpStream {
        self.tcp()
    }
}

impl Stream for TlsStream {
    fn is_broken(&self) -> bool {
        self.is_broken()
    }

    fn into_socket(self) -> Socket {
        self.into_socket()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::sync::Notify;

    use super::*;

    /// It waits for what may take its time, as a stream's body or Redis, and is to be answered as soon as that has
    /// come, also when the connection was kept for so long that it answers nothing else.
    #[tokio::test]
    async fn what_is_asked_for_late_is_taken_as_soon_as_it_is_ready() {
        const LONG: Duration = Duration::from_secs(3600);
        let now = Instant::now();
        for (deadline, span) in [(now + LONG, LONG), (now, LONG), (now, Duration::ZERO)] {
            let (has_asked, is_taken) = (Cell::new(true), Cell::new(false));
            let (asked, ready) = (Notify::new(), Notify::new());
            let (mut client, server) = duplex(1024);
            let service = service_fn(|_: http::Request<Incoming>| async {
                asked.notify_one();
                ready.notified().await;
                is_taken.set(true);
                pending::<Result<http::Response<Body>, Infallible>>().await
            });
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let taking = converse_for([span, LONG], deadline, &has_asked, || is_taken.get(), &mut connection);
            let becoming_ready = async {
                asked.notified().await;
                // By then no time is left in the last row, which nobody outside can see.
                sleep(Duration::from_millis(50)).await;
                ready.notify_one();
            };
            let both = async { tokio::join!(taking, becoming_ready) };
            let (ended, ()) = timeout(Duration::from_secs(10), both).await.expect("it is taken");
            assert!(matches!(ended, Some(Ok(()))), "{span:?}");
        }
    }
}
