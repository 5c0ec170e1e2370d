//! The Centrifuge protocol from outside, in both encodings.

mod catalogue;
mod commands;
mod differences;
mod offences;
mod payloads;
mod replies;
mod wire;
