//! What goes out in one pipeline, and what the answers mean for those who wait. Appends to one channel that follow each
//! other become one call of the script, which costs half as much as a call for each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::{Channel, Envelope, Kind, Publication};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;
use uuid::Uuid;

use super::append::{self, APPEND, Append, ONCE};
use super::calls::is_noscript;
use super::control::Lost;
use super::fault::Fault;
use super::lane::Lane;
use super::log::Message;
use crate::BrokerError;

/// Commands in the order in which they are sent.
pub(super) struct Batch<'a> {
    lane: &'a Lane,
    calls: Vec<Call>,
    /// Which call a channel's next append may join.
    open: HashMap<Channel, usize>,
    key: String,
}

struct Call {
    command: Cmd,
    means: Means,
}

/// What an answer is about.
enum Means {
    Published,
    /// Published, and somebody waits to hear it.
    Confirmed(Arc<Append>),
    Numbered(Vec<Arc<Append>>),
}

impl<'a> Batch<'a> {
    pub fn new(lane: &'a Lane) -> Self {
        Self { lane, calls: Vec::new(), open: HashMap::new(), key: String::new() }
    }

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
                let joined = self.open.get(&append.channel).filter(|_| !append.is_alone());
                if let Some(call) = joined.and_then(|&call| self.calls.get_mut(call))
                    && let Means::Numbered(appends) = &mut call.means
                    && appends.len() < MOST_AT_ONCE
                {
                    append::add(&mut call.command, lane.append_origin, sequence, &append);
                    appends.push(append);
                    return;
                }
                let mut command = append::begin(&lane.keys, &append, retention);
                append::add(&mut command, lane.append_origin, sequence, &append);
                if !append.is_alone() {
                    self.open.insert(append.channel.clone(), self.calls.len());
                } else {
                    self.open.remove(&append.channel);
                }
                self.push(command, Means::Numbered(vec![append]));
            }
            (None, Some((key, ttl))) => {
                let command = append::once(&lane.keys, &append, key, *ttl);
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
        let mut answered = Vec::with_capacity(calls.len());
        for attempt in 0..ATTEMPTS {
            if calls.is_empty() {
                break;
            }
            let mut pipeline = Pipeline::with_capacity(calls.len() + 2);
            if attempt > 0 {
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
            let count = pipeline.len();
            let answers = match timeout(deadline, connection.req_packed_commands(&pipeline, 0, count)).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => return Err(Fault::read(&error, deadline)),
                Err(_) => return Err(Fault::TimedOut(deadline)),
            };
            let mut unknown = Vec::new();
            for (call, answer) in calls.into_iter().zip(answers.into_iter().skip(loads)) {
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
            self.tell(means, &answer, fault(&answer));
        }
        Ok(())
    }

    fn tell(&self, means: Means, answer: &Value, refusal: Option<Fault>) {
        match (means, refusal) {
            (Means::Published, _) => {}
            (Means::Confirmed(append), None) => {
                append.tell(Ok(None));
            }
            (Means::Confirmed(append), Some(fault)) => self.refuse(&[append], &fault),
            (Means::Numbered(appends), Some(fault)) => self.refuse(&appends, &fault),
            (Means::Numbered(appends), None) => match append::read_positions(answer, appends.len()) {
                Ok(positions) => appends.iter().zip(positions).for_each(|(append, position)| {
                    append.tell(Ok(Some(position)));
                }),
                Err(fault) => self.refuse(&appends, &fault),
            },
        }
    }

    fn refuse(&self, appends: &[Arc<Append>], fault: &Fault) {
        let because = self.lane.because(fault);
        if let Some(times) = self.lane.refusals.happened(std::time::Instant::now()) {
            tracing::warn!(because, times, "a publication was refused");
        }
        for append in appends {
            if !append.tell(Err(BrokerError::Refused(because.clone()))) {
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

/// Appends in one call: Redis serves nobody else meanwhile.
const MOST_AT_ONCE: usize = 256;
const ATTEMPTS: u32 = 3;

/// Makes Redis know the scripts before they are needed. That it may refuse is no fault here: the appends will be told.
pub(super) async fn prepare(connection: &mut impl ConnectionLike, deadline: Duration) -> Result<(), Fault> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.add_command(APPEND.load());
    pipeline.add_command(ONCE.load());
    match timeout(deadline, connection.req_packed_commands(&pipeline, 0, 2)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.code().is_some() => Ok(()),
        Ok(Err(error)) => Err(Fault::read(&error, deadline)),
        Err(_) => Err(Fault::TimedOut(deadline)),
    }
}
