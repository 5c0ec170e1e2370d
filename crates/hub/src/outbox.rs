//! Bytes that a socket did not take yet. It exists only while there are some, and holds references to
//! the shared frames, not copies; it is empty while a socket that speaks TLS has yet to get rid of what it
//! sealed. It does not decide what happens when it grows too large.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use crate::socket::Socket;

/// How many slices go into one `writev`: half the kernel's limit would be 512, but a socket that was
/// full takes only a few of them.
const SLICES: usize = 64;

/// How many bytes are written at once to a socket that was full, about.
const PIECE: usize = 64 << 10;

/// A queue of chunks; the first one may be partly written.
#[derive(Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// The first entry is partly written, so what follows in it must be written before anything else.
    begun: bool,
    /// The size of an answer that was let in although it is too large; until the outbox is empty again, so much more
    /// may wait.
    allowance: usize,
    /// Publications that were dropped and that nobody has counted yet.
    dropped: u64,
}

/// Bytes that belong together, and what may become of them while they wait.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    /// A publication of this room, by its serial, that may be dropped before it has begun to go out.
    pub(crate) droppable: Option<u32>,
}

impl Chunk {
    /// What must be written in its turn.
    pub(crate) fn of(bytes: Bytes) -> Self {
        Self { bytes, droppable: None }
    }
}

impl Outbox {
    /// Queues what is left of a chunk, of which `written` bytes have gone out.
    pub(crate) fn push(&mut self, mut chunk: Chunk, written: usize) {
        debug_assert!(written == 0 || self.chunks.is_empty(), "only the first entry can be partly written");
        if written == chunk.bytes.len() {
            return;
        }
        self.begun |= written > 0;
        chunk.bytes.advance(written);
        self.bytes += chunk.bytes.len();
        self.chunks.push_back(chunk);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the bytes that wait, or the references to them, take more than `limit`. A reference is
    /// larger than the smallest frames are.
    pub(crate) fn exceeds(&self, limit: usize) -> bool {
        self.bytes > limit.saturating_add(self.allowance) || self.chunks.len() * size_of::<Chunk>() > limit
    }

    /// Lets so many bytes in beyond any limit.
    pub(crate) fn allow(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    /// About the memory that goes with it, if nobody else holds the same frames.
    pub(crate) fn weight(&self) -> usize {
        self.bytes + self.chunks.capacity() * size_of::<Chunk>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Drops the oldest that may be dropped until the rest keeps to `limit`. False if it does not.
    pub(crate) fn keep_to(&mut self, limit: usize) -> bool {
        let mut at = usize::from(self.begun);
        while self.exceeds(limit) && at < self.chunks.len() {
            if self.chunks[at].droppable.is_some() {
                self.drop_at(at);
            } else {
                at += 1;
            }
        }
        !self.exceeds(limit)
    }

    /// Drops all that may be dropped of this room and has not begun.
    pub(crate) fn drop_all_of(&mut self, room: u32) {
        let mut at = usize::from(self.begun);
        while at < self.chunks.len() {
            if self.chunks[at].droppable == Some(room) {
                self.drop_at(at);
            } else {
                at += 1;
            }
        }
    }

    /// How many publications were dropped since this was asked last.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn drop_at(&mut self, at: usize) {
        if let Some(chunk) = self.chunks.remove(at) {
            self.bytes -= chunk.bytes.len();
            self.dropped += 1;
        }
    }

    /// Writes a piece of what there is, or less if the socket is full. True if nothing is left.
    pub(crate) fn write_to(&mut self, socket: &Socket) -> io::Result<bool> {
        let stop = self.bytes.saturating_sub(PIECE);
        while !self.chunks.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (mut count, mut left) = (0, self.bytes);
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                if left <= stop && count > 0 {
                    break;
                }
                let most = (left - stop).min(chunk.bytes.len());
                *slice = IoSlice::new(&chunk.bytes[..most]);
                left -= chunk.bytes.len();
                count += 1;
            }
            match socket.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.bytes <= stop && !self.chunks.is_empty() {
                return Ok(false);
            }
        }
        socket.flush()
    }

    /// Forgets every entry of which nothing has gone out, so that a Close frame can follow at once.
    pub(crate) fn keep_only_begun(&mut self) {
        self.chunks.truncate(usize::from(self.begun));
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    }

    /// What is left of an entry that has begun to go out, by itself: the rest of the memory that it shares
    /// can then be freed. Nothing if that is more than `most`, and an empty outbox if nothing has begun.
    pub(crate) fn into_begun(mut self, most: usize) -> Option<Self> {
        self.keep_only_begun();
        let copied = self.chunks.iter().map(|rest| Chunk::of(Bytes::copy_from_slice(&rest.bytes))).collect();
        (self.bytes <= most).then_some(Self { chunks: copied, ..self })
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = self.chunks.front_mut() {
            if written < first.bytes.len() {
                self.begun = self.begun || written > 0;
                first.bytes.advance(written);
                return;
            }
            written -= first.bytes.len();
            self.chunks.pop_front();
            self.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_full_gets_a_piece_at_a_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (stream, _) = listener.accept().await.expect("a peer");
        // Room for more than a piece, whatever the system begins with.
        SockRef::from(&stream).set_send_buffer_size(4 * PIECE).expect("a buffer");
        let socket = Socket::new(stream);
        socket.writable().await.expect("an empty socket");
        // (lengths, what is left after each visit)
        let rows: &[(&[usize], &[usize])] = &[
            (&[2 * PIECE + 1], &[PIECE + 1, 1, 0]),
            (&[PIECE / 2, PIECE, 1], &[PIECE / 2 + 1, 0]),
            (&[PIECE], &[0]),
            (&[1; 3 * SLICES], &[0]),
        ];
        for (lengths, visits) in rows {
            let mut outbox = Outbox::default();
            for length in *lengths {
                outbox.push(Chunk::of(Bytes::from(vec![0; *length])), 0);
            }
            for left in *visits {
                let done = outbox.write_to(&socket).expect("a peer that is there");
                assert_eq!((outbox.bytes(), done), (*left, *left == 0), "{lengths:?}");
                // The next visit finds an empty socket.
                while socket.kernel_bytes() > 0 {
                    let _ = peer.try_read(&mut [0; PIECE]);
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[test]
    fn empty_messages_take_room_too() {
        let mut outbox = Outbox::default();
        let limit = 64 * size_of::<Chunk>();
        let empty = || Chunk::of(Bytes::from_static(&[0; 2]));
        (0..64).for_each(|_| outbox.push(empty(), 0));
        assert!(!outbox.exceeds(limit));
        outbox.push(empty(), 0);
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
                outbox.push(Chunk::of(Bytes::from(vec![0; *length])), *gone);
            }
            outbox.advance(*written);
            outbox.keep_only_begun();
            assert_eq!(outbox.bytes(), *left, "{entries:?} {written}");
            if *left > 0 {
                assert!(outbox.into_begun(left - 1).is_none(), "{entries:?} {written}");
            } else {
                assert_eq!(outbox.into_begun(0).map(|rest| rest.weight()), Some(0), "{entries:?} {written}");
            }
        }
    }
    #[test]
    fn only_what_may_be_dropped_is() {
        let chunk =
            |length: usize, room: Option<u32>| Chunk { bytes: Bytes::from(vec![0; length]), droppable: room };
        let filled = || {
            let mut outbox = Outbox::default();
            outbox.push(chunk(1000, Some(1)), 400);
            for room in [None, Some(1), Some(2), Some(1), None] {
                outbox.push(chunk(1000, room), 0);
            }
            outbox
        };
        // (limit, publications dropped, bytes left); what has begun stays whole.
        for (limit, dropped, left) in [(5600, 0, 5600), (5599, 1, 4600), (3700, 2, 3600), (0, 3, 2600)] {
            let mut outbox = filled();
            assert_eq!(outbox.keep_to(limit), limit > 0, "{limit}");
            assert_eq!((outbox.take_dropped(), outbox.bytes()), (dropped, left), "{limit}");
        }
        let mut outbox = filled();
        outbox.drop_all_of(1);
        assert_eq!((outbox.take_dropped(), outbox.bytes()), (2, 3600));
        outbox.drop_all_of(3);
        assert_eq!((outbox.take_dropped(), outbox.bytes()), (0, 3600));
    }
}
