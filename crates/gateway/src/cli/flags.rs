//! One flag for each key, made from the table. What is given stays text here: flags, variables and the file are all
//! read by the same parsers, with the same words for what is wrong.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Surroundings;
use crate::config::value::Kind;
use crate::config::{Config, ConfigError, KEYS, Key, Settings, Sources};

/// Adds `--config` and the flags of all keys to a command.
pub fn add(command: Command) -> Command {
    command.arg(file()).args(KEYS.iter().map(flag))
}

/// `--config FILE`.
pub fn file() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The file to read instead of ./fanfare.toml; or FANFARE_CONFIG")
}

/// The flag of one key.
pub fn flag(key: &'static Key) -> Arg {
    let default = if key.default.is_empty() { String::new() } else { format!(" [{}]", key.default) };
    let flag = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.placeholder)
        .help_heading(key.group)
        .help(format!("{}{default}", key.help))
        .value_parser(value_parser!(String));
    match key.kind {
        Kind::Boolean => flag.num_args(0..=1).default_missing_value("true"),
        kind if kind.is_list() => flag.action(ArgAction::Append),
        _ => flag,
    }
}

/// The configuration that a command was started with. The command may have the flags of some keys only.
pub fn load(matches: &ArgMatches, surroundings: Surroundings) -> Result<(Config, Settings), ConfigError> {
    let given = |key: &'static Key| {
        let values: Vec<&String> = matches.try_get_many(key.name).ok()??.collect();
        Some((key, values.into_iter().map(String::as_str).collect::<Vec<_>>().join(",")))
    };
    Config::load(Sources {
        file: matches.get_one("config").cloned(),
        variables: surroundings.variables,
        flags: KEYS.iter().filter_map(given).collect(),
        directory: surroundings.directory,
    })
}
