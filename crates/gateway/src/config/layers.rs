//! The layers of a configuration, each over the one before: defaults, the file, `FANFARE_…` variables, flags.
//! Collects what each said, key by key, and who said it last. Reads no environment and no command line of its own:
//! both are handed in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::error::ConfigError;
use super::file;
use super::keys::{KEYS, Key};
use super::value::{Raw, Value};

/// The file that is read when none is named.
pub const FILE: &str = "fanfare.toml";

/// What a configuration is made from, beside the defaults. Not `Debug`: passwords are still in it.
#[derive(Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The environment; what does not begin with `FANFARE_` is passed over.
    pub variables: Vec<(OsString, OsString)>,
    /// Key and value of each flag; a list has its items joined by commas.
    pub flags: Vec<(&'static Key, String)>,
    /// Where [`FILE`] is looked for when no file is named; the working directory when empty.
    pub directory: PathBuf,
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// Nowhere.
    Default,
    /// In the file, at this line.
    File(PathBuf, usize),
    /// In the environment, by this variable.
    Variable(String),
    /// On the command line, by this flag.
    Flag(String),
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// What was said for each key, by the highest layer that said anything. Not `Debug` either.
pub struct Settings {
    keys: Layered,
    /// The tables of the file, the default's first.
    pub(super) sections: Vec<Section>,
}

impl Settings {
    /// Lays the layers over one another. Knows that a name is a key, not yet that its value is one.
    ///
    /// # Errors
    ///
    /// On a file that cannot be read, and on names in it or in the environment that are no keys.
    pub fn collect(sources: Sources) -> Result<Self, ConfigError> {
        let mut keys = Layered::defaults(KEYS, String::new());
        let (variables, named) = variables(sources.variables)?;
        let file = file::read(sources.file.or(named), &sources.directory)?;
        for (key, raw, layer) in file.keys {
            keys.set(key, raw, layer);
        }
        for (key, value) in variables {
            keys.set(key, Raw::Word(value), Layer::Variable(key.variable()));
        }
        for (key, value) in sources.flags {
            keys.set(key, Raw::Word(value), Layer::Flag(key.flag()));
        }
        Ok(Self { keys, sections: file.sections })
    }

    /// The lowest layer alone.
    pub(super) fn defaults() -> Self {
        Self { keys: Layered::defaults(KEYS, String::new()), sections: Vec::new() }
    }

    /// Where a key was set.
    pub fn layer(&self, key: &str) -> &Layer {
        self.keys.layer(key)
    }

    /// What was said for the keys, tables aside.
    pub(super) fn keys(&self) -> &Layered {
        &self.keys
    }

    /// The table of a namespace, or of the default where there is no name; nothing where the file has none.
    pub fn section(&self, namespace: Option<&str>) -> Option<&Section> {
        self.sections.iter().find(|section| section.namespace.as_deref() == namespace)
    }
}

/// A table of the file: options of channels.
pub struct Section {
    /// The namespace; none for `[channels]`.
    pub namespace: Option<String>,
    /// Where it begins.
    pub layer: Layer,
    /// What it says.
    pub values: Layered,
}

impl Section {
    /// What stands between the brackets of its heading.
    pub fn heading(&self) -> String {
        match &self.namespace {
            None => "channels".to_owned(),
            Some(name) => format!("namespaces.{name}"),
        }
    }
}

/// What was said for each row of one table.
pub struct Layered {
    /// What an error puts before a row's name.
    prefix: String,
    values: BTreeMap<&'static str, (Raw, Layer)>,
}

impl Layered {
    /// The lowest layer alone.
    pub(super) fn defaults<C>(rows: &[Key<C>], prefix: String) -> Self {
        let default = |key: &Key<C>| (key.name, (Raw::Word(key.default.to_owned()), Layer::Default));
        Self { prefix, values: rows.iter().map(default).collect() }
    }

    /// Lays a value over what was said before.
    pub(super) fn set<C>(&mut self, key: &'static Key<C>, raw: Raw, layer: Layer) {
        self.values.insert(key.name, (raw, layer));
    }

    /// Where a row was set.
    pub fn layer(&self, key: &str) -> &Layer {
        self.values.get(key).map_or(&Layer::Default, |(_, layer)| layer)
    }

    /// The value of a row.
    pub(super) fn read<T: Value>(
        &self,
        key: &'static str,
        range: Option<(&str, &str)>,
    ) -> Result<T, ConfigError> {
        let (raw, layer) = &self.values[key];
        let refuse = |problem| ConfigError::Value {
            key: format!("{}{key}", self.prefix),
            layer: layer.clone(),
            problem,
        };
        let value = T::read(raw).map_err(refuse)?;
        if let Some((low, high)) = range {
            let end =
                |text| T::parse(text).unwrap_or_else(|_| panic!("the ends of `{key}`'s range are values"));
            if !value.within(&end(low), &end(high)) {
                let found = value.to_toml().unwrap_or_default();
                return Err(refuse(format!("expected between {low} and {high}, found {found}")));
            }
        }
        Ok(value)
    }
}

type Variables = Vec<(&'static Key, String)>;

/// The keys among the variables, and the file that `FANFARE_CONFIG` names.
fn variables(all: Vec<(OsString, OsString)>) -> Result<(Variables, Option<PathBuf>), ConfigError> {
    let (mut found, mut file) = (Variables::new(), None);
    for (name, value) in all {
        let name = name.to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("FANFARE_") else { continue };
        if rest == "CONFIG" {
            file = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
        } else if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
            let value =
                value.into_string().map_err(|_| ConfigError::NotUtf8(format!("the value of {name}")))?;
            found.push((key, value));
        } else if !is_service_link(rest, &value) {
            let meant = meant(KEYS, rest).map(Key::variable);
            return Err(ConfigError::UnknownVariable { name, meant });
        }
    }
    Ok((found, file))
}

/// Whether Kubernetes set it: in every container of a namespace it describes each service by variables that begin with
/// the service's name, and a service called `fanfare` must not keep the gateway from starting.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(rest: &str, value: &OsStr) -> bool {
    let rest = format!("_{rest}");
    let is_url =
        ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.to_string_lossy().starts_with(scheme));
    let is_port = |port: &str| port.split('_').next().is_some_and(|number| number.parse::<u16>().is_ok());
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && is_url)
        || rest.split_once("_PORT_").is_some_and(|(_, port)| is_port(port))
}

/// The row that was probably meant by a name that is none: the most alike, or the only one that contains it.
pub(super) fn meant<C>(rows: &'static [Key<C>], name: &str) -> Option<&'static Key<C>> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let likeness = |key: &&Key<C>| strsim::jaro_winkler(key.name, &name);
    let nearest = rows.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(&nearest) > 0.88 {
        return Some(nearest);
    }
    let mut containing = rows.iter().filter(|key| key.name.split('_').any(|word| word == name));
    containing.next().filter(|_| containing.next().is_none())
}
