//! What came of attacks that were kept up, as data and as a table. It judges the bar on latency only where it is asked.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use serde::{Deserialize, Serialize};

use super::Attack;
use crate::report::table::{line, millis, number};
use crate::report::{AuditReport, median};

/// By how much a bystander's p99 latency may grow.
const BAR: f64 = 1.5;

/// Attacks, and what bystanders noticed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostileReport {
    /// How many bystanders subscribed.
    pub subscribers: usize,
    /// Messages a second.
    pub rate: f64,
    /// Whether their threads went before all others of the machine.
    pub in_front: bool,
    /// Whether the server goes before an attacker on its machine, as it goes before one that is far away.
    pub server_in_front: bool,
    /// One attack after another.
    pub sieges: Vec<Siege>,
    /// What became of the bystanders' deliveries.
    pub audit: AuditReport,
    /// How bystanders' connections ended, if they did.
    pub ends: BTreeMap<String, u64>,
}

/// One attack, kept up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Siege {
    /// The attack's name.
    pub attack: String,
    /// A bystander's p99 latency, without and under the attack, in microseconds, by round.
    pub rounds: Vec<(u64, u64)>,
    /// How much of a core the attacker took, and in its place, without the attack, a thread that only spins.
    pub shares: Vec<f64>,
    /// How often it was carried out.
    pub goes: u64,
    /// What came back, and how often.
    pub answers: BTreeMap<String, u64>,
    /// Answers that were others than with the attack's own flags they must be.
    pub unexpected: u64,
    /// The server before, at the end of the last slice under attack, and when it was over.
    pub before: Option<Toll>,
    /// See `before`.
    pub at_worst: Option<Toll>,
    /// See `before`.
    pub after: Option<Toll>,
}

/// What the server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toll {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open files.
    pub files: u64,
}

impl Siege {
    pub(super) fn of(attack: &Attack, before: Option<Toll>) -> Self {
        Self {
            attack: attack.name.to_owned(),
            rounds: Vec::new(),
            shares: Vec::new(),
            goes: 0,
            answers: BTreeMap::new(),
            unexpected: 0,
            before,
            at_worst: before,
            after: before,
        }
    }

    /// By how much the p99 latency grew, from the median over the rounds to that under the attack.
    pub fn ratio(&self) -> f64 {
        match (self.p99(|round| round.0), self.p99(|round| round.1)) {
            (0, _) => 1.0,
            (quiet, attacked) => attacked as f64 / quiet as f64,
        }
    }

    fn p99(&self, of: fn(&(u64, u64)) -> u64) -> u64 {
        median(self.rounds.iter().map(|round| of(round) as f64).collect()).unwrap_or_default() as u64
    }
}

impl HostileReport {
    /// Whether bystanders got everything, once and in order, and stayed.
    pub fn is_sound(&self) -> bool {
        let audit = &self.audit;
        let wrong =
            audit.duplicate + audit.reordered + audit.phantom + audit.lost_silent + audit.lost_announced;
        wrong == 0 && self.ends.is_empty()
    }

    /// The names of the attacks under which the p99 latency grew beyond so many times what it was.
    pub fn above(&self, bar: f64) -> Vec<&str> {
        let above = self.sieges.iter().filter(|siege| siege.ratio() > bar);
        above.map(|siege| siege.attack.as_str()).collect()
    }
}

impl Display for HostileReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let rank = if self.in_front { "before all others" } else { "in line with all others" };
        let load =
            format!("{} subscribers, {} messages a second, {rank}", self.subscribers, number(self.rate));
        line(f, "bystanders", &load)?;
        let rank = if self.server_in_front { "before the attacker" } else { "in line with the attacker" };
        line(f, "server", rank)?;
        writeln!(
            f,
            "{:>22}  {:>9} {:>9} {:>6}  {:>4}  {:>7}  {:>17}  {:>17}  answers",
            "attack", "decoy p99", "attacked", "ratio", "core", "goes", "MiB", "files"
        )?;
        for siege in &self.sieges {
            let tolls = [siege.before, siege.at_worst, siege.after];
            let three = |of: fn(Toll) -> u64| {
                let shown = tolls.iter().map(|toll| toll.map_or("-".to_owned(), |toll| of(toll).to_string()));
                shown.collect::<Vec<_>>().join(" ")
            };
            let mut answers: Vec<_> = siege.answers.iter().collect();
            answers.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let most = answers.iter().take(4).map(|(answer, count)| format!("{answer} ×{count}"));
            writeln!(
                f,
                "{:>22}  {:>9} {:>9} {:>6.2}  {:>4.2}  {:>7}  {:>17}  {:>17}  {}",
                siege.attack,
                millis(siege.p99(|round| round.0)),
                millis(siege.p99(|round| round.1)),
                siege.ratio(),
                median(siege.shares.clone()).unwrap_or_default(),
                siege.goes,
                three(|toll| toll.resident >> 20),
                three(|toll| toll.files),
                most.collect::<Vec<_>>().join(", "),
            )?;
        }
        for (end, count) in &self.ends {
            line(f, "ended", &format!("{end}: {count}"))?;
        }
        let above = self.above(BAR);
        let bar = if above.is_empty() { "none".to_owned() } else { above.join(", ") };
        line(f, &format!("above {BAR}"), &bar)?;
        let audit = &self.audit;
        let got = format!(
            "{} of {} deliveries once and in order",
            number(audit.delivered_once as f64),
            number(audit.expected as f64)
        );
        line(f, "bystanders got", &got)?;
        let verdict =
            if self.is_sound() { "sound: nothing lost, doubled or out of order" } else { "UNSOUND" };
        line(f, "verdict", verdict)
    }
}
