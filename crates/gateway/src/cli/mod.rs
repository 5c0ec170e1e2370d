//! The command line: what to do, with which configuration. Decides nothing about how a gateway runs; [`run`] is handed
//! the function that serves.
//!
//! Whatever is wrong with flags, variables or the file is one line on standard error and exit code 2.

mod bench;
mod config;
mod flags;
mod healthcheck;
#[cfg(test)]
mod tests;
mod token;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, Command};

use crate::config::{Config, ConfigError, Settings};
use crate::tls::LiveCertificate;

/// Does what the arguments say, the first of which is the program's own name, and returns what the process exits with.
/// `serve` is called with a whole and consistent configuration, or not at all.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    serve: impl FnOnce(Config) -> ExitCode,
) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let surroundings = Surroundings { variables: env::vars_os().collect(), directory: PathBuf::new() };
    dispatch(&matches, surroundings, serve).unwrap_or_else(|failure| {
        complain(&failure.line);
        ExitCode::from(failure.code)
    })
}

/// What `fanfare ARGUMENTS` would serve with, and what `fanfare config` would print of it, with nothing looked up:
/// variables and the directory of `fanfare.toml` are those given. The first argument is the program's own name.
///
/// # Errors
///
/// The line for standard error, if the arguments, the variables or the file are not right, or ask for something else
/// than to serve or to show the configuration.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: &Path,
) -> Result<(Config, String), String> {
    let matches = command().try_get_matches_from(arguments).map_err(|error| one_line(&usage_line(&error)))?;
    let matches = match matches.subcommand() {
        None => &matches,
        Some(("serve" | "config", matches)) => matches,
        Some((name, _)) => return Err(format!("`{name}` is neither `serve` nor `config`")),
    };
    let surroundings = Surroundings { variables, directory: directory.to_owned() };
    let (config, settings) =
        flags::load(matches, surroundings).map_err(|error| one_line(&error.to_string()))?;
    let text = config::text(&config, &settings);
    Ok((config, text))
}

/// What a configuration is read from beside the command line.
struct Surroundings {
    variables: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

/// A line for standard error, and what to exit with.
struct Failure {
    line: String,
    code: u8,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { line: error.to_string(), code: 2 }
    }
}

fn dispatch(
    matches: &ArgMatches,
    surroundings: Surroundings,
    serve: impl FnOnce(Config) -> ExitCode,
) -> Result<ExitCode, Failure> {
    match matches.subcommand() {
        None => Ok(serve(load_whole(matches, surroundings)?.0)),
        Some(("serve", matches)) => Ok(serve(load_whole(matches, surroundings)?.0)),
        Some(("config", matches)) => {
            let (config, settings) = load_whole(matches, surroundings)?;
            config::print(&config, &settings);
            Ok(ExitCode::SUCCESS)
        }
        Some(("healthcheck", matches)) => healthcheck::run(matches, surroundings).map(|()| ExitCode::SUCCESS),
        Some(("token", matches)) => token::run(matches, surroundings).map(|()| ExitCode::SUCCESS),
        Some(("bench", matches)) => Ok(bench::run(matches)),
        Some((name, _)) => unreachable!("clap knows no command {name}"),
    }
}

/// The configuration, and a look at the files that it names: a gateway that could not use them does not begin to start.
fn load_whole(matches: &ArgMatches, surroundings: Surroundings) -> Result<(Config, Settings), ConfigError> {
    let (config, settings) = flags::load(matches, surroundings)?;
    LiveCertificate::load(&config).map_err(|error| {
        let key = error.key();
        ConfigError::Value {
            key: key.to_owned(),
            layer: settings.layer(key).clone(),
            problem: error.to_string(),
        }
    })?;
    Ok((config, settings))
}

fn command() -> Command {
    let serve = Command::new("serve").about("Run a gateway; what bare `fanfare` does");
    let config =
        Command::new("config").about("Show the configuration in force, and where each value came from");
    flags::add(Command::new("fanfare"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(EXAMPLES)
        .max_term_width(100)
        .args_conflicts_with_subcommands(true)
        .subcommand(flags::add(serve))
        .subcommand(flags::add(config))
        .subcommand(healthcheck::command())
        .subcommand(token::command())
        .subcommand(bench::command())
}

const ABOUT: &str = "\
A WebSocket gateway that scales sideways: what a client sends to a channel reaches every client of
that channel, on every instance that shares a Redis.";

const EXAMPLES: &str = "\
Every flag is also a key of fanfare.toml (drain_window = \"6s\") and a variable of the environment
(FANFARE_DRAIN_WINDOW=6s). Flags win over variables, and variables over the file. What holds for
channels stands in tables of the file, [channels] and [namespaces.NAME]: docs/configuration.md.

Examples:
  fanfare                                            one instance, from memory, on 127.0.0.1:8080
  fanfare --listen :8080 --redis redis://10.0.0.5    one of many, joined by Redis
  fanfare config --config /etc/fanfare.toml          check a file, and see what it amounts to
  fanfare healthcheck --ready                        exit with 0 if clients may be sent here
  fanfare token create --user 42                     a token to try it with
  fanfare bench fanout ws://127.0.0.1:8080/ws/bench --subscribers 1000 --rate 20";

/// Help and version go to standard output; anything else is a line of ours instead of clap's several.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told when the reader of the help has gone away.
            let _gone = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _gone = error.print();
            ExitCode::from(2)
        }
        _ => {
            complain(&usage_line(error));
            ExitCode::from(2)
        }
    }
}

/// Says on standard error what is wrong. The exit status says it, too, so it is no matter if nobody can read that.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "fanfare: {}", one_line(line));
}

/// Names and values are quoted as they were written, and what was written may move a terminal's cursor.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn usage_line(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let (what, name, meant) = match error.kind() {
        ErrorKind::UnknownArgument => ("flag", context(ContextKind::InvalidArg), ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => {
            ("command", context(ContextKind::InvalidSubcommand), ContextKind::SuggestedSubcommand)
        }
        ErrorKind::MissingRequiredArgument => {
            return format!(
                "missing {}; see `fanfare --help`",
                context(ContextKind::InvalidArg).unwrap_or_default()
            );
        }
        ErrorKind::ArgumentConflict if context(ContextKind::InvalidSubcommand).is_some() => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            return format!("flags follow their command: `fanfare {name} --…`");
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            return format!(
                "{}; see `fanfare --help`",
                line.trim_start_matches("error: ").trim_end_matches('.')
            );
        }
    };
    let what = match &name {
        // Words where clap expected a flag or a command are neither.
        Some(name) if !name.starts_with('-') && what == "flag" => "argument",
        _ => what,
    };
    let ending = match context(meant) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "see `fanfare --help`".to_owned(),
    };
    format!("unknown {what} `{}`; {ending}", name.unwrap_or_default())
}
