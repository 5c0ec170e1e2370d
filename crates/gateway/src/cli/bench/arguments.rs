//! Arguments that several subcommands of `fanfare bench` take, and how they are read. Whether their values make sense
//! together, the library says.

use std::any::Any;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use fanfare_bench::{BenchError, Payload, Processes, Protocol, Target, Transport};

use crate::config::value::Value;

/// `URL…`, read by [`targets`].
pub fn urls() -> Arg {
    Arg::new("url")
        .value_name("URL")
        .num_args(1..)
        .required(true)
        .help("Instances to connect to, in turn: ws://HOST:PORT/PATH or wss://…")
}

/// `--protocol` and `--channel`, read by [`spoken`] and [`targets`].
pub fn protocol() -> [Arg; 2] {
    [
        Arg::new("protocol")
            .long("protocol")
            .value_name("P")
            .value_parser(value_parser!(Protocol))
            .default_value("raw")
            .help(
                "What is spoken: raw, centrifuge-json or centrifuge-protobuf; those at /connection/websocket",
            ),
        Arg::new("channel")
            .long("channel")
            .value_name("C")
            .default_value("bench")
            .help("The channel, where the URL's path does not name it"),
    ]
}

/// `--transport`, read by [`carried`].
pub fn transport() -> Arg {
    Arg::new("transport")
        .long("transport")
        .value_name("T")
        .value_parser(value_parser!(Transport))
        .default_value("websocket")
        .help(
            "What carries what is heard: websocket, sse (at /sse/{channel}, or /connection/sse) or http-stream (at \
             /connection/http_stream)",
        )
}

/// `--insecure`, read by [`targets`].
pub fn insecure() -> Arg {
    switch("insecure", "Take any certificate at wss:// URLs")
}

/// `--size` in bytes, a [`count`], and `--payload`, read by [`payload`].
pub fn message() -> [Arg; 2] {
    [
        number("size", "BYTES", "Bytes of each message, its stamp included").default_value("128"),
        Arg::new("payload").long("payload").value_name("KIND").value_parser(value_parser!(Payload)).help(
            "What messages are: binary, text, or json, whose values differ from message to message \
                 [default: binary, text for raw events, json for the Centrifuge protocol]",
        ),
    ]
}

/// `--compression`.
pub fn compression() -> Arg {
    switch("compression", "Connections that listen offer permessage-deflate, and the server has to agree")
}

/// `--rate` and `--deliveries-per-second`, of which one is enough: the other follows from the number of subscribers.
pub fn rates() -> [Arg; 2] {
    let rate = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("R").value_parser(value_parser!(f64)).help(help)
    };
    [
        rate("rate", "Messages a second in all"),
        rate("deliveries-per-second", "The same, as deliveries to subscribers a second"),
    ]
}

/// `--rate`, for runs in which others are what is measured.
pub fn rate_of_bystanders() -> Arg {
    Arg::new("rate")
        .long("rate")
        .value_name("R")
        .value_parser(value_parser!(f64))
        .default_value("500")
        .help("Messages a second that they hear")
}

/// `--duration`, `--warmup` and `--settle`, read by [`duration`].
pub fn timing() -> [Arg; 3] {
    [
        time("duration", "10s", "How long each round measures"),
        time("warmup", "1s", "How long each round runs before it measures"),
        time("settle", "5s", "How long to wait for what is missing, after the last delivery"),
    ]
}

/// A time as in the configuration, such as `10s`, read by [`duration`].
pub fn time(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("TIME")
        .value_parser(parse_duration)
        .default_value(default)
        .help(help)
}

/// `--concurrency`, a [`count`].
pub fn concurrency(default: &'static str) -> Arg {
    number("concurrency", "C", "Handshakes under way at a time").default_value(default)
}

/// `--pid`, any number of times, read by [`processes`].
pub fn pids() -> Arg {
    Arg::new("pid")
        .long("pid")
        .value_name("PID")
        .action(ArgAction::Append)
        .value_parser(value_parser!(u32))
        .help("A process of the server, for its CPU time and memory; may be repeated")
}

/// `--seed`, read by [`seed_of`].
pub fn seed() -> Arg {
    Arg::new("seed")
        .long("seed")
        .value_name("N")
        .value_parser(value_parser!(u64))
        .default_value("1")
        .help("The same seed makes the same schedule")
}

/// `--json`.
pub fn json() -> Arg {
    switch("json", "Print the report as JSON")
}

/// A number from 0 on, read by [`count`]; `value` is what the help calls it.
pub fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(usize)).help(help)
}

/// One without a value.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// Where to connect to, and what is spoken there, in the order of the URLs.
///
/// # Errors
///
/// When a URL is none, or does not go with the protocol or the transport.
pub fn targets(matches: &ArgMatches) -> Result<Vec<Target>, BenchError> {
    let urls = matches.get_many::<String>("url").unwrap_or_default();
    // Not every run has it.
    let insecure = argument(matches, "insecure").copied().unwrap_or(false);
    let channel = argument::<String>(matches, "channel").map_or("", String::as_str);
    let resolve = |url: &String| {
        let target = Target::speaking(url, spoken(matches), channel);
        let target = target.and_then(|target| target.over(carried(matches)));
        let target = target.map_err(|error| BenchError::Setting(error.to_string()))?;
        Ok(if insecure { target.with_any_certificate() } else { target })
    };
    urls.map(resolve).collect()
}

/// The processes that are watched; none without `--pid`.
///
/// # Errors
///
/// When there is no such process.
pub fn processes(matches: &ArgMatches) -> Result<Processes, BenchError> {
    let pids = matches.get_many::<u32>("pid").unwrap_or_default().copied().collect();
    Processes::new(pids).map_err(|error| BenchError::Setting(error.to_string()))
}

/// What messages are: as asked for, or what the protocol carries as it is.
pub fn payload(matches: &ArgMatches) -> Payload {
    let usual = match (spoken(matches), carried(matches)) {
        (Protocol::Raw, Transport::WebSocket) => Payload::Binary,
        // Bytes would go in base64.
        (Protocol::Raw, _) => Payload::Text,
        _ => Payload::Json,
    };
    matches.get_one("payload").copied().unwrap_or(usual)
}

/// What is spoken; raw where a subcommand has no choice.
pub fn spoken(matches: &ArgMatches) -> Protocol {
    argument(matches, "protocol").copied().unwrap_or_default()
}

/// What carries what is heard; a WebSocket where a subcommand has no choice.
pub fn carried(matches: &ArgMatches) -> Transport {
    argument(matches, "transport").copied().unwrap_or_default()
}

/// An argument that is required or has a default, or 0, which the library refuses where it makes no sense.
pub fn count(matches: &ArgMatches, name: &str) -> usize {
    matches.get_one(name).copied().unwrap_or_default()
}

/// A time that has a default.
pub fn duration(matches: &ArgMatches, name: &str) -> Duration {
    matches.get_one(name).copied().unwrap_or_default()
}

/// What schedules are drawn from.
pub fn seed_of(matches: &ArgMatches) -> u64 {
    matches.get_one("seed").copied().unwrap_or_default()
}

/// One that not all subcommands have.
pub fn argument<'m, T: Any + Clone + Send + Sync>(matches: &'m ArgMatches, name: &str) -> Option<&'m T> {
    matches.try_get_one(name).ok().flatten()
}

/// As in the configuration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).map_err(|_| format!("expected {}", Duration::EXPECTED))
}
