//! The endpoints at which a connection is in one channel and its messages are publications: which channel that is, and
//! what its client asks for; and the way into a channel, which event streams go as well. It does not decide who may.

use std::net::IpAddr;

use bytes::Bytes;
use fanfare_hub::{Context, Format, Heartbeat, OnGap, Opening, Placed, Subscription};
use fanfare_protocol::{Channel, ConnectionId, Position, Publication};
use fanfare_websocket::{Opcode, frame};
use http::Request;
use hyper::body::Incoming;

use super::door::{self, Entry};
use super::handshake::{FRAGMENTS, Purpose};
use super::rejection::Rejection;
use super::since::{Since, Words, catch_up};
use crate::centrifuge::Owner;
use crate::config::Config;
use crate::identity::Identity;
use crate::publish::Rules;
use crate::query;
use crate::relay::{Message, gap_notice, place_notice};
use crate::session::raw::Terms;
use crate::worker::Worker;

const PATH: &str = "/ws";

/// What the Autobahn suite sends: 16 MiB (9.1.6), and 65,536 fragments (9.3.1).
const ECHO_MESSAGE: usize = 16 << 20;
const ECHO_FRAGMENTS: u32 = 1 << 17;

/// Whether a path is one of these.
pub fn is_path(config: &Config, path: &str) -> bool {
    path == PATH || path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/')) || is_echo(config, path)
}

fn is_echo(config: &Config, path: &str) -> bool {
    config.echo && path == "/echo"
}

/// What a request at one of them asks for.
pub struct Wish {
    pub subscription: Subscription,
    terms: Terms,
    since: Option<Since>,
    id: ConnectionId,
}

/// What its path and query ask for.
pub fn wish(config: &Config, request: &Request<Incoming>, id: ConnectionId) -> Result<Wish, Rejection> {
    let path = request.uri().path();
    if is_echo(config, path) {
        // Alone in a channel of its own, with room for what conformance suites send.
        let channel = Channel::new(&format!("echo {id}")).expect("a short name");
        let subscription = Subscription::new(channel.clone(), Format::PLAIN);
        let (message_limit, fragments) = (ECHO_MESSAGE, ECHO_FRAGMENTS);
        let may_publish = Some(Rules::NONE);
        let terms = Terms { channel, echo: true, message_limit, fragments, alone: true, may_publish };
        return Ok(Wish { subscription, terms, since: None, id });
    }
    let channel = channel(path, PATH)?;
    let mut subscription = Subscription::new(channel.clone(), Format::PLAIN);
    let (mut since, mut notices) = (None, None);
    for (key, value) in query::pairs(request.uri().query()) {
        let value = value.as_deref();
        match &*key {
            "echo" => subscription.echo = flag("echo", value)?,
            "notices" => notices = Some(flag("notices", value)?),
            "since" => since = Some(Since::asked(value.unwrap_or_default())?),
            // Others belong to the application, to a proxy, or to nobody.
            _ => {}
        }
    }
    // Who asks for what it has missed wants to hear what cannot be had.
    if notices.unwrap_or(since.is_some()) {
        subscription.on_gap = OnGap::Notice;
    }
    subscription.held = since.is_some();
    let (echo, message_limit) = (subscription.echo, config.message_limit);
    // Until it has been let in, it may not.
    let (fragments, may_publish) = (FRAGMENTS, None);
    let terms = Terms { channel, echo, message_limit, fragments, alone: false, may_publish };
    Ok(Wish { subscription, terms, since, id })
}

/// The channel that a path names behind its endpoint's.
pub fn channel(path: &str, endpoint: &str) -> Result<Channel, Rejection> {
    match path.strip_prefix(endpoint).and_then(|rest| rest.strip_prefix('/')) {
        None => Ok(Channel::lobby()),
        Some(name) if name.contains('/') => Err(Rejection::ChannelSlash),
        Some(name) => Ok(Channel::from_path(name)?),
    }
}

/// Lets a client in as it wishes, with what it has missed, up to the last thing before the answer.
pub async fn enter(
    worker: &Worker,
    client: IpAddr,
    request: &Request<Incoming>,
    wish: Wish,
    context: Option<Context>,
) -> Result<(Placed, Purpose), Rejection> {
    let Wish { mut subscription, mut terms, since, id } = wish;
    let (format, heartbeat) = (subscription.format, Heartbeat::AnyFrame);
    if terms.alone {
        let outbox_limit = 4 * ECHO_MESSAGE;
        let placed = worker.shard.place(Opening { id, format, heartbeat, outbox_limit, context });
        worker.shard.subscribe(placed.key(), &subscription);
        return Ok((placed, Purpose::Raw(terms, None, None)));
    }
    let Entry { may_publish, identity, recovers, when_slow } =
        door::enter(&worker.instance, request, &terms.channel).await?;
    if since.is_some() && !recovers {
        return Err(Rejection::NoRecovery);
    }
    terms.may_publish = may_publish;
    subscription.when_slow = when_slow;
    let outbox_limit = worker.instance.config.outbox_limit;
    let opening = Opening { id, format, heartbeat, outbox_limit, context };
    let (placed, owner) = join(worker, opening, &subscription, identity, None).await?;
    let mut behind = None;
    if let Some(since) = since {
        let notices = subscription.on_gap == OnGap::Notice;
        let words = Wording { channel: terms.channel.clone(), notices };
        let caught_up = catch_up(worker, &terms.channel, since, words).await;
        // Behind the answer, since nothing is written before that.
        worker.shard.release(placed.key(), &terms.channel, &caught_up.words, caught_up.after, true);
        behind = caught_up.behind;
    }
    tracing::debug!(%id, %client, channel = terms.channel.as_str(), "connection accepted");
    Ok((placed, Purpose::Raw(terms, owner, behind)))
}

/// Brings somebody who may into a channel: from now on all that is published there comes, or is held for it. Written
/// first of all is the `head` of an answer that is not hyper's.
///
/// # Errors
///
/// When its user has as many connections as it may have.
pub async fn join(
    worker: &Worker,
    opening: Opening,
    subscription: &Subscription,
    identity: Option<Identity>,
    head: Option<Bytes>,
) -> Result<(Placed, Option<Box<Owner>>), Rejection> {
    let (id, format, channel) = (opening.id, opening.format, &subscription.channel);
    let placed = worker.shard.place(opening);
    let owner = match identity {
        Some(identity) => Some(Owner::admit(worker, (placed.key(), id), format, channel, identity).await?),
        None => None,
    };
    if let Some(head) = head {
        placed.greet(head);
    }
    if worker.shard.subscribe(placed.key(), subscription) == Some(true) {
        worker.instance.broker.subscribe(channel).await;
        worker.shard.confirm(channel);
    }
    Ok((placed, owner))
}

/// What was missed, as messages.
struct Wording {
    channel: Channel,
    /// Whether anything but publications is told.
    notices: bool,
}

impl Words for Wording {
    fn publication(&self, publication: &Publication) -> Bytes {
        let Message { opcode, bytes, .. } = publication.into();
        frame(opcode, &bytes)
    }

    fn gap(&self) -> Bytes {
        self.notice(|| gap_notice(&self.channel))
    }

    fn place(&self, position: Position) -> Bytes {
        self.notice(|| place_notice(&self.channel, position))
    }
}

impl Wording {
    fn notice(&self, text: impl FnOnce() -> String) -> Bytes {
        if self.notices { frame(Opcode::Text, text().as_bytes()) } else { Bytes::new() }
    }
}

/// Something that is so, or is not; where only its name stands, it is so.
fn flag(key: &'static str, value: Option<&str>) -> Result<bool, Rejection> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Rejection::Query { key, value: other.chars().take(40).collect() }),
    }
}
