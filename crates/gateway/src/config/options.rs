//! The table of channel options: the only place that knows an option's name, type, default, range and meaning.
//! [`Options`] itself, the tables `[channels]` and `[namespaces.NAME]` of the file, `fanfare config` and
//! `docs/configuration.md` are all made from it. What two options mean together is not here but in `rules`; who may
//! do what, in `crate::namespace`.

use std::num::NonZeroU32;
use std::time::Duration;

use fanfare_protocol::payload::DataFormat;

use super::name_pattern::NamePattern;
use super::table::{range, table};
use super::value::{Hint, Kind, Value, string};

table! {
    /// What holds for the channels of one namespace. In counts, `None` is what users write as 0.
    Options,
    /// All options, in the order in which they are shown.
    OPTIONS:
    "Rights" {
        /// Who may subscribe
        may_subscribe: MaySubscribe = "token";
        /// Who may publish
        may_publish: May = "nobody";
        /// Who may read what was published before
        may_read_history: May = "nobody";
        /// Who may read who is subscribed
        may_read_presence: May = "nobody";
        /// Whether a name such as `dialog#12,42` is for users 12 and 42 alone
        user_limited: bool = "false";
        /// Whether a name that begins with `$` is for subscription tokens alone
        private_prefix: bool = "true";
        /// Whether clients of `/ws` may publish here, if they may at all
        raw_publish: bool = "true";
    }
    "History" {
        /// Publications kept for each channel, 0 for none
        history_size: Option<NonZeroU32> = "0" in "0" to "1000000";
        /// How long a channel's publications are kept after the last one
        history_ttl: Duration = "5m" in "1s" to "8760h";
        /// Whether subscriptions know their position, and so notice a loss
        positioning: Offer = "off";
        /// Whether clients that come back get what they have missed
        recovery: Offer = "off";
    }
    "Presence" {
        /// Whether it is known who is subscribed
        presence: bool = "false";
        /// Whether subscribers are told who comes and goes
        join_leave: Offer = "off";
    }
    "Publications" {
        /// What a publication's data may be
        data_format: DataFormat = "any";
        /// Whether clients may ask for the delta to the last publication
        delta: bool = "false";
        /// What happens to a client that does not keep up
        slow_consumers: SlowConsumers = "close";
        /// What the whole of a name must match, a regular expression
        name_pattern: Option<NamePattern> = "";
    }
}

/// Declares a closed set of words and how it is read.
macro_rules! words {
    ($(#[$meta:meta])* $Type:ident, $expected:literal: $($(#[$variant_meta:meta])* $Variant:ident = $word:literal,)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Type {
            $($(#[$variant_meta])* $Variant,)+
        }

        worded! { $Type, $expected: $($Variant = $word,)+ }
    };
}

/// Says how a closed set of words that is declared elsewhere is read.
macro_rules! worded {
    ($Type:ident, $expected:literal: $($Variant:ident = $word:literal,)+) => {
        impl Value for $Type {
            const KIND: Kind = Kind::Choice(&[$($word),+]);
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Result<Self, Hint> {
                match text {
                    $($word => Ok(Self::$Variant),)+
                    _ => Err(None),
                }
            }

            fn to_toml(&self) -> Option<String> {
                Some(string(match self {
                    $(Self::$Variant => $word,)+
                }))
            }
        }
    };
}

words! {
    /// Who may subscribe. A token for the channel always lets its holder in; each right takes in the one before.
    MaySubscribe, r#""token", "client" or "anonymous""#:
    /// Only holders of a subscription token, or of a connection token that names the channel.
    Token = "token",
    /// Every client with a user.
    Client = "client",
    /// Every client.
    Anonymous = "anonymous",
}

words! {
    /// Who may do something in a channel. `Nobody` is the least and `Anonymous` the most; neither of the two between
    /// takes in the other: a subscriber may be anonymous, and a client with a user need not be subscribed.
    May, r#""nobody", "subscriber", "client" or "anonymous""#:
    /// No client; the back end alone.
    Nobody = "nobody",
    /// Every client that is subscribed to the channel, anonymous or not.
    Subscriber = "subscriber",
    /// Every client with a user, subscribed or not.
    Client = "client",
    /// Every client.
    Anonymous = "anonymous",
}

words! {
    /// Whether a namespace offers a feature to its subscriptions.
    Offer, r#""off", "allow" or "force""#:
    /// None has.
    Off = "off",
    /// Those whose clients ask for it have.
    Allow = "allow",
    /// All have.
    Force = "force",
}

worded! {
    DataFormat, r#""any", "json", "json_object" or "binary""#:
    Any = "any", Json = "json", JsonObject = "json_object", Binary = "binary",
}

words! {
    /// What happens to a client that does not keep up.
    SlowConsumers, r#""close", "drop_oldest" or "keep_latest""#:
    /// It is closed when its outbox is full.
    Close = "close",
    /// It loses what it has waited for longest.
    DropOldest = "drop_oldest",
    /// It gets the latest publication of the channel when it can take one.
    KeepLatest = "keep_latest",
}

impl Options {
    /// What holds where the file has no table at all: anybody may subscribe to any channel and publish to it, and
    /// nothing is kept. This is the plain relay.
    pub fn open() -> Self {
        Self {
            may_subscribe: MaySubscribe::Anonymous,
            may_publish: May::Anonymous,
            private_prefix: false,
            ..Self::default()
        }
    }
}

/// What holds in a table that sets nothing: everything is closed.
impl Default for Options {
    fn default() -> Self {
        let defaults = super::layers::Layered::defaults(OPTIONS, String::new());
        Self::read(&defaults).expect("every default is a value of its option")
    }
}
