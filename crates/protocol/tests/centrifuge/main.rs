//! The Centrifuge protocol from outside, in both encodings.

mod catalogue;
mod commands;
mod deltas;
mod offences;
mod payloads;
mod replies;
mod wire;
