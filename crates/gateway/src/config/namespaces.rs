//! The namespaces of the file: which there are, with which options, and which of them a channel belongs to. What the
//! options mean is said elsewhere: in `options`, and in `crate::namespace`.

use std::ops::Deref;
use std::sync::Arc;

use fanfare_protocol::Channel;

use super::clients::PersonalChannel;
use super::error::ConfigError;
use super::layers::Settings;
use super::options::Options;

/// The options of all channels: those of the default, and of each namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespaces {
    /// The default's first, then in the file's order.
    all: Arc<[Arc<Namespace>]>,
    /// Whether the file has any table. Where it has none, everything is open.
    configured: bool,
}

impl Namespaces {
    /// `personal` is where the users' own channels are, if they have any.
    pub(super) fn read(settings: &Settings, personal: Option<&PersonalChannel>) -> Result<Self, ConfigError> {
        let is_personal = |name: Option<&str>| personal.is_some_and(|personal| personal.namespace() == name);
        if settings.sections.is_empty() {
            return Ok(Self::open(is_personal(None)));
        }
        let default = match settings.section(None) {
            Some(section) => Options::read(&section.values)?,
            None => Options::default(),
        };
        let mut all =
            vec![Arc::new(Namespace { name: None, index: 0, options: default, personal: is_personal(None) })];
        for section in settings.sections.iter().filter(|section| section.namespace.is_some()) {
            let options = Options::read(&section.values)?;
            let name = section.namespace.as_deref();
            let personal = is_personal(name);
            all.push(Arc::new(Namespace { name: name.map(Box::from), index: all.len(), options, personal }));
        }
        Ok(Self { all: all.into(), configured: true })
    }

    fn open(personal: bool) -> Self {
        let open = Namespace { name: None, index: 0, options: Options::open(), personal };
        Self { all: [Arc::new(open)].into(), configured: false }
    }

    /// The namespace of a channel: the one before the first `:` of its name, or the default. Where the file names no
    /// namespace, every name is the default's, a `:` in it or not.
    ///
    /// # Errors
    ///
    /// When other namespaces are configured and this one is not.
    pub fn resolve(&self, channel: &Channel) -> Result<&Arc<Namespace>, UnknownNamespace> {
        let (default, named) = self.all.split_first().expect("the default is always there");
        let Some(name) = channel.namespace().filter(|_| !named.is_empty()) else { return Ok(default) };
        // A handful: to compare them is cheaper than to hash the name.
        let found = named.iter().find(|namespace| namespace.name.as_deref() == Some(name));
        found.ok_or_else(|| UnknownNamespace(name.to_owned()))
    }

    /// The default's options and those of each namespace, in the order of their index.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.all.iter()
    }

    /// Whether the file says anything about channels. Where it does not, all are open to anybody.
    pub fn are_configured(&self) -> bool {
        self.configured
    }
}

/// What holds where the file has no table.
impl Default for Namespaces {
    fn default() -> Self {
        Self::open(false)
    }
}

/// A namespace and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// As before the `:` of its channels; none for the default's, which have no `:`.
    pub name: Option<Box<str>>,
    /// Its place among [`Namespaces::iter`], for tables that have a row for each.
    pub index: usize,
    /// What holds in it.
    pub options: Options,
    /// Whether the users' own channels are here (`personal_channel`).
    pub personal: bool,
}

impl Namespace {
    /// Its label in metrics. No namespace can be named so.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("(default)")
    }

    /// The name of the user whose own channel it is, if it is one's.
    pub fn owner<'c>(&self, channel: &'c Channel) -> Option<&'c str> {
        channel.personal_user(self.name.as_deref()).filter(|_| self.personal)
    }
}

impl Deref for Namespace {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
    }
}

/// No such namespace is configured: error 102 of the client protocol, 404 of the raw endpoints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no namespace {0:?}")]
pub struct UnknownNamespace(pub String);

/// The name of a namespace, as it stands before the `:` of its channels.
pub struct NamespaceName;

impl NamespaceName {
    /// Whether a text is one; the error says what is expected.
    pub fn parse(text: &str) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(());
        }
        Err(format!(
            "expected a name of 1 to 64 ASCII letters, digits, `_`, `-` and `.`, as it stands before the `:` of a channel, \
             found {text:?}"
        ))
    }
}
