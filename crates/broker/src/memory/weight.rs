//! What kept things take in memory, in bytes: nearly, and rather too much than too little. Nobody is asked for it but
//! the length of things, so what is shared counts each time.

use fanfare_protocol::{Info, Publication, Tags};

/// What an allocator takes beside what it is asked for: an eighth, as its sizes are graded, and some for each.
const ALLOCATION: usize = 16;

/// A leaf of a tree of tags holds up to eleven, and half of that when there are many.
const TAGS: usize = 6;
const LEAF: usize = 11 * size_of::<(String, String)>() + ALLOCATION;

/// So many bytes in a piece.
pub(super) fn of_bytes(bytes: usize) -> usize {
    bytes + bytes / 8 + ALLOCATION
}

/// An entry of a hash table, which is half empty just after it has grown, or of a tree.
pub(super) const fn of_entry<T>() -> usize {
    2 * size_of::<T>()
}

/// What hangs on a publication: all but itself.
pub(super) fn of_publication(publication: &Publication) -> usize {
    of_bytes(publication.payload.len())
        + publication.info.as_deref().map_or(0, of_info)
        + publication.tags.as_deref().map_or(0, of_tags)
}

fn of_info(info: &Info) -> usize {
    let Info { user, client, conn_info, chan_info } = info;
    let said = [user.len(), client.len(), conn_info.len(), chan_info.len()];
    of_bytes(size_of::<Info>()) + said.map(of_bytes).iter().sum::<usize>()
}

fn of_tags(tags: &Tags) -> usize {
    let words = tags.iter().map(|(key, value)| of_bytes(key.len()) + of_bytes(value.len()));
    LEAF * (tags.len() / TAGS + 1) + words.sum::<usize>()
}
