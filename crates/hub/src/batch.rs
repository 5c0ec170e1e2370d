//! What one visit writes: the frames that queued for a room, laid together once for all members that want
//! the same. Messages that may share a frame do, others stay separate on the wire. Nothing here knows a socket.

use bytes::{Bytes, BytesMut};
use fanfare_websocket::{put_frame, take_apart};

/// Frames are copied together into chunks of up to so many bytes, so that a visit is one `write`. A
/// frame of more than a quarter of it goes by itself, uncopied.
const CHUNK: usize = 32 << 10;

/// The frames of one visit, small neighbours copied together. With a joint, their messages become one frame,
/// and that stands between them; without, frames stay separate.
pub(crate) fn chunks<'f>(frames: impl IntoIterator<Item = &'f Bytes>, joint: Option<&[u8]>) -> Vec<Bytes> {
    let mut frames = frames.into_iter().peekable();
    let mut chunks = Vec::new();
    let mut together = Together { joint, frames: Vec::new(), bytes: 0 };
    while let Some(frame) = frames.next() {
        if together.bytes + frame.len() > CHUNK || frame.len() > CHUNK / 4 {
            chunks.extend(together.take());
        }
        together.frames.push(frame);
        together.bytes += frame.len();
        if frame.len() > CHUNK / 4 || frames.peek().is_none() {
            chunks.extend(together.take());
        }
    }
    chunks
}

/// Neighbours that go into one chunk.
struct Together<'f> {
    joint: Option<&'f [u8]>,
    frames: Vec<&'f Bytes>,
    bytes: usize,
}

impl Together<'_> {
    fn take(&mut self) -> Option<Bytes> {
        let chunk = match (&self.frames[..], self.joint) {
            ([], _) => return None,
            ([only], _) => (*only).clone(),
            (frames, None) => {
                let mut chunk = BytesMut::with_capacity(self.bytes);
                frames.iter().for_each(|frame| chunk.extend_from_slice(frame));
                chunk.freeze()
            }
            (frames, Some(joint)) => joined(frames, joint, self.bytes),
        };
        self.frames.clear();
        self.bytes = 0;
        Some(chunk)
    }
}

fn joined(frames: &[&Bytes], joint: &[u8], bytes: usize) -> Bytes {
    let mut messages = Vec::with_capacity(bytes);
    let (opcode, _) = take_apart(frames[0]);
    for (place, frame) in frames.iter().enumerate() {
        if place > 0 {
            messages.extend_from_slice(joint);
        }
        messages.extend_from_slice(take_apart(frame).1);
    }
    let mut frame = BytesMut::new();
    put_frame(&mut frame, opcode, &messages);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use fanfare_websocket::{Opcode, frame};

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
            let chunks = chunks(&frames, None);
            assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), *expected);
            for large in frames.iter().filter(|frame| frame.len() > CHUNK / 4) {
                assert!(chunks.iter().any(|chunk| chunk.as_ptr() == large.as_ptr()), "it is shared");
            }
        }
    }

    #[test]
    fn messages_with_a_joint_share_a_frame() {
        let long = "x".repeat(300);
        let frames = ["one", "two", &long].map(|text| frame(Opcode::Text, text.as_bytes()));
        let one = |text: &str| vec![frame(Opcode::Text, text.as_bytes())];
        assert_eq!(chunks(&frames[..1], Some(b"\n")), one("one"));
        assert_eq!(chunks(&frames, Some(b"\n")), one(&format!("one\ntwo\n{long}")));
        assert_eq!(chunks(&frames, Some(b"")), one(&format!("onetwo{long}")));
    }
}
