//! The whole life of an instance: what starts after what, and how it ends. Configuration, bound
//! listeners and the wish to end come from outside.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use fanfare_broker::{Broker, Memory, Redis, RedisConfig, Relay, Retain, Timings};
use fanfare_hub::{Bounds, Hub, Inbox};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::admission::limits::Admission;
use crate::admission::unfinished::Unfinished;
use crate::admission::uplinks::Uplinks;
use crate::config::{Config, HistoryMemory};
use crate::http::{Rejection, emulation_tally, internal};
use crate::identity::Verifier;
use crate::instance::{Instance, Phase};
use crate::listener::{Listeners, hold_within};
use crate::memory::{Budget, Gauge, keep};
use crate::registers::{Sessions, Users};
use crate::relay::{Compression, HubRelay, PHRASES};
use crate::telemetry::{Counts, Telemetry};
use crate::thread::{self, Processor};
use crate::tls::LiveCertificate;

/// When everything has to end at once, how long each of the last things may take.
const HURRY: Duration = Duration::from_millis(700);

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every connection was closed in its turn and has gone.
    Drained,
    /// So many were still there when it had to end.
    Cut {
        /// Connections that were closed at once.
        connections: usize,
    },
}

/// What tells an instance something from outside.
pub struct Signals {
    /// To end; a second time, to end at once.
    pub shutdown: mpsc::Receiver<()>,
    /// To read its certificate again.
    pub hangup: mpsc::Receiver<()>,
}

/// Serves until `shutdown` yields, then drains; a second time ends it at once. The current thread is
/// the backend's: it runs the broker and the operators' address. `open_files` is the process' limit.
///
/// # Errors
///
/// When something cannot be started; nothing has been served then.
pub async fn run(
    config: Config,
    listeners: Listeners,
    certificate: Option<Arc<LiveCertificate>>,
    open_files: usize,
    signals: Signals,
) -> anyhow::Result<Outcome> {
    let Signals { mut shutdown, hangup } = signals;
    let (address, internal_address) = (listeners.address()?, listeners.internal_address()?);
    let gauge = Gauge::find().context("cannot find out how much memory is in use")?;
    let memory = Arc::new(Budget::new(config.memory_limit, &gauge));
    if let Some(limit) = memory.limit() {
        listeners.public.iter().try_for_each(|listener| hold_within(listener, limit))?;
    }
    let (hub, inboxes) = hub(listeners.public.len(), &memory);
    let sessions = Arc::<Sessions>::default();
    let relay = Arc::new(HubRelay::new(hub.clone(), sessions.clone(), memory.clone(), compression(&config)));
    let id = Uuid::new_v4();
    let telemetry = Telemetry::new()?;
    let instance = Arc::new(Instance {
        id,
        broker: broker(&config, id, relay.clone(), memory.limit(), telemetry.timings())?,
        admission: Admission::new(config.max_connections, config.max_connections_per_address, open_files),
        unfinished: Unfinished::new(config.max_handshakes, config.max_handshakes_per_address, open_files),
        readiness: Arc::default(),
        weighs_sockets: gauge.counts_sockets(),
        uplinks: Uplinks::within(memory.limit()),
        emulated: emulation_tally(),
        memory,
        rejected: Rejection::tally(),
        accept_errors: AtomicU64::default(),
        telemetry,
        identity: Verifier::new(&config),
        users: Users::default(),
        sessions,
        counts: Counts::new(&config.channels),
        certificate,
        config,
        hub,
        relay,
    });
    let (phase, _) = watch::channel(Phase::Serving);
    let (each_drained, drained) = mpsc::channel(1);
    let pins = instance.config.pin_workers;
    let processors = if pins { Processor::for_each_of(inboxes.len()) } else { Vec::new() };
    let workers = inboxes.into_iter().zip(listeners.public).enumerate().map(|(number, (inbox, listener))| {
        let (processor, each_drained) = (processors.get(number).copied(), each_drained.clone());
        thread::start(number, processor, inbox, listener, instance.clone(), phase.subscribe(), each_drained)
    });
    let workers = workers.collect::<std::io::Result<Vec<_>>>()?;
    drop(each_drained);
    start_backend(&instance, gauge, listeners.internal, hangup)?;
    instance.readiness.serving();
    tracing::info!(
        %address,
        internal_address = internal_address.map(tracing::field::display),
        instance = %instance.id,
        version = env!("CARGO_PKG_VERSION"),
        workers = workers.len(),
        pinned = !processors.is_empty(),
        tls = instance.certificate.is_some(),
        memory_limit = instance.memory.limit(),
        broker = if instance.config.redis.is_some() { "redis" } else { "memory" },
        "listening"
    );
    leave(&instance, &phase, &mut shutdown).await;
    end(&instance, workers, drained, &phase, &mut shutdown).await
}

/// What may wait on the way through is a part of what there is.
fn hub(workers: usize, memory: &Budget) -> (Arc<Hub>, Vec<Inbox>) {
    let bounds = memory.limit().map_or_else(Bounds::default, |limit| Bounds::within(limit, workers));
    Hub::new(workers, bounds, PHRASES)
}

fn compression(config: &Config) -> Option<Compression> {
    let (threshold, level) = (config.compression_threshold, config.compression_level);
    config.compression.then_some(Compression { threshold, level })
}

fn broker(
    config: &Config,
    id: Uuid,
    relay: Arc<dyn Relay>,
    memory_limit: Option<usize>,
    timings: Timings,
) -> anyhow::Result<Arc<dyn Broker>> {
    let channels = config.channels.clone();
    // Of a channel without a namespace nothing is kept: nobody may use it.
    let retain: Retain =
        Arc::new(move |channel| channels.resolve(channel).ok().and_then(|namespace| namespace.retention()));
    Ok(match &config.redis {
        None => {
            let most = config.history_memory.within(memory_limit);
            // With a limit that is configured this is an error, so it is the cgroup's.
            if let HistoryMemory::Bytes(wanted) = config.history_memory
                && wanted > most
            {
                tracing::warn!(
                    history_memory = wanted,
                    limit = memory_limit,
                    possible = most,
                    "the cgroup allows less memory than was thought, and histories may take half of that"
                );
            }
            Arc::new(Memory::new(relay, retain, most, id, &Handle::current()).timed(timings))
        }
        Some(url) => {
            let redis = RedisConfig {
                cluster: config.is_redis_cluster().then(|| {
                    config.redis_cluster_nodes.iter().map(|node| node.expose().to_owned()).collect()
                }),
                prefix: config.redis_prefix.to_string(),
                timeout: config.redis_timeout,
                spool_bytes: config.redis_spool,
                // A foreign publisher's message that no outbox can hold would cut every subscriber.
                payload_limit: config.payload_limit(),
                instance: id,
                timings,
                ..RedisConfig::new(url.expose())
            };
            Arc::new(Redis::start(&redis, relay, retain, &Handle::current())?)
        }
    })
}

fn start_backend(
    instance: &Arc<Instance>,
    gauge: Gauge,
    internal_listener: Option<std::net::TcpListener>,
    hangup: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    tokio::spawn(heed(hangup, instance.certificate.clone()));
    tokio::spawn(keep(instance.memory.clone(), gauge, instance.hub.clone(), instance.unfinished.clone()));
    tokio::spawn(instance.readiness.clone().watch(instance.hub.clone(), instance.broker.clone()));
    tokio::spawn(crate::census::tell(instance.clone()));
    let kept = instance.clone();
    tokio::spawn(async move { kept.telemetry.upkeep().await });
    let kept = instance.clone();
    tokio::spawn(async move { kept.identity.keep_keys().await });
    if let Some(listener) = internal_listener {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let routes: Router = internal(instance.clone());
        // axum's own loop is enough for operators: they open few connections and keep none.
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }
    Ok(())
}

/// SIGHUP ends a process that has no ear for it, and an instance without TLS has nothing to read again.
async fn heed(mut hangup: mpsc::Receiver<()>, certificate: Option<Arc<LiveCertificate>>) {
    if let Some(certificate) = certificate {
        return certificate.keep_fresh(hangup).await;
    }
    while hangup.recv().await.is_some() {
        tracing::info!("SIGHUP: nothing to read again, there is no certificate");
    }
}

/// Waits for the first signal, then for load balancers to notice. A second signal cuts that short.
async fn leave(instance: &Instance, phase: &watch::Sender<Phase>, shutdown: &mut mpsc::Receiver<()>) {
    // A sender that is gone can never ask again: that is a wish to end, too, and the last one.
    let _ = shutdown.recv().await;
    instance.readiness.draining();
    let (delay, window) = (instance.config.drain_delay, instance.config.drain_window);
    tracing::info!(?delay, ?window, "draining: not ready any more, still serving");
    if let Ok(Some(())) = timeout(delay, shutdown.recv()).await {
        phase.send_replace(Phase::Ending);
    } else {
        phase.send_replace(Phase::Draining);
    }
}

/// Waits for the workers; a signal or the deadline ends them at once.
async fn end(
    instance: &Instance,
    workers: Vec<JoinHandle<usize>>,
    mut drained: mpsc::Receiver<Infallible>,
    phase: &watch::Sender<Phase>,
    shutdown: &mut mpsc::Receiver<()>,
) -> anyhow::Result<Outcome> {
    // The last connections to be closed have `close_timeout` to answer, and the wheel that cuts them is coarse.
    let deadline = instance.config.drain_window + instance.config.close_timeout + Duration::from_secs(1);
    let in_time = tokio::select! {
        // Nothing is ever sent: the workers drop their senders one by one.
        _ = drained.recv() => *phase.borrow() < Phase::Ending,
        () = either(shutdown, deadline) => false,
    };
    phase.send_replace(Phase::Ending);
    let join = move || workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum::<usize>();
    let left = match timeout(HURRY, tokio::task::spawn_blocking(join)).await {
        Ok(left) => left?,
        Err(_) => {
            tracing::error!("a worker is stuck and is left behind");
            instance.connections().max(1) as usize
        }
    };
    // What the last clients said must reach the other instances, if Redis takes it.
    let patience = if in_time { instance.config.redis_timeout } else { HURRY };
    // And who was here must not be waited for until the lease is over.
    let farewell = async {
        instance.broker.flush().await;
        instance.broker.resign().await;
    };
    let _ = timeout(patience, farewell).await;
    let closed = instance.sum(|stats| &stats.closed[fanfare_hub::Reason::Drained as usize]);
    tracing::info!(closed, left, "ended");
    Ok(if left == 0 { Outcome::Drained } else { Outcome::Cut { connections: left } })
}

async fn either(shutdown: &mut mpsc::Receiver<()>, deadline: Duration) {
    // A closed channel must not look like a second signal.
    let again = async {
        if shutdown.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    };
    let _ = timeout(deadline, again).await;
}
