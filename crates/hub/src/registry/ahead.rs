//! What the next members of a round will need is fetched while the kernel sends for the one before them. Of each of
//! thousands of connections that are written to now and then nothing is near the processor, and to wait for its parts
//! one after the other is most of what a visit costs beside the kernel.

use slab::Slab;

use crate::connection::Connection;
use crate::room::Room;

/// Fetches the connection of the member after the next, and the next one's socket, whose connection was fetched a
/// visit ago.
pub(super) fn look_ahead(room: &Room, connections: &Slab<Connection>) {
    let [next, one_more] = [0, 1].map(|visits| connections.get(room.to_come(visits)?.connection as usize));
    if let Some(socket) = next.and_then(|connection| connection.socket.as_deref()) {
        fetch(socket);
    }
    if let Some(connection) = one_more {
        fetch(connection);
    }
}

/// Has the processor fetch all of it, and does not wait.
fn fetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = (&raw const *what).cast::<i8>().wrapping_add(line);
        // SAFETY: a hint that every such processor takes, and that does nothing where there is no memory.
        #[expect(unsafe_code, reason = "the standard library marks it so, because it takes a pointer")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(place);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
