//! Commands that somebody waits for: reads of histories, presence. They are collected while a connection is being
//! checked out and sent as one pipeline, for a checkout costs a round trip. What is published does not come this way,
//! so nothing here keeps an order.

use std::time::Duration;

use std::sync::Arc;

use deadpool_redis::{Manager, PoolError, Runtime};
use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, Pipeline, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::commands::Commands;
use super::fault::Fault;
use super::link::Link;

/// The way to Redis for commands with answers. Callers may be on any runtime.
pub(super) struct Pool {
    calls: mpsc::Sender<Call>,
    timeout: Duration,
    _dispatch: AbortOnDropHandle<()>,
}

/// A Lua script, which Redis is given when it says that it does not know it.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

struct Call {
    command: Cmd,
    script: Option<&'static Script>,
    answer: oneshot::Sender<Result<Value, Fault>>,
}

/// Where the pipelines go.
#[derive(Clone)]
enum Way {
    One(deadpool_redis::Pool),
    /// A cluster, over a connection that all share; nothing, until it is needed or after it has failed.
    Cluster(Link, Arc<Mutex<Option<Commands>>>),
}

/// A connection for one pipeline.
enum Line {
    One(deadpool_redis::Connection),
    Cluster(Commands, Arc<Mutex<Option<Commands>>>),
}

impl Pool {
    /// To a cluster; connects when it is first needed.
    pub fn to_cluster(link: Link, runtime: &Handle) -> Self {
        let deadline = link.timeout;
        Self::over(Way::Cluster(link, Arc::default()), deadline, runtime)
    }

    /// Connects when it is first needed. Its tasks run on `runtime`.
    pub fn new(info: ConnectionInfo, deadline: Duration, runtime: &Handle) -> RedisResult<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(deadline))
            .set_response_timeout(Some(deadline));
        let connections = deadpool_redis::Pool::builder(Manager::new_with_config(info, config)?)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(deadline))
            .create_timeout(Some(deadline))
            .recycle_timeout(Some(deadline))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime is given");
        Ok(Self::over(Way::One(connections), deadline, runtime))
    }

    fn over(way: Way, deadline: Duration, runtime: &Handle) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        let dispatch = runtime.spawn(dispatch(way, queue, deadline));
        Self { calls, timeout: deadline, _dispatch: AbortOnDropHandle::new(dispatch) }
    }

    /// Redis' answer within the deadline; an error answer is a fault.
    pub async fn call(&self, command: Cmd) -> Result<Value, Fault> {
        self.send(command, None).await
    }

    /// Runs a script; `complete` adds the arguments.
    pub async fn script(
        &self,
        script: &'static Script,
        keys: &[&str],
        complete: impl FnOnce(&mut Cmd),
    ) -> Result<Value, Fault> {
        let mut command = script.command(keys);
        complete(&mut command);
        self.send(command, Some(script)).await
    }

    async fn send(&self, command: Cmd, script: Option<&'static Script>) -> Result<Value, Fault> {
        let (answer, answered) = oneshot::channel();
        let done = async {
            // Whatever ends the task ends the process.
            self.calls.send(Call { command, script, answer }).await.map_err(|_| Fault::Closed)?;
            answered.await.unwrap_or(Err(Fault::Closed))
        };
        timeout(self.timeout, done).await.unwrap_or(Err(Fault::TimedOut(self.timeout)))
    }
}

impl Script {
    pub fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// The beginning of a command; the arguments are to follow.
    pub fn command(&self, keys: &[&str]) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }

    /// What makes Redis know it.
    pub fn load(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("SCRIPT").arg("LOAD").arg(self.code);
        command
    }
}

/// Whether Redis says that it does not know the script.
pub(super) fn is_noscript(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

impl Way {
    async fn open(&self, deadline: Duration) -> Result<Line, Fault> {
        match self {
            Self::One(pool) => {
                Ok(Line::One(pool.get().await.map_err(|error| read_pool_error(&error, deadline))?))
            }
            Self::Cluster(link, shared) => {
                let open = shared.lock().clone();
                let commands = match open {
                    Some(commands) => commands,
                    None => link.commands().await?,
                };
                *shared.lock() = Some(commands.clone());
                Ok(Line::Cluster(commands, shared.clone()))
            }
        }
    }
}

impl Line {
    async fn send(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, 0, pipeline.len()).await,
            Self::Cluster(commands, _) => commands.req_packed_commands(pipeline, 0, pipeline.len()).await,
        }
    }

    /// It may still answer what is no longer waited for.
    fn give_up(self) {
        match self {
            Self::One(connection) => drop(deadpool_redis::Connection::take(connection)),
            Self::Cluster(_, shared) => *shared.lock() = None,
        }
    }
}

async fn dispatch(way: Way, mut queue: mpsc::Receiver<Call>, deadline: Duration) {
    let mut calls = Vec::with_capacity(MOST);
    while queue.recv_many(&mut calls, 1).await > 0 {
        let line = way.open(deadline).await;
        // More have come meanwhile.
        while calls.len() < MOST
            && let Ok(call) = queue.try_recv()
        {
            calls.push(call);
        }
        // Nobody waits any more for those that are too late.
        calls.retain(|call| !call.answer.is_closed());
        let batch = std::mem::take(&mut calls);
        match line {
            Ok(line) => {
                tokio::spawn(run(line, batch, deadline));
            }
            Err(fault) => {
                batch.into_iter().for_each(|call| drop(call.answer.send(Err(fault.clone()))));
            }
        }
    }
}

/// One pipeline, and a second one for the scripts that Redis did not know.
async fn run(mut line: Line, mut batch: Vec<Call>, deadline: Duration) {
    for attempt in 0..2 {
        let mut pipeline = Pipeline::with_capacity(batch.len());
        if attempt > 0 {
            batch.iter().filter_map(|call| call.script).for_each(|script| {
                pipeline.add_command(script.load());
            });
        }
        let loads = pipeline.len();
        batch.iter().for_each(|call| {
            pipeline.add_command(call.command.clone());
        });
        let answers = match timeout(deadline, line.send(&pipeline)).await {
            Ok(Ok(answers)) => answers,
            other => {
                let fault = match other {
                    Ok(Err(error)) => Fault::read(&error, deadline),
                    _ => Fault::TimedOut(deadline),
                };
                batch.into_iter().for_each(|call| drop(call.answer.send(Err(fault.clone()))));
                return line.give_up();
            }
        };
        let mut unknown = Vec::new();
        for (call, answer) in batch.into_iter().zip(answers.into_iter().skip(loads)) {
            if attempt == 0 && call.script.is_some() && is_noscript(&answer) {
                unknown.push(call);
                continue;
            }
            let answer = match Fault::among(std::slice::from_ref(&answer)) {
                Some(fault) => Err(fault),
                None => Ok(answer),
            };
            // Whoever asked may have gone.
            let _ = call.answer.send(answer);
        }
        if unknown.is_empty() {
            return;
        }
        batch = unknown;
    }
}

fn read_pool_error(error: &PoolError, deadline: Duration) -> Fault {
    match error {
        PoolError::Backend(error) => Fault::read(error, deadline),
        PoolError::Timeout(_) => Fault::TimedOut(deadline),
        _ => Fault::Closed,
    }
}

const CONNECTIONS: usize = 4;
/// Calls in one pipeline.
const MOST: usize = 128;
/// Calls that wait for their pipeline; more wait outside.
const QUEUE: usize = 1024;
