//! `fanfare config`: the configuration in force, as a file that would bring it about, each value with where it came from.
//! A password is masked, so a file with one does not survive being printed and read again; nothing else is lost.

use std::io::{self, Write};

use crate::config::value::Kind;
use crate::config::{Config, KEYS, Key, Settings};

/// Prints it to standard output.
pub fn print(config: &Config, settings: &Settings) {
    // A reader that has gone away has seen what it wanted.
    let _gone = io::stdout().lock().write_all(text(config, settings).as_bytes());
}

/// The text of the file.
pub fn text(config: &Config, settings: &Settings) -> String {
    let mut text = format!("# fanfare {}: the configuration in force\n", env!("CARGO_PKG_VERSION"));
    let mut group = "";
    for key in KEYS {
        if key.group != group {
            group = key.group;
            text.push_str(&format!("\n# {group}\n"));
        }
        text.push_str(&line(key, config, settings));
        text.push('\n');
    }
    text
}

fn line(key: &Key, config: &Config, settings: &Settings) -> String {
    let layer = settings.layer(key.name);
    let Some(value) = (key.written)(config) else { return format!("# {} is not set ({layer})", key.name) };
    let masked = if key.kind == Kind::SecretUrl && value.contains(":***@") { ", masked" } else { "" };
    format!("{:<44} # {layer}{masked}", format!("{} = {value}", key.name))
}
