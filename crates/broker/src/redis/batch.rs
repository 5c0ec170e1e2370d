//! What goes out in one pipeline, and what the answers mean for those who wait. Appends share calls of the script: what
//! Redis does for a call costs it as much as an append does, and for a channel in it twice that.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Channel, Envelope, Kind, Publication};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;
use uuid::Uuid;

use super::append::{self, APPEND, Append, Appends, ONCE, Trouble};
use super::commands::Commands;
use super::control::Lost;
use super::fault::Fault;
use super::lane::Lane;
use super::link::is_replica;
use super::log::Message;
use super::reads::unexpected;
use super::script::is_noscript;
use crate::BrokerError;

/// Commands in the order in which they are sent.
pub(super) struct Batch<'a> {
    lane: &'a Lane,
    calls: Vec<Call>,
    /// Which call the next append of a share may join.
    open: HashMap<Share, usize>,
    key: String,
    /// Some of it may have been done.
    in_doubt: bool,
}

struct Call {
    /// Of appends, put together only when there are no more.
    command: Cmd,
    means: Means,
}

/// Appends of one mark: in their order, one call after the other.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Share {
    /// Some of all channels.
    Some(u64),
    /// Where the keys of a call must be in one slot.
    Channel(Channel),
}

/// What an answer is about.
enum Means {
    Published,
    /// Published, and somebody waits to hear it.
    Confirmed(Arc<Append>),
    Numbered(Appends),
}

impl<'a> Batch<'a> {
    /// An empty one. `in_doubt` says that some of what follows may have been done already.
    pub fn new(lane: &'a Lane, in_doubt: bool) -> Self {
        Self { lane, calls: Vec::new(), open: HashMap::new(), key: String::new(), in_doubt }
    }

    /// The next message, with its number in the lane.
    pub fn add(&mut self, sequence: u64, message: Message) {
        match message {
            Message::Publication(channel, publication) => {
                self.lane.keys.write_channel(&channel, &mut self.key);
                let command = publish(&self.key, self.lane.origin, sequence, publication);
                self.push(command, Means::Published);
            }
            Message::Canary => {
                let publication = Publication::new(Kind::Binary, Bytes::new());
                let command = publish(&self.lane.keys.canary, self.lane.origin, sequence, publication);
                self.push(command, Means::Published);
            }
            Message::Append(append) => self.append(sequence, append),
            Message::Done => {}
        }
    }

    /// Other instances are to hear that something was lost.
    pub fn announce(&mut self, lost: &Lost) {
        let message = lost.encode(self.lane.origin);
        self.push(publish_command(&self.lane.keys.control, &message), Means::Published);
    }

    fn append(&mut self, sequence: u64, append: Arc<Append>) {
        let lane = self.lane;
        match (append.retention, &append.once) {
            (Some(retention), _) => {
                let share = self.share(&append.channel);
                if let Some(call) = self.open.get(&share).and_then(|&call| self.calls.get_mut(call))
                    && let Means::Numbered(appends) = &mut call.means
                    && !appends.is_full()
                {
                    return appends.add(lane.append_origin, sequence, append, retention);
                }
                let mark = match &share {
                    Share::Some(share) => lane.keys.mark(lane.append_origin, *share),
                    Share::Channel(channel) => lane.keys.channel_mark(lane.append_origin, channel),
                };
                let mut appends = Appends::new(mark);
                appends.add(lane.append_origin, sequence, append, retention);
                self.open.insert(share, self.calls.len());
                self.push(Cmd::new(), Means::Numbered(appends));
            }
            (None, Some((key, ttl))) => {
                let command = append::once(&lane.keys, (lane.append_origin, sequence), &append, key, *ttl);
                self.push(command, Means::Confirmed(append));
            }
            (None, None) => {
                lane.keys.write_channel(&append.channel, &mut self.key);
                let publication = append.publication.clone();
                let command = publish(&self.key, lane.append_origin, sequence, publication);
                self.push(command, Means::Confirmed(append));
            }
        }
    }

    fn share(&self, channel: &Channel) -> Share {
        if self.lane.one_slot.load(Relaxed) {
            return Share::Channel(channel.clone());
        }
        let mut hasher = DefaultHasher::new();
        channel.hash(&mut hasher);
        // The lower half has decided on the lane.
        Share::Some((hasher.finish() >> 32) % SHARES)
    }

    fn push(&mut self, command: Cmd, means: Means) {
        self.calls.push(Call { command, means });
    }

    /// Sends everything and tells those who wait, unless the connection is not to be trusted: then nobody is told, and
    /// all of it is to be sent again.
    pub async fn run(
        mut self,
        connection: &mut impl ConnectionLike,
        deadline: Duration,
    ) -> Result<(), Fault> {
        let mut calls = std::mem::take(&mut self.calls);
        for Call { command, means } in &mut calls {
            if let Means::Numbered(appends) = means {
                *command = appends.command(&self.lane.keys);
            }
        }
        let mut answered = Vec::with_capacity(calls.len());
        for attempt in 0..ATTEMPTS {
            if calls.is_empty() {
                break;
            }
            let mut pipeline = Pipeline::with_capacity(calls.len() + 2);
            // What may have been done must not come back with the answer that nothing was: the scripts go before it,
            // for a Redis that has just come back may have been given them too early.
            if attempt > 0 || self.in_doubt {
                pipeline.add_command(APPEND.load());
                pipeline.add_command(ONCE.load());
            }
            let loads = pipeline.len();
            calls.iter_mut().for_each(|call| {
                // Kept only where it may have to be sent again.
                let command = match call.means {
                    Means::Published => std::mem::take(&mut call.command),
                    _ => call.command.clone(),
                };
                pipeline.add_command(command);
            });
            // A replica takes what is published, and none of it reaches its master: it is to be sent again elsewhere.
            pipeline.add_command(redis::cmd("ROLE"));
            let count = pipeline.len();
            let answers = match timeout(deadline, connection.req_packed_commands(&pipeline, 0, count)).await {
                Ok(Ok(answers)) if answers.last().is_some_and(is_replica) => return Err(Fault::Replica),
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => return Err(Fault::read(&error, deadline)),
                Err(_) => return Err(Fault::TimedOut(deadline)),
            };
            let mut unknown = Vec::new();
            for (call, answer) in calls.into_iter().zip(answers.into_iter().skip(loads)) {
                if is_noscript(&answer) && self.in_doubt {
                    return Err(Fault::Io("it was loading when it was given scripts".to_owned()));
                }
                if is_noscript(&answer) {
                    let command = match call.means {
                        Means::Numbered(_) => append::anew(&call.command),
                        _ => call.command,
                    };
                    unknown.push(Call { command, means: call.means });
                } else {
                    answered.push((call.means, answer));
                }
            }
            calls = unknown;
        }
        if !calls.is_empty() {
            return Err(Fault::Io("it forgets scripts as soon as it is given them".to_owned()));
        }
        let fault = |answer: &Value| Fault::among(std::slice::from_ref(answer));
        for (means, answer) in &answered {
            if let Some(fault) = fault(answer)
                && (matches!(means, Means::Published) || !fault.is_refusal())
            {
                return Err(fault);
            }
        }
        for (means, answer) in answered {
            let refusal = fault(&answer);
            self.tell(means, answer, refusal);
        }
        Ok(())
    }

    fn tell(&self, means: Means, answer: Value, refusal: Option<Fault>) {
        match (means, refusal) {
            (Means::Published, _) => {}
            (Means::Confirmed(append), None) => {
                append.tell(Ok(append::read_confirmed(&answer, &append)));
            }
            (Means::Confirmed(append), Some(fault)) => self.refuse(&[append], &fault),
            (Means::Numbered(appends), refusal) => {
                let parts = appends.into_parts();
                let answers = match refusal {
                    None => append::read_answer(answer, &parts),
                    Some(fault) => {
                        parts.iter().for_each(|part| self.refuse(&part.appends, &fault));
                        return;
                    }
                };
                for (part, answer) in parts.iter().zip(answers) {
                    match answer {
                        Ok(appended) => part.appends.iter().zip(appended).for_each(|(append, appended)| {
                            append.tell(Ok(appended));
                        }),
                        Err(Trouble::Refused(fault)) => self.refuse(&part.appends, &fault),
                        Err(Trouble::Unreadable) => {
                            self.give_up(&part.appends, &unexpected(), BrokerError::Unknown);
                        }
                    }
                }
            }
        }
    }

    fn refuse(&self, appends: &[Arc<Append>], fault: &Fault) {
        self.give_up(appends, fault, BrokerError::Refused);
    }

    /// Tells whoever waits for these, or that something may be missing.
    fn give_up(&self, appends: &[Arc<Append>], fault: &Fault, tell: fn(String) -> BrokerError) {
        let because = self.lane.because(fault);
        if let Some(times) = self.lane.refusals.happened(std::time::Instant::now()) {
            tracing::warn!(because, times, "a publication was refused");
        }
        for append in appends {
            if !append.tell(Err(tell(because.clone()))) {
                self.lane.refused(&append.channel);
            }
        }
    }
}

fn publish(key: &str, origin: Uuid, sequence: u64, publication: Publication) -> Cmd {
    publish_command(key, &Envelope { origin, sequence, publication }.encode())
}

fn publish_command(key: &str, message: &[u8]) -> Cmd {
    let mut command = Cmd::with_capacity(3, 7 + key.len() + message.len());
    command.arg("PUBLISH").arg(key).arg(message);
    command
}

/// Calls of different marks are shorter than one for all channels would be: Redis serves nobody else meanwhile.
const SHARES: u64 = 8;
const ATTEMPTS: u32 = 3;

/// Makes Redis know the scripts before they are needed, and finds out whether the keys of a call must be in one slot.
/// That it may refuse is no fault here: the appends will be told.
pub(super) async fn prepare(lane: &Lane, connection: &mut Commands, deadline: Duration) -> Result<(), Fault> {
    let mut pipeline = Pipeline::with_capacity(3);
    pipeline.add_command(APPEND.load());
    pipeline.add_command(ONCE.load());
    if !connection.is_cluster() {
        // A cluster is known to want that, and the node that has these keys may be gone while others serve.
        let mut slots = redis::cmd("EXISTS");
        slots.arg(lane.keys.mark(lane.append_origin, 0)).arg(lane.keys.mark(lane.append_origin, 1));
        pipeline.add_command(slots);
    }
    match timeout(deadline, connection.req_packed_commands(&pipeline, 0, pipeline.len())).await {
        Ok(Ok(answers)) => {
            let one_slot =
                |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "CROSSSLOT");
            lane.one_slot.store(connection.is_cluster() || answers.iter().any(one_slot), Relaxed);
            Ok(())
        }
        Ok(Err(error)) if error.code().is_some() => Ok(()),
        Ok(Err(error)) => Err(Fault::read(&error, deadline)),
        Err(_) => Err(Fault::TimedOut(deadline)),
    }
}
