//! Attacks by what a message becomes when it is inflated.

use std::io;

use super::{Field, Outcome};

/// The instance must offer compression.
pub(super) const FLAGS: &[&str] = &[];

pub(super) fn bombs(_field: &Field) -> io::Result<Outcome> {
    Ok(Outcome::default())
}
