//! `fanfare bench`: the face of the load generator and auditor in `fanfare_bench`. Here are its arguments,
//! its output and its exit status; what is measured, and how, is decided there.
//!
//! Exit status: 0 when all is sound, 1 when something was lost, doubled or out of order or the run failed, 2
//! for arguments that cannot be used.
#![expect(clippy::print_stdout, reason = "the report goes to standard output, for pipes")]

use std::any::Any;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use fanfare_bench::{
    ATTACKS, Attack, Bar, BenchError, Connect, Fanout, Floor, Hostile, Idle, Load, Loss, Payload, Processes,
    Program, Protocol, Recover, Target, play,
};
use serde::Serialize;

use crate::config::value::Value;

/// The subcommand and its own subcommands.
pub fn command() -> Command {
    Command::new("bench")
        .about("Measure a gateway, and check every delivery")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(fanout())
        .subcommand(idle())
        .subcommand(connect())
        .subcommand(recover())
        .subcommand(hostile())
        .subcommand(floor())
        .subcommand(part())
}

/// Runs what was asked for, prints its report, and returns the exit status.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let outcome = match matches.subcommand() {
        Some(("fanout", matches)) => run_fanout(matches),
        Some(("idle", matches)) => run_idle(matches),
        Some(("connect", matches)) => run_connect(matches),
        Some(("recover", matches)) => run_recover(matches),
        Some(("hostile", matches)) => run_hostile(matches),
        Some(("floor", matches)) => run_floor(matches),
        Some(("floor-part", matches)) => run_part(matches),
        _ => Err(BenchError::Setting("expected fanout, idle, connect, recover, hostile or floor".to_owned())),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fanfare bench: {error}");
            if matches!(error, BenchError::Setting(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether all was sound.
type Outcome = Result<bool, BenchError>;

fn fanout() -> Command {
    Command::new("fanout")
        .about("Publish to one channel and check every delivery to its subscribers")
        .long_about(
            "Publish to one channel and check every delivery to its subscribers: once, in order, nothing \
             silent.\n\n\
             Subscribers and publishers take the URLs in turn; all must name the same channel (without a \
             path, /ws/bench). Subscribers join with notices=true, publishers with echo=false: with one \
             publisher, every delivery is to a subscriber and checked; what several publishers get from one \
             another is read and counted as delivered, and not checked.\n\n\
             With --protocol centrifuge-json or centrifuge-protobuf, all are clients of the Centrifuge protocol, and \
             the channel is --channel. A connection counts as open when it is subscribed. The floor writes frames \
             as large as the server's.\n\n\
             With --compression, subscribers offer permessage-deflate; what they get is checked when it is \
             inflated. Publishers and the floor compress nothing. For a figure that means something, let \
             messages be --payload json.\n\n\
             Latency counts from the moment at which a message should have been sent. CPU time and memory \
             are those of the processes given with --pid. Without --reconnect a loss that was announced is a \
             fault as well.",
        )
        .arg(urls())
        .args(protocol())
        .arg(insecure())
        .arg(number("subscribers", "N", "Connections that subscribe").required(true))
        .arg(number("publishers", "P", "Connections that publish, in turn").default_value("1"))
        .args(message())
        .arg(compression())
        .args(rates())
        .arg(number(
            "in-flight",
            "K",
            "Flat out: each publisher keeps K messages under way until every subscriber has them",
        ))
        .group(ArgGroup::new("load").args(["rate", "deliveries-per-second", "in-flight"]).required(true))
        .args(timing())
        .arg(number("rounds", "N", "How many rounds [default: 3 with --floor or --in-flight, else 1]"))
        .arg(number("threads", "N", "Threads for the subscribers").default_value("1"))
        .arg(concurrency("128"))
        .arg(switch(
            "reconnect",
            "Who loses the connection comes back, to the next URL; an announced loss is no fault then",
        ))
        .arg(switch(
            "floor",
            "Measure the floor in slices between, and the ratio to it; needs --pid and a rate",
        ))
        .arg(pids())
        .arg(seed())
        .arg(json())
}

fn run_fanout(matches: &ArgMatches) -> Outcome {
    let subscribers = count(matches, "subscribers");
    let load = match (matches.get_one::<f64>("rate"), matches.get_one::<f64>("deliveries-per-second")) {
        (Some(rate), _) => Load::Rate(*rate),
        (_, Some(deliveries)) => Load::Rate(deliveries / subscribers.max(1) as f64),
        _ => Load::InFlight(count(matches, "in-flight")),
    };
    let with_floor = matches.get_flag("floor");
    let rounds = if with_floor || matches!(load, Load::InFlight(_)) { 3 } else { 1 };
    let fanout = Fanout {
        targets: targets(matches)?,
        subscribers,
        publishers: count(matches, "publishers"),
        size: count(matches, "size"),
        payload: payload(matches),
        compression: matches.get_flag("compression"),
        load,
        duration: duration(matches, "duration"),
        warmup: duration(matches, "warmup"),
        rounds: matches.get_one("rounds").copied().unwrap_or(rounds),
        settle: duration(matches, "settle"),
        threads: count(matches, "threads"),
        concurrency: count(matches, "concurrency"),
        processes: processes(matches)?,
        reconnect: matches.get_flag("reconnect"),
        floor: if with_floor { Some(this_program()?) } else { None },
        seed: seed_of(matches),
    };
    let report = fanout.run(&mut Bar::new())?;
    print(matches, &report)?;
    Ok(report.is_sound())
}

fn idle() -> Command {
    Command::new("idle")
        .about("Open connections that do nothing, and read what they cost in memory")
        .arg(urls())
        .args(protocol())
        .arg(insecure())
        .arg(number("connections", "N", "How many").required(true))
        .arg(concurrency("128"))
        .arg(compression())
        .arg(pids())
        .arg(json())
}

fn run_idle(matches: &ArgMatches) -> Outcome {
    let idle = Idle {
        targets: targets(matches)?,
        connections: count(matches, "connections"),
        concurrency: count(matches, "concurrency"),
        compression: matches.get_flag("compression"),
        processes: processes(matches)?,
    };
    let report = idle.run(&mut Bar::new())?;
    print(matches, &report)?;
    Ok(report.is_sound())
}

fn connect() -> Command {
    Command::new("connect")
        .about("Connect, shake hands and close, over and over, and read what it costs")
        .arg(urls())
        .args(protocol())
        .arg(insecure())
        .arg(number("connections", "N", "How many in all").required(true))
        .arg(concurrency("64"))
        .arg(pids())
        .arg(json())
}

fn run_connect(matches: &ArgMatches) -> Outcome {
    let connect = Connect {
        targets: targets(matches)?,
        connections: count(matches, "connections"),
        concurrency: count(matches, "concurrency"),
        processes: processes(matches)?,
    };
    let report = connect.run(&mut Bar::new())?;
    print(matches, &report)?;
    Ok(report.is_sound())
}

fn recover() -> Command {
    Command::new("recover")
        .about("Let many clients lose their instance and come back at once to another, and check what they recover")
        .long_about(
            "Let many clients lose their instance and come back at once to another, and check what they recover.\n\n\
             The clients are at the first URL, in channels whose names are --channel and a number; they need \
             recovery = \"allow\" there, and a history as long as what is missed. With --kill the instance is killed, \
             otherwise their sockets are closed. While they are away, --missed messages are published in each \
             channel; then all come back at once to the other URLs. Bystanders there hear each other in --channel \
             itself, and their latency is measured before and during the storm.\n\n\
             --pid names processes of the other instances. With --redis, what that Redis was asked for during the storm \
             is reported for each client; what scripts call is counted there as well.",
        )
        .arg(urls())
        .args(protocol())
        .arg(insecure())
        .arg(number("clients", "N", "Clients that lose their instance").required(true))
        .arg(number("channels", "C", "Over how many channels they are spread").default_value("100"))
        .arg(number("missed", "M", "Messages of each channel that they miss").default_value("20"))
        .arg(number("size", "BYTES", "Bytes of each message, its stamp included").default_value("128"))
        .arg(
            Arg::new("kill")
                .long("kill")
                .value_name("PID")
                .value_parser(value_parser!(u32))
                .help("The process of the first URL, which is killed [default: the clients' sockets are closed]"),
        )
        .arg(number("bystanders", "N", "Bystanders at the other URLs").default_value("20"))
        .arg(rate_of_bystanders())
        .arg(time("duration", "5s", "How long bystanders are measured before the storm"))
        .arg(time("patience", "60s", "How long the storm may take"))
        .arg(concurrency("1000"))
        .arg(Arg::new("redis").long("redis").value_name("HOST:PORT").help("The Redis between the instances"))
        .arg(pids())
        .arg(seed())
        .arg(json())
}

fn run_recover(matches: &ArgMatches) -> Outcome {
    let recover = Recover {
        targets: targets(matches)?,
        loss: matches.get_one("kill").copied().map_or(Loss::Cut, Loss::Kill),
        clients: count(matches, "clients"),
        channels: count(matches, "channels"),
        missed: count(matches, "missed") as u64,
        size: count(matches, "size"),
        bystanders: count(matches, "bystanders"),
        rate: matches.get_one("rate").copied().unwrap_or_default(),
        duration: duration(matches, "duration"),
        concurrency: count(matches, "concurrency"),
        patience: duration(matches, "patience"),
        processes: processes(matches)?,
        redis: matches.get_one("redis").cloned(),
        seed: seed_of(matches),
    };
    let report = recover.run(&mut Bar::new())?;
    print(matches, &report)?;
    Ok(report.is_sound())
}

fn hostile() -> Command {
    let attacks: Vec<String> = ATTACKS
        .iter()
        .map(|attack| format!("  {:<21} {}; held by {}", attack.name, attack.does, attack.bound))
        .collect();
    Command::new("hostile")
        .about("Attack an instance, and measure what bystanders notice")
        .long_about(
            "Attack an instance in every known way, one after another, and measure what bystanders in a channel of \
             their own notice of it: the p99 latency of what they say to each other, without and under the attack, \
             in turn. Latency counts from the moment at which a message should have been sent. The attacker takes \
             the CPU time that everybody else leaves; without the attack a thread that only spins takes as much, \
             since bystanders on the same cores notice that, too.\n\n\
             Only against instances of your own. It opens up to 8,000 sockets. Floods of messages are held by \
             message_rate and bombs by compression's bounds, where the instance is started with them.",
        )
        .after_help(format!("Attacks:\n{}", attacks.join("\n")))
        .arg(urls())
        .arg(insecure())
        .arg(
            Arg::new("attack")
                .long("attack")
                .value_name("NAME")
                .action(ArgAction::Append)
                .help("This attack only; may be repeated"),
        )
        .arg(number("subscribers", "N", "Bystanders that subscribe").default_value("10"))
        .arg(rate_of_bystanders())
        .arg(time("duration", "4s", "How long each slice is, without and under attack"))
        .arg(number("rounds", "N", "Rounds of two slices for each attack").default_value("3"))
        .arg(pids())
        .arg(seed())
        .arg(json())
}

fn run_hostile(matches: &ArgMatches) -> Outcome {
    let named = matches.get_many::<String>("attack").unwrap_or_default();
    let unknown = |name: &String| BenchError::Setting(format!("there is no attack `{name}`; see --help"));
    let named: Vec<&'static Attack> =
        named.map(|name| Attack::named(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?;
    let targets = targets(matches)?;
    let secure = targets.iter().all(Target::is_secure);
    if let Some(attack) = named.iter().find(|attack| attack.needs_tls && !secure) {
        let problem = format!("{} is an attack on TLS: expected a wss:// URL", attack.name);
        return Err(BenchError::Setting(problem));
    }
    let possible = || ATTACKS.iter().filter(|attack| secure || !attack.needs_tls).collect();
    let hostile = Hostile {
        targets,
        attacks: if named.is_empty() { possible() } else { named },
        subscribers: count(matches, "subscribers"),
        rate: matches.get_one("rate").copied().unwrap_or_default(),
        duration: duration(matches, "duration"),
        rounds: count(matches, "rounds"),
        processes: processes(matches)?,
        seed: seed_of(matches),
    };
    let report = hostile.run(&mut Bar::new())?;
    print(matches, &report)?;
    Ok(report.is_sound())
}

fn floor() -> Command {
    Command::new("floor")
        .about("Measure the yardstick: one thread that only writes a prepared frame to as many sockets")
        .arg(number("subscribers", "N", "Sockets to write to").required(true))
        .args(message())
        .args(rates())
        .group(ArgGroup::new("load").args(["rate", "deliveries-per-second"]).required(true))
        .args(timing())
        .arg(number("rounds", "N", "Rounds of that duration").default_value("3"))
        .arg(number("threads", "N", "Threads for the receivers").default_value("1"))
        .arg(seed())
        .arg(json())
}

fn run_floor(matches: &ArgMatches) -> Outcome {
    let subscribers = count(matches, "subscribers");
    let deliveries = matches.get_one::<f64>("deliveries-per-second").copied().unwrap_or_default();
    let rate = matches.get_one("rate").copied().unwrap_or(deliveries / subscribers.max(1) as f64);
    let floor = Floor {
        subscribers,
        size: count(matches, "size"),
        payload: payload(matches),
        rate,
        duration: duration(matches, "duration"),
        warmup: duration(matches, "warmup"),
        rounds: count(matches, "rounds"),
        settle: duration(matches, "settle"),
        threads: count(matches, "threads"),
        seed: seed_of(matches),
    };
    print(matches, &floor.run(&this_program()?, &mut Bar::new())?)?;
    Ok(true)
}

/// How this program starts itself to play a part in a floor; nothing for people.
fn part() -> Command {
    Command::new("floor-part")
        .hide(true)
        .arg(Arg::new("part").required(true))
        .arg(Arg::new("settings").required(true))
}

fn run_part(matches: &ArgMatches) -> Outcome {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    play(text("part"), text("settings"), &this_program()?, &mut input, &mut output)?;
    Ok(true)
}

fn this_program() -> Result<Program, BenchError> {
    Ok(Program {
        path: std::env::current_exe()?,
        arguments: vec!["bench".to_owned(), "floor-part".to_owned()],
    })
}

fn urls() -> Arg {
    Arg::new("url")
        .value_name("URL")
        .num_args(1..)
        .required(true)
        .help("Instances to connect to, in turn: ws://HOST:PORT/PATH or wss://…")
}

fn protocol() -> [Arg; 2] {
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

fn message() -> [Arg; 2] {
    [
        number("size", "BYTES", "Bytes of each message, its stamp included").default_value("128"),
        Arg::new("payload").long("payload").value_name("KIND").value_parser(value_parser!(Payload)).help(
            "What messages are: binary, text, or json, whose values differ from message to message \
                 [default: binary, json for the Centrifuge protocol]",
        ),
    ]
}

fn compression() -> Arg {
    switch("compression", "Connections that listen offer permessage-deflate, and the server has to agree")
}

fn rates() -> [Arg; 2] {
    let rate = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("R").value_parser(value_parser!(f64)).help(help)
    };
    [
        rate("rate", "Messages a second in all"),
        rate("deliveries-per-second", "The same, as deliveries to subscribers a second"),
    ]
}

fn rate_of_bystanders() -> Arg {
    Arg::new("rate")
        .long("rate")
        .value_name("R")
        .value_parser(value_parser!(f64))
        .default_value("500")
        .help("Messages a second that they hear")
}

fn time(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("TIME")
        .value_parser(parse_duration)
        .default_value(default)
        .help(help)
}

fn timing() -> [Arg; 3] {
    [
        time("duration", "10s", "How long each round measures"),
        time("warmup", "1s", "How long each round runs before it measures"),
        time("settle", "5s", "How long to wait for what is missing, after the last delivery"),
    ]
}

fn concurrency(default: &'static str) -> Arg {
    number("concurrency", "C", "Handshakes under way at a time").default_value(default)
}

fn insecure() -> Arg {
    switch("insecure", "Take any certificate at wss:// URLs")
}

fn pids() -> Arg {
    Arg::new("pid")
        .long("pid")
        .value_name("PID")
        .action(ArgAction::Append)
        .value_parser(value_parser!(u32))
        .help("A process of the server, for its CPU time and memory; may be repeated")
}

fn seed() -> Arg {
    Arg::new("seed")
        .long("seed")
        .value_name("N")
        .value_parser(value_parser!(u64))
        .default_value("1")
        .help("The same seed makes the same schedule")
}

fn json() -> Arg {
    switch("json", "Print the report as JSON")
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(usize)).help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn targets(matches: &ArgMatches) -> Result<Vec<Target>, BenchError> {
    let urls = matches.get_many::<String>("url").unwrap_or_default();
    // Not every run has it.
    let insecure = argument(matches, "insecure").copied().unwrap_or(false);
    let channel = argument::<String>(matches, "channel").map_or("", String::as_str);
    let resolve = |url: &String| {
        let target = Target::speaking(url, spoken(matches), channel);
        let target = target.map_err(|error| BenchError::Setting(error.to_string()))?;
        Ok(if insecure { target.with_any_certificate() } else { target })
    };
    urls.map(resolve).collect()
}

fn processes(matches: &ArgMatches) -> Result<Processes, BenchError> {
    let pids = matches.get_many::<u32>("pid").unwrap_or_default().copied().collect();
    Processes::new(pids).map_err(|error| BenchError::Setting(error.to_string()))
}

/// An argument that is required or has a default, or 0, which the library refuses where it makes no sense.
fn count(matches: &ArgMatches, name: &str) -> usize {
    matches.get_one(name).copied().unwrap_or_default()
}

fn payload(matches: &ArgMatches) -> Payload {
    let usual = if spoken(matches) == Protocol::Raw { Payload::Binary } else { Payload::Json };
    matches.get_one("payload").copied().unwrap_or(usual)
}

fn spoken(matches: &ArgMatches) -> Protocol {
    argument(matches, "protocol").copied().unwrap_or_default()
}

/// One that not all subcommands have.
fn argument<'m, T: Any + Clone + Send + Sync>(matches: &'m ArgMatches, name: &str) -> Option<&'m T> {
    matches.try_get_one(name).ok().flatten()
}

fn duration(matches: &ArgMatches, name: &str) -> Duration {
    matches.get_one(name).copied().unwrap_or_default()
}

fn seed_of(matches: &ArgMatches) -> u64 {
    matches.get_one("seed").copied().unwrap_or_default()
}

/// As in the configuration.
fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).map_err(|_| format!("expected {}", Duration::EXPECTED))
}

fn print<R: Serialize + Display>(matches: &ArgMatches, report: &R) -> Result<(), BenchError> {
    if matches.get_flag("json") {
        let json = serde_json::to_string_pretty(report)
            .map_err(|error| BenchError::Io(std::io::Error::other(error)))?;
        println!("{json}");
    } else {
        print!("{report}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn an_attack_on_tls_is_on_somebody_who_speaks_it() {
        // Nobody listens on port 1.
        for (url, attack, expected) in [
            ("ws://127.0.0.1:1", "churn", "refused"),
            ("wss://127.0.0.1:1", "churn", "refused"),
            ("wss://127.0.0.1:1", "tls-garbage", "refused"),
            ("ws://127.0.0.1:1", "tls-garbage", "expected a wss:// URL"),
            ("ws://127.0.0.1:1", "nonsense", "no attack `nonsense`"),
        ] {
            let arguments = ["bench", "hostile", url, "--attack", attack];
            let matches = command().try_get_matches_from(arguments).unwrap();
            let refusal = run_hostile(matches.subcommand_matches("hostile").unwrap()).unwrap_err();
            assert!(refusal.to_string().contains(expected), "{url}: {refusal}");
        }
    }

    #[test]
    fn a_load_is_one_of_three() {
        let parse = |arguments: &str| {
            command()
                .try_get_matches_from(format!("bench fanout ws://a --subscribers 1 {arguments}").split(' '))
        };
        for arguments in [
            "--rate 1",
            "--deliveries-per-second 1",
            "--in-flight 1",
            "--rate 1 --pid 1 --pid 2 --settle 1m30s",
            "--rate 1 --payload json --compression",
            "--rate 1 --protocol centrifuge-protobuf --channel news",
        ] {
            assert!(parse(arguments).is_ok(), "{arguments}");
        }
        for arguments in [
            "--json",
            "--rate 1 --in-flight 1",
            "--rate x",
            "--rate 1 --duration 10",
            "--rate 1 --payload xml",
            "--rate 1 --protocol pusher",
        ] {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
    }
}
