//! The Centrifuge protocol from outside, in both encodings.

mod commands;
mod replies;
mod wire;
