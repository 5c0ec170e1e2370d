//! What holds of every input, target by target: `check` panics where it does not.
//!
//! A target reads its input as a reader would write it by hand: a few bytes of choices, then what arrives. So seeds are
//! rows that say what they are, and a corpus outlives a change of the code. Nothing here knows of libFuzzer: the files
//! in `targets/` hand `check` to it, and anything else may call it as well.

pub mod centrifuge;
#[cfg(feature = "gateway")]
pub mod configuration;
pub mod decoder;
pub mod deflate;
pub mod emulation;
pub mod envelope;
pub mod handshake;
mod input;
mod tungstenite;

pub use input::Input;

/// One target, and what helps the fuzzer to begin.
pub struct Target {
    /// As the file in `targets/`, the folder in `corpus/`, and the binary.
    pub name: &'static str,
    /// Panics if something that is promised does not hold of this input.
    pub check: fn(&[u8]),
    /// Inputs that reach what chance would not, and what each of them is.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// Words that mean something to what is tested.
    pub words: fn() -> Vec<String>,
}

/// All targets. A new one, such as tokens or HTTP signatures, is a row here, a module, a file in `targets/`, a name in
/// `run`, and a binary in `Cargo.toml`; with `gateway` as its feature, if that is where what it tests is.
pub static TARGETS: &[Target] = &[
    Target {
        name: "centrifuge",
        check: centrifuge::check,
        seeds: centrifuge::seeds,
        words: centrifuge::words,
    },
    Target { name: "decoder", check: decoder::check, seeds: decoder::seeds, words: Vec::new },
    Target { name: "deflate", check: deflate::check, seeds: deflate::seeds, words: Vec::new },
    Target { name: "emulation", check: emulation::check, seeds: emulation::seeds, words: emulation::words },
    Target { name: "envelope", check: envelope::check, seeds: envelope::seeds, words: Vec::new },
    Target { name: "handshake", check: handshake::check, seeds: handshake::seeds, words: handshake::words },
    #[cfg(feature = "gateway")]
    Target {
        name: "configuration",
        check: configuration::check,
        seeds: configuration::seeds,
        words: configuration::words,
    },
];
