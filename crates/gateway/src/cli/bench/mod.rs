//! `fanfare bench`: the face of the load generator and auditor in `fanfare_bench`. Here are its arguments,
//! its output and its exit status; what is measured, and how, is decided there.
//!
//! Exit status: 0 when all is sound, 1 when something was lost, doubled or out of order or the run failed, 2
//! for arguments that cannot be used.
#![expect(clippy::print_stdout, reason = "the report goes to standard output, for pipes")]

mod arguments;
mod connect;
mod fanout;
mod floor;
mod hostile;
mod idle;
mod recover;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use fanfare_bench::BenchError;
use serde::Serialize;

/// The subcommand and its own subcommands.
pub fn command() -> Command {
    Command::new("bench")
        .about("Measure a gateway, and check every delivery")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(fanout::command())
        .subcommand(idle::command())
        .subcommand(connect::command())
        .subcommand(recover::command())
        .subcommand(hostile::command())
        .subcommand(floor::command())
        .subcommand(floor::part())
}

/// Runs what was asked for, prints its report, and returns the exit status.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let outcome = match matches.subcommand() {
        Some(("fanout", matches)) => fanout::run(matches),
        Some(("idle", matches)) => idle::run(matches),
        Some(("connect", matches)) => connect::run(matches),
        Some(("recover", matches)) => recover::run(matches),
        Some(("hostile", matches)) => hostile::run(matches),
        Some(("floor", matches)) => floor::run(matches),
        Some(("floor-part", matches)) => floor::run_part(matches),
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
}
