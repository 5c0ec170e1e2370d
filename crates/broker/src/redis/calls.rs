//! Commands that somebody waits for: reads of histories, presence. All go over one connection, those that come together
//! as one pipeline. It is checked out of the pool and kept, because the pool asks before each use whether a connection
//! lives: that would be two questions for every answer. What is published does not come this way, so nothing here keeps
//! an order.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Connection, Pool, PoolError};
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, Value};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::commands::Commands;
use super::fault::Fault;
use super::link::{Link, is_replica};
use super::script::{Script, is_noscript};

/// The way to Redis for commands with answers. Callers may be on any runtime.
pub(super) struct Calls {
    queue: mpsc::Sender<Call>,
    timeout: Duration,
    _dispatch: AbortOnDropHandle<()>,
}

struct Call {
    command: Cmd,
    /// What it runs by its hash.
    script: Option<&'static Script>,
    answer: oneshot::Sender<Result<Value, Fault>>,
}

/// The connection that all share.
#[derive(Clone)]
struct SharedConnection {
    link: Link,
    /// Where it comes from, unless it is to a cluster.
    pool: Option<Pool>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Nothing, until it is needed or after it was given up.
    open: Option<Open>,
    /// How many were given up before this one, which says which one it is.
    given_up: u64,
}

struct Open {
    commands: Commands,
    pooled: Option<Connection>,
}

impl Calls {
    /// Connects when it is first needed. Its tasks run on `runtime`.
    pub fn start(link: Link, pool: Option<Pool>, runtime: &Handle) -> Self {
        let timeout = link.timeout;
        let (queue, calls) = mpsc::channel(QUEUE);
        let dispatch = runtime.spawn(dispatch(SharedConnection { link, pool, state: Arc::default() }, calls));
        Self { queue, timeout, _dispatch: AbortOnDropHandle::new(dispatch) }
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
            self.queue.send(Call { command, script, answer }).await.map_err(|_| Fault::Closed)?;
            answered.await.unwrap_or(Err(Fault::Closed))
        };
        timeout(self.timeout, done).await.unwrap_or(Err(Fault::TimedOut(self.timeout)))
    }
}

impl SharedConnection {
    /// What commands go over, connected if need be, and which one it is.
    async fn open(&self) -> Result<(u64, Commands), Fault> {
        if let State { open: Some(open), given_up } = &*self.state.lock() {
            return Ok((*given_up, open.commands.clone()));
        }
        let new = match &self.pool {
            None => Open { commands: self.link.commands().await?, pooled: None },
            Some(pool) => {
                let pooled = pool.get().await.map_err(|error| read_pool_error(&error, self.link.timeout))?;
                let mut commands = Commands { node: MultiplexedConnection::clone(&pooled), cluster: None };
                if let Err(fault) = self.link.check_role(&mut commands).await {
                    // The pool would give it out again, wherever the next one would lead.
                    drop(Connection::take(pooled));
                    return Err(fault);
                }
                Open { commands, pooled: Some(pooled) }
            }
        };
        let mut state = self.state.lock();
        let commands = state.open.get_or_insert(new).commands.clone();
        Ok((state.given_up, commands))
    }

    /// Unless somebody else has: it may still answer what is no longer waited for, so it is of no use any more, to the
    /// pool neither.
    fn give_up(&self, which: u64) {
        let mut state = self.state.lock();
        if state.given_up == which {
            state.given_up += 1;
            drop(state.open.take().and_then(|open| open.pooled).map(Connection::take));
        }
    }
}

fn read_pool_error(error: &PoolError, deadline: Duration) -> Fault {
    match error {
        PoolError::Backend(error) => Fault::read(error, deadline),
        PoolError::Timeout(_) => Fault::TimedOut(deadline),
        _ => Fault::Closed,
    }
}

async fn dispatch(connection: SharedConnection, mut queue: mpsc::Receiver<Call>) {
    let mut calls = Vec::with_capacity(MOST);
    while queue.recv_many(&mut calls, MOST).await > 0 {
        let open = connection.open().await;
        // Nobody waits any more for those that are too late.
        calls.retain(|call| !call.answer.is_closed());
        let batch = std::mem::take(&mut calls);
        match open {
            Ok((which, commands)) => drop(tokio::spawn(run(connection.clone(), which, commands, batch))),
            Err(fault) => refuse(batch, &fault),
        }
    }
}

/// One pipeline, and another one for the scripts that Redis did not know, or if the connection has ended meanwhile:
/// what comes this way may be done twice.
async fn run(connection: SharedConnection, mut which: u64, mut commands: Commands, mut batch: Vec<Call>) {
    let deadline = connection.link.timeout;
    let mut again = false;
    loop {
        let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
        batch.iter().for_each(|call| {
            pipeline.add_command(call.command.clone());
        });
        if !commands.is_cluster() {
            // What a replica knows may be old, or of another history. In a cluster it would send us to its master.
            pipeline.add_command(redis::cmd("ROLE"));
        }
        let sent = commands.req_packed_commands(&pipeline, 0, pipeline.len());
        let answered = match timeout(deadline, sent).await {
            Ok(Ok(answers)) if !commands.is_cluster() && answers.last().is_some_and(is_replica) => {
                Err(Fault::Replica)
            }
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => Err(Fault::read(&error, deadline)),
            Err(_) => Err(Fault::TimedOut(deadline)),
        };
        let answers = match answered {
            Ok(answers) => answers,
            Err(fault) => {
                connection.give_up(which);
                if again || matches!(fault, Fault::TimedOut(_)) {
                    return refuse(batch, &fault);
                }
                again = true;
                match connection.open().await {
                    Ok(open) => (which, commands) = open,
                    Err(fault) => return refuse(batch, &fault),
                }
                continue;
            }
        };
        let mut unknown = Vec::new();
        for (mut call, answer) in batch.into_iter().zip(answers) {
            if is_noscript(&answer)
                && let Some(script) = call.script.take()
            {
                call.command = script.in_full(&call.command);
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

fn refuse(batch: Vec<Call>, fault: &Fault) {
    batch.into_iter().for_each(|call| drop(call.answer.send(Err(fault.clone()))));
}

/// Calls in one pipeline.
const MOST: usize = 128;
/// Calls that wait for their pipeline; more wait outside.
const QUEUE: usize = 1024;
