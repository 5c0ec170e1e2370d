//! The wire formats: the different bytes in which one publication reaches its subscribers. Each is made
//! once, by whoever delivers, for all who want it. What stands in a format is not known here.

use std::sync::Arc;

use bytes::Bytes;

/// How a subscriber wants its publications written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// A WebSocket message as it was published.
    Plain,
    /// The same, deflated where that makes it shorter (RFC 7692), for receivers with the widest window.
    Deflated,
    /// The same, deflated within the narrowest window, for receivers that asked for less than the widest.
    DeflatedNarrowly,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Deflated, Self::DeflatedNarrowly];

    /// Whether messages are deflated in it.
    pub fn is_deflated(self) -> bool {
        matches!(self, Self::Deflated | Self::DeflatedNarrowly)
    }

    /// Its place in `ALL`.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A set of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats(u32);

impl Formats {
    /// Whether this one is in it.
    pub fn contains(self, format: Format) -> bool {
        self.0 & 1 << format.index() != 0
    }

    /// Those that are in it.
    pub fn iter(self) -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(move |format| self.contains(*format))
    }

    pub(crate) fn insert(&mut self, format: Format) {
        self.0 |= 1 << format.index();
    }
}

/// One publication in every format that somebody wanted when it was delivered. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Frames(Arc<[(Format, Bytes)]>);

impl Frames {
    /// Whole frames, each with its format.
    pub fn new(frames: impl IntoIterator<Item = (Format, Bytes)>) -> Self {
        Self(frames.into_iter().collect())
    }

    /// The frame in this format. Nothing, if nobody wanted it when the publication was delivered: whoever
    /// wants it now has come later.
    pub(crate) fn of(&self, format: Format) -> Option<&Bytes> {
        self.0.iter().find(|(other, _)| *other == format).map(|(_, frame)| frame)
    }

    /// Bytes in all formats together.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, frame)| frame.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_its_place_in_the_list() {
        for (place, format) in Format::ALL.into_iter().enumerate() {
            assert_eq!(format.index(), place);
        }
        let mut formats = Formats::default();
        assert_eq!(formats.iter().count(), 0);
        formats.insert(Format::DeflatedNarrowly);
        formats.insert(Format::Plain);
        assert_eq!(formats.iter().collect::<Vec<_>>(), [Format::Plain, Format::DeflatedNarrowly]);
    }
}
