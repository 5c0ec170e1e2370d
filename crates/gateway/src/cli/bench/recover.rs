//! `fanfare bench recover`: clients that lose their instance. What is measured, and how, the library decides.

use clap::{Arg, ArgMatches, Command, value_parser};
use fanfare_bench::{Bar, Loss, Recover};

use super::arguments::{
    concurrency, count, duration, insecure, json, number, pids, processes, protocol, rate_of_bystanders,
    seed, seed_of, targets, time, urls,
};
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
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

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
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
