//! Reports as a person reads them: a few aligned lines, the verdict last. What is exact to the last digit is in
//! the JSON.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use crate::audit::latency::Quantiles;
use crate::report::{
    ConnectReport, Cost, FanoutReport, FloorReport, IdleReport, RecoverReport, Slice, Wire, median,
};

impl Display for FanoutReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let load = match (self.rate, self.in_flight) {
            (Some(rate), _) => {
                format!(
                    "{} messages a second, {} deliveries",
                    short(rate),
                    number(rate * self.subscribers as f64)
                )
            }
            (_, in_flight) => format!("flat out, {} messages in flight", in_flight.unwrap_or_default()),
        };
        line(f, "load", &load)?;
        let Self { subscribers, publishers, size, payload, protocol, transport, .. } = self;
        line(f, "protocol", &format!("{protocol} over {transport}"))?;
        let compressed = if self.compression { ", compressed" } else { "" };
        let clients = format!(
            "{subscribers} subscribers{compressed}; {publishers} publishers, {size} bytes of {payload}"
        );
        line(f, "clients", &clients)?;
        for (index, round) in self.rounds.iter().enumerate() {
            let mut text = slice(&round.server);
            if let Some(cost) = round.floor.as_ref().and_then(|floor| floor.cost) {
                text += &format!("; floor {:.2} µs", cost.micros);
            }
            if let Some(ratio) = round.ratio {
                text += &format!("; ratio {ratio:.3}");
            }
            line(f, &format!("round {}", index + 1), &text)?;
        }
        if self.in_flight.is_some() {
            let rates: Vec<f64> =
                self.rounds.iter().map(|round| round.server.deliveries_per_second).collect();
            let best = rates.iter().copied().fold(0.0, f64::max);
            let middle = median(rates).unwrap_or_default();
            line(f, "deliveries/s", &format!("best {}, median {}", number(best), number(middle)))?;
        }
        wire(f, &self.wire)?;
        cost(f, "server CPU", self.cost.as_ref())?;
        cost(f, "floor CPU", self.floor_cost.as_ref())?;
        if let Some(ratio) = self.ratio_to_floor {
            line(f, "ratio to floor", &format!("{ratio:.3} (median)"))?;
        }
        let generator = self.rounds.iter().map(|round| round.server.generator.total).sum::<u64>();
        let deliveries = self.rounds.iter().map(|round| round.server.deliveries).sum::<u64>().max(1);
        line(f, "our own CPU", &format!("{:.2} µs a delivery", generator as f64 / 1e3 / deliveries as f64))?;
        if let Some(resident) = self.resident {
            line(f, "server memory", &format!("{} KiB resident", resident / 1024))?;
        }
        quantiles(f, "latency", &self.latency)?;
        quantiles(f, "of it, our own", &self.lateness)?;
        quantiles(f, "handshake", &self.handshake)?;
        ends(f, "ended", &self.ends)?;
        ends(f, "publishers ended", &self.publisher_ends)?;
        if self.notices > 0 {
            line(f, "gaps announced", &self.notices.to_string())?;
        }
        quantiles(f, "away", &self.away)?;
        self.verdict(f)
    }
}

impl FanoutReport {
    fn verdict(&self, f: &mut Formatter<'_>) -> Result {
        let audit = &self.audit;
        line(f, "due", &number(audit.expected as f64))?;
        let classes = [
            ("once, in order", audit.delivered_once),
            ("duplicate", audit.duplicate),
            ("out of order", audit.reordered),
            ("lost, announced", audit.lost_announced),
            ("lost, silent", audit.lost_silent),
            ("phantom", audit.phantom),
            ("not accepted", audit.unaccepted),
        ];
        for (class, count) in classes {
            line(f, class, &number(count as f64))?;
        }
        for complaint in &audit.complaints {
            line(f, "", &complaint.to_string())?;
        }
        let verdict =
            if self.is_sound() { "sound: nothing lost, doubled or out of order" } else { "UNSOUND" };
        line(f, "verdict", verdict)
    }
}

impl Display for RecoverReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { clients, channels, missed, protocol, .. } = self;
        line(
            f,
            "storm",
            &format!("{clients} clients of {channels} channels, {missed} messages missed in each"),
        )?;
        line(f, "protocol", &protocol.to_string())?;
        let seconds = self.seconds;
        line(f, "back", &format!("{} in {seconds:.2} s, {} of them recovered", self.back, self.recovered))?;
        quantiles(f, "each of them", &self.returned)?;
        if let Some(micros) = self.cpu_micros {
            line(f, "server CPU", &format!("{micros:.1} µs a client"))?;
        }
        for (command, calls) in self.calls_per_client.iter().flatten().filter(|(_, calls)| **calls >= 0.005) {
            line(f, "Redis calls", &format!("{calls:.2} {command} a client"))?;
        }
        let rank = if self.in_front { "before all others" } else { "in line with all others" };
        line(f, "bystanders", &format!("{}, {rank}", self.bystanders))?;
        quantiles(f, "bystanders before", &self.quiet)?;
        quantiles(f, "bystanders in it", &self.stormy)?;
        ends(f, "ended", &self.ends)?;
        let audit = &self.audit;
        for (class, theirs, bystanders) in [
            ("due", self.due, audit.expected),
            ("once, in order", self.delivered.saturating_sub(self.reordered), audit.delivered_once),
            ("duplicate", self.duplicate, audit.duplicate),
            ("out of order", self.reordered, audit.reordered),
            ("lost", self.lost, audit.lost_silent + audit.lost_announced),
            ("phantom", self.phantom, audit.phantom),
        ] {
            line(f, class, &format!("{}; bystanders {}", number(theirs as f64), number(bystanders as f64)))?;
        }
        let verdict =
            if self.is_sound() { "sound: nothing lost, doubled or out of order" } else { "UNSOUND" };
        line(f, "verdict", verdict)
    }
}

impl Display for FloorReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { subscribers, size, rate, .. } = self;
        line(
            f,
            "load",
            &format!("{} messages a second of {size} bytes to {subscribers} sockets", short(*rate)),
        )?;
        for (index, round) in self.rounds.iter().enumerate() {
            line(f, &format!("round {}", index + 1), &slice(round))?;
        }
        cost(f, "floor CPU", Some(&self.cost))
    }
}

impl Display for IdleReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { connections, open, alive, .. } = self;
        line(f, "connections", &format!("{connections} wanted, {open} open, {alive} answered a ping"))?;
        if let (Some(before), Some(after)) = (self.resident_before, self.resident) {
            let text =
                format!("{} KiB resident before, {} KiB with all of them", before / 1024, after / 1024);
            line(f, "server memory", &text)?;
        }
        if let Some(kib) = self.kib_per_connection {
            line(f, "each", &format!("{kib:.2} KiB"))?;
        }
        if let Some(micros) = self.connect_micros {
            line(f, "to connect", &format!("{micros:.1} µs of server CPU each"))?;
        }
        quantiles(f, "handshake", &self.handshake)?;
        ends(f, "ended", &self.ends)
    }
}

impl Display for ConnectReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { connections, completed, .. } = self;
        line(f, "connections", &format!("{connections} wanted, {completed} opened and closed"))?;
        line(f, "connects/s", &number(self.connects_per_second))?;
        if let (Some(micros), Some(user)) = (self.micros, self.user_micros) {
            line(f, "server CPU", &format!("{micros:.1} µs each, {user:.1} of it outside the kernel"))?;
        }
        quantiles(f, "handshake", &self.handshake)?;
        ends(f, "failed", &self.failures)
    }
}

/// A row: what it is about, right-aligned, and what there is to say.
pub(crate) fn line(f: &mut Formatter<'_>, name: &str, text: &str) -> Result {
    writeln!(f, "{name:>16}  {text}")
}

fn slice(slice: &Slice) -> String {
    let mut text = format!(
        "{} deliveries in {:.2} s, {} a second",
        number(slice.deliveries as f64),
        slice.seconds,
        number(slice.deliveries_per_second)
    );
    if let Some(cost) = slice.cost {
        text += &format!("; {:.2} µs each", cost.micros);
    }
    if slice.given_up > 0 {
        text += &format!("; {} given up", slice.given_up);
    }
    text
}

fn wire(f: &mut Formatter<'_>, wire: &Wire) -> Result {
    let text = format!(
        "{:.1} bytes a delivery, {:.1} % of its payload; {} in all, of {}",
        wire.bytes_per_delivery,
        100.0 * (1.0 - wire.saved),
        number(wire.bytes as f64),
        number(wire.payload_bytes as f64)
    );
    line(f, "on the wire", &text)
}

fn cost(f: &mut Formatter<'_>, name: &str, cost: Option<&Cost>) -> Result {
    let Some(cost) = cost else { return Ok(()) };
    let text = format!(
        "{:.2} µs a delivery, about {:.2} of it outside the kernel, over {} deliveries",
        cost.micros,
        cost.user_micros,
        number(cost.deliveries as f64)
    );
    line(f, name, &text)
}

fn quantiles(f: &mut Formatter<'_>, name: &str, quantiles: &Quantiles) -> Result {
    let Quantiles { count, p50, p90, p99, p99_9, max } = *quantiles;
    if count == 0 {
        return Ok(());
    }
    let [p50, p90, p99, p99_9, max] = [p50, p90, p99, p99_9, max].map(millis);
    line(f, name, &format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max} ms"))
}

fn ends(f: &mut Formatter<'_>, name: &str, ends: &BTreeMap<String, u64>) -> Result {
    for (end, count) in ends {
        line(f, name, &format!("{end}: {count}"))?;
    }
    Ok(())
}

/// Milliseconds with two digits behind the point.
pub(crate) fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1_000.0)
}

/// A number with as many digits behind the point as it needs, and no more than three.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number, its thousands apart.
pub(crate) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        for (value, expected) in [(20.0, "20"), (20.0 / 19.0, "1.053"), (0.5, "0.5"), (100.0, "100")] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, expected) in
            [(0.0, "0"), (999.4, "999"), (1_000.0, "1,000"), (12_345_678.0, "12,345,678")]
        {
            assert_eq!(number(value), expected);
        }
    }
}
