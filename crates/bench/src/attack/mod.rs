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
mod list;
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
pub use list::ATTACKS;
pub use report::{HostileReport, Siege, Toll};

use crate::client::sys;
use crate::client::target::Target;

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
