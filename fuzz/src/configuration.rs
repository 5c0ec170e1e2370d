//! The configuration. Whatever file, variables and arguments say, it is a configuration or one line that can be shown
//! on a terminal; and what `fanfare config` prints of a configuration is a file for the same one.
//!
//! An input is what NUL separates: the text of the file, and then variables (`$NAME=value`) and arguments (`>--flag`).

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fanfare::cli;
use fanfare::config::{Config, KEYS, OPTIONS};
use tempfile::TempDir;

thread_local! {
    /// Where the file lies.
    static DIRECTORY: RefCell<TempDir> = RefCell::new(TempDir::new().expect("a temporary directory"));
}

/// See the module.
pub fn check(input: &[u8]) {
    // Some keys are names of files, and of those there are some that have no end.
    if [&b"/dev"[..], b"/proc", b"/sys"]
        .iter()
        .any(|name| input.windows(name.len()).any(|bytes| bytes == *name))
    {
        return;
    }
    let mut parts = input.split(|&byte| byte == 0);
    let file = parts.next().unwrap_or_default();
    let mut variables = Vec::new();
    let mut arguments = vec![OsString::from("fanfare")];
    for part in parts {
        match part {
            // No other file than ours.
            _ if part.windows(6).any(|bytes| bytes.eq_ignore_ascii_case(b"config")) => {}
            [b'$', variable @ ..] => {
                let place = variable.iter().position(|&byte| byte == b'=').unwrap_or(variable.len());
                let (name, value) = variable.split_at(place);
                variables.push((os(name), os(value.strip_prefix(b"=").unwrap_or_default())));
            }
            [b'>', argument @ ..] => arguments.push(os(argument)),
            _ => {}
        }
    }
    DIRECTORY.with_borrow(|directory| {
        let directory = directory.path();
        match read(directory, file, arguments, variables) {
            Ok((config, text)) => check_printed(directory, &config, &text),
            Err(line) => {
                assert!(!line.trim().is_empty());
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    });
}

/// Printed and read again it is the same, unless there is a secret, which is not printed.
fn check_printed(directory: &Path, config: &Config, text: &str) {
    if text.contains("***") {
        return;
    }
    let again = read(directory, text.as_bytes(), vec!["fanfare".into()], Vec::new());
    let (again, _) = again.unwrap_or_else(|line| panic!("{line}\n{text}"));
    assert_eq!(again, *config, "{text}");
}

fn read(
    directory: &Path,
    file: &[u8],
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
) -> Result<(Config, String), String> {
    fs::write(directory.join("fanfare.toml"), file).expect("a file can be written");
    cli::read(arguments, variables, directory)
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

/// Each key with its default, from each layer, and what goes wrong.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let default = Config::default();
    let written =
        KEYS.iter().filter_map(|key| Some(format!("{} = {}\n", key.name, (key.written)(&default)?)));
    let options = OPTIONS.iter().map(|option| match option.default {
        "" => String::new(),
        default => format!("{} = {default:?}\n", option.name),
    });
    let all = written.collect::<String>();
    let options = options.collect::<String>();
    let variables =
        KEYS.iter().map(|key| format!("\0${}={}", key.variable(), key.default)).collect::<String>();
    let flags = KEYS.iter().map(|key| format!("\0>--{}={}", key.flag(), key.default)).collect::<String>();
    let row = |name, text: &str| (name, text.as_bytes().to_vec());
    vec![
        row("nothing", ""),
        row("every key in the file", &all),
        row("every option", &format!("[namespaces.news]\n{options}\n[channels]\n{options}")),
        row("every key as a variable", &variables),
        row("every key as a flag", &flags),
        row("several layers", "workers = 1\nlisten = \":80\"\0$FANFARE_WORKERS=2\0>--workers\0>3"),
        row(
            "lists",
            "allowed_origins = [\"https://*.example.com:*\", \"self\"]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]",
        ),
        row(
            "durations and sizes",
            "drain_window = \"1m30s\"\nmessage_limit = 0x1_0000\noutbox_limit = \"1GiB\"",
        ),
        row("Redis", "redis = \"rediss://h:6380/2\"\nredis_prefix = \"chat\"\nredis_spool = 0"),
        row("a password", "redis = \"redis://u:hunter2@h\""),
        row("secrets of tokens", "token_secrets = [\"s\", \"t until 2026-12-31\"]"),
        row("a filter", "\0>--log-level\0>warn,fanfare=debug"),
        row("a name with an escape", "\"a\\nb\" = 1"),
        row("a table", "[limits]\nmessage = 1"),
        row("other types", "page = 1979-05-27\nworkers = 1.5"),
        row("no TOML", "page = \n"),
        row("a command", "\0>serve\0>--page"),
        row("an unknown flag", "\0>--drain-windw\0>6s"),
        row("an unknown variable", "\0$FANFARE_DRAIN_WINDW=6s\0$HOME=/root\0$FANFARE_SERVICE_HOST=10.0.0.1"),
        row("a combination", "ping_interval = \"60s\""),
    ]
}

/// Names, defaults and units.
pub fn words() -> Vec<String> {
    let names = KEYS.iter().flat_map(|key| {
        let flag = format!("\0>--{}=", key.flag());
        let variable = format!("\0${}=", key.variable());
        [format!("{} = ", key.name), flag, variable, key.default.to_owned()]
    });
    let others = [
        "serve",
        "KiB",
        "MiB",
        "GiB",
        "ms",
        "://",
        "redis://",
        "*.",
        "0x",
        "\"\"\"",
        "[channels]",
        "[namespaces.a]",
        "\\u",
        "true",
        "false",
    ];
    let options = OPTIONS.iter().map(|option| format!("{} = {:?}", option.name, option.default));
    let mut words = names
        .chain(options)
        .chain(others.map(str::to_owned))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>();
    words.sort();
    words.dedup();
    words
}
