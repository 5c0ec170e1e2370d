//! Publications that Redis itself must decide on: those of channels with a history, which it numbers, and those that
//! somebody waits for. The scripts, their arguments and their answers; when they are sent is the publisher's business.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use fanfare_protocol::{Channel, Envelope, Position, Publication};
use parking_lot::Mutex;
use redis::{Arg, Cmd, Value};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::fault::Fault;
use super::keys::Keys;
use super::reads::{millis, read_epoch};
use super::script::Script;
use crate::history::new_epoch;
use crate::{AppendOptions, Appended, BrokerError, Retention, Suppressed, Version};

/// Numbers, appends and publishes publications of any number of channels, in their order.
pub(super) static APPEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/append.lua")));

/// Publishes once under a key.
static ONCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/once.lua")));

/// What becomes of an append.
pub(super) type Outcome = Result<Appended, BrokerError>;

/// One such publication.
#[derive(Debug)]
pub(super) struct Append {
    pub channel: Channel,
    pub publication: Publication,
    pub retention: Option<Retention>,
    /// The key under which it is done once, and for how long that is remembered.
    pub once: Option<(String, Duration)>,
    pub version: Option<Version>,
    reply: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl Append {
    /// One that nobody waits for.
    pub fn unconfirmed(channel: &Channel, publication: Publication, retention: Retention) -> Self {
        let channel = channel.clone();
        let (retention, reply) = (Some(retention), Mutex::new(None));
        Self { channel, publication, retention, once: None, version: None, reply }
    }

    /// One whose outcome is told, unless it is dropped before.
    pub fn confirmed(
        channel: &Channel,
        publication: Publication,
        retention: Option<Retention>,
        options: AppendOptions,
    ) -> (Self, oneshot::Receiver<Outcome>) {
        let (reply, outcome) = oneshot::channel();
        let once = options.idempotency_key.map(|key| (key, options.idempotency_ttl));
        let reply = Mutex::new(Some(reply));
        let retention = retention.filter(|_| !options.skip_history);
        let version = options.version;
        (Self { channel: channel.clone(), publication, retention, once, version, reply }, outcome)
    }

    /// Whether it stands for itself, and not in a row of others.
    pub fn is_alone(&self) -> bool {
        self.once.is_some() || self.version.is_some()
    }

    /// Whether somebody was to be told, and has been or has gone away. It is not to be published any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.lock().as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Whether somebody is to be told what becomes of it.
    pub fn is_awaited(&self) -> bool {
        self.reply.lock().is_some()
    }

    /// Tells whoever waits. False if nobody ever did.
    pub fn tell(&self, outcome: Outcome) -> bool {
        let reply = self.reply.lock().take();
        reply.is_some_and(|reply| {
            // Whoever waited may have gone.
            let _ = reply.send(outcome);
            true
        })
    }
}

/// Only for tests, which compare messages.
impl PartialEq for Append {
    fn eq(&self, other: &Self) -> bool {
        self.channel == other.channel && self.publication == other.publication
    }
}

impl Eq for Append {}

/// Appends that one call of the script makes, all that have to do with one mark in the order of their sequences.
pub(super) struct Appends {
    mark: String,
    sequences: Option<(u64, u64)>,
    parts: Vec<Part>,
    /// Which part a channel's next append may join.
    open: HashMap<Channel, usize>,
    bytes: usize,
}

/// Appends to one channel that get consecutive offsets.
pub(super) struct Part {
    pub appends: Vec<Arc<Append>>,
    /// Of the last of these.
    pub last: u64,
    retention: Retention,
    envelopes: BytesMut,
}

impl Appends {
    pub fn new(mark: String) -> Self {
        Self { mark, sequences: None, parts: Vec::new(), open: HashMap::new(), bytes: 0 }
    }

    /// Redis serves nobody else during a call.
    pub fn is_full(&self) -> bool {
        self.parts.len() >= MOST_PARTS || self.bytes >= MOST_BYTES
    }

    /// One more, sent behind all that are in here.
    pub fn add(&mut self, origin: Uuid, sequence: u64, append: Arc<Append>, retention: Retention) {
        let first = self.sequences.map_or(sequence, |(first, _)| first);
        self.sequences = Some((first, sequence));
        let envelope = Envelope { origin, sequence, publication: append.publication.clone() };
        let bytes = append.publication.size();
        self.bytes += bytes;
        let joined = self.open.get(&append.channel).filter(|_| !append.is_alone());
        if let Some(part) = joined.and_then(|&part| self.parts.get_mut(part)).filter(|part| part.takes(bytes))
        {
            envelope.encode_into(&mut part.envelopes);
            part.appends.push(append);
            part.last = sequence;
            return;
        }
        if append.is_alone() {
            self.open.remove(&append.channel);
        } else {
            self.open.insert(append.channel.clone(), self.parts.len());
        }
        let mut envelopes = BytesMut::new();
        envelope.encode_into(&mut envelopes);
        self.parts.push(Part { appends: vec![append], last: sequence, retention, envelopes });
    }

    /// The call of the script.
    pub fn command(&self, keys: &Keys) -> Cmd {
        let mut names = Vec::with_capacity(1 + self.parts.len() * 2);
        names.push(self.mark.clone());
        for Part { appends, .. } in &self.parts {
            let append = &appends[0];
            names.extend([keys.stream(&append.channel), keys.top(&append.channel)]);
            names.extend(append.once.as_ref().map(|(key, _)| keys.result(&append.channel, key)));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut command = APPEND.command(&names);
        let (first, last) = self.sequences.unwrap_or_default();
        command.arg("0").arg(first).arg(last).arg(&new_epoch().padded()[..]);
        let mut retentions: Vec<Retention> = Vec::new();
        for part in &self.parts {
            if !retentions.contains(&part.retention) {
                retentions.push(part.retention);
            }
        }
        command.arg(retentions.len());
        for retention in &retentions {
            command.arg(retention.size.max(1)).arg(millis(retention.ttl));
            command.arg(millis(retention.meta_ttl.max(retention.ttl)));
        }
        for part in &self.parts {
            let which = retentions.iter().position(|retention| *retention == part.retention);
            part.add_to(&mut command, keys, which.unwrap_or_default() + 1);
        }
        command
    }

    pub fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

impl Part {
    fn takes(&self, bytes: usize) -> bool {
        self.appends.len() < MOST_IN_BUNDLE && self.envelopes.len() + bytes <= MOST_BUNDLE_BYTES
    }

    fn add_to(&self, command: &mut Cmd, keys: &Keys, retention: usize) {
        let append = &self.appends[0];
        command.arg(keys.channel(&append.channel)).arg(retention);
        if !append.is_alone() {
            command.arg(self.appends.len()).arg(&self.envelopes[..]);
            return;
        }
        command.arg("0").arg(&self.envelopes[..]);
        match &append.once {
            None => command.arg(""),
            Some((_, ttl)) => command.arg(millis(*ttl)),
        };
        match &append.version {
            None => command.arg("").arg(""),
            // As a text of equal length, because Lua's numbers are not exact beyond 2^53.
            Some(version) => command.arg(format!("{:020}", version.number)).arg(&version.epoch),
        };
    }
}

/// The same command where it is known that nothing of it was done: others that were sent behind it may have been, and
/// it must not be taken for one that was sent again.
pub(super) fn anew(command: &Cmd) -> Cmd {
    let mut again = Cmd::new();
    let mut flag = None;
    for (at, arg) in command.args_iter().enumerate() {
        let Arg::Simple(bytes) = arg else { continue };
        if at == KEYS {
            flag = std::str::from_utf8(bytes)
                .ok()
                .and_then(|keys| keys.parse::<usize>().ok())
                .map(|keys| at + keys + 1);
        }
        again.arg(if flag == Some(at) { b"1" } else { bytes });
    }
    again
}

/// Publishes to a channel without a history, once under the key. The envelope has no origin, for Redis itself sees to
/// it that it comes once. The script is short, and is sent in full: if it were not known, what is published behind it
/// would come first.
pub(super) fn once(
    keys: &Keys,
    (origin, sequence): (Uuid, u64),
    append: &Append,
    key: &str,
    ttl: Duration,
) -> Cmd {
    let mut command = ONCE.command(&[&keys.result(&append.channel, key)]);
    let envelope = Envelope { origin: Uuid::nil(), sequence: 0, publication: append.publication.clone() };
    let sender = [&origin.as_bytes()[..], &sequence.to_be_bytes()].concat();
    command.arg(keys.channel(&append.channel)).arg(&envelope.encode()[..]).arg(millis(ttl)).arg(sender);
    ONCE.in_full(&command)
}

/// What became of one that was sent by itself, without a history.
pub(super) fn read_confirmed(answer: &Value, append: &Append) -> Appended {
    let position = match answer {
        Value::Array(first) => match &first[..] {
            [epoch, offset] => read_position(epoch, offset),
            _ => None,
        },
        _ => None,
    };
    let repeated = append.once.is_some() && (*answer == Value::Int(0) || position.is_some());
    Appended { position, suppressed: repeated.then_some(Suppressed::Repeated) }
}

/// Why it cannot be said where the appends of a part are.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing of it was done.
    Refused(Fault),
    /// Something else has written to our keys; it may have been published.
    Unreadable,
}

/// What became of each part: of its appends, or why that cannot be said.
pub(super) fn read_answer(answer: Value, parts: &[Part]) -> Vec<Result<Vec<Appended>, Trouble>> {
    let values = match answer {
        Value::Array(values) if values.len() == parts.len() * 2 => values,
        _ => return parts.iter().map(|_| Err(Trouble::Unreadable)).collect(),
    };
    let part = |(values, part): (&[Value], &Part)| match values {
        [Value::BulkString(name), Value::BulkString(said)] if name.is_empty() => {
            Err(Trouble::Refused(Fault::told(&String::from_utf8_lossy(said))))
        }
        [Value::BulkString(name), Value::Array(nowhere)] if name.is_empty() && nowhere.is_empty() => {
            Ok(vec![Appended { position: None, suppressed: Some(Suppressed::Repeated) }])
        }
        [epoch, offsets] => read_appended(epoch, offsets, part.appends.len()).ok_or(Trouble::Unreadable),
        _ => Err(Trouble::Unreadable),
    };
    values.chunks(2).zip(parts).map(part).collect()
}

fn read_appended(epoch: &Value, offsets: &Value, count: usize) -> Option<Vec<Appended>> {
    let read = |offset: &Value| read_position(epoch, offset);
    let published = |position| Appended::published(Some(position));
    let appended: Vec<_> = match offsets {
        Value::Array(values) => match &values[..] {
            [offset, Value::BulkString(why)] => {
                let suppressed = Suppressed::ALL.into_iter().find(|one| one.label().as_bytes() == why);
                vec![Appended { position: Some(read(offset)?), suppressed: Some(suppressed?) }]
            }
            offsets => offsets.iter().map(|offset| read(offset).map(published)).collect::<Option<_>>()?,
        },
        first => {
            let Position { offset: first, epoch } = read(first)?;
            (first..).take(count).map(|offset| published(Position { offset, epoch })).collect()
        }
    };
    (appended.len() == count).then_some(appended)
}

fn read_position(epoch: &Value, offset: &Value) -> Option<Position> {
    match offset {
        Value::Int(offset) => {
            Some(Position { offset: u64::try_from(*offset).ok()?, epoch: read_epoch(epoch)? })
        }
        _ => None,
    }
}

/// Which argument of a script's command says how many keys follow.
const KEYS: usize = 2;

/// Channels in one call, and about as many bytes of payload, so that a call takes Redis a millisecond or two.
const MOST_PARTS: usize = 256;
const MOST_BYTES: usize = 1 << 20;
/// What is published and kept as one; `read.lua` counts with it.
pub(super) const MOST_IN_BUNDLE: usize = 16;
const MOST_BUNDLE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fanfare_protocol::Kind;

    use super::*;

    /// What cannot be read is said of its own part alone, and never that nothing was done.
    #[test]
    fn an_answer_is_read_part_by_part() {
        let mut appends = Appends::new("mark".to_owned());
        for name in ["a", "b", "c", "d", "e"] {
            let publication = Publication::new(Kind::Text, Bytes::from_static(b"x"));
            let retention = Retention::new(10, Duration::from_secs(60));
            let append = Append::unconfirmed(&Channel::new(name).unwrap(), publication, retention);
            appends.add(Uuid::nil(), 1, Arc::new(append), retention);
        }
        let parts = appends.into_parts();
        let bytes = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let why = |why: &str| Value::Array(vec![Value::Int(7), bytes(why)]);
        let mut values = vec![bytes("epoch"), Value::Int(3), Value::Nil, Value::Int(4)];
        values.extend([bytes(""), bytes("OOM full"), bytes(""), Value::Array(Vec::new())]);
        values.extend([bytes("epoch"), why("repeated")]);
        let told = |answer: &Result<Vec<Appended>, Trouble>| match answer {
            Ok(appended) => {
                let [Appended { position, suppressed }] = appended[..] else { panic!("{appended:?}") };
                format!("{:?} {suppressed:?}", position.map(|position| position.offset))
            }
            Err(Trouble::Refused(_)) => "refused".to_owned(),
            Err(Trouble::Unreadable) => "unreadable".to_owned(),
        };
        let read = |answer| read_answer(answer, &parts).iter().map(told).collect::<Vec<_>>();
        let rows = ["Some(3) None", "unreadable", "refused", "None Some(Repeated)", "Some(7) Some(Repeated)"];
        assert_eq!(read(Value::Array(values.clone())), rows);
        values.pop();
        for answer in [Value::Array(values), Value::Nil] {
            assert_eq!(read(answer), ["unreadable"; 5]);
        }
    }
}
