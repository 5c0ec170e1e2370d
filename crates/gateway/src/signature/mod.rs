//! What tokens are signed and checked with: keys, and the algorithms that they are for. What a token says is not known
//! here, nor where a key comes from.

mod algorithm;
mod key;
mod signer;

pub use algorithm::{Algorithm, Unsigned};
pub use key::{Jwk, KeyFault, TokenKey};
pub use signer::{Signer, SignerFault};

/// No token is checked with more keys of one kind than so many, nor with more of those that are fetched: each costs
/// time, and anybody can send tokens. A configuration that has more is refused.
pub const MOST_KEYS: usize = 16;
