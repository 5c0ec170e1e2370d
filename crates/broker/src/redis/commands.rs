//! A connection for commands: to one Redis, or to a cluster of them. In a cluster a command goes to the node that has
//! its key, and what has none (PUBLISH, above all) to the one node that the connection was opened to, which tells the
//! others. Commands about one key keep their order; about several keys there is none.

use std::collections::HashMap;

use futures_util::FutureExt;
use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SlotAddr};
use redis::{Arg, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, Value};

use super::script::is_noscript;

/// May be cloned; the clones share what is under way.
#[derive(Clone)]
pub(super) struct Commands {
    pub node: MultiplexedConnection,
    pub cluster: Option<ClusterConnection>,
}

impl Commands {
    /// Whether commands go to the node that has their key.
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.cluster {
            Some(cluster) if route(command) != Way::Here => cluster.req_packed_command(command),
            _ => self.node.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &self.cluster {
            None => self.node.req_packed_commands(pipeline, offset, count),
            // Ours are never transactions, and all answers are wanted.
            Some(cluster) => spread(self.node.clone(), cluster.clone(), pipeline).boxed(),
        }
    }

    fn get_db(&self) -> i64 {
        self.node.get_db()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Here,
    /// To every node that has keys.
    Everywhere,
    To(Route),
}

fn route(command: &Cmd) -> Way {
    let word = |at: usize| {
        command.args_iter().nth(at).and_then(|arg| match arg {
            Arg::Simple(bytes) => Some(bytes),
            _ => None,
        })
    };
    let key = match word(0) {
        Some(b"PUBLISH" | b"PING" | b"ROLE" | b"TIME" | b"UNWATCH") | None => return Way::Here,
        Some(b"SCRIPT") => return Way::Everywhere,
        Some(b"EVAL" | b"EVALSHA") => word(3),
        _ => word(1),
    };
    key.map_or(Way::Here, |key| Way::To(Route::with_key(key, SlotAddr::Master)))
}

/// The answers in the order of the commands. What a node answers with an error is an answer too.
async fn spread(
    mut node: MultiplexedConnection,
    cluster: ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut here = Pipeline::new();
    let mut places = Vec::new();
    let mut everywhere = Vec::new();
    let mut chains: HashMap<Route, Vec<(usize, &Cmd)>> = HashMap::new();
    for (place, command) in pipeline.cmd_iter().enumerate() {
        match route(command) {
            Way::Here => {
                here.add_command(command.clone());
                places.push(place);
            }
            Way::Everywhere => everywhere.push((place, command)),
            Way::To(route) => chains.entry(route).or_default().push((place, command)),
        }
    }
    let mut answers = vec![Value::Nil; pipeline.len()];
    // Scripts must be known before they are called.
    for (place, answer) in chain(cluster.clone(), everywhere).await? {
        answers[place] = answer;
    }
    let count = here.len();
    let at_the_node =
        async { if count == 0 { Ok(Vec::new()) } else { node.req_packed_commands(&here, 0, count).await } };
    let chains = chains.into_values().map(|commands| chain(cluster.clone(), commands));
    let (here, elsewhere) = futures_util::join!(at_the_node, join_all(chains));
    for (place, answer) in places.into_iter().zip(here?) {
        answers[place] = answer;
    }
    for chain in elsewhere {
        chain?.into_iter().for_each(|(place, answer)| answers[place] = answer);
    }
    Ok(answers)
}

/// One after the other: in a pipeline the library would not follow a slot that has moved. When a script is not known,
/// what comes behind it is not even tried, for it must not come first.
async fn chain(
    mut cluster: ClusterConnection,
    commands: Vec<(usize, &Cmd)>,
) -> RedisResult<Vec<(usize, Value)>> {
    let mut answers = Vec::with_capacity(commands.len());
    let mut unknown = None;
    for (place, command) in commands {
        if let Some(answer) = unknown.as_ref().filter(|_| is_script(command)) {
            answers.push((place, Value::clone(answer)));
            continue;
        }
        let answer = match cluster.req_packed_command(command).await {
            Ok(answer) => answer,
            Err(error) => Value::ServerError(answered(error)?),
        };
        if is_noscript(&answer) {
            unknown = Some(answer.clone());
        }
        answers.push((place, answer));
    }
    Ok(answers)
}

fn is_script(command: &Cmd) -> bool {
    matches!(command.args_iter().next(), Some(Arg::Simple(b"EVALSHA")))
}

fn answered(error: RedisError) -> RedisResult<ServerError> {
    // Whatever a node did not answer stays an error of the way to it.
    if error.code().is_none() {
        return Err(error);
    }
    ServerError::try_from(error)
}
