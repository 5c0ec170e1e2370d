//! The endpoints at which a connection is in one channel and its messages are publications: which channel that is, and what
//! its client asks for. It does not decide who may.

use bytes::Bytes;
use fanfare_hub::{Format, OnGap, Subscription};
use fanfare_protocol::{Channel, ConnectionId, Position, Publication};
use fanfare_websocket::{Opcode, frame};
use http::Request;
use hyper::body::Incoming;

use super::door::MayPublish;
use super::handshake::FRAGMENTS;
use super::query;
use super::rejection::Rejection;
use super::since::{Since, Words};
use crate::config::Config;
use crate::relay::{Message, gap_notice, place_notice};

const PATH: &str = "/ws";

/// Where a connection publishes, and what it may do.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its channel.
    pub channel: Channel,
    /// Whether it gets what it publishes.
    pub echo: bool,
    /// The largest message that it may send, in bytes.
    pub message_limit: usize,
    /// The most fragments of one message.
    pub fragments: u32,
    /// Nobody else is in its channel, so its publications need no broker.
    pub alone: bool,
    /// What it may publish there.
    pub may_publish: MayPublish,
}

/// What the Autobahn suite sends: 16 MiB (9.1.6), and 65,536 fragments (9.3.1).
pub const ECHO_MESSAGE: usize = 16 << 20;
const ECHO_FRAGMENTS: u32 = 1 << 17;

/// Whether a path is one of these.
pub fn is_path(config: &Config, path: &str) -> bool {
    path == PATH || path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/')) || is_echo(config, path)
}

fn is_echo(config: &Config, path: &str) -> bool {
    config.echo && path == "/echo"
}

/// What a raw endpoint's path and query ask for.
pub fn wish(
    config: &Config,
    request: &Request<Incoming>,
    id: ConnectionId,
) -> Result<(Subscription, Terms, Option<Since>), Rejection> {
    let path = request.uri().path();
    if is_echo(config, path) {
        // Alone in a channel of its own, with room for what conformance suites send.
        let channel = Channel::new(&format!("echo {id}")).expect("a short name");
        let subscription = Subscription::new(channel.clone(), Format::PLAIN);
        let (message_limit, fragments) = (ECHO_MESSAGE, ECHO_FRAGMENTS);
        let may_publish = None;
        let terms = Terms { channel, echo: true, message_limit, fragments, alone: true, may_publish };
        return Ok((subscription, terms, None));
    }
    let channel = match path.strip_prefix("/ws/") {
        None => Channel::lobby(),
        Some(name) if name.contains('/') => return Err(Rejection::ChannelSlash),
        Some(name) => Channel::from_path(name)?,
    };
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
    Ok((subscription, terms, since))
}

/// What was missed, as messages.
pub struct Wording {
    pub channel: Channel,
    /// Whether anything but publications is told.
    pub notices: bool,
}

impl Words for Wording {
    fn publication(&self, publication: &Publication) -> Bytes {
        let opcode = match publication.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        frame(opcode, &publication.payload)
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
