//! Values that are right alone and wrong together. Each rule says both keys, where each was set, and why; values that
//! merely look odd are nobody's business.

use super::error::ConfigError;
use super::keys::{Config, Key};
use super::layers::{Layer, Section, Settings};
use super::memory::{HistoryMemory, MemoryLimit};
use super::namespaces::Namespace;
use super::options::{May, MaySubscribe, OPTIONS, Offer, Options, SlowConsumers};
use super::redis::RedisUrl;
use crate::signature::MOST_KEYS;

/// Holds a configuration against every rule; the first that it breaks is the error.
pub(super) fn check(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let said = |key| said(Key::named(key), key, config, settings.layer(key));
    hold(rules(config), said)?;
    if let Some(personal) = &config.personal_channel
        && let Ok(channel) = personal.of("user")
        && let Err(unknown) = config.channels.resolve(&channel)
    {
        let said = said("personal_channel");
        return Err(ConfigError::Combination(format!("{said} is in no namespace of the file: {unknown}")));
    }
    check_keys(config, settings)?;
    let (has_users, said_of_key) = (config.has_token_keys(), said);
    for (namespace, section) in sections(config, settings) {
        let said = |name| {
            let option = OPTIONS.iter().find(|option| option.name == name);
            let full = format!("{}.{name}", section.heading());
            self::said(option, &full, &namespace.options, section.values.layer(name))
        };
        let is_granted = has_users || config.api_keys().next().is_some();
        hold(channel_rules(namespace, is_granted), said)?;
        check_pattern(namespace, said, || said_of_key("personal_channel"))?;
        for (broken, option) in user_rules(namespace) {
            if broken && !has_users {
                return Err(ConfigError::Combination(format!(
                    "{} needs one of `token_secrets`, `token_secrets_file`, `token_public_keys` and `token_jwks`: without \
                     keys no client has a token or a user",
                    said(option)
                )));
            }
        }
    }
    Ok(())
}

/// No token is held against more keys than so many, and one that is never tried is a mistake.
fn check_keys(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let listed = config.token_secrets_file.as_ref().map_or(0, |file| file.secrets.len());
    let secrets = [("token_secrets", config.token_secrets.len()), ("token_secrets_file", listed)];
    let keys = [("token_public_keys", config.token_public_keys.len())];
    for (what, counts) in [("secrets", &secrets[..]), ("keys", &keys)] {
        let count: usize = counts.iter().map(|(_, count)| count).sum();
        if count > MOST_KEYS {
            let set = counts.iter().filter(|(_, count)| *count > 0);
            let said: Vec<_> = set.map(|(key, _)| format!("`{key}` ({})", settings.layer(key))).collect();
            let said = said.join(" and ");
            return Err(ConfigError::Combination(format!(
                "{said}: expected at most {MOST_KEYS} {what} in all, found {count}; those that are retired count, and can go"
            )));
        }
    }
    Ok(())
}

fn hold(rules: Vec<Rule>, said: impl Fn(&'static str) -> String) -> Result<(), ConfigError> {
    match rules.into_iter().find(|rule| rule.is_broken) {
        None => Ok(()),
        Some(Rule { key, must, other, why, .. }) => {
            Err(ConfigError::Combination(format!("{} {must} {}: {why}", said(key), said(other))))
        }
    }
}

/// A pattern that keeps a namespace from what it is for would refuse every name, and say so to clients alone.
fn check_pattern(
    namespace: &Namespace,
    said: impl Fn(&'static str) -> String,
    said_personal: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    let Some(pattern) = &namespace.name_pattern else { return Ok(()) };
    let begin = namespace.name.as_ref().map(|name| format!("{name}:")).unwrap_or_default();
    let broken = if !pattern.admits_prefix(&begin) && !pattern.admits_prefix(&format!("${begin}")) {
        Some(format!("matches no name of its channels, which begin with `{begin}`"))
    } else if namespace.personal && !pattern.admits_prefix(&format!("{begin}#")) {
        Some(format!("matches no channel that is made by {}", said_personal()))
    } else if namespace.user_limited && !pattern.admits_character(b'#') {
        Some(format!(
            "cannot go with {}: no name that matches has a `#`, behind which its users stand",
            said("user_limited")
        ))
    } else {
        None
    };
    broken.map_or(Ok(()), |why| Err(ConfigError::Combination(format!("{} {why}", said("name_pattern")))))
}

/// The namespaces that the file has a table for, and the table.
fn sections<'a>(
    config: &'a Config,
    settings: &'a Settings,
) -> impl Iterator<Item = (&'a Namespace, &'a Section)> {
    config.channels.iter().filter_map(|namespace| {
        settings.section(namespace.name.as_deref()).map(|section| (&**namespace, section))
    })
}

/// What two options of one namespace are to one another. `is_granted` is whether a token or the back end may give
/// more than these say.
fn channel_rules(options: &Options, is_granted: bool) -> Vec<Rule> {
    let no_history = options.history_size.is_none();
    let slow = options.slow_consumers != SlowConsumers::Close;
    let dropped = "a client that was not sent everything has no position";
    let positioned = "a position is a place in the history";
    vec![
        needs("recovery", "history_size", "what is missed is read from the history")
            .broken_by(no_history && options.recovery != Offer::Off),
        needs("positioning", "history_size", positioned)
            .broken_by(no_history && options.positioning != Offer::Off),
        needs("delta", "history_size", "a delta is to the publication before, which is kept there")
            .broken_by(no_history && options.delta),
        needs("may_read_history", "history_size", "there is nothing to read")
            .broken_by(no_history && options.may_read_history != May::Nobody),
        needs("history_ttl", "history_size", "without it nothing is kept")
            .broken_by(no_history && options.history_ttl != Options::default().history_ttl),
        needs("join_leave", "presence", "who comes and goes is known from who is there")
            .broken_by(!options.presence && options.join_leave != Offer::Off),
        needs("may_read_presence", "presence", "there is nothing to read")
            .broken_by(!options.presence && options.may_read_presence != May::Nobody),
        needs("join_leave", "may_read_presence", "who asks is told only if it may see who is there")
            .broken_by(
                options.join_leave == Offer::Allow && options.may_read_presence == May::Nobody && !is_granted,
            ),
        cannot_go_with("slow_consumers", "positioning", dropped)
            .broken_by(slow && options.positioning != Offer::Off),
        cannot_go_with("slow_consumers", "recovery", dropped)
            .broken_by(slow && options.recovery != Offer::Off),
        cannot_go_with("slow_consumers", "delta", "a delta to what was not sent is of no use")
            .broken_by(slow && options.delta),
    ]
}

/// Which options of a namespace mean nothing where no client can have a token or a user.
fn user_rules(options: &Options) -> [(bool, &'static str); 5] {
    [
        (options.may_subscribe != MaySubscribe::Anonymous, "may_subscribe"),
        (options.user_limited, "user_limited"),
        (options.may_publish == May::Client, "may_publish"),
        (options.may_read_history == May::Client, "may_read_history"),
        (options.may_read_presence == May::Client, "may_read_presence"),
    ]
}

fn rules(config: &Config) -> Vec<Rule> {
    let default = Config::default();
    let same_address =
        config.internal_listen.as_ref().is_some_and(|internal| internal.overlaps(&config.listen));
    let no_redis = config.redis.is_none();
    let alone = "an instance without Redis serves alone";
    let above = |limit: Option<usize>, other: Option<usize>| {
        limit.zip(other).is_some_and(|(limit, other)| limit > other)
    };
    let (whole, each) = (config.max_connections, config.max_connections_per_address);
    let too_many = above(each.map(usize::from), whole.map(usize::from));
    let (whole, each) = (config.max_handshakes, config.max_handshakes_per_address);
    let too_many_begun = above(each.map(usize::from), whole.map(usize::from));
    let spool = config.redis_spool;
    let pongs = 1.0 / config.ping_interval.as_secs_f64();
    let mute = config.control_rate.is_some_and(|rate| f64::from(rate.get()) < 2.0 * pongs);
    let no_keys = !config.has_token_keys();
    let unread = "without keys no token is read";
    let no_jwks = config.token_jwks.is_none();
    let nothing = "there is nothing to fetch";
    let inside = "what a key lets do is for back ends, and is never offered to clients";
    let no_inside = config.internal_listen.is_none();
    let no_api = config.api_keys().next().is_none();
    let no_door = "without a key there is no HTTP API";
    vec![
        needs("token_jwks_refresh", "token_jwks", nothing)
            .broken_by(no_jwks && config.token_jwks_refresh != default.token_jwks_refresh),
        needs("token_jwks_timeout", "token_jwks", nothing)
            .broken_by(no_jwks && config.token_jwks_timeout != default.token_jwks_timeout),
        needs_keys("token_audience", unread).broken_by(no_keys && !config.token_audience.is_empty()),
        needs_keys("token_issuer", unread).broken_by(no_keys && !config.token_issuer.is_empty()),
        needs_keys("token_leeway", unread).broken_by(no_keys && config.token_leeway != default.token_leeway),
        needs_keys("allow_anonymous", "nobody could connect")
            .broken_by(no_keys && config.allow_anonymous == Some(false)),
        needs_keys("allow_anonymous_tokens", unread).broken_by(no_keys && !config.allow_anonymous_tokens),
        needs("api_keys", "internal_listen", inside).broken_by(no_inside && !config.api_keys.is_empty()),
        needs("api_keys_file", "internal_listen", inside)
            .broken_by(no_inside && config.api_keys_file.is_some()),
        needs("api_error_mode", "api_keys", no_door)
            .broken_by(no_api && config.api_error_mode != default.api_error_mode),
        needs("api_body_limit", "api_keys", no_door)
            .broken_by(no_api && config.api_body_limit != default.api_body_limit),
        Rule::new("internal_listen", "cannot share its address with", "listen")
            .because("clients would reach what is for operators")
            .broken_by(same_address),
        needs("tls_cert", "tls_key", "a certificate is shown by whoever has its key")
            .broken_by(config.tls_cert.is_some() && config.tls_key.is_none()),
        needs("tls_key", "tls_cert", "there is nothing to show with a key alone")
            .broken_by(config.tls_key.is_some() && config.tls_cert.is_none()),
        needs("redis_cluster_nodes", "redis", alone).broken_by(no_redis && config.is_redis_cluster()),
        Rule::new("redis", "must name no database, and neither must", "redis_cluster_nodes")
            .because("a Redis Cluster has the first alone")
            .broken_by(
                config.is_redis_cluster()
                    && config.redis.iter().chain(&config.redis_cluster_nodes).any(RedisUrl::has_database),
            ),
        Rule::new("redis_prefix", "must have no braces with", "redis_cluster_nodes")
            .because("what stands in braces says on which node a key is")
            .broken_by(config.is_redis_cluster() && config.redis_prefix.contains(['{', '}'])),
        needs("redis_prefix", "redis", alone)
            .broken_by(no_redis && config.redis_prefix != default.redis_prefix),
        needs("redis_timeout", "redis", alone)
            .broken_by(no_redis && config.redis_timeout != default.redis_timeout),
        needs("redis_spool", "redis", alone).broken_by(no_redis && spool != default.redis_spool),
        Rule::new("redis_spool", "must be 0 or at least", "message_limit")
            .because("the largest message would never fit")
            .broken_by(!no_redis && spool != 0 && spool < config.message_limit),
        Rule::new("redis_spool", "must not be larger than a quarter of", "memory_limit")
            .because("what waits for Redis can be twice as much, and is not given up")
            .broken_by(matches!(config.memory_limit, MemoryLimit::Bytes(bytes) if spool > bytes / 4)),
        Rule::new("history_memory", "has no meaning with", "redis")
            .because("histories are kept there, within its own `maxmemory`")
            .broken_by(!no_redis && config.history_memory != default.history_memory),
        Rule::new("history_memory", "must be at least", "message_limit")
            .because("the largest message would never be kept")
            .broken_by(
                matches!(config.history_memory, HistoryMemory::Bytes(bytes) if bytes < config.message_limit),
            ),
        Rule::new("history_memory", "must not be larger than half of", "memory_limit")
            .because("connections take memory as well")
            .broken_by(matches!(
                (config.history_memory, config.memory_limit),
                (HistoryMemory::Bytes(bytes), MemoryLimit::Bytes(limit)) if bytes > limit / 2
            )),
        Rule::new("ping_interval", "must be shorter than", "idle_timeout")
            .because("a quiet client would be cut before its first ping")
            .broken_by(config.ping_interval >= config.idle_timeout),
        Rule::new("client_pong_timeout", "must be shorter than", "client_ping_interval")
            .because("a client is asked again only after it has answered")
            .broken_by(config.client_pong_timeout >= config.client_ping_interval),
        needs_keys("personal_channel", "without keys no client has a user")
            .broken_by(no_keys && config.personal_channel.is_some()),
        needs_keys("max_connections_per_user", "without keys no client has a user")
            .broken_by(no_keys && config.max_connections_per_user.is_some()),
        Rule::new("control_rate", "must be twice what is asked for by", "ping_interval")
            .because("a client that answers every ping would be cut")
            .broken_by(mute),
        Rule::new("header_timeout", "must not be longer than", "handshake_timeout")
            .because("the headers are a part of the handshake")
            .broken_by(config.header_timeout > config.handshake_timeout),
        Rule::new("message_limit", "must be at least 10 bytes less than", "outbox_limit")
            .because("the largest message, in its frame, would cut whoever cannot take it at once")
            .broken_by(config.message_limit > config.payload_limit()),
        needs("message_burst", "message_rate", "without a rate there is nothing to burst above")
            .broken_by(config.message_burst.is_some() && config.message_rate.is_none()),
        needs("compression_threshold", "compression", "nothing is compressed")
            .broken_by(!config.compression && config.compression_threshold != default.compression_threshold),
        needs("compression_level", "compression", "nothing is compressed")
            .broken_by(!config.compression && config.compression_level != default.compression_level),
        needs("compression_context", "compression", "nothing is compressed")
            .broken_by(!config.compression && config.compression_context != default.compression_context),
        Rule::new("max_connections_per_address", "must not be larger than", "max_connections")
            .because("no address could ever reach it")
            .broken_by(too_many),
        Rule::new("max_handshakes_per_address", "must not be larger than", "max_handshakes")
            .because("no address could ever reach it")
            .broken_by(too_many_begun),
        needs(
            "proxy_protocol",
            "trusted_proxies",
            "its header is read from proxies that are named there, and from nobody else",
        )
        .broken_by(config.proxy_protocol && config.trusted_proxies.is_empty()),
    ]
}

/// What a key must be to another, and why.
struct Rule {
    /// The key to blame.
    key: &'static str,
    must: &'static str,
    other: &'static str,
    why: &'static str,
    is_broken: bool,
}

impl Rule {
    fn new(key: &'static str, must: &'static str, other: &'static str) -> Self {
        Self { key, must, other, why: "", is_broken: false }
    }

    fn because(self, why: &'static str) -> Self {
        Self { why, ..self }
    }

    fn broken_by(self, is_broken: bool) -> Self {
        Self { is_broken, ..self }
    }
}

fn needs(key: &'static str, other: &'static str, why: &'static str) -> Rule {
    Rule::new(key, "needs", other).because(why)
}

fn needs_keys(key: &'static str, why: &'static str) -> Rule {
    Rule::new(key, "needs keys, as in", "token_secrets").because(why)
}

fn cannot_go_with(key: &'static str, other: &'static str, why: &'static str) -> Rule {
    Rule::new(key, "cannot go with", other).because(why)
}

/// `` `idle_timeout` ("20s", fanfare.toml line 4) ``.
fn said<C>(row: Option<&Key<C>>, name: &str, values: &C, layer: &Layer) -> String {
    let value = row.and_then(|row| (row.written)(values)).unwrap_or_else(|| "not set".into());
    format!("`{name}` ({value}, {layer})")
}
