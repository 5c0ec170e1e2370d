//! An input, read from its front. Where it ends too early, what is missing is zero.

/// What is left of an input.
pub struct Input<'i>(pub &'i [u8]);

impl<'i> Input<'i> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number of bytes, which is the next byte, and then these.
    pub fn bytes(&mut self) -> &'i [u8] {
        let count = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..count).unwrap_or_default()
    }

    /// The next eight bytes, the lowest first.
    pub fn u64(&mut self) -> u64 {
        (0..8).map(|place| u64::from(self.byte()) << (8 * place)).sum()
    }

    /// All that is left, in parts: how many come before the last is the lowest two bits of the next byte, how long
    /// each of those is the bytes after it, and the last takes the rest.
    pub fn parts(&mut self) -> Vec<&'i [u8]> {
        let lengths = (0..self.byte() & 3).map(|_| usize::from(self.byte())).collect::<Vec<_>>();
        let mut parts = Vec::new();
        for length in lengths {
            let length = length.min(self.0.len());
            parts.push(self.0.split_off(..length).unwrap_or_default());
        }
        parts.push(self.0);
        parts
    }
}
