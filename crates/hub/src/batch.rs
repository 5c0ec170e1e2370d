//! What one visit writes: the frames that queued for a room, laid together once for all members that want
//! the same. Frames stay separate on the wire; nothing here knows a socket.

use bytes::{Bytes, BytesMut};

/// Frames are copied together into chunks of up to so many bytes, so that a visit is one `write`. A
/// frame of more than a quarter of it goes by itself, uncopied.
const CHUNK: usize = 32 << 10;

/// The frames of one visit, small neighbours copied together. Frames stay separate on the wire.
pub(crate) fn chunks<'f>(frames: impl IntoIterator<Item = &'f Bytes>) -> Vec<Bytes> {
    let mut frames = frames.into_iter().peekable();
    let mut chunks = Vec::new();
    let mut together = BytesMut::new();
    while let Some(frame) = frames.next() {
        if together.is_empty() && frames.peek().is_none() {
            chunks.push(frame.clone());
            break;
        }
        if together.len() + frame.len() > CHUNK && !together.is_empty() {
            chunks.push(together.split().freeze());
        }
        if frame.len() > CHUNK / 4 {
            if !together.is_empty() {
                chunks.push(together.split().freeze());
            }
            chunks.push(frame.clone());
        } else {
            together.extend_from_slice(frame);
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
            (&[], &[]),
            (&[5], &[5]),
            (&[CHUNK * 3], &[CHUNK * 3]),
            (&[5, 6, 7], &[18]),
            (&[5, CHUNK / 2, 6, 7], &[5, CHUNK / 2, 13]),
            (&[CHUNK / 4; 5], &[CHUNK, CHUNK / 4]),
        ];
        for (frames, expected) in rows {
            let frames: Vec<_> = frames.iter().map(|length| Bytes::from(vec![0; *length])).collect();
            let chunks = chunks(&frames);
            assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), *expected);
            for large in frames.iter().filter(|frame| frame.len() > CHUNK / 4) {
                assert!(chunks.iter().any(|chunk| chunk.as_ptr() == large.as_ptr()), "it is shared");
            }
        }
    }
}
