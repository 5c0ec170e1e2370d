//! Every metric of an instance: its name, kind, labels and meaning. The page prints these and no
//! others, and `docs/metrics.md` is held against this list. Labels have few values, all known here:
//! never a channel, a user or an address.

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One row of the list.
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// The labels' names, for the reference.
    #[cfg_attr(not(test), expect(dead_code, reason = "the code that sets a metric names its labels itself"))]
    pub labels: &'static str,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels: "", help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: "", help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels: "", help }
}

impl Metric {
    const fn by(self, labels: &'static str) -> Self {
        Self { labels, ..self }
    }
}

/// The list, without the `process_…` metrics, which are as everywhere.
pub const METRICS: &[Metric] = &[
    gauge("fanfare_connections", "Open connections, by protocol").by("protocol"),
    gauge("fanfare_worker_connections", "Open connections of each worker").by("worker"),
    gauge("fanfare_closing_connections", "Connections that were told to go and have not gone yet"),
    counter("fanfare_connections_opened_total", "Connections whose handshake was answered, by protocol")
        .by("protocol"),
    counter("fanfare_connections_closed_total", "Connections that ended, by reason").by("reason"),
    counter("fanfare_handshakes_rejected_total", "Handshakes that were not answered with 101, by reason")
        .by("reason"),
    gauge(
        "fanfare_unfinished_handshakes",
        "Connections that wait for their clients to ask for something, or for something more",
    ),
    counter(
        "fanfare_accept_errors_total",
        "Times that accepting a connection failed, as when no file was left",
    ),
    counter("fanfare_tls_reloads_total", "Times that the certificate was to be replaced, by result")
        .by("result"),
    gauge(
        "fanfare_tls_certificate_expiry_timestamp_seconds",
        "When the certificate in use expires, in seconds since 1970; 0 without TLS",
    ),
    counter("fanfare_messages_in_total", "Messages that clients sent"),
    counter("fanfare_messages_out_total", "Messages written or queued for clients, notices included"),
    counter("fanfare_bytes_in_total", "Bytes read from clients after the handshake"),
    counter("fanfare_bytes_out_total", "Bytes of frames written or queued for clients"),
    counter("fanfare_publications_total", "Publications that this instance's broker took"),
    counter(
        "fanfare_publications_suppressed_total",
        "Publications not made, because the same or a newer one was there, by reason",
    )
    .by("reason"),
    counter(
        "fanfare_deltas_total",
        "Deltas to the publication before that were made, each once for all who get it",
    ),
    counter("fanfare_deliveries_total", "Publications written or queued, one for each receiver"),
    gauge("fanfare_outbox_bytes", "Bytes that wait for sockets that are full"),
    gauge("fanfare_inbox_bytes", "Bytes of publications that wait for the workers"),
    counter("fanfare_slow_consumers_total", "Connections cut because their outbox was full"),
    counter(
        "fanfare_publications_dropped_total",
        "Publications left out for clients that do not keep up, where slow_consumers says so",
    ),
    gauge("fanfare_subscriptions", "Subscriptions of open connections"),
    gauge("fanfare_compressed_subscriptions", "Subscriptions whose publications are compressed"),
    counter(
        "fanfare_deflated_payload_bytes_total",
        "Bytes of publications that were deflated, before, once for all receivers",
    ),
    counter("fanfare_deflated_frame_bytes_total", "Bytes of the frames that deflated publications became"),
    gauge("fanfare_memory_limit_bytes", "The most memory that the instance may take, 0 for no limit"),
    gauge("fanfare_memory_used_bytes", "Memory in use, as it is held against the limit"),
    gauge("fanfare_channels", "Channels with subscribers on this instance"),
    gauge("fanfare_broker_up", "1 while publications go to other instances and come from them"),
    gauge("fanfare_broker_subscriptions", "Channels to which this instance is subscribed at the bus"),
    histogram(
        "fanfare_broker_lag_seconds",
        "From publication, by the publisher's clock, to the write to the last socket of a worker",
    ),
    counter("fanfare_broker_reconnects_total", "Broken connections to the bus that were replaced"),
    counter(
        "fanfare_broker_duplicates_total",
        "Publications that came a second time and were not relayed again",
    ),
    gauge("fanfare_broker_spool_bytes", "Bytes of publications that wait for the bus"),
    counter(
        "fanfare_broker_spool_dropped_total",
        "Publications that others never see, because the spool was full",
    ),
    counter("fanfare_gaps_total", "Times that publications may have been missed, by cause").by("cause"),
    counter(
        "fanfare_unknown_envelopes_total",
        "Messages on the bus that no version of the envelope explains",
    ),
    counter(
        "fanfare_healed_publications_total",
        "Publications that the bus did not bring and that came out of their channel's history",
    ),
    counter("fanfare_heals_total", "Holes that were made good out of a history, by result").by("result"),
    counter("fanfare_history_reads_total", "Reads of a channel's history"),
    counter("fanfare_history_read_failures_total", "Reads of a history that the broker did not answer"),
    histogram(
        "fanfare_history_read_seconds",
        "How long a read of a history took, its wait for its turn not counted",
    ),
    gauge(
        "fanfare_history_kept_bytes",
        "Bytes that histories and idempotency keys take in this instance; 0 with Redis",
    ),
    counter(
        "fanfare_history_given_up_total",
        "Publications forgotten before their time, because history_memory was full",
    ),
    counter(
        "fanfare_idempotency_keys_given_up_total",
        "Idempotency keys forgotten before their time, because history_memory was full",
    ),
    counter("fanfare_commands_total", "Commands of the client protocol, by method and result")
        .by("method, result"),
    counter(
        "fanfare_emulation_requests_total",
        "Requests that brought what a client says to its session, by outcome",
    )
    .by("outcome"),
    counter(
        "fanfare_emulation_lost_total",
        "Requests of clients without WebSockets whose session was no longer on this instance",
    ),
    counter("fanfare_recoveries_total", "Subscriptions that wanted what they had missed, by outcome")
        .by("outcome"),
    counter(
        "fanfare_namespace_publications_total",
        "Publications of clients and of the back end, by namespace",
    )
    .by("namespace"),
    counter("fanfare_namespace_subscribed_total", "Subscriptions that clients were given, by namespace")
        .by("namespace"),
    gauge("fanfare_users", "Different users of the open connections"),
    gauge("fanfare_presence_members", "Members of all channels that are connections of this instance"),
    counter("fanfare_presence_reads_total", "Reads of presence, instances and channels"),
    counter(
        "fanfare_presence_read_failures_total",
        "Reads of presence, instances and channels that the broker did not answer",
    ),
    histogram("fanfare_presence_read_seconds", "How long a read of presence, instances or channels took"),
    counter("fanfare_leases_lost_total", "Times that this instance was taken for dead, or Redis forgot it"),
    counter("fanfare_leases_ended_total", "Instances that this one found dead"),
    counter("fanfare_rows_cleared_total", "Rows of dead instances that this one removed"),
    counter("fanfare_controls_sent_total", "Control messages that were sent to other instances"),
    counter("fanfare_controls_unsent_total", "Control messages that other instances did not get"),
    counter("fanfare_tokens_refused_total", "Tokens that were not believed, by reason").by("reason"),
    counter("fanfare_jwks_fetches_total", "Times that public keys were fetched"),
    counter("fanfare_jwks_failures_total", "Fetches of public keys that failed; the old ones stay valid"),
    gauge("fanfare_jwks_keys", "Fetched keys that tokens are checked with"),
    counter("fanfare_api_calls_total", "Calls of the HTTP API, those in a batch included")
        .by("method, result"),
    counter("fanfare_api_refused_total", "Requests to the HTTP API that were no call, by reason")
        .by("reason"),
    gauge("fanfare_ready", "1 while /readyz says so"),
    gauge("fanfare_draining", "1 from the signal to end on"),
    gauge("fanfare_drain_remaining_connections", "While draining, connections that are still there"),
    counter("fanfare_log_lines_lost_total", "Lines of the log that could not be written, or not in time"),
    gauge("fanfare_tasks", "Tasks of connections, of handshakes under way, and of full sockets"),
    gauge("fanfare_workers", "Threads that own connections"),
    gauge("fanfare_build_info", "1, with the version and revision of the program").by("version, revision"),
];

/// Upper bounds of all histograms, which are of seconds.
pub const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
