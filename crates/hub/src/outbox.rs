//! Bytes that a socket did not take yet. It exists only while there are some, and holds references to
//! the shared frames, not copies. It does not decide what happens when it grows too large.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use crate::socket::Socket;

/// How many slices go into one `writev`: half the kernel's limit would be 512, but a socket that was
/// full takes only a few of them.
const SLICES: usize = 64;

/// A queue of frames; the first one may be partly written.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// The first entry is partly written, so what follows in it must be written before anything else.
    begun: bool,
}

impl Outbox {
    /// Queues what is left of an entry, of which `written` bytes have gone out.
    pub(crate) fn push(&mut self, mut entry: Bytes, written: usize) {
        debug_assert!(written == 0 || self.frames.is_empty(), "only the first entry can be partly written");
        self.begun |= written > 0;
        entry.advance(written);
        self.bytes += entry.len();
        self.frames.push_back(entry);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the bytes that wait, or the references to them, take more than `limit`. A reference is
    /// larger than the smallest frames are.
    pub(crate) fn exceeds(&self, limit: usize) -> bool {
        self.bytes > limit || self.frames.len() * size_of::<Bytes>() > limit
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes until the socket is full or nothing is left. `Ok` in both cases.
    pub(crate) fn write_to(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(frame);
                count += 1;
            }
            match socket.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forgets every entry of which nothing has gone out, so that a Close frame can follow at once.
    pub(crate) fn keep_only_begun(&mut self) {
        self.frames.truncate(usize::from(self.begun));
        self.bytes = self.frames.iter().map(Bytes::len).sum();
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = self.frames.front_mut() {
            if written < first.len() {
                self.begun = self.begun || written > 0;
                first.advance(written);
                return;
            }
            written -= first.len();
            self.frames.pop_front();
            self.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_messages_take_room_too() {
        let mut outbox = Outbox::default();
        let limit = 64 * size_of::<Bytes>();
        (0..64).for_each(|_| outbox.push(Bytes::from_static(&[0; 2]), 0));
        assert!(!outbox.exceeds(limit));
        outbox.push(Bytes::from_static(&[0; 2]), 0);
        assert!(outbox.exceeds(limit));
    }

    #[test]
    fn only_a_begun_entry_survives_a_cut() {
        // (entries as (length, already written), written afterwards, bytes left after the cut)
        type Row<'a> = (&'a [(usize, usize)], usize, usize);
        let rows: &[Row] = &[
            (&[(10, 0), (10, 0)], 0, 0),
            (&[(10, 4), (10, 0)], 0, 6),
            (&[(10, 4), (10, 0)], 3, 3),
            (&[(10, 4), (10, 0)], 6, 0),
            (&[(10, 0), (10, 0), (10, 0)], 12, 8),
            (&[(10, 0), (10, 0)], 20, 0),
        ];
        for (entries, written, left) in rows {
            let mut outbox = Outbox::default();
            for (length, gone) in *entries {
                outbox.push(Bytes::from(vec![0; *length]), *gone);
            }
            outbox.advance(*written);
            outbox.keep_only_begun();
            assert_eq!(outbox.bytes(), *left, "{entries:?} {written}");
        }
    }
}
