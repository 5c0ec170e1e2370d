//! How far a run is, for whoever waits for it. A run says nothing anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Is told how far a run is: from the thread that publishes, at most ten times a second.
pub trait Progress {
    /// A new stage begins, which ends at `total`.
    fn stage(&mut self, name: &str, total: u64);

    /// The stage is so far.
    fn at(&mut self, done: u64);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _name: &str, _total: u64) {}

    fn at(&mut self, _done: u64) {}
}

/// A bar on stderr, if that is a terminal; nothing otherwise.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows nothing until the first stage.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg:24} {wide_bar} {human_pos}/{human_len} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn stage(&mut self, name: &str, total: u64) {
        self.0.reset();
        self.0.reset_elapsed();
        self.0.set_length(total);
        self.0.set_message(name.to_owned());
        self.0.tick();
    }

    fn at(&mut self, done: u64) {
        self.0.set_position(done);
    }
}

/// How long steering waits at a time, where it waits for what others do.
pub(crate) const STEP: Duration = Duration::from_millis(2);
