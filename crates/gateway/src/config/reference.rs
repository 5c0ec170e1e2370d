//! Holds `docs/configuration.md` and `deploy/fanfare.example.toml` against the table of keys, and writes them anew when
//! asked to. Only what stands between its marks in the document is made here; the prose around them is not.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use super::{Config, KEYS, Key, OPTIONS, Options};

const AGAIN: &str = "UPDATE_DOCS=1 cargo test -p fanfare --lib reference";

#[test]
fn the_document_says_what_the_table_says() {
    hold("docs/configuration.md", |document| {
        let mut made = document.to_owned();
        let (mut groups, mut end) = (groups(), 0);
        while let Some(start) = made[end..].find("<!-- keys: ").map(|at| end + at) {
            let body = start + made[start..].find("-->\n").expect("an opening mark ends its line") + 4;
            let group = made[start + 11..body - 4].trim().to_owned();
            assert!(groups.contains(&group.as_str()), "the document has a table {group:?}, or has it twice");
            groups.retain(|name| *name != group);
            end = body + made[body..].find("<!-- end -->").expect("every opening mark has a closing one");
            made.replace_range(body..end, &table(&group));
        }
        assert!(
            groups.is_empty(),
            "the document has no `<!-- keys: … -->` and `<!-- end -->` for {groups:?}"
        );
        made
    });
}

#[test]
fn the_example_says_what_the_table_says() {
    hold("deploy/fanfare.example.toml", |_| example());
    let example = example();
    let keys = example.lines().filter_map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')));
    let keys = keys.collect::<Vec<_>>().join("\n");
    let table: toml::Table = keys.parse().expect("with its keys uncommented it is TOML");
    assert_eq!(table.len(), KEYS.len() + 1);
    assert_eq!(table["channels"].as_table().map(toml::Table::len), Some(OPTIONS.len()));
}

#[test]
fn the_table_is_sound() {
    check_rows(KEYS);
    check_rows(OPTIONS);
    for option in OPTIONS {
        assert!(Key::named(option.name).is_none(), "{} is a key and an option", option.name);
    }
    // Reads every default and both ends of every range.
    Config::default();
    Options::default();
}

fn check_rows<C>(rows: &[Key<C>]) {
    for row in rows {
        assert!(row.help.len() <= 70 && !row.help.ends_with('.'), "one short line: {}", row.help);
        assert_eq!(row.name, row.name.to_ascii_lowercase());
        let named = rows.iter().filter(|other| other.name == row.name).count();
        assert_eq!(named, 1, "{} is there twice", row.name);
    }
}

/// Compares a file with what it should be, or makes it so.
fn hold(path: &str, make: impl FnOnce(&str) -> String) {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let document = fs::read_to_string(&full).unwrap_or_default();
    let made = make(&document);
    if env::var_os("UPDATE_DOCS").is_some() {
        return fs::write(full, made).expect("the document can be written");
    }
    let differing = made.lines().zip(document.lines()).find(|(made, found)| made != found);
    let (made_line, found) = differing.unwrap_or(("as many lines", "more or fewer"));
    assert!(
        made == document,
        "{path} does not say what the table of keys says; run `{AGAIN}`\nexpected: {made_line}\n   found: {found}"
    );
}

fn groups() -> Vec<&'static str> {
    let keys = KEYS.iter().map(|key| key.group);
    let mut groups: Vec<&str> = keys.chain(OPTIONS.iter().map(|option| option.group)).collect();
    groups.dedup();
    groups
}

fn table(group: &str) -> String {
    let head = |what: &str| format!("| {what} | type | default | meaning |\n|---|---|---|---|\n");
    match KEYS.iter().any(|key| key.group == group) {
        true => head("key") + &rows(KEYS, group, &Config::default()),
        false => head("option") + &rows(OPTIONS, group, &Options::default()),
    }
}

fn rows<C>(rows: &[Key<C>], group: &str, defaults: &C) -> String {
    let mut table = String::new();
    for key in rows.iter().filter(|key| key.group == group) {
        let range = key.range.map(|(low, high)| format!(", {low} to {high}")).unwrap_or_default();
        let default = (key.written)(defaults).map_or("not set".to_owned(), |value| format!("`{value}`"));
        let Key { name, kind, help, .. } = key;
        // An asterisk alone is one; two of them in a row of a table would be emphasis.
        let help = help.replace('*', "\\*");
        writeln!(table, "| `{name}` | {}{range} | {default} | {help} |", kind.name())
            .expect("a string takes it");
    }
    table
}

fn example() -> String {
    let mut text = "\
# An example of fanfare.toml: every key, with its default. Uncomment what is to differ.
# What each means in full: docs/configuration.md. Check a file with `fanfare config --config FILE`.
"
    .to_owned();
    examples(&mut text, KEYS, &Config::default());
    text.push_str(
        "
# Options of channels, after all keys: [channels] for names without a `:`, [namespaces.chat] for `chat:room1`. Without
# any such table every channel is open to anybody; with one, only what it allows.

#[channels]
",
    );
    examples(&mut text, OPTIONS, &Options::default());
    text
}

fn examples<C>(text: &mut String, rows: &[Key<C>], defaults: &C) {
    let mut group = "";
    for key in rows {
        if key.group != group {
            group = key.group;
            write!(text, "\n# --- {group} ---\n").expect("a string takes it");
        }
        let value = (key.written)(defaults).unwrap_or_else(|| "\"\"".to_owned());
        write!(text, "\n# {}\n#{} = {value}\n", key.help, key.name).expect("a string takes it");
    }
}
