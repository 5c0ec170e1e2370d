//! What one visit writes: the frames that queued for a room, laid together once for all its members.
//! Frames stay separate on the wire; nothing here knows a socket.

use bytes::{Bytes, BytesMut};

use crate::mailbox::Delivery;

/// Frames are copied together into chunks of up to so many bytes, so that a visit is one `write`. A
/// frame of more than a quarter of it goes by itself, uncopied.
const CHUNK: usize = 32 << 10;

/// The frames of one visit, small neighbours copied together. Frames stay separate on the wire.
pub(crate) fn chunks(pending: &[Delivery]) -> Vec<Bytes> {
    if let [only] = pending {
        return vec![only.frame.clone()];
    }
    let mut chunks = Vec::new();
    let mut together = BytesMut::new();
    for delivery in pending {
        if together.len() + delivery.frame.len() > CHUNK && !together.is_empty() {
            chunks.push(together.split().freeze());
        }
        if delivery.frame.len() > CHUNK / 4 {
            if !together.is_empty() {
                chunks.push(together.split().freeze());
            }
            chunks.push(delivery.frame.clone());
        } else {
            together.extend_from_slice(&delivery.frame);
        }
    }
    if !together.is_empty() {
        chunks.push(together.freeze());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_share_a_chunk_and_large_ones_are_not_copied() {
        let rows: &[(&[usize], &[usize])] = &[
            (&[5], &[5]),
            (&[CHUNK * 3], &[CHUNK * 3]),
            (&[5, 6, 7], &[18]),
            (&[5, CHUNK / 2, 6, 7], &[5, CHUNK / 2, 13]),
            (&[CHUNK / 4; 5], &[CHUNK, CHUNK / 4]),
        ];
        for (frames, expected) in rows {
            let frames = frames.iter().map(|length| Bytes::from(vec![0; *length]));
            let pending: Vec<_> =
                frames.map(|frame| Delivery { frame, exclude: None, published_at: 0 }).collect();
            let chunks = chunks(&pending);
            assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), *expected);
            for large in pending.iter().filter(|delivery| delivery.frame.len() > CHUNK / 4) {
                assert!(chunks.iter().any(|chunk| chunk.as_ptr() == large.frame.as_ptr()), "it is shared");
            }
        }
    }
}
