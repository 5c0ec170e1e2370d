//! How a control message's fields are written: numbers big-endian, bytes and lists behind a length of 4 bytes, what may
//! be missing behind a byte that says whether it is there. Nothing is allocated for a length that is only claimed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::channel::Channel;

/// What can be a field, or part of one.
pub(super) trait Field: Sized {
    fn write(&self, out: &mut BytesMut);
    fn read(from: &mut Reader) -> Option<Self>;
}

/// What is left of a message.
pub(super) struct Reader(Bytes);

impl Reader {
    /// Over what stands behind the header.
    pub fn new(rest: Bytes) -> Self {
        Self(rest)
    }

    /// The next field; nothing if it is not there or is cut off.
    pub fn read<T: Field>(&mut self) -> Option<T> {
        T::read(self)
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }
}

impl Field for u32 {
    fn write(&self, out: &mut BytesMut) {
        out.put_u32(*self);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(from.take(4)?.get_u32())
    }
}

impl Field for u64 {
    fn write(&self, out: &mut BytesMut) {
        out.put_u64(*self);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(from.take(8)?.get_u64())
    }
}

impl Field for bool {
    fn write(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }

    fn read(from: &mut Reader) -> Option<Self> {
        match from.take(1)?[0] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Field for Uuid {
    fn write(&self, out: &mut BytesMut) {
        out.put_slice(self.as_bytes());
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Self::from_slice(&from.take(16)?).ok()
    }
}

impl Field for Bytes {
    fn write(&self, out: &mut BytesMut) {
        // No message of 4 GiB reaches a broker.
        (self.len() as u32).write(out);
        out.put_slice(self);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        let length: u32 = from.read()?;
        from.take(length as usize)
    }
}

impl Field for String {
    fn write(&self, out: &mut BytesMut) {
        (self.len() as u32).write(out);
        out.put_slice(self.as_bytes());
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Self::from_utf8(from.read::<Bytes>()?.into()).ok()
    }
}

impl Field for Channel {
    fn write(&self, out: &mut BytesMut) {
        (self.as_str().len() as u32).write(out);
        out.put_slice(self.as_str().as_bytes());
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Self::new(&from.read::<String>()?).ok()
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut BytesMut) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        if from.read()? { Some(Some(from.read()?)) } else { Some(None) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, out: &mut BytesMut) {
        (self.len() as u32).write(out);
        self.iter().for_each(|item| item.write(out));
    }

    fn read(from: &mut Reader) -> Option<Self> {
        let length: u32 = from.read()?;
        (0..length).map(|_| from.read()).collect()
    }
}
