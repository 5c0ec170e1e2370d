//! Publications that Redis itself must decide on: those of channels with a history, which it numbers, and those that
//! somebody waits for. The scripts, their arguments and their answers; when they are sent is the publisher's business.

use std::sync::LazyLock;
use std::time::Duration;

use fanfare_protocol::{Channel, Envelope, Position, Publication};
use parking_lot::Mutex;
use redis::{Arg, Cmd, Value};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::calls::Script;
use super::fault::Fault;
use super::keys::Keys;
use super::reads::{millis, read_epoch, unexpected};
use crate::history::new_epoch;
use crate::{AppendOptions, BrokerError, Retention, Version};

/// Numbers, appends and publishes any number of publications of one channel, in their order.
pub(super) static APPEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/append.lua")));

/// Publishes once under a key.
pub(super) static ONCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/once.lua")));

/// What becomes of an append.
pub(super) type Outcome = Result<Option<Position>, BrokerError>;

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

    /// Whether its script has to be called for it alone.
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

/// The beginning of a command that appends to one channel; publications follow by `add`.
pub(super) fn begin(keys: &Keys, append: &Append, retention: Retention) -> Cmd {
    let mut names = vec![keys.stream(&append.channel), keys.meta(&append.channel)];
    names.extend(append.once.as_ref().map(|(key, _)| keys.result(&append.channel, key)));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut command = APPEND.command(&names);
    command.arg("0").arg(keys.channel(&append.channel)).arg(retention.size.max(1));
    command.arg(millis(retention.ttl)).arg(millis(retention.meta_ttl.max(retention.ttl)));
    command.arg(new_epoch().as_str()).arg(append.once.as_ref().map_or(0, |(_, ttl)| millis(*ttl)));
    match &append.version {
        None => command.arg("").arg(""),
        // As a text of equal length, because Lua's numbers are not exact beyond 2^53.
        Some(version) => command.arg(format!("{:020}", version.number)).arg(&version.epoch),
    };
    command
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

/// One more publication of the channel.
pub(super) fn add(command: &mut Cmd, origin: Uuid, sequence: u64, append: &Append) {
    let publication = append.publication.clone();
    let unnumbered = Envelope { origin, sequence, publication }.encode_unnumbered();
    command.arg(&unnumbered.before[..]).arg(&unnumbered.after[..]);
}

/// Publishes to a channel without a history, once under the key. The envelope has no origin, for Redis itself sees to
/// it that it comes once.
pub(super) fn once(keys: &Keys, append: &Append, key: &str, ttl: Duration) -> Cmd {
    let mut command = ONCE.command(&[&keys.result(&append.channel, key)]);
    let envelope = Envelope { origin: Uuid::nil(), sequence: 0, publication: append.publication.clone() };
    command.arg(keys.channel(&append.channel)).arg(&envelope.encode()[..]).arg(millis(ttl));
    command
}

/// The positions of so many publications.
pub(super) fn read_positions(answer: &Value, count: usize) -> Result<Vec<Position>, Fault> {
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let Some((epoch, offsets)) = parts.split_first().filter(|(_, offsets)| offsets.len() == count) else {
        return Err(unexpected());
    };
    let epoch = read_epoch(epoch).ok_or_else(unexpected)?;
    let position = |offset: &Value| match offset {
        Value::Int(offset) => {
            Ok(Position { offset: u64::try_from(*offset).map_err(|_| unexpected())?, epoch })
        }
        _ => Err(unexpected()),
    };
    offsets.iter().map(position).collect()
}

/// Which argument of a script's command says how many keys follow.
const KEYS: usize = 2;
