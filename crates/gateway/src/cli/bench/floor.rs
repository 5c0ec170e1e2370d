//! `fanfare bench floor`, and the hidden subcommand as which this program is started again to play a part in it. What
//! is measured, and how, the library decides.

use clap::{Arg, ArgGroup, ArgMatches, Command};
use fanfare_bench::{Bar, BenchError, Floor, Program, play};

use super::arguments::{count, duration, json, message, number, payload, rates, seed, seed_of, timing};
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
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

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
    let subscribers = count(matches, "subscribers");
    let deliveries = matches.get_one::<f64>("deliveries-per-second").copied().unwrap_or_default();
    let rate = matches.get_one("rate").copied().unwrap_or(deliveries / subscribers.max(1) as f64);
    let floor = Floor {
        subscribers,
        size: count(matches, "size"),
        payload: payload(matches),
        chunked: false,
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
pub fn part() -> Command {
    Command::new("floor-part")
        .hide(true)
        .arg(Arg::new("part").required(true))
        .arg(Arg::new("settings").required(true))
}

/// Plays the part.
pub fn run_part(matches: &ArgMatches) -> Outcome {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    play(text("part"), text("settings"), &this_program()?, &mut input, &mut output)?;
    Ok(true)
}

/// This program, as what a floor starts.
pub fn this_program() -> Result<Program, BenchError> {
    Ok(Program {
        path: std::env::current_exe()?,
        arguments: vec!["bench".to_owned(), "floor-part".to_owned()],
    })
}
