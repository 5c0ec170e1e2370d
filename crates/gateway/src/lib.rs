//! Fanfare, a horizontally scaled WebSocket gateway: the instance around the crates that decode, carry
//! and deliver. `run` is its whole life and takes everything from outside, so that a test can call it;
//! `serve` is what the binary makes of a configuration.

mod admission;
mod api;
mod backpressure;
mod census;
pub mod cli;
mod client;
mod client_address;
pub mod config;
mod crowd;
mod http;
pub mod identity;
mod inbound;
mod instance;
mod lifecycle;
mod listener;
mod listening;
mod memory;
pub mod namespace;
mod newcomers;
mod pace;
mod page;
mod publish;
mod rate;
mod readiness;
mod recoveries;
mod relay;
mod serve;
mod session;
mod telemetry;
#[cfg(test)]
mod test_log;
mod tls;
mod unfinished;
mod worker;

pub use lifecycle::{Outcome, Signals, run};
pub use listener::Listeners;
pub use serve::serve;
pub use tls::LiveCertificate;
