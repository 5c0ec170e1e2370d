//! `fanfare.toml`: flat keys, each with the line it stands on, for the sake of whoever has to find it again.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::Key;
use super::layers::{FILE, Layer, meant};
use super::value::Raw;

/// What the file says, in its order: `named`, which must exist, or else [`FILE`] in `directory`, which may.
pub(super) fn read(
    named: Option<PathBuf>,
    directory: &Path,
) -> Result<Vec<(&'static Key, Raw, Layer)>, ConfigError> {
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| directory.join(FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => Ok(Vec::new()),
        Err(source) => Err(ConfigError::Unreadable { path, named: is_named, source }),
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<(&'static Key, Raw, Layer)>, ConfigError> {
    let line =
        |span: Range<usize>| 1 + text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(error.span().unwrap_or_default()),
        message: error.message().replace('\n', ", "),
    })?;
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let entry = |(name, value): (toml::Spanned<_>, toml::Spanned<_>)| {
        let (line, path) = (line(name.span()), path.to_owned());
        let name: String = std::borrow::Cow::into_owned(name.into_inner());
        match (Key::named(&name), value.into_inner()) {
            (Some(key), value) if !matches!(value, DeValue::Table(_)) => {
                Ok((key, raw(value), Layer::File(path, line)))
            }
            (_, DeValue::Table(_)) => Err(ConfigError::Table { name, path, line }),
            _ => {
                let meant = meant(&name).map(|key| key.name.to_owned());
                Err(ConfigError::UnknownKey { name, path, line, meant })
            }
        }
    };
    entries.into_iter().map(entry).collect()
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
