//! Masking (RFC 6455 §5.3): an exclusive or with four repeated bytes, its own inverse.
//!
//! No intrinsics: over whole words LLVM makes vector code of a plain loop.

/// Masks or unmasks `payload`, whose first byte meets the first byte of `mask`.
pub(crate) fn apply(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// The mask for what follows the first `done` bytes of a payload.
pub(crate) fn after(mask: [u8; 4], done: usize) -> [u8; 4] {
    let mut mask = mask;
    mask.rotate_left(done % 4);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_meets_its_own_byte_of_the_mask() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for length in 0..70 {
            for cut in 0..=length {
                let mut payload = (0..length).collect::<Vec<u8>>();
                let (first, second) = payload.split_at_mut(usize::from(cut));
                apply(first, mask);
                apply(second, after(mask, usize::from(cut)));
                let expected = (0..length).map(|i| i ^ mask[usize::from(i) % 4]);
                assert!(payload.into_iter().eq(expected), "{length} bytes cut at {cut}");
            }
        }
    }
}
