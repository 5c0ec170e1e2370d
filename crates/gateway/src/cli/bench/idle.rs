//! `fanfare bench idle`: connections that do nothing. What is measured, and how, the library decides.

use clap::{ArgMatches, Command};
use fanfare_bench::{Bar, Idle};

use super::arguments::{
    compression, concurrency, count, insecure, json, number, pids, processes, protocol, targets, transport,
    urls,
};
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
    Command::new("idle")
        .about("Open connections that do nothing, and read what they cost in memory")
        .arg(urls())
        .args(protocol())
        .arg(transport())
        .arg(insecure())
        .arg(number("connections", "N", "How many").required(true))
        .arg(concurrency("128"))
        .arg(compression())
        .arg(pids())
        .arg(json())
}

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
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
