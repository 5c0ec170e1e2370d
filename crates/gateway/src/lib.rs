//! A horizontally scaled WebSocket gateway.

pub mod config;
