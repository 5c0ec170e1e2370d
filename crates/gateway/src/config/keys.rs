//! The table of keys: the only place that knows a key's name, type, default, range and meaning. [`Config`] itself, the
//! flags, the variables, the file, `fanfare config`, `--help` and `docs/configuration.md` are all made from it.
//!
//! How a row is written: see `table`. What two keys mean together is not here but in `rules`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use fanfare_websocket::deflate::Level;
use ipnet::IpNet;

use super::address::ListenAddress;
use super::api::ErrorMode;
use super::clients::PersonalChannel;
use super::compression::Takeover;
use super::log::{LogFormat, LogLevel};
use super::memory::{HistoryMemory, MemoryLimit};
use super::namespaces::Namespaces;
use super::origin::OriginPolicy;
use super::redis::{RedisPrefix, RedisUrl};
pub use super::table::Key;
use super::table::{range, table};
use super::tokens::{JwksUrl, PublicKeyFile, SecretsFile, TokenSecret};

impl Key {
    /// The row of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The flag, without its two dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("FANFARE_{}", self.name.to_ascii_uppercase())
    }
}

table! {
    /// The whole configuration of an instance, parsed. In counts, `None` is what users write as 0; sizes are in bytes.
    Config,
    /// All keys, in the order in which they are shown.
    KEYS:
    "Listening" {
        /// Where clients connect; port 0 lets the kernel choose
        listen: ListenAddress = "127.0.0.1:8080", <ADDRESS>;
        /// Where health and metrics move to, away from clients
        internal_listen: Option<ListenAddress> = "", <ADDRESS>;
        /// Threads that own connections, 0 for one a core
        workers: Option<NonZeroUsize> = "0" in "0" to "64", <COUNT>;
        /// Whether each has a processor of its own, where there are as many
        pin_workers: bool = "true", <BOOL>;
        /// Whether `/` is a page to try the gateway with
        page: bool = "true", <BOOL>;
        /// Whether `/echo` sends each message back, for conformance suites
        echo: bool = "false", <BOOL>;
    }
    "TLS" {
        /// Certificate, and those behind it, in PEM; `listen` then speaks TLS
        tls_cert: Option<PathBuf> = "", <FILE>;
        /// The private key of that certificate, in PEM
        tls_key: Option<PathBuf> = "", <FILE>;
    }
    "Redis" {
        /// Redis that joins instances into one; without it, each serves alone
        redis: Option<RedisUrl> = "", <URL>;
        /// Other nodes, where that Redis is one of a Redis Cluster
        redis_cluster_nodes: Vec<RedisUrl> = "", <URLS>;
        /// What the names of Redis channels begin with
        redis_prefix: RedisPrefix = "fanfare", <TEXT>;
        /// How long any one call to Redis may take
        redis_timeout: Duration = "2s" in "10ms" to "1m", <DURATION>;
        /// How much is kept to be published while Redis is away
        redis_spool: usize = "8MiB" in "0" to "16GiB", <SIZE>;
    }
    "Connections" {
        /// How often a client is pinged
        ping_interval: Duration = "30s" in "10ms" to "1h", <DURATION>;
        /// How long a client may send nothing, not even a pong
        idle_timeout: Duration = "60s" in "10ms" to "24h", <DURATION>;
        /// How long a client may take to answer a close
        close_timeout: Duration = "5s" in "10ms" to "5m", <DURATION>;
        /// From the accepted socket to the finished handshake
        handshake_timeout: Duration = "10s" in "10ms" to "5m", <DURATION>;
        /// How long the headers of one request may take
        header_timeout: Duration = "5s" in "10ms" to "5m", <DURATION>;
    }
    "Limits" {
        /// The largest message that a client may send
        message_limit: usize = "64KiB" in "1" to "1GiB", <SIZE>;
        /// How much may wait for a slow client before it is cut
        outbox_limit: usize = "1MiB" in "1" to "1GiB", <SIZE>;
        /// Messages a second from one connection, 0 for no limit
        message_rate: Option<NonZeroU32> = "0" in "0" to "1000000", <COUNT>;
        /// Messages at once above that rate, 0 for one second's worth
        message_burst: Option<NonZeroU32> = "0" in "0" to "1000000", <COUNT>;
        /// Pings and pongs a second from one connection, 0 for no limit
        control_rate: Option<NonZeroU32> = "200" in "0" to "1000000", <COUNT>;
        /// Connections on this instance, 0 for as many as open files allow
        max_connections: Option<NonZeroUsize> = "0" in "0" to "10000000", <COUNT>;
        /// Connections from one client address, 0 for no limit
        max_connections_per_address: Option<NonZeroUsize> = "0" in "0" to "10000000", <COUNT>;
        /// Unfinished handshakes at a time, 0 for half of the open files
        max_handshakes: Option<NonZeroUsize> = "4096" in "0" to "10000000", <COUNT>;
        /// Of these, those of one client address, 0 for no limit
        max_handshakes_per_address: Option<NonZeroUsize> = "0" in "0" to "10000000", <COUNT>;
        /// The most memory; auto is what the cgroup allows, less a reserve
        memory_limit: MemoryLimit = "auto", <SIZE>;
        /// All histories without Redis; auto is a quarter of `memory_limit`
        history_memory: HistoryMemory = "auto", <SIZE>;
        /// What a client that was turned away is told to wait, in whole seconds
        retry_after: Duration = "5s" in "1s" to "1h", <DURATION>;
    }
    "Clients" {
        /// How often a client of the Centrifuge protocol is pinged
        client_ping_interval: Duration = "25s" in "10ms" to "1h", <DURATION>;
        /// How long such a client may take to answer
        client_pong_timeout: Duration = "8s" in "5ms" to "5m", <DURATION>;
        /// How long after its token's end a client may still refresh it
        refresh_grace: Duration = "25s" in "0s" to "1h", <DURATION>;
        /// Channels that one connection is subscribed to, 0 for no limit
        max_channels: Option<NonZeroU32> = "128" in "0" to "65000", <COUNT>;
        /// Connections of one user, over all instances, 0 for no limit
        max_connections_per_user: Option<NonZeroU32> = "0" in "0" to "100000", <COUNT>;
        /// Publications that a client recovers or reads at a time
        history_limit: Option<NonZeroU32> = "300" in "1" to "100000", <COUNT>;
        /// Clients a second whom a worker gives what they missed, 0 for no limit
        recovery_rate: Option<NonZeroU32> = "600" in "0" to "1000000", <COUNT>;
        /// What stands before a user's name in its own channel
        personal_channel: Option<PersonalChannel> = "", <TEXT>;
    }
    "Compression" {
        /// Whether permessage-deflate is agreed on with clients that offer it
        compression: bool = "false", <BOOL>;
        /// Smaller messages are sent as they are
        compression_threshold: usize = "128" in "0" to "1GiB", <SIZE>;
        /// How hard to try, from 1, the fastest, to 9, the smallest
        compression_level: Level = "4" in "1" to "9", <COUNT>;
        /// Whose messages may refer to earlier ones: none, client, server or both
        compression_context: Takeover = "none", <SIDE>;
    }
    "Trust" {
        /// Whose pages may connect, * for all; none for the same host only
        allowed_origins: OriginPolicy = "", <ORIGINS>;
        /// Proxies whose word for a client's address is taken
        trusted_proxies: Vec<IpNet> = "", <NETWORKS>;
        /// Whether trusted proxies speak PROXY protocol v2
        proxy_protocol: bool = "false", <BOOL>;
    }
    "Identity" {
        /// Secrets of HMAC tokens; any of them will do
        token_secrets: Vec<TokenSecret> = "", <SECRETS>;
        /// A file of more of them, one a line
        token_secrets_file: Option<SecretsFile> = "", <FILE>;
        /// PEM files with public keys of RSA, ECDSA and EdDSA tokens
        token_public_keys: Vec<PublicKeyFile> = "", <FILES>;
        /// Where more public keys are fetched, a JWKS
        token_jwks: Option<JwksUrl> = "", <URL>;
        /// How often they are fetched again
        token_jwks_refresh: Duration = "1h" in "10s" to "168h", <DURATION>;
        /// How long fetching them may take
        token_jwks_timeout: Duration = "2s" in "10ms" to "1m", <DURATION>;
        /// Of `aud`, what a token must have one of, if it is set
        token_audience: Vec<String> = "", <TEXTS>;
        /// Of `iss`, what a token must have one of, if it is set
        token_issuer: Vec<String> = "", <TEXTS>;
        /// How far clocks may differ when `exp` and `nbf` are read
        token_leeway: Duration = "0s" in "0s" to "5m", <DURATION>;
        /// Whether clients need no token; not set, only if there are no keys
        allow_anonymous: Option<bool> = "", <BOOL>;
        /// Whether a token may be without a user
        allow_anonymous_tokens: bool = "true", <BOOL>;
    }
    "HTTP API" {
        /// Keys of the HTTP API at `internal_listen`; any of them will do
        api_keys: Vec<TokenSecret> = "", <KEYS>;
        /// A file of more of them, one a line
        api_keys_file: Option<SecretsFile> = "", <FILE>;
        /// Where its errors stand: in the response, or in the transport's status
        api_error_mode: ErrorMode = "response", <MODE>;
        /// The largest body of a request to it
        api_body_limit: usize = "4MiB" in "1KiB" to "1GiB", <SIZE>;
    }
    "Draining" {
        /// How long it serves on after SIGTERM, while no longer ready
        drain_delay: Duration = "2s" in "0s" to "1h", <DURATION>;
        /// How long it then takes to close all connections, evenly
        drain_window: Duration = "20s" in "0s" to "24h", <DURATION>;
    }
    "Logging" {
        /// The form of a log line, text or json
        log_format: LogFormat = "text", <FORMAT>;
        /// Least level logged, or a filter: info,fanfare_broker=debug
        log_level: LogLevel = "info", <LEVEL>;
    }
    and {
        /// The options of channels, out of the file's tables: see `options`.
        channels: Namespaces,
    }
}
