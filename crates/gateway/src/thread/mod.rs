//! One thread that owns connections: its runtime, its listener, and its worker, which is what its connections share. A
//! connection that was accepted here never leaves. It decides nothing about when the instance ends; it is told.

mod begin;
mod conversation;
mod processors;
mod weighed;

pub use processors::Processor;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use fanfare_hub::{End, Inbox};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::admission::newcomers::Newcomers;
use crate::http::{Rejection, id_value, public};
use crate::instance::{Instance, Phase};
use crate::listener::{Accepted, accept};
use crate::relay::work;
use crate::tls::Reckoning;
use crate::worker::Worker;

/// How long a new connection waits to be accepted while memory has run out, or many clients wait for us.
const SCARCE: Duration = Duration::from_millis(20);

/// After the instance was told to end at once, how long Close frames may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// See the module.
struct Thread {
    worker: Rc<Worker>,
    /// What is asked for over HTTP and becomes no connection of the hub's.
    router: Router,
    /// How much time goes to handshakes.
    newcomers: Newcomers,
    /// Whose turn it is to have a TLS handshake reckoned.
    reckoning: Reckoning,
}

/// Starts a worker on a thread of its own, which keeps to `processor` if there is one. Told to drain, it drops
/// `drained` when its connections have gone; the thread ends when the phase is `Ending`, and says how many connections
/// were left then.
///
/// # Errors
///
/// When the kernel has no thread or no runtime for it.
pub fn start(
    number: usize,
    processor: Option<Processor>,
    inbox: Inbox,
    listener: TcpListener,
    instance: Arc<Instance>,
    phase: watch::Receiver<Phase>,
    drained: mpsc::Sender<Infallible>,
) -> io::Result<JoinHandle<usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Some(Err(error)) = processor.map(Processor::keep_to) {
            tracing::warn!("worker {number} goes wherever the kernel puts it: {error}");
        }
        work::count();
        LocalSet::new().block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a bound listener is valid");
            Thread::new(number, inbox, instance).serve(listener, phase, drained).await
        })
    })
}

impl Thread {
    fn new(number: usize, inbox: Inbox, instance: Arc<Instance>) -> Rc<Self> {
        let (router, instance_id) = (public(&instance), id_value(instance.id));
        let worker = Worker::new(number, inbox, instance, instance_id);
        let shard = worker.shard.clone();
        Rc::new(Self {
            worker,
            router,
            newcomers: Newcomers::new(move || shard.stats().deliveries.read()),
            reckoning: Reckoning::new(),
        })
    }

    async fn serve(
        self: Rc<Self>,
        listener: tokio::net::TcpListener,
        mut phase: watch::Receiver<Phase>,
        drained: mpsc::Sender<Infallible>,
    ) -> usize {
        // The listener stays open until all workers have drained: health and metrics are asked for, too.
        spawn_local(accept(listener, Acceptor(self.clone())));
        let ending = async |phase: &mut watch::Receiver<Phase>, least: Phase| {
            // An error means that the lifecycle is gone; nothing is left to serve for.
            let _ = phase.wait_for(|phase| *phase >= least).await;
        };
        ending(&mut phase, Phase::Draining).await;
        self.worker.refuse_handshakes();
        tokio::select! {
            () = self.drain() => {}
            () = ending(&mut phase, Phase::Ending) => {}
        }
        drop(drained);
        ending(&mut phase, Phase::Ending).await;
        let left = self.worker.shard.len();
        self.worker.shard.drain(Duration::ZERO, End::ShutDown).await;
        // Whoever is still there was not told before now; a moment is enough to write one frame.
        let _ = timeout(LAST_WORDS, self.emptied()).await;
        left
    }

    async fn drain(&self) {
        self.worker.shard.drain(self.worker.instance.config.drain_window, End::Drained).await;
        self.emptied().await;
    }

    async fn emptied(&self) {
        while !self.worker.shard.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Acceptor(Rc<Thread>);

impl Accepted for Acceptor {
    async fn room(&self) {
        // One at a time, if need be: somebody may want to know whether the instance lives.
        let memory = &self.0.worker.instance.memory;
        if memory.is_past() {
            let _ = timeout(SCARCE, memory.relieved()).await;
        }
        self.0.newcomers.pause().await;
        for crowd in [self.0.worker.recoveries.crowd(), self.0.reckoning.crowd()] {
            if crowd.are_many() {
                let _ = timeout(SCARCE, crowd.are_fewer()).await;
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        spawn_local(self.0.newcomers.counting(self.0.clone().receive(stream, peer)));
    }

    fn failed(&self, error: &io::Error) {
        self.0.worker.instance.accept_errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("cannot accept: {error}");
    }

    fn refused(&self, peer: SocketAddr) {
        Rejection::OutOfFiles.count(&self.0.worker.instance.rejected, peer.ip());
    }

    fn retry_after(&self) -> Option<u64> {
        let instance = &self.0.worker.instance;
        instance.certificate.is_none().then(|| instance.config.retry_after_seconds())
    }
}
