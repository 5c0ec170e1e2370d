//! What an instance must be told about its Redis, read wholly before anything connects. No error here
//! repeats the URL, because it carries the password.

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use uuid::Uuid;

use crate::Timings;

/// How the instances reach each other through Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user][:password@]host[:port][/database]`, `rediss://…` for TLS against the system's
    /// certificates (or those of `SSL_CERT_FILE`), or `unix:///path[?db=…&user=…&pass=…]`.
    pub url: String,
    /// Whether it is a node of a Redis Cluster, and the URLs of others of it, to go to when it is not there.
    /// Publications go to all nodes; each key is on one, and all keys of a channel are on the same.
    pub cluster: Option<Vec<String>>,
    /// What every Redis channel's name begins with. Redis keeps one space of channels for all its
    /// databases, so it is the prefix that keeps two installations apart.
    pub prefix: String,
    /// The deadline of every connection attempt, pipeline, subscription and PING.
    pub timeout: Duration,
    /// Bytes of publications kept for the other instances while Redis is away; then the oldest go.
    pub spool_bytes: usize,
    /// The longest payload that is relayed; a foreign publisher's longer one is dropped and counted.
    pub payload_limit: usize,
    /// Pairs of connections to Redis over which the channels are spread.
    pub lanes: usize,
    /// After how long a silence of a channel with a history it is asked whether nothing was missed.
    pub position_check: Duration,
    /// The instance's id, by which others send to it alone.
    pub instance: Uuid,
    /// How long what this instance says about its connections is believed without its word: others let its members
    /// go so much, and a second or two, after it was killed.
    pub lease: Duration,
    /// How long questions take.
    pub timings: Timings,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It begins with none of the schemes.
    #[error("the Redis URL begins with neither redis://, rediss:// nor unix://")]
    Scheme,
    /// It is no URL.
    #[error(
        "the Redis URL cannot be read; expected redis://[user][:password@]host[:port][/database], \
         special characters in user and password percent-encoded"
    )]
    Url,
    /// What follows the host is no number.
    #[error("the Redis URL's database is not a number; expected for example redis://host:6379/0")]
    Database,
    /// It asks for TLS without verification.
    #[error(
        "the Redis URL asks for TLS without verification (#…); put the authority's certificate into SSL_CERT_FILE"
    )]
    Fragment,
    /// The prefix is empty or holds what cannot be seen.
    #[error("the Redis prefix is empty or has spaces or control characters; expected a word such as fanfare")]
    Prefix,
    /// What a cluster does not have.
    #[error(
        "a Redis Cluster is reached at hosts and ports, has database 0 alone, and wants a prefix without braces"
    )]
    Cluster,
    /// No lane could carry anything.
    #[error("the number of Redis lanes is 0; expected 1 or more")]
    Lanes,
    /// No renewal could come in time.
    #[error("the lease is {0:?}; expected {least:?} or more", least = RedisConfig::SHORTEST_LEASE)]
    Lease(Duration),
    /// Everything would time out.
    #[error("the Redis timeout is 0; expected for example 2s")]
    Timeout,
}

impl RedisConfig {
    /// It is renewed five times in its length, and looked after ten times.
    pub const SHORTEST_LEASE: Duration = Duration::from_millis(200);

    /// The defaults, for the Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            cluster: None,
            prefix: "fanfare".to_owned(),
            timeout: Duration::from_secs(2),
            spool_bytes: 8 << 20,
            payload_limit: 1 << 20,
            lanes: 1,
            position_check: Duration::from_secs(40),
            instance: Uuid::new_v4(),
            lease: Duration::from_secs(9),
            timings: Timings::default(),
        }
    }

    /// Checks everything that can be checked without connecting, and reads the URL.
    pub(super) fn connection_info(&self) -> Result<ConnectionInfo, ConfigError> {
        let word = |c: char| !c.is_whitespace() && !c.is_control();
        if self.prefix.is_empty() || !self.prefix.chars().all(word) {
            return Err(ConfigError::Prefix);
        }
        if self.lanes == 0 {
            return Err(ConfigError::Lanes);
        }
        if self.timeout.is_zero() {
            return Err(ConfigError::Timeout);
        }
        if self.lease < Self::SHORTEST_LEASE {
            return Err(ConfigError::Lease(self.lease));
        }
        self.read(&self.url)
    }

    /// Where to connect to: one Redis, or some nodes of a cluster.
    pub(super) fn nodes(&self) -> Result<Vec<ConnectionInfo>, ConfigError> {
        let mut nodes = vec![self.connection_info()?];
        let Some(others) = &self.cluster else { return Ok(nodes) };
        for url in others {
            nodes.push(self.read(url)?);
        }
        let fits = |node: &ConnectionInfo| {
            node.redis_settings().db() == 0 && !matches!(node.addr(), ConnectionAddr::Unix(_))
        };
        if !nodes.iter().all(fits) || self.prefix.contains(['{', '}']) {
            return Err(ConfigError::Cluster);
        }
        Ok(nodes)
    }

    fn read(&self, url: &str) -> Result<ConnectionInfo, ConfigError> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme.as_str())) {
            return Err(ConfigError::Scheme);
        }
        let url = redis::parse_redis_url(url).ok_or(ConfigError::Url)?;
        if url.fragment().is_some() {
            return Err(ConfigError::Fragment);
        }
        let database = match url.query_pairs().find(|(key, _)| key == "db") {
            Some((_, database)) => database.into_owned(),
            None if url.scheme().ends_with("unix") => String::new(),
            None => url.path().trim_matches('/').to_owned(),
        };
        if !database.bytes().all(|digit| digit.is_ascii_digit()) || database.len() > 9 {
            return Err(ConfigError::Database);
        }
        let info = url.into_connection_info().map_err(|_| ConfigError::Url)?;
        Ok(info.set_tcp_settings(self.tcp_settings()))
    }

    /// redis-rs leaves Nagle's delay on and dead peers to the kernel's two hours.
    fn tcp_settings(&self) -> TcpSettings {
        // The kernel counts whole seconds, and refuses 0.
        let second = Duration::from_secs(1);
        let keepalive =
            TcpKeepalive::new().with_time(self.timeout.max(second)).with_interval(second).with_retries(3);
        TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(self.timeout * 2)
    }
}

/// The URL would tell the password.
impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            url: _,
            cluster,
            prefix,
            timeout,
            spool_bytes,
            payload_limit,
            lanes,
            position_check,
            instance,
            lease,
            timings: _,
        } = self;
        f.debug_struct("RedisConfig")
            .field("url", &"(secret)")
            .field("cluster", &cluster.as_ref().map(Vec::len))
            .field("prefix", prefix)
            .field("timeout", timeout)
            .field("spool_bytes", spool_bytes)
            .field("payload_limit", payload_limit)
            .field("lanes", lanes)
            .field("position_check", position_check)
            .field("instance", instance)
            .field("lease", lease)
            .finish()
    }
}

/// Whether connections to it are encrypted.
pub(super) fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

const SCHEMES: [&str; 7] = ["redis", "rediss", "valkey", "valkeys", "unix", "redis+unix", "valkey+unix"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_without_their_secrets() {
        let rows: &[(&str, Result<&str, ConfigError>)] = &[
            ("redis://127.0.0.1", Ok("127.0.0.1:6379")),
            ("redis://user:sesame@redis.test:7000/3", Ok("redis.test:7000")),
            ("redis://:ses%40me@[::1]:7000", Ok("::1:7000")),
            ("rediss://:sesame@redis.test/0", Ok("redis.test:6379")),
            ("valkey://valkey.test", Ok("valkey.test:6379")),
            ("unix:///run/redis.sock?db=2&pass=sesame", Ok("/run/redis.sock")),
            ("redis.test:6379", Err(ConfigError::Scheme)),
            ("http://:sesame@redis.test", Err(ConfigError::Scheme)),
            ("redis://:ses/me@redis.test", Err(ConfigError::Url)),
            ("redis://redis.test:sesame", Err(ConfigError::Url)),
            ("redis://:sesame@redis.test/sesame", Err(ConfigError::Database)),
            ("redis://:sesame@redis.test/-1", Err(ConfigError::Database)),
            ("unix:///run/redis.sock?db=sesame", Err(ConfigError::Database)),
            ("rediss://:sesame@redis.test/#insecure", Err(ConfigError::Fragment)),
            ("", Err(ConfigError::Scheme)),
        ];
        for (url, expected) in rows {
            let got = RedisConfig::new(*url).connection_info();
            let shown = got.as_ref().map(|info| info.addr().to_string()).map_err(Clone::clone);
            assert_eq!(shown, expected.clone().map(str::to_owned), "{url}");
            let said = got.map(|info| format!("{info:?}")).unwrap_or_else(|error| error.to_string());
            assert!(!said.contains("sesame"), "{said}");
            assert!(!format!("{:?}", RedisConfig::new(*url)).contains("sesame"));
        }
    }

    #[test]
    fn user_password_and_database_reach_the_connection() {
        let info =
            RedisConfig::new("redis://us%3Aer:ses%40me@redis.test/3").connection_info().expect("it is right");
        let redis = info.redis_settings();
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("us:er"), Some("ses@me"), 3));
    }

    #[test]
    fn the_rest_is_checked_too() {
        let right = RedisConfig::new("redis://localhost");
        let cluster = RedisConfig { cluster: Some(vec!["redis://other:7000".into()]), ..right.clone() };
        assert_eq!(cluster.nodes().map(|nodes| nodes.len()), Ok(2));
        for (config, expected) in [
            (RedisConfig { url: "redis://localhost/1".into(), ..cluster.clone() }, ConfigError::Cluster),
            (RedisConfig { url: "unix:///redis.sock".into(), ..cluster.clone() }, ConfigError::Cluster),
            (RedisConfig { prefix: "{fanfare}".into(), ..cluster.clone() }, ConfigError::Cluster),
            (RedisConfig { cluster: Some(vec!["http://other".into()]), ..cluster }, ConfigError::Scheme),
        ] {
            assert_eq!(config.nodes().err(), Some(expected), "{config:?}");
        }
        let rows = [
            (RedisConfig { prefix: String::new(), ..right.clone() }, ConfigError::Prefix),
            (RedisConfig { prefix: "a b".into(), ..right.clone() }, ConfigError::Prefix),
            (RedisConfig { lanes: 0, ..right.clone() }, ConfigError::Lanes),
            (RedisConfig { timeout: Duration::ZERO, ..right.clone() }, ConfigError::Timeout),
            (RedisConfig { lease: Duration::ZERO, ..right }, ConfigError::Lease(Duration::ZERO)),
        ];
        for (config, expected) in rows {
            assert_eq!(config.connection_info().err(), Some(expected), "{config:?}");
        }
    }
}
