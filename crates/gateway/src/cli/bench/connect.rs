//! `fanfare bench connect`: handshakes, one after another. What is measured, and how, the library decides.

use clap::{ArgMatches, Command};
use fanfare_bench::{Bar, Connect};

use super::arguments::{
    concurrency, count, insecure, json, number, pids, processes, protocol, targets, urls,
};
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
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

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
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
