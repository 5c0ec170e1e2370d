//! `fanfare config`: the configuration in force, as a file that would bring it about, each value with where it came
//! from.
//! A password is masked, so a file with one does not survive being printed and read again; nothing else is lost.

use std::io::{self, Write};

use super::one_line;
use crate::config::{Config, KEYS, Key, Layer, OPTIONS, Settings};

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
        text.push_str(&line(key, config, settings.layer(key.name)));
        text.push('\n');
    }
    text.push_str(&channels(config, settings));
    text
}

/// The tables, which TOML wants after all keys.
fn channels(config: &Config, settings: &Settings) -> String {
    let mut text = String::new();
    for namespace in config.channels.iter() {
        let Some(section) = settings.section(namespace.name.as_deref()) else {
            // Its options are in force all the same, but to print them would be to set them.
            text.push_str(if config.channels.are_configured() {
                "\n# [channels] is not set: names without a `:` are closed to clients\n"
            } else {
                "\n# [channels] and [namespaces.NAME] are not set: every channel is open to anybody\n"
            });
            continue;
        };
        text.push_str(&format!(
            "\n{:<44} # {}\n",
            format!("[{}]", section.heading()),
            one_line(&section.layer.to_string())
        ));
        for option in OPTIONS {
            text.push_str(&line(option, &namespace.options, section.values.layer(option.name)));
            text.push('\n');
        }
    }
    text
}

fn line<C>(key: &Key<C>, values: &C, layer: &Layer) -> String {
    let layer = one_line(&layer.to_string());
    let Some(value) = (key.written)(values) else { return format!("# {} is not set ({layer})", key.name) };
    let masked = if key.kind.is_secret() && value.contains("***") { ", masked" } else { "" };
    format!("{:<44} # {layer}{masked}", format!("{} = {value}", key.name))
}
