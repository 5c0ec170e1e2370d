//! Opens connections to Redis, each step within the deadline. What is said over them is not its business.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::aio::PubSub;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::commands::Commands;
use super::fault::Fault;

/// The way to one Redis, or to a cluster of them.
#[derive(Clone)]
pub(super) struct Link {
    /// One, or some nodes of a cluster.
    clients: Arc<[Client]>,
    /// Which of them to go to; the next one, when it is not there.
    at: Arc<AtomicUsize>,
    cluster: Option<Arc<Cluster>>,
    pub timeout: Duration,
}

/// One connection to all nodes serves everybody: it keeps to itself who has which keys.
struct Cluster {
    client: ClusterClient,
    connection: Mutex<Option<ClusterConnection>>,
}

impl Link {
    /// To the first of `nodes`, or if `is_cluster`, to the cluster to which they belong.
    pub fn new(nodes: Vec<ConnectionInfo>, is_cluster: bool, timeout: Duration) -> RedisResult<Self> {
        let cluster = if is_cluster {
            let client = ClusterClient::builder(nodes.clone())
                .connection_timeout(timeout)
                .response_timeout(timeout)
                .retries(RETRIES)
                .build()?;
            Some(Arc::new(Cluster { client, connection: Mutex::new(None) }))
        } else {
            None
        };
        let clients = nodes.into_iter().map(Client::open).collect::<RedisResult<_>>()?;
        Ok(Self { clients, at: Arc::default(), cluster, timeout })
    }

    /// The pool of those who ask one Redis and wait; nothing for a cluster, whose one connection is shared.
    pub fn pool(&self) -> RedisResult<Option<Pool>> {
        if self.cluster.is_some() {
            return Ok(None);
        }
        let manager = Manager::new_with_config(self.client().get_connection_info().clone(), self.config())?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(self.timeout))
            .create_timeout(Some(self.timeout))
            .recycle_timeout(Some(self.timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime is given");
        Ok(Some(pool))
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
    }

    fn client(&self) -> &Client {
        self.client_at(self.at.load(Relaxed))
    }

    fn client_at(&self, at: usize) -> &Client {
        &self.clients[at % self.clients.len()]
    }

    async fn cluster(&self) -> Result<Option<ClusterConnection>, Fault> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let mut connection = cluster.connection.lock().await;
        if connection.is_none() {
            *connection = Some(self.within(cluster.client.get_async_connection()).await?);
        }
        Ok(connection.clone())
    }

    /// A connection for commands, to a Redis that answers and is a master.
    pub async fn commands(&self) -> Result<Commands, Fault> {
        let config = self.config();
        let at = self.at.load(Relaxed);
        let open = self.client_at(at).get_multiplexed_async_connection_with_config(&config);
        let node = self.or_the_next(at, self.within(open).await)?;
        let mut connection = Commands { node, cluster: self.cluster().await? };
        let checked = self.check_role(&mut connection).await;
        self.or_the_next(at, checked)?;
        Ok(connection)
    }

    /// A connection for subscriptions.
    pub async fn subscriptions(&self) -> Result<PubSub, Fault> {
        let at = self.at.load(Relaxed);
        self.or_the_next(at, self.within(self.client_at(at).get_async_pubsub()).await)
    }

    /// Has everybody go to the next node, if this one was in vain. Once, however many find out: three who each went one
    /// further would be back where they were.
    fn or_the_next<T>(&self, at: usize, opened: Result<T, Fault>) -> Result<T, Fault> {
        if opened.is_err() {
            let _ = self.at.compare_exchange(at, at.wrapping_add(1), Relaxed, Relaxed);
        }
        opened
    }

    /// A replica takes what is published, and tells only its own subscribers.
    pub async fn check_role(&self, connection: &mut Commands) -> Result<(), Fault> {
        let role: RedisResult<Value> =
            match timeout(self.timeout, redis::cmd("ROLE").query_async(connection)).await {
                Ok(role) => role,
                Err(_) => return Err(Fault::TimedOut(self.timeout)),
            };
        match role {
            Ok(role) if is_replica(&role) => Err(Fault::Replica),
            // Access rules often forbid ROLE, and what speaks like Redis may not know it: any answer but that is fine,
            // except that one must be allowed in at all.
            Err(error) if error.code() == Some("NOAUTH") || error.code().is_none() => {
                Err(Fault::read(&error, self.timeout))
            }
            _ => Ok(()),
        }
    }

    /// The library's own deadlines do not cover every step.
    pub async fn within<T>(&self, step: impl Future<Output = RedisResult<T>>) -> Result<T, Fault> {
        match timeout(self.timeout, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Fault::read(&error, self.timeout)),
            Err(_) => Err(Fault::TimedOut(self.timeout)),
        }
    }
}

/// What was answered to `ROLE`.
pub(super) fn is_replica(role: &Value) -> bool {
    matches!(role, Value::Array(role) if role.first() == Some(&Value::BulkString(b"slave".to_vec())))
}

/// How often the cluster's connection follows slots and waits for nodes before it is an error; the deadline ends it,
/// too.
const RETRIES: u32 = 8;

/// The most connections of the pool: one is in use, and its successor may be opened before it has gone.
const CONNECTIONS: usize = 2;
