//! What did not come, and whose loss it was. A message that its publisher wrote to a connection which then
//! broke may never have reached the server: if it reached nobody, it was not accepted, and the server owes
//! nobody a delivery. This module decides that, and nothing about messages that somebody got.

use serde::{Deserialize, Serialize};

/// Numbers `from..to` of a publisher that one subscriber did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Who did not get them.
    pub subscriber: usize,
    /// Whose they were.
    pub publisher: u32,
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
    /// Whether the subscriber could know.
    pub announced: bool,
}

/// One offence, as an example for whoever has to find the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// `phantom`, `duplicate`, `reordered` or `lost_silent`.
    pub class: String,
    /// Whom it happened to.
    pub subscriber: usize,
    /// Whose message; a phantom has no publisher.
    pub publisher: Option<u32>,
    /// The first message's number.
    pub from: Option<u64>,
    /// The number after the last.
    pub to: Option<u64>,
}

/// Numbers `from..to` that a publisher wrote to a connection which broke before it was closed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Whose connection.
    pub publisher: u32,
    /// The first number written to it.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

/// Losses by whose they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Deliveries that are missing without a word.
    pub silent: u64,
    /// Deliveries that are missing, and the subscriber could know.
    pub announced: u64,
    /// Messages (not deliveries) that the server never accepted.
    pub unaccepted: u64,
}

impl Verdict {
    /// Judges the losses of all `subscribers`.
    pub fn of(losses: &[Loss], broken: &[Broken], subscribers: usize) -> Self {
        let mut verdict = Self::default();
        let ranges: Vec<Broken> =
            broken.iter().filter_map(|range| unaccepted(losses, *range, subscribers)).collect();
        verdict.unaccepted = ranges.iter().map(|range| range.to - range.from).sum();
        for loss in losses {
            let excused: u64 = ranges
                .iter()
                .filter(|range| range.publisher == loss.publisher)
                .map(|range| loss.to.min(range.to).saturating_sub(loss.from.max(range.from)))
                .sum();
            let missing = loss.to - loss.from - excused;
            if loss.announced {
                verdict.announced += missing;
            } else {
                verdict.silent += missing;
            }
        }
        verdict
    }
}

/// The end of a broken range that no subscriber got, if there is one.
fn unaccepted(losses: &[Loss], range: Broken, subscribers: usize) -> Option<Broken> {
    // Where the number of subscribers that lack a message changes, and by how much.
    let mut steps: Vec<(u64, i64)> = Vec::new();
    for loss in losses.iter().filter(|loss| loss.publisher == range.publisher) {
        let (from, to) = (loss.from.max(range.from), loss.to.min(range.to));
        if from < to {
            steps.extend([(from, 1), (to, -1)]);
        }
    }
    steps.sort_unstable();
    let everybody = subscribers as i64;
    let mut lacking = 0;
    let mut since = None;
    let mut at = 0;
    while at < steps.len() {
        let here = steps[at].0;
        while at < steps.len() && steps[at].0 == here {
            lacking += steps[at].1;
            at += 1;
        }
        if here == range.to {
            break;
        }
        since = if lacking == everybody { since.or(Some(here)) } else { None };
    }
    let reaches_the_end = steps.last().is_some_and(|(last, _)| *last == range.to);
    since.filter(|_| reaches_the_end).map(|from| Broken { from, ..range })
}

impl Complaint {
    /// Something came that nobody has sent.
    pub(crate) fn phantom(subscriber: usize) -> Self {
        Self { class: "phantom".into(), subscriber, publisher: None, from: None, to: None }
    }

    /// A message came again.
    pub(crate) fn duplicate(subscriber: usize, publisher: u32, sequence: u64) -> Self {
        Self::about("duplicate", subscriber, publisher, sequence..sequence + 1)
    }

    /// A message came behind a later one of its publisher.
    pub(crate) fn reordered(subscriber: usize, publisher: u32, sequence: u64) -> Self {
        Self::about("reordered", subscriber, publisher, sequence..sequence + 1)
    }

    /// Messages never came, and nothing announced it.
    pub(crate) fn lost(loss: &Loss) -> Self {
        Self::about("lost_silent", loss.subscriber, loss.publisher, loss.from..loss.to)
    }

    /// The same of all subscribers, where its own number is that among a thread's.
    pub(crate) fn shifted(self, by: usize) -> Self {
        Self { subscriber: self.subscriber + by, ..self }
    }

    fn about(class: &str, subscriber: usize, publisher: u32, numbers: std::ops::Range<u64>) -> Self {
        Self {
            class: class.into(),
            subscriber,
            publisher: Some(publisher),
            from: Some(numbers.start),
            to: Some(numbers.end),
        }
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: subscriber {}", self.class, self.subscriber)?;
        match (self.publisher, self.from, self.to) {
            (Some(publisher), Some(from), Some(to)) if to == from + 1 => {
                write!(f, ", message {from} of publisher {publisher}")
            }
            (Some(publisher), Some(from), Some(to)) => {
                write!(f, ", messages {from} to {} of publisher {publisher}", to - 1)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(subscriber: usize, numbers: std::ops::Range<u64>, announced: bool) -> Loss {
        Loss { subscriber, publisher: 0, from: numbers.start, to: numbers.end, announced }
    }

    #[test]
    fn only_what_nobody_got_from_a_broken_connection_is_unaccepted() {
        // Silent, announced, unaccepted.
        type Row<'r> = (&'r str, Vec<Loss>, &'r [Broken], (u64, u64, u64));
        let broken = [Broken { publisher: 0, from: 10, to: 20 }];
        let rows: &[Row<'_>] = &[
            ("nothing lost", vec![], &broken, (0, 0, 0)),
            ("nobody got the end", vec![loss(0, 17..20, false), loss(1, 17..20, true)], &broken, (0, 0, 3)),
            ("one lacks more", vec![loss(0, 17..20, false), loss(1, 12..20, true)], &broken, (0, 5, 3)),
            ("one got the end", vec![loss(0, 17..20, false)], &broken, (3, 0, 0)),
            ("not the end", vec![loss(0, 12..14, false), loss(1, 12..14, false)], &broken, (4, 0, 0)),
            (
                "a message between",
                vec![loss(0, 12..20, false), loss(1, 12..15, false), loss(1, 16..20, false)],
                &broken,
                (4 + 3, 0, 4),
            ),
            ("all of it and more", vec![loss(0, 5..25, false), loss(1, 5..25, false)], &broken, (20, 0, 10)),
            (
                "in two holes",
                vec![loss(0, 15..18, false), loss(0, 18..20, true), loss(1, 15..20, false)],
                &broken,
                (0, 0, 5),
            ),
            ("nothing broke", vec![loss(0, 17..20, false), loss(1, 17..20, true)], &[], (3, 3, 0)),
        ];
        for (name, losses, broken, (silent, announced, unaccepted)) in rows {
            let expected = Verdict { silent: *silent, announced: *announced, unaccepted: *unaccepted };
            assert_eq!(Verdict::of(losses, broken, 2), expected, "{name}");
        }
    }

    #[test]
    fn another_publishers_losses_stay_losses() {
        let losses = [loss(0, 3..5, false), Loss { publisher: 1, ..loss(0, 3..5, false) }];
        let broken = [Broken { publisher: 0, from: 0, to: 5 }];
        let expected = Verdict { silent: 2, announced: 0, unaccepted: 2 };
        assert_eq!(Verdict::of(&losses, &broken, 1), expected);
    }
}
