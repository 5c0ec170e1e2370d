//! `fanfare bench hostile`: every known attack, and bystanders. What is measured, and how, the library decides.

use clap::{Arg, ArgAction, ArgMatches, Command};
use fanfare_bench::{ATTACKS, Attack, Bar, BenchError, Hostile, HostileReport, Target};

use super::arguments::{
    count, duration, insecure, json, number, pids, processes, rate_of_bystanders, seed, seed_of, targets,
    time, urls,
};
use super::{Outcome, print};

/// The subcommand.
pub fn command() -> Command {
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
             the CPU time that everybody else leaves; without the attack a thread that talks to itself takes as \
             much, since bystanders on the same cores notice that, too. Linux lets whoever takes what others leave \
             go before a server that was interrupted, now and then, for up to 4 ms; so on the attacker's machine the \
             server is best started as root with `chrt --rr 1`, and the report says whether it was.\n\n\
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
        .arg(
            Arg::new("bar")
                .long("bar")
                .value_name("RATIO")
                .value_parser(ratio)
                .help("Fail if the p99 latency grows beyond so many times what it was, under any attack"),
        )
        .arg(pids())
        .arg(seed())
        .arg(json())
}

/// Makes the run, and prints its report.
pub fn run(matches: &ArgMatches) -> Outcome {
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
    Ok(report.is_sound() && keeps_to(matches.get_one("bar").copied(), &report))
}

/// Whether no attack made more of a difference than that; says which did.
fn keeps_to(bar: Option<f64>, report: &HostileReport) -> bool {
    let above = bar.map(|bar| report.above(bar)).unwrap_or_default();
    if let (false, Some(bar)) = (above.is_empty(), bar) {
        eprintln!("above the bar of {bar}: {}", above.join(", "));
    }
    above.is_empty()
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio: &f64| ratio.is_finite() && *ratio >= 1.0);
    ratio.ok_or_else(|| "expected a number of at least 1, such as 1.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_bar_is_told_when_it_is_missed() {
        let siege = |attack: &str, rounds: &[(u64, u64)]| {
            serde_json::json!({
                "attack": attack, "rounds": rounds, "shares": [], "goes": 1, "answers": {}, "unexpected": 0,
                "before": null, "at_worst": null, "after": null,
            })
        };
        // Of three rounds the one in the middle counts.
        let sieges = [
            siege("calm", &[(100, 90), (100, 110), (100, 900)]),
            siege("loud", &[(100, 150), (100, 160), (100, 100)]),
        ];
        let report: HostileReport = serde_json::from_value(serde_json::json!({
            "subscribers": 1, "rate": 1.0, "in_front": false, "server_in_front": false, "sieges": sieges,
            "audit": fanfare_bench::AuditReport::default(), "ends": {},
        }))
        .unwrap();
        for (bar, expected) in [(None, true), (Some("1.6"), true), (Some("1.5"), true), (Some("1.4"), false)]
        {
            let arguments = ["hostile", "ws://127.0.0.1:1"].into_iter();
            let flags = bar.into_iter().flat_map(|bar| ["--bar", bar]);
            let matches = command().try_get_matches_from(arguments.chain(flags)).unwrap();
            assert_eq!(keeps_to(matches.get_one("bar").copied(), &report), expected, "{bar:?}");
        }
        for wrong in ["0.9", "many", "inf", "NaN"] {
            let refused = command().try_get_matches_from(["hostile", "ws://127.0.0.1:1", "--bar", wrong]);
            assert!(refused.unwrap_err().to_string().contains("at least 1"), "{wrong}");
        }
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
            let arguments = ["hostile", url, "--attack", attack];
            let matches = command().try_get_matches_from(arguments).unwrap();
            let refusal = run(&matches).unwrap_err();
            assert!(refusal.to_string().contains(expected), "{url}: {refusal}");
        }
    }
}
