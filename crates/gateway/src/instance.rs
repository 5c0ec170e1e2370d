//! What all threads of one instance share. It starts nothing and ends nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fanfare_broker::Broker;
use fanfare_hub::{Count, Hub, Protocol, Reason, Stats};
use uuid::Uuid;

use crate::admission::limits::Admission;
use crate::admission::unfinished::Unfinished;
use crate::admission::uplinks::Uplinks;
use crate::config::Config;
use crate::identity::Verifier;
use crate::memory::Budget;
use crate::readiness::Readiness;
use crate::registers::{Sessions, Users};
use crate::relay::HubRelay;
use crate::telemetry::{Counts, Tally, Telemetry};
use crate::tls::LiveCertificate;

/// One running gateway.
pub struct Instance {
    /// Made at every start; it names the instance to others and in answers.
    pub id: Uuid,
    pub config: Config,
    pub hub: Arc<Hub>,
    /// What the broker delivers to; also asked for a channel's last publication, for deltas.
    pub relay: Arc<HubRelay>,
    pub broker: Arc<dyn Broker>,
    /// How many connections there may be, in all and of one address.
    pub admission: Arc<Admission>,
    /// Those who have not asked for anything yet.
    pub unfinished: Arc<Unfinished>,
    /// What `/ready` answers.
    pub readiness: Arc<Readiness>,
    /// How much memory is in use, and what follows from that.
    pub memory: Arc<Budget>,
    /// Whether what the kernel holds for sockets is a part of the memory that may run out.
    pub weighs_sockets: bool,
    /// Handshakes that were refused, by reason.
    pub rejected: Tally,
    /// Times that `accept` failed.
    pub accept_errors: AtomicU64,
    /// What tokens are checked with. What they open is in `config.channels`.
    pub identity: Verifier,
    /// The users of its connections.
    pub users: Users,
    /// Those of its sessions whose clients speak by requests.
    pub sessions: Arc<Sessions>,
    /// What became of such requests.
    pub emulated: Tally,
    /// What of them may go to other instances.
    pub uplinks: Uplinks,
    /// What its sessions of the client protocol count.
    pub counts: Counts,
    pub telemetry: Telemetry,
    /// What clients are shown; nothing where `listen` is plain.
    pub certificate: Option<Arc<LiveCertificate>>,
}

/// How far the instance has come towards its end. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As usual. Not being ready does not show here.
    Serving,
    /// No new clients; those who are there are closed over the drain window.
    Draining,
    /// Whoever is left is closed at once.
    Ending,
}

impl Instance {
    /// A count of all workers together.
    pub fn sum(&self, of: impl Fn(&Stats) -> &Count) -> u64 {
        self.hub.stats().map(|stats| of(stats).read()).sum()
    }

    /// Connections whose handshake was answered.
    pub fn opened(&self) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| self.sum(|stats| &stats.opened[protocol as usize])).sum()
    }

    /// Open connections by the books, without asking the workers to count.
    pub fn connections(&self) -> u64 {
        let closed: u64 =
            Reason::ALL.into_iter().map(|reason| self.sum(|stats| &stats.closed[reason as usize])).sum();
        self.opened().saturating_sub(closed)
    }
}
