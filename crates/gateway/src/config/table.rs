//! A table of rows from which a configuration struct, its documentation and its errors are made. Two are built so: the
//! keys of the gateway (`keys`) and the options of channels (`options`). It knows no row of either.

use super::keys::Config;
use super::value::Kind;

/// One row of a table, whose parsed values together are a `C`.
#[derive(Debug)]
pub struct Key<C: 'static = Config> {
    /// As in the file.
    pub name: &'static str,
    /// The heading it stands under.
    pub group: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
    /// As a word; empty for an optional key that is not set.
    pub default: &'static str,
    /// The least and the most, as words.
    pub range: Option<(&'static str, &'static str)>,
    /// What stands for the value after a flag.
    pub placeholder: &'static str,
    /// What sort of value it takes.
    pub kind: Kind,
    /// Its value in TOML, secrets masked; nothing where it is not set.
    pub written: fn(&C) -> Option<String>,
}

/// Makes the struct, the way to read it from a [`super::layers::Layered`], and the rows.
///
/// A row is `/// meaning`, `name: type = "default", <PLACEHOLDER>;` and, where the type is wider than the key, `in
/// "low" to "high"` before the placeholder, which rows without a flag leave out. Fields that are no rows follow after
/// `and`.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $Rows:ident, $(#[$keys_meta:meta])* $KEYS:ident:
        $($group:literal {$(
            #[doc = $help:literal]
            $name:ident: $type:ty = $default:literal $(in $low:literal to $high:literal)? $(, <$placeholder:ident>)?;
        )+})+
        $(and { $($(#[$more_meta:meta])* $more:ident: $more_type:ty,)+ })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Rows {
            $($(
                #[doc = $help]
                pub $name: $type,
            )+)+
            $($($(#[$more_meta])* pub $more: $more_type,)+)?
        }

        impl $Rows {
            /// Takes each row's value out of the highest layer that set it. Does not compare them with one another.
            pub(super) fn read(values: &$crate::config::layers::Layered) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self {
                    $($($name: values.read::<$type>(stringify!($name), range![$($low, $high)?])?,)+)+
                    $($($more: <$more_type>::default(),)+)?
                })
            }
        }

        $(#[$keys_meta])*
        pub static $KEYS: &[$crate::config::table::Key<$Rows>] = &[$($(
            $crate::config::table::Key {
                name: stringify!($name),
                group: $group,
                help: $help.trim_ascii(),
                default: $default,
                range: range![$($low, $high)?],
                placeholder: concat!($(stringify!($placeholder))?),
                kind: <$type as $crate::config::value::Value>::KIND,
                written: |rows| $crate::config::value::Value::to_toml(&rows.$name),
            },
        )+)+];
    };
}

macro_rules! range {
    () => {
        None
    };
    ($low:literal, $high:literal) => {
        Some(($low, $high))
    };
}

pub(super) use {range, table};
