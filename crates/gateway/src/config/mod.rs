//! The configuration of an instance: read once, whole, before anything is bound, and passed on as values of the types
//! that are used ([`Config`]). There is no reloading, and nobody else reads the environment.
//!
//! Everything is made from two tables: the keys of the gateway in `keys`, and the options of channels in `options`; see
//! there to add one.

pub mod address;
pub mod api;
pub mod clients;
pub mod compression;
pub mod error;
mod file;
pub mod keys;
pub mod layers;
pub mod log;
pub mod memory;
mod name_pattern;
pub mod namespaces;
pub mod options;
pub mod origin;
pub mod redis;
#[cfg(test)]
mod reference;
pub mod regular_file;
mod rules;
mod table;
pub mod tokens;
mod units;
pub mod value;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

pub use address::{Host, ListenAddress};
pub use api::ErrorMode;
pub use clients::PersonalChannel;
pub use compression::Takeover;
pub use error::ConfigError;
pub use keys::{Config, KEYS, Key};
pub use layers::{Layer, Section, Settings, Sources};
pub use log::{LogFormat, LogLevel};
pub use memory::{HistoryMemory, MemoryLimit};
pub use namespaces::{Namespace, Namespaces};
pub use options::{OPTIONS, Options};
pub use origin::{OriginPattern, OriginPolicy};
pub use redis::{RedisPrefix, RedisUrl};

/// The longest header of a server's frame (RFC 6455 section 5.2).
const FRAME_HEADER: usize = 10;

impl Config {
    /// Reads all layers, and says with [`Settings`] where each value came from.
    ///
    /// # Errors
    ///
    /// On the first thing that is wrong with them: see [`ConfigError`].
    pub fn load(sources: Sources) -> Result<(Self, Settings), ConfigError> {
        let settings = Settings::collect(sources)?;
        let mut config = Self::read(settings.keys())?;
        config.channels = Namespaces::read(&settings, config.personal_channel.as_ref())?;
        rules::check(&config, &settings)?;
        Ok((config, settings))
    }

    /// How many workers to start: as configured, or one for each core that this process may use.
    pub fn worker_count(&self) -> usize {
        self.workers.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// Whether there is anything to check tokens with.
    pub fn has_token_keys(&self) -> bool {
        let files = self.token_secrets_file.is_some() || !self.token_public_keys.is_empty();
        files || !self.token_secrets.is_empty() || self.token_jwks.is_some()
    }

    /// Whether publications and keys are in a Redis Cluster.
    pub fn is_redis_cluster(&self) -> bool {
        !self.redis_cluster_nodes.is_empty()
    }

    /// The keys of the HTTP API. Without any, there is none.
    pub fn api_keys(&self) -> impl Iterator<Item = &tokens::TokenSecret> {
        let file = self.api_keys_file.iter().flat_map(|file| &file.secrets);
        self.api_keys.iter().chain(file)
    }

    /// Whether clients may come without a token: as configured, or else where no token could be checked.
    pub fn allows_anonymous(&self) -> bool {
        self.allow_anonymous.unwrap_or(!self.has_token_keys())
    }

    /// What a client that was turned away is told to wait, in whole seconds, rounded up: `Retry-After` has no finer.
    pub fn retry_after_seconds(&self) -> u64 {
        self.retry_after.as_millis().div_ceil(1000) as u64
    }

    /// The most publications that a client recovers or reads at a time.
    pub fn most_at_a_time(&self) -> usize {
        self.history_limit.map_or(usize::MAX, |limit| limit.get() as usize)
    }

    /// The largest payload that reaches a client with its tags and what is shown of its publisher, whoever publishes
    /// it, in bytes: what no outbox holds would cut every subscriber.
    pub fn payload_limit(&self) -> usize {
        self.outbox_limit.saturating_sub(FRAME_HEADER)
    }

    /// The most that the back end may have others shown of a client, in bytes: it goes out with all that the client
    /// publishes, and with its coming and going, where there is as much again of the other kind.
    pub fn info_limit(&self) -> usize {
        self.payload_limit() / 4
    }

    /// Whether a peer's word about its client's address is to be taken. An IPv4 peer of an IPv6 socket is an IPv4 peer.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

/// What is in force when nothing is configured.
impl Default for Config {
    fn default() -> Self {
        Self::read(Settings::defaults().keys()).expect("every default is a value of its key")
    }
}
