//! Fanfare, a horizontally scaled WebSocket gateway: the instance around the crates that decode, carry
//! and deliver. `run` is its whole life and takes everything from outside, so that a test can call it;
//! `serve` is what the binary makes of a configuration.

mod admission;
mod api;
mod census;
mod centrifuge;
pub mod cli;
pub mod config;
pub mod expiry;
mod http;
pub mod identity;
mod instance;
mod lifecycle;
mod listener;
mod listing;
mod memory;
pub mod namespace;
mod page;
mod publish;
mod query;
mod readiness;
mod recovery;
mod registers;
mod relay;
mod serve;
mod session;
pub mod signature;
mod telemetry;
#[cfg(test)]
mod test_log;
mod thread;
mod tls;
mod worker;

pub use lifecycle::{Outcome, Signals, run};
pub use listener::Listeners;
pub use serve::serve;
pub use tls::LiveCertificate;
