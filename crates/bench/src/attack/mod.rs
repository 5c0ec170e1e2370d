//! What hostile clients do, as one closed list: each [`Attack`] with what it does, what bounds it, and for each of
//! its blows what must come back and where the server must have counted it. The acceptance tests carry each out
//! once; [`crate::Hostile`] keeps each up, and measures what a bystander notices.
//!
//! It shares no code with the server's side of the protocol: bytes are written, and read, by hand. It judges nothing
//! but answers; memory, metrics and bystanders are its users' part.

mod assailant;
mod compressed;
mod decoy;
mod floods;
mod frames;
mod hostile;
mod names;
mod report;
mod requests;
mod smuggling;
mod sockets;
mod tls;
mod way;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use assailant::Assailant;
pub use hostile::Hostile;
pub use report::{HostileReport, Siege, Toll};

use crate::sys;
use crate::target::Target;

/// One way to do harm.
pub struct Attack {
    /// A word for it, for people and for `--attack`.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// What bounds it: a key of the configuration, a number, a rule.
    pub bound: &'static str,
    /// The flags of `fanfare serve` with which the answers come as they are expected, and soon.
    pub flags: &'static [&'static str],
    /// Most bytes by which the server may grow while it lasts.
    pub allowance: u64,
    /// It is one on TLS itself: the target must speak that.
    pub needs_tls: bool,
    /// How long one go of it takes at least; nothing for one that is over when it is answered.
    pub lasts: Option<Duration>,
    act: fn(&Field) -> io::Result<Outcome>,
}

/// Every attack.
pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "huge-lengths",
        does: "claims lengths of up to 2^64 - 1, and lengths in more bytes than they need",
        bound: "message_limit; nothing is reserved for what is claimed",
        act: frames::huge_lengths,
        ..PLAIN
    },
    Attack {
        name: "claimed-messages",
        does: "500 connections claim a message of the limit each, and send three bytes of it",
        bound: "memory only for what has arrived",
        flags: &["--message-limit", "1MiB"],
        act: floods::claimed_messages,
        ..PLAIN
    },
    Attack {
        name: "unmasked-frames",
        does: "sends frames of every kind without a mask",
        bound: "RFC 6455, section 5.1",
        act: frames::unmasked,
        ..PLAIN
    },
    Attack {
        name: "reserved-bits",
        does: "sets reserved bits on frames of every kind",
        bound: "RFC 6455, section 5.2",
        act: frames::reserved_bits,
        ..PLAIN
    },
    Attack {
        name: "reserved-opcodes",
        does: "sends opcodes that nothing defines",
        bound: "RFC 6455, section 5.2",
        act: frames::reserved_opcodes,
        ..PLAIN
    },
    Attack {
        name: "fragmented-control",
        does: "fragments control frames, makes them too long, and breaks the order of fragments",
        bound: "RFC 6455, sections 5.4 and 5.5",
        act: frames::fragmented_control,
        ..PLAIN
    },
    Attack {
        name: "random-frames",
        does: "sends random bytes where frames belong",
        bound: "RFC 6455",
        act: frames::random,
        ..PLAIN
    },
    Attack {
        name: "tiny-fragments",
        does: "sends a message in a million fragments, of a byte each and of none",
        bound: "16,384 fragments a message",
        act: floods::tiny_fragments,
        ..PLAIN
    },
    Attack {
        name: "endless-continuation",
        does: "continues a message for ever",
        bound: "message_limit",
        act: floods::endless_continuation,
        ..PLAIN
    },
    Attack {
        name: "ping-flood",
        does: "sends pings as fast as they are taken, large and empty, and reads no pong",
        bound: "control_rate",
        act: floods::pings,
        ..PLAIN
    },
    Attack {
        name: "pong-flood",
        does: "sends pongs as fast as they are taken, large and empty",
        bound: "control_rate",
        act: floods::pongs,
        ..PLAIN
    },
    Attack {
        name: "split-utf8",
        does: "sends text that is no UTF-8, cut at every place, with pings between",
        bound: "RFC 6455, section 8.1",
        act: frames::split_utf8,
        ..PLAIN
    },
    Attack {
        name: "bad-closes",
        does: "closes with codes that must not be sent, half a code, and reasons that are no text or too long",
        bound: "RFC 6455, sections 5.5.1 and 7.4",
        act: frames::bad_closes,
        ..PLAIN
    },
    Attack {
        name: "data-after-close",
        does: "goes on with messages, pings and closes after its close frame",
        bound: "nothing is heard after a close frame",
        act: frames::data_after_close,
        ..PLAIN
    },
    Attack {
        name: "compression-bombs",
        does: "sends messages that inflate to a gigabyte, streams without end, and what is no DEFLATE",
        bound: "message_limit, before it is built",
        flags: compressed::FLAGS,
        act: compressed::bombs,
        ..PLAIN
    },
    Attack {
        name: "header-bombs",
        does: "sends a megabyte of header, thousands of headers, a megabyte of path",
        bound: "16 KiB and 100 headers a request",
        act: requests::header_bombs,
        ..PLAIN
    },
    Attack {
        name: "slow-headers",
        does: "200 connections send their handshake a byte at a time",
        bound: "header_timeout",
        flags: &["--header-timeout", "1s", "--handshake-timeout", "2s"],
        act: sockets::slow_headers,
        ..PLAIN
    },
    Attack {
        name: "half-open-handshakes",
        does: "5,000 connections send half a handshake, and wait",
        bound: "max_handshakes, header_timeout",
        flags: &["--header-timeout", "2s", "--handshake-timeout", "3s"],
        // What hyper keeps for a request that is arriving, and the task around it.
        allowance: 5_000 * (20 << 10),
        act: sockets::half_open,
        ..PLAIN
    },
    Attack {
        name: "pipelined-requests",
        does: "sends requests in one piece, before and after the upgrade",
        bound: "one answer each, in order, and none after the upgrade",
        act: requests::pipelined,
        ..PLAIN
    },
    Attack {
        name: "request-smuggling",
        does: "hides a request in each shape that an intermediary could see otherwise",
        bound: "RFC 9112, section 11.2: one answer, and the end",
        act: smuggling::shapes,
        ..PLAIN
    },
    Attack {
        name: "no-http",
        does: "sends what is no HTTP: TLS, HTTP/2, noise",
        bound: "RFC 9112",
        act: requests::no_http,
        ..PLAIN
    },
    Attack {
        name: "absurd-handshakes",
        does: "sends handshakes with absurd Sec-WebSocket- and other headers",
        bound: "RFC 6455, section 4.2.1; RFC 7692, section 7.1",
        // Without it nothing is negotiated.
        flags: &["--compression", "true"],
        act: requests::absurd_handshakes,
        ..PLAIN
    },
    Attack {
        name: "stopped-readers",
        does: "20 subscribers of a flooded channel read nothing",
        bound: "outbox_limit",
        flags: &["--outbox-limit", "256KiB"],
        allowance: 20 * (512 << 10) + (16 << 20),
        act: sockets::stopped_readers,
        ..PLAIN
    },
    Attack {
        name: "dripping-readers",
        does: "20 subscribers of a flooded channel read a byte at a time",
        bound: "outbox_limit",
        flags: &["--outbox-limit", "256KiB"],
        allowance: 20 * (512 << 10) + (16 << 20),
        act: sockets::dripping_readers,
        ..PLAIN
    },
    Attack {
        name: "vanished-sockets",
        does: "100 sockets vanish without FIN",
        bound: "idle_timeout",
        flags: &["--ping-interval", "200ms", "--idle-timeout", "600ms", "--close-timeout", "200ms"],
        act: sockets::vanished,
        ..PLAIN
    },
    Attack {
        name: "subscribe-flood",
        does: "opens connections, each in a channel of its own, for as long as it is let in",
        bound: "max_connections",
        flags: &["--max-connections", "500"],
        act: floods::subscriptions,
        ..PLAIN
    },
    Attack {
        name: "publish-flood",
        does: "publishes as fast as it is taken",
        bound: "message_rate",
        flags: &["--message-rate", "2000"],
        act: floods::publications,
        ..PLAIN
    },
    Attack {
        name: "nasty-names",
        does: "asks for channels whose names are too long, no text, or mean something to somebody else",
        bound: "1 to 255 bytes of UTF-8",
        act: names::nasty,
        ..PLAIN
    },
    Attack {
        name: "churn",
        does: "1,000 connections a second come and go, each in one of five ways",
        bound: "nothing stays",
        lasts: Some(Duration::from_secs(60)),
        act: sockets::churn,
        ..PLAIN
    },
    Attack {
        name: "tls-half-done",
        does: "3,000 connections leave their TLS handshake half done: nothing, half a hello, 16 KiB claimed",
        bound: "max_handshakes, handshake_timeout",
        flags: &["--max-handshakes", "2000", "--handshake-timeout", "2s", "--header-timeout", "2s"],
        act: tls::half_done,
        ..TLS
    },
    Attack {
        name: "tls-slow-hellos",
        does: "200 connections send their ClientHello a byte at a time",
        bound: "handshake_timeout",
        flags: &["--handshake-timeout", "2s", "--header-timeout", "2s"],
        act: tls::slow_hellos,
        ..TLS
    },
    Attack {
        name: "tls-slow-records",
        does: "200 connections claim a record of 16 KiB, and send it a byte at a time",
        bound: "header_timeout",
        flags: &["--header-timeout", "1s", "--handshake-timeout", "2s"],
        act: tls::slow_records,
        ..TLS
    },
    Attack {
        name: "tls-garbage",
        does: "begins with what is no ClientHello, or with one that nobody can agree with",
        bound: "RFC 8446; 64 KiB of a handshake message",
        act: tls::garbage,
        ..TLS
    },
    Attack {
        name: "tls-broken-records",
        does: "sends records that are not sealed, too large, or of no type, on a WebSocket",
        bound: "RFC 8446, section 5",
        act: tls::broken_records,
        ..TLS
    },
    Attack {
        name: "tls-key-updates",
        does: "asks for new keys 9,600 times, in a row and with a byte between every 32",
        bound: "32 in a row; control_rate",
        act: tls::key_updates,
        ..TLS
    },
    Attack {
        name: "tls-handshakes",
        does: "shakes hands in full, as fast as it can, and goes",
        bound: "one handshake at a time on each worker, between whose steps others have their turn",
        act: tls::handshakes,
        ..TLS
    },
];

/// What most attacks have in common.
const PLAIN: Attack = Attack {
    name: "",
    does: "",
    bound: "",
    flags: &[],
    allowance: 16 << 20,
    needs_tls: false,
    lasts: None,
    act: |_| Ok(Outcome::default()),
};

/// What those on TLS have in common.
const TLS: Attack = Attack { needs_tls: true, ..PLAIN };

/// Where an attack takes place, and for how long.
#[derive(Debug, Clone)]
pub struct Field {
    target: Target,
    /// For attacks that last as long as they are let: how long.
    span: Duration,
    over: Arc<AtomicBool>,
    /// CPU time of the threads that have attacked, in nanoseconds.
    spent: Arc<AtomicU64>,
}

/// How long an answer may take. Longer than any of the server's own times, by default.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of an attack.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Each blow, and what it got.
    pub blows: Vec<Blow>,
    /// Sockets that must not be closed by the attacker before the server has let go of them.
    pub held: Vec<Assailant>,
}

/// One thing that an attack did.
#[derive(Debug)]
pub struct Blow {
    /// Which of the attack's.
    pub name: Cow<'static, str>,
    /// What must come back.
    pub expected: Answer,
    /// What came back.
    pub got: Answer,
    /// Where the server must have counted it.
    pub counted: Counted,
}

/// What a blow is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A close frame with this code, and nothing after it.
    Close(u16),
    /// HTTP answers with these statuses, and then the end; or with a last 101, a WebSocket.
    Http(Vec<u16>),
    /// The end, with what TLS says of it (RFC 8446, section 6.2).
    Alert(u8),
    /// An end without a word.
    Cut,
    /// The connection goes on: a ping was answered.
    Open,
    /// Nothing.
    Silence,
    /// Something that no server should say.
    Nonsense(String),
}

/// Where an end is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// In `fanfare_connections_closed_total`, with this reason.
    Closed(&'static str),
    /// In `fanfare_handshakes_rejected_total`, with this reason.
    Rejected(&'static str),
    /// In the same, with one of these two.
    Either([&'static str; 2]),
    /// Nowhere: nothing ended that was open, or nothing was refused.
    Nowhere,
}

impl Attack {
    /// The attack of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ATTACKS.iter().find(|attack| attack.name == name)
    }

    /// Carries it out once, on the calling thread.
    ///
    /// # Errors
    ///
    /// When it cannot: a connection is refused by the kernel, no file is left. What the server answers is never an
    /// error.
    pub fn carry_out(&self, field: &Field) -> io::Result<Outcome> {
        (self.act)(field)
    }
}

impl fmt::Debug for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Field {
    /// A server to attack. `span` is how long attacks last that last as long as they are let.
    pub fn new(target: Target, span: Duration) -> Self {
        Self { target, span, over: Arc::default(), spent: Arc::default() }
    }

    /// Tells an attack that is under way to come to its end.
    pub fn call_off(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether it was called off.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Adds up what the calling thread, which has attacked here and is done, took of CPU time.
    fn spend(&self) -> io::Result<()> {
        self.spent.fetch_add(sys::thread_cpu()?, Ordering::Relaxed);
        Ok(())
    }

    /// That sum, in nanoseconds.
    fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

impl Outcome {
    fn of(blows: Vec<Blow>) -> Self {
        Self { blows, held: Vec::new() }
    }
}

impl Blow {
    fn new(name: impl Into<Cow<'static, str>>, expected: Answer, counted: Counted, got: Answer) -> Self {
        Self { name: name.into(), expected, got, counted }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(code) => write!(f, "close {code}"),
            Self::Http(statuses) if statuses.len() > 4 => {
                write!(f, "HTTP {} and {} before it", statuses[statuses.len() - 1], statuses.len() - 1)
            }
            Self::Http(statuses) => {
                f.write_str("HTTP")?;
                statuses.iter().try_for_each(|status| write!(f, " {status}"))
            }
            Self::Alert(what) => write!(f, "alert {what}"),
            Self::Cut => f.write_str("cut"),
            Self::Open => f.write_str("open"),
            Self::Silence => f.write_str("silence"),
            Self::Nonsense(what) => write!(f, "nonsense: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_a_name_of_its_own_and_says_what_it_is() {
        for (index, attack) in ATTACKS.iter().enumerate() {
            assert!(
                !attack.name.is_empty() && !attack.does.is_empty() && !attack.bound.is_empty(),
                "{index}"
            );
            assert!(std::ptr::eq(Attack::named(attack.name).unwrap(), attack), "{attack:?}");
        }
    }
}
