//! What goes out in one pipeline, and what the answers mean for those who wait. Appends share calls of the script: what
//! Redis does for a call costs it as much as an append does, and for a channel in it twice that.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_protocol::{Channel, Envelope, Kind, Publication};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;
use uuid::Uuid;

use super::append::{self, APPEND, Append, Appends, Part, Trouble};
use super::commands::Commands;
use super::control::Lost;
use super::fault::Fault;
use super::lane::Lane;
use super::link::is_replica;
use super::log::Message;
use super::reads::unexpected;
use super::script::is_noscript;
use super::witnesses::Known;
use crate::{Appended, BrokerError};

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
    /// Of appends: Redis must not answer that it does not know the script.
    in_full: bool,
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
    /// Published to ourselves, under this number.
    Canary(u64),
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
                self.push(command, Means::Canary(sequence));
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
                let before = self.open.insert(share, self.calls.len());
                self.push(Cmd::new(), Means::Numbered(appends));
                if let Some(before) = before {
                    // Somebody else may tell Redis the script between the two, and then the second would come first.
                    let this = self.calls.len() - 1;
                    [before, this].into_iter().for_each(|call| self.calls[call].in_full = true);
                }
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
        // What may have been done must not come back with the answer that nothing was.
        self.calls.push(Call { command, means, in_full: self.in_doubt });
    }

    /// Sends everything and tells those who wait, unless the connection is not to be trusted: then nobody is told, and
    /// all of it is to be sent again.
    pub async fn run(
        mut self,
        connection: &mut impl ConnectionLike,
        deadline: Duration,
    ) -> Result<(), Fault> {
        let mut calls = std::mem::take(&mut self.calls);
        for Call { command, means, in_full } in &mut calls {
            if let Means::Numbered(appends) = means {
                let call = appends.command(&self.lane.keys);
                *command = if *in_full { APPEND.in_full(&call) } else { call };
            }
        }
        let answers = send(&mut calls, connection, deadline).await?;
        let (mut answered, mut unknown) = (Vec::with_capacity(calls.len()), Vec::new());
        for (call, answer) in calls.into_iter().zip(answers) {
            if is_noscript(&answer) {
                unknown.push(Call { command: APPEND.in_full(&append::anew(&call.command)), ..call });
            } else {
                answered.push((call.means, answer));
            }
        }
        if !unknown.is_empty() {
            let answers = send(&mut unknown, connection, deadline).await?;
            answered.extend(unknown.into_iter().map(|call| call.means).zip(answers));
        }
        let fault = |answer: &Value| Fault::among(std::slice::from_ref(answer));
        for (means, answer) in &answered {
            if let Some(fault) = fault(answer)
                && (matches!(means, Means::Published | Means::Canary(_)) || !fault.is_refusal())
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
            (Means::Published | Means::Canary(_), Some(_)) | (Means::Published, None) => {}
            (Means::Canary(sequence), None) => {
                // A node of a cluster counts its own subscribers alone, and others hear it as well.
                if answer == Value::Int(0) && !self.lane.one_slot.load(Relaxed) {
                    self.lane.unheard(sequence);
                }
            }
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
                self.witness(&parts, &answers);
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

    /// Redis has it, and if it does not in a while, it has lost it.
    fn witness(&self, parts: &[Part], answers: &[Result<Vec<Appended>, Trouble>]) {
        // Where what is sent again has come to is not always known exactly.
        if self.in_doubt {
            return;
        }
        let (mut witnesses, now) = (self.lane.witnesses.lock(), Instant::now());
        for (part, answer) in parts.iter().zip(answers) {
            if let Ok(Some(Appended { position: Some(at), suppressed: None })) =
                answer.as_ref().map(|all| all.last())
            {
                let author = Some((self.lane.append_origin, part.last));
                witnesses.note(&part.appends[0].channel, Known { at: *at, author }, now);
            }
        }
    }

    fn refuse(&self, appends: &[Arc<Append>], fault: &Fault) {
        self.give_up(appends, fault, BrokerError::Refused);
    }

    /// Tells whoever waits for these, or that something may be missing.
    fn give_up(&self, appends: &[Arc<Append>], fault: &Fault, tell: fn(String) -> BrokerError) {
        let because = self.lane.because(fault);
        if let Some(times) = self.lane.refusals.happened(Instant::now()) {
            tracing::warn!(because, times, "a publication was refused");
        }
        for append in appends {
            if !append.tell(Err(tell(because.clone()))) {
                self.lane.refused(&append.channel);
            }
        }
    }
}

/// The answers to all of these, of a master.
async fn send(
    calls: &mut [Call],
    connection: &mut impl ConnectionLike,
    deadline: Duration,
) -> Result<Vec<Value>, Fault> {
    let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
    for call in calls {
        // Kept only where it may have to be sent again.
        pipeline.add_command(match call.means {
            Means::Numbered(_) => call.command.clone(),
            Means::Published | Means::Canary(_) | Means::Confirmed(_) => std::mem::take(&mut call.command),
        });
    }
    // A replica takes what is published, and none of it reaches its master: it is to be sent again elsewhere.
    pipeline.add_command(redis::cmd("ROLE"));
    match timeout(deadline, connection.req_packed_commands(&pipeline, 0, pipeline.len())).await {
        Ok(Ok(answers)) if answers.last().is_some_and(is_replica) => Err(Fault::Replica),
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(Fault::read(&error, deadline)),
        Err(_) => Err(Fault::TimedOut(deadline)),
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

/// Finds out whether the keys of a call must be in one slot. That Redis may refuse is no fault here: the appends will
/// be told.
pub(super) async fn prepare(lane: &Lane, connection: &mut Commands, deadline: Duration) -> Result<(), Fault> {
    if connection.is_cluster() {
        lane.one_slot.store(true, Relaxed);
        return Ok(());
    }
    let mut slots = redis::cmd("EXISTS");
    slots.arg(lane.keys.mark(lane.append_origin, 0)).arg(lane.keys.mark(lane.append_origin, 1));
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(slots);
    match timeout(deadline, connection.req_packed_commands(&pipeline, 0, 1)).await {
        Ok(Ok(answers)) => {
            let one_slot =
                |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "CROSSSLOT");
            lane.one_slot.store(answers.iter().any(one_slot), Relaxed);
            Ok(())
        }
        Ok(Err(error)) if error.code().is_some() => Ok(()),
        Ok(Err(error)) => Err(Fault::read(&error, deadline)),
        Err(_) => Err(Fault::TimedOut(deadline)),
    }
}
