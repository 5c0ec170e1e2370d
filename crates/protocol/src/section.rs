//! What an envelope of version 2 carries beside its header: who published, and the tags. It is a list of fields,
//! each a byte that says what it is, four bytes of length (big-endian), and so many bytes.
//!
//! | field | what                                                      |
//! |-------|-----------------------------------------------------------|
//! | 1     | the publisher's user; there whenever the publisher is     |
//! | 2     | the publisher's connection                                |
//! | 3     | the connection's own data                                 |
//! | 4     | the subscription's own data                               |
//! | 5     | a tag: two bytes of the key's length, the key, the value  |
//!
//! Fields that this version does not know are skipped. It allocates nothing in proportion to what a length claims.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::publication::{Info, Publication, Tags};

const USER: u8 = 1;
const CLIENT: u8 = 2;
const CONN_INFO: u8 = 3;
const CHAN_INFO: u8 = 4;
const TAG: u8 = 5;

/// Whether a publication has anything to put into one.
pub fn is_needed(publication: &Publication) -> bool {
    publication.info.is_some() || publication.tags.is_some()
}

/// Appends the section, its length before it.
pub fn write(publication: &Publication, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32(0);
    if let Some(info) = &publication.info {
        field(out, USER, &[info.user.as_bytes()]);
        for (kind, bytes) in [
            (CLIENT, info.client.as_bytes()),
            (CONN_INFO, &info.conn_info[..]),
            (CHAN_INFO, &info.chan_info[..]),
        ] {
            if !bytes.is_empty() {
                field(out, kind, &[bytes]);
            }
        }
    }
    for (key, value) in publication.tags.iter().flat_map(|tags| tags.iter()) {
        // A longer key cannot be told from its value; whoever checks what it takes in has none.
        let Ok(length) = u16::try_from(key.len()) else { continue };
        field(out, TAG, &[&length.to_be_bytes(), key.as_bytes(), value.as_bytes()]);
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// What a section says.
pub type Said = (Option<Arc<Info>>, Option<Arc<Tags>>);

/// Takes a section off the front of `message`; nothing, if it is broken.
pub fn read(message: &mut Bytes) -> Option<Said> {
    let mut section = take(message)?;
    let (mut info, mut tags) = (None::<Info>, None::<Tags>);
    while section.has_remaining() {
        let kind = section.get_u8();
        let mut bytes = take(&mut section)?;
        match kind {
            USER => info.get_or_insert_default().user = text(&bytes)?,
            CLIENT => info.get_or_insert_default().client = text(&bytes)?,
            CONN_INFO => info.get_or_insert_default().conn_info = bytes,
            CHAN_INFO => info.get_or_insert_default().chan_info = bytes,
            TAG => {
                let length = usize::from(bytes.try_get_u16().ok()?);
                if bytes.len() < length {
                    return None;
                }
                let key = bytes.split_to(length);
                tags.get_or_insert_default().insert(text(&key)?, text(&bytes)?);
            }
            _ => {}
        }
    }
    Some((info.map(Arc::new), tags.map(Arc::new)))
}

fn field(out: &mut BytesMut, kind: u8, parts: &[&[u8]]) {
    out.put_u8(kind);
    out.put_u32(parts.iter().map(|part| part.len()).sum::<usize>() as u32);
    parts.iter().for_each(|part| out.put_slice(part));
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32().ok()? as usize;
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}
