//! The compression context of a connection that agreed on context takeover: its messages refer to earlier
//! ones, so each is deflated for it alone. A third of a MiB, and only where the configuration allows it.

use bytes::Bytes;
use fanfare_websocket::deflate::Compressor;

/// What one connection's publications are compressed with.
pub struct Context {
    compressor: Compressor,
    threshold: usize,
}

impl Context {
    /// Messages of less than `threshold` bytes are sent as they are, which leaves the context untouched.
    pub fn new(compressor: Compressor, threshold: usize) -> Self {
        Self { compressor, threshold }
    }

    /// Whether this is deflated.
    pub(crate) fn deflates(&self, plain: &Bytes) -> bool {
        plain.len() >= self.threshold
    }

    /// This connection's frame, from the plain one that others share. To be asked once for each, in order.
    pub(crate) fn frame(&mut self, plain: &Bytes) -> Bytes {
        if self.deflates(plain) { self.compressor.compress_again(plain) } else { plain.clone() }
    }
}
