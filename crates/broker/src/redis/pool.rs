//! Commands that somebody waits for: reads of histories, presence. They are collected while a connection is being
//! checked out and sent as one pipeline, for a checkout costs a round trip. What is published does not come this way,
//! so nothing here keeps an order.

use std::time::Duration;

use deadpool_redis::{Manager, PoolError, Runtime};
use redis::aio::ConnectionLike;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, Pipeline, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::fault::Fault;

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

impl Pool {
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
        let (calls, queue) = mpsc::channel(QUEUE);
        let dispatch = runtime.spawn(dispatch(connections, queue, deadline));
        Ok(Self { calls, timeout: deadline, _dispatch: AbortOnDropHandle::new(dispatch) })
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

async fn dispatch(connections: deadpool_redis::Pool, mut queue: mpsc::Receiver<Call>, deadline: Duration) {
    let mut calls = Vec::with_capacity(MOST);
    while queue.recv_many(&mut calls, 1).await > 0 {
        let connection = connections.get().await;
        // More have come meanwhile.
        while calls.len() < MOST
            && let Ok(call) = queue.try_recv()
        {
            calls.push(call);
        }
        // Nobody waits any more for those that are too late.
        calls.retain(|call| !call.answer.is_closed());
        let batch = std::mem::take(&mut calls);
        match connection {
            Ok(connection) => {
                tokio::spawn(run(connection, batch, deadline));
            }
            Err(error) => {
                let fault = read_pool_error(&error, deadline);
                batch.into_iter().for_each(|call| drop(call.answer.send(Err(fault.clone()))));
            }
        }
    }
}

/// One pipeline, and a second one for the scripts that Redis did not know.
async fn run(mut connection: deadpool_redis::Connection, mut batch: Vec<Call>, deadline: Duration) {
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
        let count = pipeline.len();
        let answers = match timeout(deadline, connection.req_packed_commands(&pipeline, 0, count)).await {
            Ok(Ok(answers)) => answers,
            other => {
                let fault = match other {
                    Ok(Err(error)) => Fault::read(&error, deadline),
                    _ => Fault::TimedOut(deadline),
                };
                batch.into_iter().for_each(|call| drop(call.answer.send(Err(fault.clone()))));
                // It may still answer what is no longer waited for.
                drop(deadpool_redis::Connection::take(connection));
                return;
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
