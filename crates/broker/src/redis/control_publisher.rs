//! Sends control messages to other instances: a queue, drained into one pipeline a round trip on one connection, so
//! that they arrive in the order in which they were given. It keeps nothing for later: whoever sends while Redis is
//! away is told so, for what was right a minute ago may be wrong when it is back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_protocol::Control;
use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until, timeout};
use uuid::Uuid;

use super::backoff::Backoff;
use super::commands::Commands;
use super::control::Said;
use super::fault::Fault;
use super::keys::Keys;
use super::lane::Lane;
use super::link::{Link, is_replica};
use crate::{Away, Pending, PresenceStatus, Relay, Target, Unsent};

/// Sends control messages to other instances, in the order of the calls, on a connection of its own.
pub(super) struct ControlPublisher {
    instance: Uuid,
    relay: Arc<dyn Relay>,
    /// Held while the own relay is told: all get one instance's messages in one order.
    queue: Mutex<Queue>,
    work: Notify,
    sent: AtomicU64,
    unsent: AtomicU64,
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Letter>,
    bytes: usize,
    /// Why nothing can be sent now; nothing also before the first attempt.
    away: Option<Away>,
}

struct Letter {
    target: Target,
    message: Bytes,
    sent: oneshot::Sender<Result<(), Unsent>>,
}

impl ControlPublisher {
    /// Nothing is sent before a connection is there.
    pub fn new(instance: Uuid, relay: Arc<dyn Relay>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            relay,
            queue: Mutex::default(),
            work: Notify::new(),
            sent: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
        })
    }

    /// Tells the own relay at once, where it is meant. Resolves when Redis has taken the message for the others, or
    /// with why it has not; then nobody gets it later.
    pub fn send(&self, target: Target, message: Control) -> Pending<'static, Result<(), Unsent>> {
        let itself = target == Target::Instance(self.instance);
        let said = (!itself).then(|| Said::encode_control(self.instance, &message));
        let mut queue = self.queue.lock();
        if itself || target == Target::All {
            // Not by its echo, which would not come while the subscriber's connection is gone.
            self.relay.control(message);
        }
        let Some(message) = said else { return Box::pin(std::future::ready(Ok(()))) };
        let refused = match &queue.away {
            Some(away) => Some(Unsent::Away(away.clone())),
            None if queue.letters.len() >= MOST_WAITING || queue.bytes >= MOST_BYTES => Some(Unsent::Busy),
            None => None,
        };
        if let Some(unsent) = refused {
            self.unsent.fetch_add(1, Relaxed);
            return Box::pin(std::future::ready(Err(unsent)));
        }
        let (sent, waits) = oneshot::channel();
        queue.bytes += message.len();
        queue.letters.push_back(Letter { target, message, sent });
        drop(queue);
        self.work.notify_one();
        Box::pin(async {
            let ended = || Unsent::Away(Away("the broker has ended".to_owned()));
            waits.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn take(&self) -> Vec<Letter> {
        let mut queue = self.queue.lock();
        let count = queue.letters.len().min(AT_ONCE);
        let letters: Vec<_> = queue.letters.drain(..count).collect();
        queue.bytes -= letters.iter().map(|letter| letter.message.len()).sum::<usize>();
        letters
    }

    fn lost(&self, away: &Away) {
        let mut queue = self.queue.lock();
        queue.away = Some(away.clone());
        queue.bytes = 0;
        let letters = std::mem::take(&mut queue.letters);
        drop(queue);
        letters.into_iter().for_each(|letter| self.answer(letter, Err(Unsent::Away(away.clone()))));
    }

    /// Whoever waited may have gone.
    fn answer(&self, letter: Letter, result: Result<(), Unsent>) {
        let count = if result.is_ok() { &self.sent } else { &self.unsent };
        count.fetch_add(1, Relaxed);
        let _ = letter.sent.send(result);
    }

    /// Adds its counts to `status`.
    pub fn add_to(&self, status: &mut PresenceStatus) {
        status.controls_sent += self.sent.load(Relaxed);
        status.controls_unsent += self.unsent.load(Relaxed);
    }
}

/// Runs for as long as the broker lives.
pub(super) async fn proclaim(controls: Arc<ControlPublisher>, lane: Arc<Lane>, link: Link) {
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        let fault = match link.commands().await {
            Ok(connection) => serve(&controls, &lane, &link, connection).await,
            Err(fault) => fault,
        };
        controls.lost(&Away(lane.because(&fault)));
        sleep(backoff.after(started.elapsed())).await;
    }
}

/// Sends until the connection fails.
async fn serve(controls: &ControlPublisher, lane: &Lane, link: &Link, mut connection: Commands) -> Fault {
    controls.queue.lock().away = None;
    let mut next_look = Instant::now() + LOOK;
    loop {
        if Instant::now() >= next_look {
            next_look = Instant::now() + LOOK;
            if let Err(fault) = link.check_role(&mut connection).await {
                return fault;
            }
        }
        let letters = controls.take();
        if letters.is_empty() {
            tokio::select! {
                () = controls.work.notified() => {}
                () = sleep_until(next_look.into()) => {}
            }
            continue;
        }
        let mut pipeline = Pipeline::with_capacity(letters.len() + 1);
        letters.iter().for_each(|letter| {
            pipeline.add_command(publish(&lane.keys, letter));
        });
        // Others may have left a replica already, and would not hear what is told to it.
        pipeline.add_command(redis::cmd("ROLE"));
        let answers = connection.req_packed_commands(&pipeline, 0, pipeline.len());
        let answers = match timeout(link.timeout, answers).await {
            Ok(Ok(answers)) if answers.last().is_some_and(is_replica) => Err(Fault::Replica),
            Ok(Ok(answers)) => Fault::among(&answers[..letters.len()]).map_or(Ok(answers), Err),
            Ok(Err(error)) => Err(Fault::read(&error, link.timeout)),
            Err(_) => Err(Fault::TimedOut(link.timeout)),
        };
        match answers {
            Ok(answers) => {
                letters.into_iter().zip(answers).for_each(|(letter, heard)| {
                    let result = outcome(letter.target, heard);
                    controls.answer(letter, result);
                });
            }
            Err(fault) => {
                let away = Away(lane.because(&fault));
                letters
                    .into_iter()
                    .for_each(|letter| controls.answer(letter, Err(Unsent::Away(away.clone()))));
                return fault;
            }
        }
    }
}

fn publish(keys: &Keys, letter: &Letter) -> Cmd {
    let mut command = Cmd::new();
    command.arg("PUBLISH");
    match letter.target {
        Target::All => command.arg(&keys.control),
        Target::Instance(instance) => command.arg(keys.instance(instance)),
    };
    command.arg(&letter.message[..]);
    command
}

/// Redis says how many heard it, and one instance listens once.
fn outcome(target: Target, heard: Value) -> Result<(), Unsent> {
    match target {
        Target::Instance(instance) if u64::from_redis_value(heard) == Ok(0) => Err(Unsent::Nobody(instance)),
        _ => Ok(()),
    }
}

/// How often it is asked whether Redis is there and a master.
const LOOK: Duration = Duration::from_secs(1);
/// Messages in one pipeline.
const AT_ONCE: usize = 256;
const MOST_WAITING: usize = 4096;
const MOST_BYTES: usize = 8 << 20;
