//! Reads a list that may be long from the broker, in pages, each into room that there is for it. It knows neither what
//! is listed nor who asks.

use std::collections::BTreeMap;

use fanfare_broker::{Away, Cursor, Page, Portion};

use crate::memory::AnswerRoom;

/// The most that is asked of the broker at a time …
const PAGE: usize = 1000;

/// … so many at first, and in each page so many times of the one before at most …
const FEW: usize = 16;

/// … as are about so much, by the largest that has come …
const PAGE_BYTES: usize = 1 << 20;

/// … or by this, if all were smaller.
const SMALL: usize = 1 << 10;

/// What was read, by name, and where to go on if there is more.
type Listed<T> = (BTreeMap<String, T>, Option<Cursor>);

/// Why a list is not read.
#[derive(Debug)]
pub enum Unlisted {
    /// There is no memory for so many bytes of it.
    NoRoom(usize),
    /// The broker does not answer.
    Away(Away),
}

/// Reads a list from a cursor on, until there are about `limit` entries of it: each has a name and a size. There is
/// room for as many as are asked for of the largest that have come; a page that is larger does not come, and then
/// either fewer are asked for, or there is room for so much.
pub async fn read<T, U, F>(
    answer: &AnswerRoom,
    limit: usize,
    cursor: Cursor,
    mut read: impl FnMut(Cursor, Portion) -> F,
    named: impl Fn(T) -> (String, U, usize),
) -> Result<Listed<U>, Unlisted>
where
    F: Future<Output = Result<Page<T>, Away>>,
{
    let mut next = Some(cursor);
    let mut entries = BTreeMap::new();
    let (mut count, mut page, mut largest, mut least) = (0, FEW, SMALL, 0);
    while count < limit
        && let Some(from) = next
    {
        page = page.min(limit - count);
        let room = (page * largest).max(least);
        let reading = answer.to_read(room).await.ok_or(Unlisted::NoRoom(room))?;
        let read = read(from, Portion { entries: page, bytes: room }).await.map_err(Unlisted::Away)?;
        if let Some(bytes) = read.too_much {
            if bytes > PAGE_BYTES && page > 1 {
                page = (page * PAGE_BYTES / bytes).clamp(1, page - 1);
            } else {
                least = bytes;
            }
            next = read.next;
            continue;
        }
        let mut bytes = 0;
        // What comes in two pages counts twice, and is there once.
        for (name, entry, size) in read.items.into_iter().map(&named) {
            entries.insert(name, entry);
            (count, bytes, largest) = (count + 1, bytes + size, largest.max(size));
        }
        reading.keep(bytes);
        next = read.next;
        least = 0;
        page = (PAGE_BYTES / largest).clamp(1, PAGE.min(page * FEW));
    }
    Ok((entries, next))
}
