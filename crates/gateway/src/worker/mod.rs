//! One thread that owns connections: its runtime, its listener, its shard. A connection that was
//! accepted here never leaves. It decides nothing about when the instance ends; it is told.

mod conversation;
mod processors;
mod weighed;

pub use processors::Processor;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use fanfare_broker::Broker;
use fanfare_hub::{End, Heartbeat, Inbox, Key, Observer, Settings, Shard, Socket};
use fanfare_protocol::{Channel, Control};
use fanfare_websocket::deflate::Inflater;
use fanfare_websocket::{Decoder, Role};
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::admission::newcomers::Newcomers;
use crate::admission::recoveries::Recoveries;
use crate::centrifuge::{self, Roster};
use crate::http::{Events, Purpose, Rejection, Upgrade, go_on, id_value, public};
use crate::instance::{Instance, Phase};
use crate::listener::{Accepted, accept};
use crate::memory::Budget;
use crate::registers::Sessions;
use crate::relay::{HubRelay, work};
use crate::session::listening::attend;
use crate::session::raw::Session;
use crate::tls::Reckoning;

/// One read takes at most so much. Larger would only make a busy publisher less fair to its neighbours.
pub const SCRATCH: usize = 64 << 10;

/// How long a new connection waits to be accepted while memory has run out, or many clients wait for us.
const SCARCE: Duration = Duration::from_millis(20);

/// After the instance was told to end at once, how long Close frames may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the tasks of one worker share.
pub struct Worker {
    /// Its place among the workers.
    pub number: usize,
    pub instance: Arc<Instance>,
    pub shard: Shard,
    pub scratch: RefCell<Box<[u8]>>,
    pub inflater: RefCell<Inflater>,
    /// The sessions that may be wanted by others.
    pub roster: Rc<Roster>,
    /// The instance's id, ready to be put into answers.
    pub instance_id: HeaderValue,
    router: Router,
    draining: Cell<bool>,
    newcomers: Newcomers,
    /// The pace of those who have missed something.
    pub recoveries: Recoveries,
    reckoning: Reckoning,
    /// Held by each task of a connection's, so that they can be counted.
    pub alive: Rc<()>,
}

/// Starts a worker on a thread of its own. Told to drain, it drops `drained` when its connections have
/// gone; the thread ends when the phase is `Ending`, and says how many connections were left then.
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
            Worker::new(number, inbox, instance).serve(listener, phase, drained).await
        })
    })
}

impl Worker {
    /// Whether handshakes are refused because the instance is being emptied.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Those of the whole instance whose clients speak by requests.
    pub fn sessions(&self) -> &Sessions {
        &self.instance.sessions
    }

    fn new(number: usize, inbox: Inbox, instance: Arc<Instance>) -> Rc<Self> {
        let (broker, relay, memory) =
            (instance.broker.clone(), instance.relay.clone(), instance.memory.clone());
        let roster = Rc::new(Roster::new(instance.sessions.clone()));
        let watch = Watch { broker, relay, memory, roster: roster.clone() };
        let (settings, lag) = (settings(&instance), instance.telemetry.lag());
        let alive = Rc::new(());
        let counted = alive.clone();
        // This and the worker's own are no task's.
        let tasks = move || Rc::strong_count(&counted) - 2;
        let shard = Shard::start(inbox, settings, lag, watch, tasks);
        let served = shard.clone();
        Rc::new(Self {
            number,
            router: public(&instance),
            instance_id: id_value(instance.id),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            inflater: RefCell::default(),
            roster,
            draining: Cell::new(false),
            newcomers: Newcomers::new(move || served.stats().deliveries.read()),
            recoveries: Recoveries::new(instance.config.recovery_rate),
            reckoning: Reckoning::new(),
            shard,
            instance,
            alive,
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
        self.draining.set(true);
        tokio::select! {
            () = self.drain() => {}
            () = ending(&mut phase, Phase::Ending) => {}
        }
        drop(drained);
        ending(&mut phase, Phase::Ending).await;
        let left = self.shard.len();
        self.shard.drain(Duration::ZERO, End::ShutDown).await;
        // Whoever is still there was not told before now; a moment is enough to write one frame.
        let _ = timeout(LAST_WORDS, self.emptied()).await;
        left
    }

    async fn drain(&self) {
        self.shard.drain(self.instance.config.drain_window, End::Drained).await;
        self.emptied().await;
    }

    async fn emptied(&self) {
        while !self.shard.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the session on a socket, in a task that holds no more than an idle connection needs.
    fn begin(self: Rc<Self>, upgrade: Upgrade, socket: Socket, early: Bytes) {
        let Upgrade { placed, id, purpose, agreed, permit } = upgrade;
        let socket = Rc::new(socket);
        let decoder = agreed.as_ref().map(|agreed| Decoder::with_deflate(Role::Server, agreed));
        let decoder = decoder.unwrap_or(const { Decoder::new(Role::Server) });
        let key = placed.open(socket.clone(), decoder);
        if self.is_draining() {
            self.shard.end(key, End::Drained);
        }
        // Boxed by the task itself: a session is small, the handshake that ends here is not. And even an empty
        // remainder would keep the handshake's whole read buffer for the connection's life.
        match purpose {
            Purpose::Raw(terms, owner, behind) => {
                if let Some(behind) = behind {
                    spawn_local(go_on(self.clone(), key, behind));
                }
                let mut session = Session::new(self.clone(), key, id, terms, permit);
                if !early.is_empty() {
                    session.hear(&early);
                }
                drop(early);
                let session = session.run(socket);
                match owner {
                    None => spawn_local(session),
                    Some(owner) => spawn_local(owner.accompany(self, session)),
                };
            }
            Purpose::Events(Events { channel, caught_up, owner }) => {
                drop(early);
                socket.give_up_after(self.instance.config.idle_timeout);
                self.shard.release(key, &channel, &caught_up.words, caught_up.after, true);
                if let Some(behind) = caught_up.behind {
                    spawn_local(go_on(self.clone(), key, behind));
                }
                let attention = attend(self.clone(), key, socket, permit);
                match owner {
                    None => spawn_local(attention),
                    Some(owner) => spawn_local(owner.accompany(self, attention)),
                };
            }
            Purpose::Client(dialect, limits) => {
                if dialect.heartbeat == Heartbeat::OneWay {
                    socket.give_up_after(self.instance.config.idle_timeout);
                }
                let mut session = centrifuge::Session::new(self, key, id, dialect, limits, permit);
                if !early.is_empty() {
                    session.hear(&early);
                }
                drop(early);
                spawn_local(session.run(socket));
            }
        }
    }
}

/// Tells the broker of channels that nobody here wants any more, and the budget of what a turn has taken.
struct Watch {
    broker: Arc<dyn Broker>,
    relay: Arc<HubRelay>,
    roster: Rc<Roster>,
    memory: Arc<Budget>,
}

impl Observer for Watch {
    fn released(&self, channel: &Channel) {
        self.relay.forget(channel);
        self.broker.release(channel);
    }

    fn subscribers_changed(&self, channel: &Channel) {
        self.broker.subscribers_changed(channel);
    }

    fn lapsed(&self, key: Key, channel: &Channel) {
        self.roster.lapsed(key, channel);
    }

    fn ended(&self, key: Key) {
        self.roster.ended(key);
    }

    fn control(&self, message: &Arc<Control>) {
        self.roster.control(message);
    }

    fn turned(&self) {
        self.memory.tally();
    }
}

struct Acceptor(Rc<Worker>);

impl Accepted for Acceptor {
    async fn room(&self) {
        // One at a time, if need be: somebody may want to know whether the instance lives.
        let memory = &self.0.instance.memory;
        if memory.is_past() {
            let _ = timeout(SCARCE, memory.relieved()).await;
        }
        self.0.newcomers.pause().await;
        for crowd in [self.0.recoveries.crowd(), self.0.reckoning.crowd()] {
            if crowd.are_many() {
                let _ = timeout(SCARCE, crowd.are_fewer()).await;
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        spawn_local(self.0.newcomers.counting(self.0.clone().receive(stream, peer)));
    }

    fn failed(&self, error: &io::Error) {
        self.0.instance.accept_errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("cannot accept: {error}");
    }

    fn refused(&self, peer: SocketAddr) {
        Rejection::OutOfFiles.count(&self.0.instance.rejected, peer.ip());
    }

    fn retry_after(&self) -> Option<u64> {
        let instance = &self.0.instance;
        instance.certificate.is_none().then(|| instance.config.retry_after_seconds())
    }
}

fn settings(instance: &Instance) -> Settings {
    let config = &instance.config;
    Settings {
        weigh_sockets: instance.weighs_sockets,
        ping_interval: config.ping_interval,
        idle_timeout: config.idle_timeout,
        close_timeout: config.close_timeout,
        client_ping_interval: config.client_ping_interval,
        pong_timeout: config.client_pong_timeout,
        stale_timeout: config.handshake_timeout,
    }
}
