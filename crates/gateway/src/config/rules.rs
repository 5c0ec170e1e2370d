//! Values that are right alone and wrong together. Each rule says both keys, where each was set, and why; values that
//! merely look odd are nobody's business.

use super::error::ConfigError;
use super::keys::{Config, Key};
use super::layers::Settings;

/// Holds a configuration against every rule; the first that it breaks is the error.
pub(super) fn check(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let said = |key| said(config, settings, key);
    for (broken, key, must, other, why) in rules(config) {
        if broken {
            let line = format!("{} {must} {}: {why}", said(key), said(other));
            return Err(ConfigError::Combination(line));
        }
    }
    Ok(())
}

/// Whether it is broken, the key to blame, what it must be to the other, and why.
type Rule = (bool, &'static str, &'static str, &'static str, &'static str);

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
    let spool = config.redis_spool;
    vec![
        (
            same_address,
            "internal_listen",
            "cannot share its address with",
            "listen",
            "clients would reach what is for operators",
        ),
        (no_redis && config.redis_prefix != default.redis_prefix, "redis_prefix", "needs", "redis", alone),
        (no_redis && config.redis_timeout != default.redis_timeout, "redis_timeout", "needs", "redis", alone),
        (no_redis && spool != default.redis_spool, "redis_spool", "needs", "redis", alone),
        (
            spool != 0 && spool < config.message_limit,
            "redis_spool",
            "must be 0 or at least",
            "message_limit",
            "the largest message would never fit",
        ),
        (
            config.ping_interval >= config.idle_timeout,
            "ping_interval",
            "must be shorter than",
            "idle_timeout",
            "a quiet client would be cut before its first ping",
        ),
        (
            config.header_timeout > config.handshake_timeout,
            "header_timeout",
            "must not be longer than",
            "handshake_timeout",
            "the headers are a part of the handshake",
        ),
        (
            config.message_limit > config.outbox_limit,
            "message_limit",
            "must not be larger than",
            "outbox_limit",
            "the largest message would cut whoever cannot take it at once",
        ),
        (
            config.message_burst.is_some() && config.message_rate.is_none(),
            "message_burst",
            "needs",
            "message_rate",
            "without a rate there is nothing to burst above",
        ),
        (
            !config.compression && config.compression_threshold != default.compression_threshold,
            "compression_threshold",
            "needs",
            "compression",
            "nothing is compressed",
        ),
        (
            !config.compression && config.compression_level != default.compression_level,
            "compression_level",
            "needs",
            "compression",
            "nothing is compressed",
        ),
        (
            !config.compression && config.compression_context != default.compression_context,
            "compression_context",
            "needs",
            "compression",
            "nothing is compressed",
        ),
        (
            too_many,
            "max_connections_per_address",
            "must not be larger than",
            "max_connections",
            "no address could ever reach it",
        ),
        (
            config.proxy_protocol && config.trusted_proxies.is_empty(),
            "proxy_protocol",
            "needs",
            "trusted_proxies",
            "its header is read from proxies that are named there, and from nobody else",
        ),
    ]
}

/// `` `idle_timeout` ("20s", fanfare.toml line 4) ``.
fn said(config: &Config, settings: &Settings, key: &'static str) -> String {
    let value = Key::named(key).and_then(|key| (key.written)(config)).unwrap_or_else(|| "not set".into());
    format!("`{key}` ({value}, {})", settings.layer(key))
}
