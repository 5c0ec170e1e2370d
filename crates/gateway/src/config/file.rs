//! `fanfare.toml`: flat keys, then tables of channel options, each value with the line it stands on, for the sake of
//! whoever has to find it again. What a value means is not known here.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{KEYS, Key};
use super::layers::{FILE, Layer, Layered, Section, meant};
use super::namespaces::NamespaceName;
use super::options::OPTIONS;
use super::regular_file;
use super::value::Raw;

/// What the file says.
#[derive(Default)]
pub(super) struct File {
    /// In the file's order.
    pub keys: Vec<(&'static Key, Raw, Layer)>,
    /// The default's first, then in the file's order.
    pub sections: Vec<Section>,
}

/// Reads `named`, which must exist, or else [`FILE`] in `directory`, which may.
pub(super) fn read(named: Option<PathBuf>, directory: &Path) -> Result<File, ConfigError> {
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| directory.join(FILE));
    match regular_file::read_text(&path) {
        Ok(text) => parse(&text, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => Ok(File::default()),
        Err(source) => Err(ConfigError::Unreadable { path, named: is_named, source }),
    }
}

fn parse(text: &str, path: &Path) -> Result<File, ConfigError> {
    let file_text = FileText { text, path };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: file_text.line(&error.span().unwrap_or_default()),
        message: error.message().replace('\n', ", "),
    })?;
    let mut file = File::default();
    for (name, span, value) in entries(table.into_inner()) {
        let line = file_text.line(&span);
        match (name.as_str(), value) {
            ("channels", DeValue::Table(table)) => {
                file.sections.insert(0, file_text.section(None, line, table)?);
            }
            ("namespaces", DeValue::Table(table)) => {
                for (name, span, value) in entries(table) {
                    file.sections.push(file_text.namespace(name, file_text.line(&span), value)?);
                }
            }
            ("channels" | "namespaces", value) => {
                let example = if name == "channels" { "[channels]" } else { "[namespaces.NAME]" };
                return Err(file_text.no_table(name, line, example, value));
            }
            (_, DeValue::Table(_)) => {
                return Err(ConfigError::Table { name, path: path.to_owned(), line });
            }
            (key, value) => {
                let Some(key) = Key::named(key) else { return Err(file_text.unknown_key(name, line)) };
                file.keys.push((key, raw(value), Layer::File(path.to_owned(), line)));
            }
        }
    }
    Ok(file)
}

/// The entries of a table in the order in which they are written.
fn entries(table: DeTable<'_>) -> Vec<(String, Range<usize>, DeValue<'_>)> {
    let entry = |(name, value): (Spanned<Cow<'_, str>>, _)| {
        let span = name.span();
        (name.into_inner().into_owned(), span, Spanned::into_inner(value))
    };
    let mut entries: Vec<_> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

/// The file, to say where something stands in it.
struct FileText<'a> {
    text: &'a str,
    path: &'a Path,
}

impl FileText<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count()
    }

    fn layer(&self, line: usize) -> Layer {
        Layer::File(self.path.to_owned(), line)
    }

    fn namespace(&self, name: String, line: usize, value: DeValue<'_>) -> Result<Section, ConfigError> {
        let DeValue::Table(table) = value else {
            return Err(self.no_table(format!("namespaces.{name}"), line, "[namespaces.NAME]", value));
        };
        if let Err(problem) = NamespaceName::parse(&name) {
            let key = format!("namespaces.{name}");
            return Err(ConfigError::Value { key, layer: self.layer(line), problem });
        }
        self.section(Some(name), line, table)
    }

    fn section(
        &self,
        namespace: Option<String>,
        line: usize,
        table: DeTable<'_>,
    ) -> Result<Section, ConfigError> {
        let empty = Layered::defaults(&[] as &[Key], String::new());
        let mut section = Section { namespace, layer: self.layer(line), values: empty };
        let prefix = format!("{}.", section.heading());
        section.values = Layered::defaults(OPTIONS, prefix.clone());
        for (name, span, value) in entries(table) {
            let line = self.line(&span);
            let Some(option) = OPTIONS.iter().find(|option| option.name == name) else {
                return Err(self.unknown_option(&prefix, &name, line));
            };
            section.values.set(option, raw(value), self.layer(line));
        }
        Ok(section)
    }

    fn no_table(&self, key: String, line: usize, example: &str, value: DeValue<'_>) -> ConfigError {
        let problem = format!("expected a table such as {example}, found {}", raw(value).quoted());
        ConfigError::Value { key, layer: self.layer(line), problem }
    }

    fn unknown_key(&self, name: String, line: usize) -> ConfigError {
        let path = self.path.to_owned();
        if OPTIONS.iter().any(|option| option.name == name) {
            let belongs = "is an option of channels: it belongs under [channels] or [namespaces.NAME]";
            return ConfigError::Misplaced { name, path, line, belongs };
        }
        let meant = meant(KEYS, &name).map(|key| key.name.to_owned());
        ConfigError::UnknownKey { name, path, line, meant }
    }

    fn unknown_option(&self, prefix: &str, name: &str, line: usize) -> ConfigError {
        let path = self.path.to_owned();
        if Key::named(name).is_some() {
            let belongs = "is a key of the whole gateway: it belongs above the first table";
            return ConfigError::Misplaced { name: format!("{prefix}{name}"), path, line, belongs };
        }
        let meant = meant(OPTIONS, name).map(|option| option.name.to_owned());
        ConfigError::UnknownKey { name: format!("{prefix}{name}"), path, line, meant }
    }
}

fn raw(value: DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.into_owned()),
        // Written in another radix it is brought into ours, where it fits; sizes in hex are not unheard of.
        DeValue::Integer(number) => Raw::Integer(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or(number.to_string(), |value| value.to_string()),
        ),
        DeValue::Boolean(value) => Raw::Boolean(value),
        DeValue::Array(items) => Raw::List(items.into_iter().map(|item| raw(item.into_inner())).collect()),
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}
