//! Fanfare from outside: the built binary, a real Redis, a real load balancer, clients that share no code
//! with it. It reaches into no crate of the workspace but for the list of attacks, which shares no code with
//! the server either; what it needs to know it reads from the wire, the log and `/metrics`.
//!
//! `FANFARE_BIN` names the binary; without it, it is built first.

#![expect(clippy::unwrap_used, reason = "here an unwrap is an assertion")]

mod answers;
mod api;
mod api_methods;
mod bench;
mod centrifuge;
mod centrifuge_cluster;
mod centrifuge_grants;
mod centrifuge_identity;
mod centrifuge_recovery;
mod compression;
mod config;
mod connections;
mod drain;
mod emulation;
mod emulation_ends;
mod events;
mod every_way;
mod failover;
mod handshake;
mod harness;
mod health;
mod heartbeat;
mod holdings;
mod hostile;
mod identity;
mod leftovers;
mod limits;
mod log;
mod memory;
mod metrics;
mod missed;
mod payloads;
mod pieces;
mod promises;
mod reading;
mod recovering;
mod redis_faults;
mod relay;
mod shown;
mod slow;
mod soak;
mod storm;
mod tls;
mod tls_certificates;
mod tls_handshake;
mod together;
mod unread;
