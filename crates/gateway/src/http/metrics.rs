//! What `/metrics` says. Workers count in plain integers of their own; here they are added up when somebody asks. It
//! counts nothing itself.

use std::sync::atomic::Ordering;

use fanfare_hub::{Census, Protocol, Reason};
use metrics::{counter, gauge};

use crate::api::Calls;
use crate::instance::Instance;
use crate::telemetry::log;
use crate::tls::LiveCertificate;

/// The page of an instance in Prometheus' text format; `calls` are those of its HTTP API.
pub async fn page_of(instance: &Instance, calls: &Calls) -> String {
    let census = instance.hub.census().await;
    instance.telemetry.render(|| {
        connections(instance, &census);
        traffic(instance, calls);
        clients(instance);
        broker(instance);
        lifecycle(instance, &census);
        api(calls);
    })
}

fn connections(instance: &Instance, census: &[Census]) {
    let total = |of: fn(&Census) -> u64| census.iter().map(of).sum::<u64>() as f64;
    for protocol in Protocol::ALL {
        let (label, place) = (protocol.label(), protocol as usize);
        let open: u64 = census.iter().map(|census| census.by_protocol[place]).sum();
        gauge!("fanfare_connections", "protocol" => label).set(open as f64);
        counter!("fanfare_connections_opened_total", "protocol" => label)
            .absolute(instance.sum(|stats| &stats.opened[place]));
    }
    gauge!("fanfare_closing_connections").set(total(|c| c.closing));
    gauge!("fanfare_subscriptions").set(total(|c| c.subscriptions));
    gauge!("fanfare_compressed_subscriptions").set(total(|c| c.compressed));
    gauge!("fanfare_outbox_bytes").set(total(|c| c.outbox_bytes));
    gauge!("fanfare_inbox_bytes").set(instance.hub.inbox_bytes() as f64);
    gauge!("fanfare_channels").set(instance.hub.channels() as f64);
    for (worker, census) in census.iter().enumerate() {
        gauge!("fanfare_worker_connections", "worker" => worker.to_string()).set(census.connections as f64);
    }
    for reason in Reason::ALL {
        let closed = instance.sum(|stats| &stats.closed[reason as usize]);
        counter!("fanfare_connections_closed_total", "reason" => reason.label()).absolute(closed);
    }
    counter!("fanfare_slow_consumers_total")
        .absolute(instance.sum(|stats| &stats.closed[Reason::SlowConsumer as usize]));
    for (reason, rejected) in instance.rejected.read() {
        counter!("fanfare_handshakes_rejected_total", "reason" => reason).absolute(rejected);
    }
    gauge!("fanfare_unfinished_handshakes").set(instance.unfinished.count() as f64);
    for (label, refused) in instance.identity.refused() {
        counter!("fanfare_tokens_refused_total", "reason" => label).absolute(refused);
    }
    let (fetches, failures, keys) = instance.identity.fetches();
    counter!("fanfare_jwks_fetches_total").absolute(fetches);
    counter!("fanfare_jwks_failures_total").absolute(failures);
    gauge!("fanfare_jwks_keys").set(keys as f64);
    tls(instance);
    counter!("fanfare_accept_errors_total").absolute(instance.accept_errors.load(Ordering::Relaxed));
}

fn api(calls: &Calls) {
    for (method, result, calls) in calls.read() {
        counter!("fanfare_api_calls_total", "method" => method, "result" => result).absolute(calls);
    }
    for (reason, refused) in calls.read_refused() {
        counter!("fanfare_api_refused_total", "reason" => reason).absolute(refused);
    }
}

fn tls(instance: &Instance) {
    let certificate = instance.certificate.as_ref();
    let counts = certificate.map_or([0; 2], |certificate| certificate.reloads());
    for (label, count) in LiveCertificate::RESULTS.into_iter().zip(counts) {
        counter!("fanfare_tls_reloads_total", "result" => label).absolute(count);
    }
    let expires = certificate.map_or(0, |certificate| certificate.expires());
    gauge!("fanfare_tls_certificate_expiry_timestamp_seconds").set(expires as f64);
}

fn traffic(instance: &Instance, calls: &Calls) {
    counter!("fanfare_messages_in_total").absolute(instance.sum(|stats| &stats.messages_in));
    counter!("fanfare_messages_out_total").absolute(instance.sum(|stats| &stats.messages_out));
    counter!("fanfare_bytes_in_total").absolute(instance.sum(|stats| &stats.bytes_in));
    counter!("fanfare_bytes_out_total").absolute(instance.sum(|stats| &stats.bytes_out));
    let published = instance.sum(|stats| &stats.publications) + calls.publications();
    counter!("fanfare_publications_total").absolute(published);
    for (reason, suppressed) in instance.counts.all_suppressed() {
        counter!("fanfare_publications_suppressed_total", "reason" => reason).absolute(suppressed);
    }
    counter!("fanfare_deliveries_total").absolute(instance.sum(|stats| &stats.deliveries));
    counter!("fanfare_publications_dropped_total").absolute(instance.sum(|stats| &stats.dropped));
    let (payloads, frames) = instance.relay.deflated_bytes();
    counter!("fanfare_deflated_payload_bytes_total").absolute(payloads);
    counter!("fanfare_deflated_frame_bytes_total").absolute(frames);
}

fn clients(instance: &Instance) {
    let counts = &instance.counts;
    for (method, result, commands) in counts.commands() {
        counter!("fanfare_commands_total", "method" => method, "result" => result).absolute(commands);
    }
    for (outcome, requests) in instance.emulated.read() {
        counter!("fanfare_emulation_requests_total", "outcome" => outcome).absolute(requests);
    }
    counter!("fanfare_emulation_lost_total").absolute(instance.sessions.lost());
    for (outcome, recoveries) in counts.recoveries() {
        counter!("fanfare_recoveries_total", "outcome" => outcome).absolute(recoveries);
    }
    for (namespace, publications, subscriptions) in counts.namespaces() {
        let namespace = namespace.to_owned();
        counter!("fanfare_namespace_publications_total", "namespace" => namespace.clone())
            .absolute(publications);
        counter!("fanfare_namespace_subscribed_total", "namespace" => namespace).absolute(subscriptions);
    }
    gauge!("fanfare_users").set(instance.users.count() as f64);
}

fn broker(instance: &Instance) {
    let status = instance.broker.status();
    gauge!("fanfare_broker_up").set(f64::from(u8::from(status.up)));
    gauge!("fanfare_broker_subscriptions").set(status.subscriptions as f64);
    gauge!("fanfare_broker_spool_bytes").set(status.spool_bytes as f64);
    counter!("fanfare_broker_spool_dropped_total").absolute(status.spool_dropped);
    counter!("fanfare_broker_reconnects_total").absolute(status.reconnects);
    counter!("fanfare_broker_duplicates_total").absolute(status.duplicates);
    counter!("fanfare_unknown_envelopes_total").absolute(status.unknown_envelopes);
    counter!("fanfare_healed_publications_total").absolute(status.healed_publications);
    for (result, heals) in [("whole", status.heals_whole), ("gap", status.heals_with_gap)] {
        counter!("fanfare_heals_total", "result" => result).absolute(heals);
    }
    counter!("fanfare_history_reads_total").absolute(status.history_reads);
    counter!("fanfare_history_read_failures_total").absolute(status.history_failures);
    gauge!("fanfare_history_kept_bytes").set(status.kept_bytes as f64);
    counter!("fanfare_history_given_up_total").absolute(status.publications_given_up);
    counter!("fanfare_idempotency_keys_given_up_total").absolute(status.keys_given_up);
    let presence = instance.broker.presence_status();
    gauge!("fanfare_presence_members").set(presence.members as f64);
    counter!("fanfare_presence_reads_total").absolute(presence.reads);
    counter!("fanfare_presence_read_failures_total").absolute(presence.read_failures);
    counter!("fanfare_leases_lost_total").absolute(presence.leases_lost);
    counter!("fanfare_leases_ended_total").absolute(presence.leases_ended);
    counter!("fanfare_rows_cleared_total").absolute(presence.rows_cleared);
    counter!("fanfare_controls_sent_total").absolute(presence.controls_sent);
    counter!("fanfare_controls_unsent_total").absolute(presence.controls_unsent);
    counter!("fanfare_deltas_total").absolute(instance.relay.deltas());
    for (cause, gaps) in instance.relay.gaps() {
        counter!("fanfare_gaps_total", "cause" => cause.label()).absolute(gaps);
    }
    counter!("fanfare_gaps_total", "cause" => "inbox").absolute(instance.hub.overflows());
    counter!("fanfare_log_lines_lost_total").absolute(log::lost());
}

fn lifecycle(instance: &Instance, census: &[Census]) {
    let draining = instance.readiness.is_draining();
    let left: u64 = census.iter().map(|census| census.connections + census.closing).sum();
    gauge!("fanfare_ready").set(f64::from(u8::from(instance.readiness.causes(&instance.memory).is_empty())));
    gauge!("fanfare_draining").set(f64::from(u8::from(draining)));
    gauge!("fanfare_drain_remaining_connections").set(if draining { left as f64 } else { 0.0 });
    gauge!("fanfare_memory_limit_bytes").set(instance.memory.limit().unwrap_or(0) as f64);
    gauge!("fanfare_memory_used_bytes").set(instance.memory.used() as f64);
    let tasks: u64 = census.iter().map(|census| census.tasks).sum();
    gauge!("fanfare_tasks").set(tasks as f64);
    gauge!("fanfare_workers").set(instance.hub.stats().count() as f64);
    let (version, revision) =
        (env!("CARGO_PKG_VERSION"), option_env!("FANFARE_REVISION").unwrap_or("unknown"));
    gauge!("fanfare_build_info", "version" => version, "revision" => revision).set(1.0);
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use fanfare_broker::{GapCause, Suppressed};

    use super::super::{Rejection, emulation};
    use super::*;
    use crate::api::Method;
    use crate::identity::TokenFault;
    use crate::recovery::Outcome;
    use crate::telemetry::Counts;
    use crate::telemetry::catalog::{METRICS, Metric};

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");

    #[test]
    fn the_reference_lists_every_metric_and_label() {
        let mut rows = String::from("| name | type | labels | what |\n| --- | --- | --- | --- |\n");
        for Metric { name, kind, labels, help } in METRICS {
            let kind = format!("{kind:?}").to_lowercase();
            writeln!(rows, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
        }
        let list =
            |labels: &[&str]| labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let mut causes: Vec<_> = GapCause::ALL.into_iter().map(GapCause::label).collect();
        causes.push("inbox");
        writeln!(rows, "\n`reason` of a closed connection: {}.", list(&Reason::ALL.map(Reason::label)))
            .unwrap();
        writeln!(rows, "\n`reason` of a rejected handshake: {}.", list(&Rejection::tally().labels()))
            .unwrap();
        writeln!(rows, "\n`result` of a reload: {}.", list(&LiveCertificate::RESULTS)).unwrap();
        writeln!(rows, "\n`cause` of a gap: {}.", list(&causes)).unwrap();
        let suppressed = Suppressed::ALL.map(Suppressed::label);
        writeln!(rows, "\n`reason` of a suppressed publication: {}.", list(&suppressed)).unwrap();
        writeln!(rows, "\n`reason` of a refused token: {}.", list(&TokenFault::LABELS)).unwrap();
        let methods: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
        writeln!(rows, "\n`method` of a call: {}.", list(&methods)).unwrap();
        writeln!(rows, "\n`result` of a call: {}.", list(&Calls::results().collect::<Vec<_>>())).unwrap();
        writeln!(
            rows,
            "\n`reason` of a request that was no call: {}.",
            list(&Calls::default().read_refused().map(|(reason, _)| reason).collect::<Vec<_>>())
        )
        .unwrap();
        writeln!(rows, "\n`protocol` of a connection: {}.", list(&Protocol::ALL.map(Protocol::label)))
            .unwrap();
        writeln!(rows, "\n`method` of a command: {}.", list(&Counts::METHODS)).unwrap();
        writeln!(rows, "\n`result` of a command: {}.", list(&Counts::RESULTS)).unwrap();
        writeln!(rows, "\n`outcome` of a recovery: {}.", list(&Outcome::LABELS)).unwrap();
        writeln!(rows, "\n`outcome` of an emulation request: {}.", list(&emulation::tally().labels()))
            .unwrap();
        writeln!(rows, "\n`result` of a heal: `whole`, `gap`.").unwrap();
        let (begin, end) = ("<!-- begin generated -->\n", "<!-- end generated -->");
        let text = std::fs::read_to_string(FILE).unwrap();
        let (before, rest) = text.split_once(begin).expect("docs/metrics.md has its begin mark");
        let (found, after) = rest.split_once(end).expect("docs/metrics.md has its end mark");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(FILE, format!("{before}{begin}{rows}{end}{after}")).unwrap();
        } else {
            assert_eq!(
                found, rows,
                "docs/metrics.md is out of date: run the tests with UPDATE_DOCS=1 and commit it"
            );
        }
    }
}
