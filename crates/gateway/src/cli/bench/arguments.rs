//! Arguments that several subcommands of `fanfare bench` take, and how they are read. Whether their values make sense
//! together, the library says.

use std::any::Any;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use fanfare_bench::{BenchError, Payload, Processes, Protocol, Target, Transport};

use crate::config::value::Value;

pub fn urls() -> Arg {
    Arg::new("url")
        .value_name("URL")
        .num_args(1..)
        .required(true)
        .help("Instances to connect to, in turn: ws://HOST:PORT/PATH or wss://…")
}

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

pub fn insecure() -> Arg {
    switch("insecure", "Take any certificate at wss:// URLs")
}

pub fn message() -> [Arg; 2] {
    [
        number("size", "BYTES", "Bytes of each message, its stamp included").default_value("128"),
        Arg::new("payload").long("payload").value_name("KIND").value_parser(value_parser!(Payload)).help(
            "What messages are: binary, text, or json, whose values differ from message to message \
                 [default: binary, text for raw events, json for the Centrifuge protocol]",
        ),
    ]
}

pub fn compression() -> Arg {
    switch("compression", "Connections that listen offer permessage-deflate, and the server has to agree")
}

pub fn rates() -> [Arg; 2] {
    let rate = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("R").value_parser(value_parser!(f64)).help(help)
    };
    [
        rate("rate", "Messages a second in all"),
        rate("deliveries-per-second", "The same, as deliveries to subscribers a second"),
    ]
}

pub fn rate_of_bystanders() -> Arg {
    Arg::new("rate")
        .long("rate")
        .value_name("R")
        .value_parser(value_parser!(f64))
        .default_value("500")
        .help("Messages a second that they hear")
}

pub fn timing() -> [Arg; 3] {
    [
        time("duration", "10s", "How long each round measures"),
        time("warmup", "1s", "How long each round runs before it measures"),
        time("settle", "5s", "How long to wait for what is missing, after the last delivery"),
    ]
}

pub fn time(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("TIME")
        .value_parser(parse_duration)
        .default_value(default)
        .help(help)
}

pub fn concurrency(default: &'static str) -> Arg {
    number("concurrency", "C", "Handshakes under way at a time").default_value(default)
}

pub fn pids() -> Arg {
    Arg::new("pid")
        .long("pid")
        .value_name("PID")
        .action(ArgAction::Append)
        .value_parser(value_parser!(u32))
        .help("A process of the server, for its CPU time and memory; may be repeated")
}

pub fn seed() -> Arg {
    Arg::new("seed")
        .long("seed")
        .value_name("N")
        .value_parser(value_parser!(u64))
        .default_value("1")
        .help("The same seed makes the same schedule")
}

pub fn json() -> Arg {
    switch("json", "Print the report as JSON")
}

pub fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(usize)).help(help)
}

pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

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

pub fn processes(matches: &ArgMatches) -> Result<Processes, BenchError> {
    let pids = matches.get_many::<u32>("pid").unwrap_or_default().copied().collect();
    Processes::new(pids).map_err(|error| BenchError::Setting(error.to_string()))
}

pub fn payload(matches: &ArgMatches) -> Payload {
    let usual = match (spoken(matches), carried(matches)) {
        (Protocol::Raw, Transport::WebSocket) => Payload::Binary,
        // Bytes would go in base64.
        (Protocol::Raw, _) => Payload::Text,
        _ => Payload::Json,
    };
    matches.get_one("payload").copied().unwrap_or(usual)
}

pub fn spoken(matches: &ArgMatches) -> Protocol {
    argument(matches, "protocol").copied().unwrap_or_default()
}

pub fn carried(matches: &ArgMatches) -> Transport {
    argument(matches, "transport").copied().unwrap_or_default()
}

/// An argument that is required or has a default, or 0, which the library refuses where it makes no sense.
pub fn count(matches: &ArgMatches, name: &str) -> usize {
    matches.get_one(name).copied().unwrap_or_default()
}

pub fn duration(matches: &ArgMatches, name: &str) -> Duration {
    matches.get_one(name).copied().unwrap_or_default()
}

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
