//! `fanfare bench fanout`: one channel, and every delivery to its subscribers. What is measured, and how, the library
//! decides.

use clap::{ArgGroup, ArgMatches, Command};
use fanfare_bench::{Bar, Fanout, Load};

use super::arguments::{
    compression, concurrency, count, duration, insecure, json, message, number, payload, pids, processes,
    protocol, rates, seed, seed_of, switch, targets, timing, transport, urls,
};
use super::floor::this_program;
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
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
             With --transport sse or http-stream, subscribers hear in the body of an answer that does not end, at \
             the endpoints beside those that the URLs name; sessions there answer pings by requests to /emulation, on one \
             connection for each thread and URL. Publishers are WebSocket clients all the same. The floor writes chunks as \
             large as the server's.\n\n\
             With --compression, subscribers offer permessage-deflate; what they get is checked when it is \
             inflated. Publishers and the floor compress nothing. For a figure that means something, let \
             messages be --payload json.\n\n\
             Latency counts from the moment at which a message should have been sent. CPU time and memory \
             are those of the processes given with --pid. Without --reconnect a loss that was announced is a \
             fault as well.",
        )
        .arg(urls())
        .args(protocol())
        .arg(transport())
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

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_one_of_three() {
        let parse = |arguments: &str| {
            command().try_get_matches_from(format!("fanout ws://a --subscribers 1 {arguments}").split(' '))
        };
        for arguments in [
            "--rate 1",
            "--deliveries-per-second 1",
            "--in-flight 1",
            "--rate 1 --pid 1 --pid 2 --settle 1m30s",
            "--rate 1 --payload json --compression",
            "--rate 1 --protocol centrifuge-protobuf --channel news",
            "--rate 1 --protocol centrifuge-protobuf --transport http-stream",
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
            "--rate 1 --transport carrier-pigeon",
        ] {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
    }
}
