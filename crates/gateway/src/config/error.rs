//! What can be wrong with a configuration. Each error is one line that names the key, where it was set, and what would
//! have been right; the first one ends the reading. The program exits with 2 for all of them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::layers::Layer;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named, or is there, and cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), if *named { "" } else { " (it is read because it is there)" })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Whether somebody named it, rather than that it lies in the working directory.
        named: bool,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The file has a key that there is not.
    #[error("unknown key `{name}` in {} line {line}{}", path.display(), Meant(.meant))]
    UnknownKey {
        /// The key.
        name: String,
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key that was probably meant.
        meant: Option<String>,
    },
    /// The file has a table that there is not.
    #[error(
        "`{name}` in {} line {line} is a table: keys are flat, such as `drain_window`; tables are [channels] and [namespaces.NAME]",
        path.display()
    )]
    Table {
        /// The table.
        name: String,
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The file has a key in a table, or an option of channels outside of one.
    #[error("`{name}` in {} line {line} {belongs}", path.display())]
    Misplaced {
        /// The key.
        name: String,
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Where it should be.
        belongs: &'static str,
    },
    /// A variable begins with `FANFARE_` and is no key.
    #[error("unknown variable `{name}`{}", Meant(.meant))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        meant: Option<String>,
    },
    /// A variable or a path is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    /// A value is not of the key's type, or lies outside its range.
    #[error("`{key}` ({layer}): {problem}")]
    Value {
        /// The key, after its table's name.
        key: String,
        /// Where it was set.
        layer: Layer,
        /// What was wrong with it and what was expected.
        problem: String,
    },
    /// Two values that cannot both be.
    #[error("{0}")]
    Combination(String),
}

struct Meant<'a>(&'a Option<String>);

impl fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |name| write!(f, "; did you mean `{name}`?"))
    }
}
