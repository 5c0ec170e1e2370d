//! Whether a client that comes back can have what it missed, however it speaks. It reads no history; it judges what was
//! read.

use fanfare_broker::{History, follow};

/// What came of a wish to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client gets everything that it has missed, and that was something.
    Recovered,
    /// It has missed nothing.
    UpToDate,
    /// It was in another epoch: the history has begun anew since, or it is not a place at all.
    OtherEpoch,
    /// It has missed more than is kept, or than it gets at a time; or it claims what has not been published yet.
    TooFar,
}

impl Outcome {
    /// Their labels in metrics, in their order.
    pub const LABELS: [&'static str; 4] = ["recovered", "up_to_date", "other_epoch", "too_far"];

    /// Whether nothing is missing.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Recovered | Self::UpToDate)
    }
}

/// Judges what was read after `offset`.
pub fn judge(offset: u64, history: &History) -> Outcome {
    if !history.epoch_matches {
        return Outcome::OtherEpoch;
    }
    let Some(missed) = history.top.offset.checked_sub(offset) else { return Outcome::TooFar };
    let are_all = missed == history.publications.len() as u64 && follow(offset, &history.publications);
    match (missed, are_all) {
        (0, true) => Outcome::UpToDate,
        (_, true) => Outcome::Recovered,
        (_, false) => Outcome::TooFar,
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Epoch, Kind, Position, Publication};

    use super::*;

    #[test]
    fn only_what_is_whole_is_recovered() {
        use Outcome::{OtherEpoch, Recovered, TooFar, UpToDate};
        let epoch = Epoch::new("kRtA").unwrap();
        // (claimed offset, what was read, the top, whether the epoch is the same)
        type Row<'a> = (u64, &'a [u64], u64, bool, Outcome);
        let rows: &[Row] = &[
            (41, &[42, 43], 43, true, Recovered),
            (43, &[], 43, true, UpToDate),
            (0, &[], 0, true, UpToDate),
            (0, &[1, 2], 2, true, Recovered),
            (43, &[], 43, false, OtherEpoch),
            (41, &[42, 43], 43, false, OtherEpoch),
            // The oldest has gone; one in the middle has; the newest is beyond the limit; nothing is left at all.
            (40, &[42, 43], 43, true, TooFar),
            (40, &[41, 43], 43, true, TooFar),
            (40, &[41, 42], 43, true, TooFar),
            (40, &[], 43, true, TooFar),
            // The one that came last is not the next one: the second of the holes.
            (10, &[12], 12, true, TooFar),
            // Not published yet.
            (44, &[], 43, true, TooFar),
            (u64::MAX, &[], 43, true, TooFar),
            (u64::MAX, &[], u64::MAX, true, UpToDate),
        ];
        for (offset, read, top, epoch_matches, expected) in rows {
            let publication = |offset: &u64| Publication {
                position: Some(Position { offset: *offset, epoch }),
                ..Publication::new(Kind::Text, "{}".into())
            };
            let history = History {
                publications: read.iter().map(publication).collect(),
                bytes: 0,
                too_much: false,
                top: Position { offset: *top, epoch },
                epoch_matches: *epoch_matches,
            };
            assert_eq!(judge(*offset, &history), *expected, "{offset} {read:?} {top}");
        }
    }
}
