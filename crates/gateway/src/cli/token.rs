//! `fanfare token`: makes a token to try a gateway with, and says what is in one and whether this configuration would
//! believe it. What makes a token good is decided in [`crate::identity`].
//!
//! Exit status of `check`: 0 for a token that is valid here, 1 for one that is not, 2 when that could not be asked.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use fanfare_protocol::Channel;
use serde_json::{Map, Value};

use super::{Failure, Surroundings, flags};
use crate::config::value::Value as _;
use crate::config::{Config, KEYS, regular_file};
use crate::expiry::Expiry;
use crate::identity::{Examined, Purpose, SubscriptionToken, TokenFault, User, Verifier};
use crate::signature::{Algorithm, Signer};

/// The command and its own commands.
pub fn command() -> Command {
    Command::new("token")
        .about("Make a token, or say what is in one and whether it is valid here")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(create())
        .subcommand(check())
}

/// Does what was asked for.
pub(super) fn run(matches: &ArgMatches, surroundings: Surroundings) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("create", matches)) => run_create(matches, surroundings),
        Some(("check", matches)) => run_check(matches, surroundings),
        _ => Err(usage("expected `token create` or `token check`")),
    }
}

fn create() -> Command {
    Command::new("create")
        .about("Print a token, signed with the first secret of the configuration or a key of yours")
        .after_help(
            "Examples:\n  \
             fanfare token create --user 42                      who the client is\n  \
             fanfare token create --user 42 --channel '$room'    the one channel that it opens\n  \
             fanfare token create --user 42 --info '{\"name\":\"Ann\"}' --claim 'channels=[\"news\"]'\n  \
             fanfare token create --user 42 --private-key key.pem --algorithm RS512",
        )
        .arg(text("user", "NAME", "The user; without it the client is anonymous"))
        .arg(
            text("channel", "NAME", "Make a subscription token, which opens this channel")
                .value_parser(parse_channel),
        )
        .arg(
            text("expires-in", "DURATION", "How long it is valid; 0 for ever")
                .default_value("1h")
                .value_parser(parse_duration),
        )
        .arg(text("info", "JSON", "What others are shown of the client").value_parser(parse_json))
        .arg(text("data", "JSON", "What the client is sent with its subscription").value_parser(parse_json))
        .arg(
            text("claim", "NAME=JSON", "Any other claim; may be repeated")
                .action(ArgAction::Append)
                .value_parser(parse_claim),
        )
        .arg(
            text("private-key", "FILE", "Sign with this PEM file, not with the configuration's secret")
                .value_parser(value_parser!(std::path::PathBuf)),
        )
        .arg(
            text("algorithm", "NAME", "Sign so; without it, with the first that the key is for")
                .value_parser(PossibleValuesParser::new(Algorithm::ALL.map(|(name, _)| name))),
        )
        .arg(text("kid", "ID", "The key's id, for whoever looks it up in a JWKS"))
        .arg(flags::file())
        .args(identity_flags())
}

fn run_create(matches: &ArgMatches, surroundings: Surroundings) -> Result<(), Failure> {
    let config = flags::load(matches, surroundings)?.0;
    let signer = signer(matches, &config)?;
    let claims = claims(matches, &config)?;
    let kid = matches.get_one::<String>("kid").map(String::as_str);
    let token = signer.sign(&claims, kid).map_err(|error| Failure { line: error.to_string(), code: 1 })?;
    print(&format!("{token}\n"));
    Ok(())
}

fn signer(matches: &ArgMatches, config: &Config) -> Result<Signer, Failure> {
    let algorithm = matches.get_one::<String>("algorithm");
    let algorithm: Option<Algorithm> = algorithm.and_then(|name| name.parse().ok());
    if let Some(path) = matches.get_one::<std::path::PathBuf>("private-key") {
        let said = |why: &dyn std::fmt::Display| usage(&format!("`--private-key` {}: {why}", path.display()));
        let pem = regular_file::read_text(path).map_err(|error| said(&error))?;
        return Signer::from_pem(&pem, algorithm).map_err(|fault| said(&fault));
    }
    let listed = config.token_secrets_file.iter().flat_map(|file| &file.secrets);
    let secret = config.token_secrets.iter().chain(listed).next().ok_or_else(|| {
        usage("there is nothing to sign with: set `token_secrets`, or name a `--private-key FILE`")
    })?;
    Signer::from_secret(&secret.secret, algorithm).map_err(|fault| {
        usage(&format!("`--algorithm`: {fault}; without `--private-key` it is HS256, HS384 or HS512"))
    })
}

fn claims(matches: &ArgMatches, config: &Config) -> Result<Map<String, Value>, Failure> {
    let mut claims = Map::new();
    for (name, claim) in [("user", "sub"), ("channel", "channel")] {
        if let Some(text) = matches.get_one::<String>(name) {
            claims.insert(claim.to_owned(), text.as_str().into());
        }
    }
    for claim in ["info", "data"] {
        if let Some(json) = matches.get_one::<Value>(claim) {
            claims.insert(claim.to_owned(), json.clone());
        }
    }
    let now = now();
    claims.insert("iat".to_owned(), now.into());
    let span = matches.get_one::<Duration>("expires-in").copied().unwrap_or_default();
    if !span.is_zero() {
        claims.insert("exp".to_owned(), now.saturating_add(span.as_secs().max(1)).into());
    }
    // As this configuration wants it, so that what is made here is valid here.
    for (claim, names) in [("aud", &config.token_audience), ("iss", &config.token_issuer)] {
        if let Some(name) = names.first() {
            claims.insert(claim.to_owned(), name.as_str().into());
        }
    }
    for (name, json) in matches.get_many::<(String, Value)>("claim").unwrap_or_default() {
        claims.insert(name.clone(), json.clone());
    }
    if claims.contains_key("data") && !claims.contains_key("channel") {
        return Err(usage("`--data` needs `--channel`: it is sent with a subscription"));
    }
    Ok(claims)
}

fn check() -> Command {
    Command::new("check")
        .about("Say what is in a token, and whether it is valid here; exit with 0 or 1")
        .arg(
            Arg::new("token")
                .value_name("TOKEN")
                .required(true)
                .help("The token, or - to read it from standard input"),
        )
        .arg(text("channel", "NAME", "Also ask whether it opens this channel"))
        .arg(text("user", "NAME", "Also ask whether it is this user's"))
        .arg(flags::file())
        .args(identity_flags())
}

fn run_check(matches: &ArgMatches, surroundings: Surroundings) -> Result<(), Failure> {
    let config = flags::load(matches, surroundings)?.0;
    let given = matches.get_one::<String>("token").map(String::as_str).unwrap_or_default();
    let token = match given {
        "-" => io::read_to_string(io::stdin().lock()).map_err(|error| usage(&format!("-: {error}")))?,
        token => token.to_owned(),
    };
    let token = token.trim();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure { line: error.to_string(), code: 2 })?;
    let verifier = Verifier::new(&config);
    let examined = runtime.block_on(async {
        if let Err(error) = verifier.fetch_keys().await {
            eprintln!("fanfare: cannot fetch keys: {error}");
        }
        verifier.examine(token).await
    });
    let examined = examined.and_then(|examined| asked_for(matches, examined));
    print(&parts(token));
    match examined {
        Ok(examined) => {
            print(&praise(&examined));
            Ok(())
        }
        Err(fault) => Err(Failure {
            line: format!("the token is not valid here: {fault} ({})", fault.label()),
            code: 1,
        }),
    }
}

/// Holds what a token opens against what it was asked to open.
fn asked_for(matches: &ArgMatches, examined: Examined) -> Result<Examined, TokenFault> {
    let (user, channel) = match &examined.purpose {
        Purpose::Connection(identity) => (&identity.user, None),
        Purpose::Subscription(token) => (&token.user, Some(token.channel.as_str())),
    };
    if matches.get_one::<String>("user").is_some_and(|name| *user != User::new(name)) {
        return Err(TokenFault::User);
    }
    match matches.get_one::<String>("channel").map(String::as_str) {
        Some(_) if channel.is_none() => {
            Err(TokenFault::Kind("it is for a connection, not for a subscription: it has no `channel`"))
        }
        Some(name) if channel != Some(name) => Err(TokenFault::Channel),
        _ => Ok(examined),
    }
}

/// Header and claims as they stand there, believed or not; nothing where they cannot be read.
fn parts(token: &str) -> String {
    let mut text = String::new();
    for (name, part) in ["header", "claims"].into_iter().zip(token.split('.')) {
        let json = URL_SAFE_NO_PAD.decode(part).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(json) = json else { break };
        let json: Value = json;
        writeln!(text, "{name} {json:#}").expect("a string takes it");
    }
    text
}

fn praise(examined: &Examined) -> String {
    let mut text = "valid here: ".to_owned();
    let (user, expiry) = match &examined.purpose {
        Purpose::Connection(identity) => {
            text.push_str("a connection token");
            (&identity.user, identity.expiry)
        }
        Purpose::Subscription(SubscriptionToken { channel, user, grant, .. }) => {
            write!(text, "a subscription token for channel {channel:?}").expect("a string takes it");
            (user, grant.expiry)
        }
    };
    match user.is_anonymous() {
        true => text.push_str(" of an anonymous client"),
        false => write!(text, " of user {user:?}").expect("a string takes it"),
    }
    match examined.until {
        None => text.push_str(", for ever"),
        Some(until) => write!(text, ", until {}", moment(until)).expect("a string takes it"),
    }
    if expiry != examined.until {
        let end = expiry.map_or_else(|| "has no end".to_owned(), |end| format!("ends at {}", moment(end)));
        write!(text, "\nwhat it opens {end}, by `expire_at`").expect("a string takes it");
    }
    write!(text, "\nsigned with {}\n", examined.key).expect("a string takes it");
    text
}

fn moment(end: Expiry) -> String {
    let left = Duration::from_secs(end.0.saturating_sub(now())).to_toml().unwrap_or_default();
    format!("{end} ({} from now)", left.trim_matches('"'))
}

/// The flags by which a configuration says what tokens are checked with.
fn identity_flags() -> impl Iterator<Item = Arg> {
    KEYS.iter().filter(|key| key.group == "Identity").map(flags::flag)
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).map_err(|_| format!("expected {}", Duration::EXPECTED))
}

fn parse_channel(text: &str) -> Result<String, String> {
    // An empty one would make a token that opens whatever its user may have.
    let channel = Channel::new(text).map_err(|error| format!("expected a channel's name: {error}"))?;
    Ok(channel.as_str().to_owned())
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, json) = text.split_once('=').ok_or("expected a name, = and JSON, such as exp=1764547200")?;
    Ok((name.to_owned(), parse_json(json)?))
}

fn usage(line: &str) -> Failure {
    Failure { line: line.to_owned(), code: 2 }
}

fn print(text: &str) {
    // A reader that has gone away has seen what it wanted.
    let _gone = io::stdout().lock().write_all(text.as_bytes());
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
