//! What a run found, as data: for `--json`, for tests, and for the tables in `table`. It holds no judgement but
//! [`FanoutReport::is_sound`].

pub mod table;
pub mod usage;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::latency::Quantiles;
use crate::audit::losses::Complaint;
use crate::audit::stamp::Payload;
use crate::client::connection::Traffic;
use crate::client::speech::Protocol;
use crate::client::transport::Transport;
use crate::report::usage::Cpu;

/// What `fanout` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FanoutReport {
    /// How many subscribed.
    pub subscribers: usize,
    /// How many published.
    pub publishers: usize,
    /// Bytes of each message.
    pub size: usize,
    /// What the connections spoke.
    pub protocol: Protocol,
    /// What carried what subscribers heard.
    pub transport: Transport,
    /// What messages were made of.
    pub payload: Payload,
    /// Whether subscribers had agreed on permessage-deflate.
    pub compression: bool,
    /// Messages a second in all, when paced.
    pub rate: Option<f64>,
    /// Messages under way of each publisher, when flat out.
    pub in_flight: Option<usize>,
    /// One slice of time after another.
    pub rounds: Vec<Round>,
    /// The median of the rounds' ratios to the floor.
    pub ratio_to_floor: Option<f64>,
    /// What came to the subscribers over all rounds.
    pub wire: Wire,
    /// What the server used over all rounds.
    pub cost: Option<Cost>,
    /// What the floor used over all rounds.
    pub floor_cost: Option<Cost>,
    /// What became of every delivery, warm-up included.
    pub audit: AuditReport,
    /// From the intended time of sending to receipt, over all rounds.
    pub latency: Quantiles,
    /// How much later than intended this program itself sent.
    pub lateness: Quantiles,
    /// From connect to the end of the handshake.
    pub handshake: Quantiles,
    /// How subscribers' connections ended before the run did.
    pub ends: BTreeMap<String, u64>,
    /// How many of them in each second since they began to connect.
    pub ends_by_second: Vec<u32>,
    /// How publishers' connections ended before the run did.
    pub publisher_ends: BTreeMap<String, u64>,
    /// Gaps that subscribers were told of.
    pub notices: u64,
    /// How long those that came back had been away.
    pub away: Quantiles,
    /// Subscribers that were connected in the end.
    pub connected_at_end: usize,
    /// Resident memory of the server at the end, in bytes, all connections open.
    pub resident: Option<u64>,
    /// Whether disconnections were expected, so that a loss which was announced is no fault.
    pub reconnect: bool,
}

/// A slice of time with the server, and one with the floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// With the server.
    pub server: Slice,
    /// With the floor, the server being idle.
    pub floor: Option<Slice>,
    /// The server's CPU time per delivery over the floor's.
    pub ratio: Option<f64>,
}

/// What happened in a slice of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Messages sent.
    pub messages: u64,
    /// Deliveries received: those to subscribers, and those to other publishers.
    pub deliveries: u64,
    /// How long it took: when paced, no less than the schedule.
    pub seconds: f64,
    /// Deliveries over seconds.
    pub deliveries_per_second: f64,
    /// Messages under way that did not reach everybody in time, when flat out.
    pub given_up: u64,
    /// What came to the subscribers.
    pub wire: Wire,
    /// From the intended time of sending to receipt.
    pub latency: Quantiles,
    /// What the server used, if its processes were named.
    pub cost: Option<Cost>,
    /// What this program used.
    pub generator: Cpu,
}

/// CPU time, over some deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// In all.
    pub cpu: Cpu,
    /// For how many deliveries.
    pub deliveries: u64,
    /// Microseconds for each, exact.
    pub micros: f64,
    /// Of these, outside the kernel; by the kernel's sampling.
    pub user_micros: f64,
}

/// What came over subscribers' connections, their handshakes left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    /// Bytes in all, frames' headers or chunks' sizes and pings included.
    pub bytes: u64,
    /// Bytes of the frames' payloads, inflated, or of what is in events and lines.
    pub payload_bytes: u64,
    /// For how many deliveries.
    pub deliveries: u64,
    /// Bytes for each.
    pub bytes_per_delivery: f64,
    /// The part of the payload that did not have to travel; below 0 by the headers, where nothing is compressed.
    pub saved: f64,
}

/// What became of every delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Messages times subscribers, less what was not accepted.
    pub expected: u64,
    /// Once and in order.
    pub delivered_once: u64,
    /// A second time, and every further time.
    pub duplicate: u64,
    /// After one that was sent later.
    pub reordered: u64,
    /// Missing inside a gap that the subscriber was told of, or while it was not connected.
    pub lost_announced: u64,
    /// Missing without a word.
    pub lost_silent: u64,
    /// What nobody sent, or what was altered on its way.
    pub phantom: u64,
    /// Messages (not deliveries) that were written to a connection which broke, and reached nobody.
    pub unaccepted: u64,
    /// The first few offences.
    pub complaints: Vec<Complaint>,
}

/// What `idle` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// Connections that were asked for.
    pub connections: usize,
    /// Connections that were open when memory was read.
    pub open: usize,
    /// Connections that answered a ping afterwards, or in whose body a publication came.
    pub alive: usize,
    /// Resident memory before, in bytes.
    pub resident_before: Option<u64>,
    /// Resident memory with all of them open and quiet, in bytes.
    pub resident: Option<u64>,
    /// The difference, for each connection, in KiB.
    pub kib_per_connection: Option<f64>,
    /// CPU time to connect them, in microseconds for each.
    pub connect_micros: Option<f64>,
    /// From connect to the end of the handshake.
    pub handshake: Quantiles,
    /// How connections ended, or why they never came about.
    pub ends: BTreeMap<String, u64>,
}

/// What `connect` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectReport {
    /// Connections that were asked for.
    pub connections: usize,
    /// Connections that opened, and closed as they should.
    pub completed: u64,
    /// How many a second.
    pub connects_per_second: f64,
    /// The server's CPU time for each, from connect to close, in microseconds.
    pub micros: Option<f64>,
    /// Of these, outside the kernel; by the kernel's sampling.
    pub user_micros: Option<f64>,
    /// From connect to the end of the handshake.
    pub handshake: Quantiles,
    /// What went wrong, by kind; a refusal has its HTTP status.
    pub failures: BTreeMap<String, u64>,
}

/// What `recover` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoverReport {
    /// What the clients spoke.
    pub protocol: Protocol,
    /// How many lost their instance.
    pub clients: usize,
    /// Over how many channels they were spread.
    pub channels: usize,
    /// How many messages of its channel each missed.
    pub missed: u64,
    /// Clients that were subscribed again in the end.
    pub back: usize,
    /// Answers to subscriptions that said that nothing was missing.
    pub recovered: usize,
    /// Those that said that it could not be made good.
    pub unrecovered: usize,
    /// Messages in those answers, over all clients.
    pub made_good: u64,
    /// Until the last one was subscribed again, from when they were let go back.
    pub seconds: f64,
    /// The same for each client.
    pub returned: Quantiles,
    /// Messages that were due to clients: before the loss, missed, and after the return.
    pub due: u64,
    /// Of these, received.
    pub delivered: u64,
    /// Of these, not received.
    pub lost: u64,
    /// Received a second time, and every further time.
    pub duplicate: u64,
    /// Received after one that was published later.
    pub reordered: u64,
    /// What nobody published in that channel.
    pub phantom: u64,
    /// How clients' connections ended, and attempts at one; once for each that lost its instance.
    pub ends: BTreeMap<String, u64>,
    /// How many bystanders there were at the other instances.
    pub bystanders: usize,
    /// Whether their threads went before all others of the machine.
    pub in_front: bool,
    /// Their latency before the loss.
    pub quiet: Quantiles,
    /// Their latency while the clients came back.
    pub stormy: Quantiles,
    /// What became of every delivery to a bystander.
    pub audit: AuditReport,
    /// CPU time of the other instances' processes during the storm, in microseconds for each client.
    pub cpu_micros: Option<f64>,
    /// What Redis was asked for during the storm, for each client. What scripts call counts as well, and bystanders'
    /// publications too.
    pub calls_per_client: Option<BTreeMap<String, f64>>,
}

/// What `floor` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloorReport {
    /// How many sockets are written to.
    pub subscribers: usize,
    /// Bytes of each message.
    pub size: usize,
    /// Messages a second.
    pub rate: f64,
    /// One slice of time after another.
    pub rounds: Vec<Slice>,
    /// Over all rounds.
    pub cost: Cost,
}

impl FanoutReport {
    /// Whether everything that was due came once and in order. With `reconnect`, what was lost may have been
    /// announced; without, nothing may be lost.
    pub fn is_sound(&self) -> bool {
        let audit = &self.audit;
        let lost = audit.lost_silent + if self.reconnect { 0 } else { audit.lost_announced };
        audit.duplicate + audit.reordered + audit.phantom + lost == 0
    }
}

impl RecoverReport {
    /// Whether all came back, and everybody, bystanders included, got everything once and in order.
    pub fn is_sound(&self) -> bool {
        let wrong = self.lost + self.duplicate + self.reordered + self.phantom;
        let audit = &self.audit;
        let theirs =
            audit.lost_silent + audit.lost_announced + audit.duplicate + audit.reordered + audit.phantom;
        self.back == self.clients && self.recovered == self.clients && wrong + theirs == 0
    }
}

impl IdleReport {
    /// Whether all connections opened, and stayed.
    pub fn is_sound(&self) -> bool {
        self.alive == self.connections
    }
}

impl ConnectReport {
    /// Whether all connections opened, and closed as they should.
    pub fn is_sound(&self) -> bool {
        self.completed == self.connections as u64
    }
}

impl Cost {
    /// What `cpu` means for each of so many deliveries.
    pub(crate) fn new(cpu: Cpu, deliveries: u64) -> Self {
        let each = 1e-3 / deliveries.max(1) as f64;
        Self {
            cpu,
            deliveries,
            micros: cpu.total as f64 * each,
            user_micros: cpu.user_share_of_total() * each,
        }
    }

    /// Some costs together. Sampled times are better the more of them there are.
    pub(crate) fn sum<'c>(costs: impl Iterator<Item = &'c Self>) -> Option<Self> {
        let mut cpu = Cpu::default();
        let mut deliveries = 0;
        for cost in costs {
            cpu += cost.cpu;
            deliveries += cost.deliveries;
        }
        (deliveries > 0).then(|| Self::new(cpu, deliveries))
    }
}

impl Wire {
    /// What came between two readings, for so many deliveries.
    pub(crate) fn new(now: Traffic, before: Traffic, deliveries: u64) -> Self {
        Self::of(now.wire - before.wire, now.payload - before.payload, deliveries)
    }

    /// Some of them together.
    pub(crate) fn sum<'w>(wires: impl Iterator<Item = &'w Self>) -> Self {
        let add = |sum: Self, one: &Self| {
            let Self { bytes, payload_bytes, deliveries, .. } = *one;
            Self::of(sum.bytes + bytes, sum.payload_bytes + payload_bytes, sum.deliveries + deliveries)
        };
        wires.fold(Self::default(), add)
    }

    fn of(bytes: u64, payload_bytes: u64, deliveries: u64) -> Self {
        Self {
            bytes,
            payload_bytes,
            deliveries,
            bytes_per_delivery: bytes as f64 / deliveries.max(1) as f64,
            saved: 1.0 - bytes as f64 / payload_bytes.max(1) as f64,
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![3.0, 1.0], Some(2.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
        ] {
            assert_eq!(median(values), expected);
        }
    }

    #[test]
    fn costs_are_per_delivery() {
        let cost = Cost::new(Cpu { total: 6_000_000, user: 10, system: 30 }, 1_000);
        assert!((cost.micros - 6.0).abs() < 1e-9 && (cost.user_micros - 1.5).abs() < 1e-9, "{cost:?}");
        let twice = Cost::sum([cost, cost].iter()).unwrap();
        assert!((twice.micros - 6.0).abs() < 1e-9 && twice.deliveries == 2_000, "{twice:?}");
        assert_eq!(Cost::sum([].iter()), None);
    }

    #[test]
    fn what_is_saved_is_a_part_of_the_payload() {
        let none = Traffic::default();
        let first = Wire::new(Traffic { wire: 300, payload: 1_000 }, none, 10);
        assert!(
            (first.bytes_per_delivery - 30.0).abs() < 1e-9 && (first.saved - 0.7).abs() < 1e-9,
            "{first:?}"
        );
        let both = Wire::sum([first, Wire::new(Traffic { wire: 700, payload: 1_000 }, none, 10)].iter());
        assert!((both.bytes_per_delivery - 50.0).abs() < 1e-9 && (both.saved - 0.5).abs() < 1e-9, "{both:?}");
    }
}
