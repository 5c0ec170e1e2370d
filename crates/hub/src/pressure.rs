//! Memory given back on purpose: each worker says what its connections hold, and the largest of all are
//! ended, wherever they are. How much memory there is, and when there is too little, is not known here.

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::mailbox::{ANSWER, Hub};

/// So many connections of each worker are looked at in one go, so that asking takes no memory to speak of.
const LARGEST: usize = 4096;

/// Whoever holds less than this part of what the largest holds is not ended together with it: ending the large ones
/// may be enough, and a client that keeps up always has a little on its way.
const APART: usize = 64;

/// Whoever holds less than this is never ended for want of memory, whoever holds how much: a message on its way in each
/// direction is all that a client that keeps up holds. What it costs to be there is bounded by who is let in.
pub const LITTLE: usize = 4 << 10;

/// What was ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shed {
    /// How many connections.
    pub connections: usize,
    /// What they held. They may have shared it with others, so it says how large they were and not what was
    /// freed.
    pub bytes: usize,
    /// What is still held by connections that have been told to go, and freed when they do.
    pub leaving: usize,
}

/// What is to become of those that were told to go and still hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// They may take their time.
    Wait,
    /// They had it.
    Cut,
}

/// What does not wait behind the publications in a worker's mailbox.
#[derive(Debug)]
pub(crate) enum Urgent {
    /// Say what the largest connections hold, in bytes, the largest first.
    Weigh(oneshot::Sender<Vec<usize>>),
    /// End so many of the largest.
    Shed(usize, Leaving, oneshot::Sender<Shed>),
}

impl Hub {
    /// Ends the connections that hold the most, the largest first over all workers, until they held `bytes` or
    /// what others hold is little, by itself or beside it. A worker that does not answer for a second is left out.
    pub async fn shed(&self, bytes: usize, leaving: Leaving) -> Shed {
        let weights = self.ask(|_| Urgent::Weigh).await;
        let weights: Vec<Vec<usize>> = weights.into_iter().map(Option::unwrap_or_default).collect();
        let shares = shares(&weights, bytes);
        let share = |worker: usize| {
            let share = shares[worker];
            move |answer| Urgent::Shed(share, leaving, answer)
        };
        let shed = self.ask(share).await.into_iter().flatten();
        shed.fold(Shed::default(), |all, one| Shed {
            connections: all.connections + one.connections,
            bytes: all.bytes + one.bytes,
            leaving: all.leaving + one.leaving,
        })
    }

    /// Asks all workers at once, and waits for their answers.
    async fn ask<T, Q>(&self, question: impl Fn(usize) -> Q) -> Vec<Option<T>>
    where
        Q: FnOnce(oneshot::Sender<T>) -> Urgent,
    {
        let asked: Vec<_> = (0..self.workers())
            .map(|worker| {
                let (answer, answered) = oneshot::channel();
                self.urge(worker, question(worker)(answer));
                answered
            })
            .collect();
        let deadline = Instant::now() + ANSWER;
        let mut answers = Vec::with_capacity(asked.len());
        for answered in asked {
            answers.push(timeout_at(deadline, answered).await.ok().and_then(Result::ok));
        }
        answers
    }
}

/// How many connections each worker is to end, the largest of all first, until they held `bytes` together.
fn shares(weights: &[Vec<usize>], bytes: usize) -> Vec<usize> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (worker, weights) in weights.iter().enumerate() {
        all.extend(weights.iter().map(|weight| (*weight, worker)));
    }
    all.sort_unstable_by(|one, other| other.cmp(one));
    let least = all.first().map_or(0, |(largest, _)| largest / APART).max(LITTLE);
    let (mut shares, mut freed) = (vec![0; weights.len()], 0);
    for (weight, worker) in all {
        if freed >= bytes || weight < least {
            break;
        }
        freed += weight;
        shares[worker] += 1;
    }
    shares
}

/// The largest first, and no more than are looked at in one go.
pub(crate) fn largest<T>(mut weighed: Vec<(usize, T)>) -> Vec<(usize, T)> {
    let most = weighed.len().min(LARGEST);
    if most < weighed.len() {
        weighed.select_nth_unstable_by_key(most, |(weight, _)| std::cmp::Reverse(*weight));
        weighed.truncate(most);
    }
    weighed.sort_unstable_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    weighed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_all_workers_go_first() {
        // (what each worker's connections hold, what is to be freed, how many each is to end), in units of a little
        type Row<'a> = (&'a [&'a [usize]], usize, &'a [usize]);
        let rows: &[Row] = &[
            (&[&[9, 5, 1], &[7, 6]], 9, &[1, 0]),
            (&[&[9, 5, 1], &[7, 6]], 10, &[1, 1]),
            (&[&[9, 5, 1], &[7, 6]], 23, &[2, 2]),
            (&[&[9, 5, 1], &[7, 6]], 1000, &[3, 2]),
            (&[&[4, 4], &[4, 4]], 8, &[0, 2]),
            (&[&[], &[3]], 1, &[0, 1]),
            (&[&[6400, 100, 99], &[]], 10_000, &[2, 0]),
            (&[&[], &[]], 1, &[0, 0]),
        ];
        for (weights, bytes, expected) in rows {
            let weights: Vec<Vec<usize>> = weights
                .iter()
                .map(|weights| weights.iter().map(|weight| weight * LITTLE).collect())
                .collect();
            assert_eq!(shares(&weights, bytes * LITTLE), *expected, "{weights:?} {bytes}");
        }
    }

    #[test]
    fn who_holds_a_little_stays_whatever_is_wanted() {
        let weights = [vec![LITTLE, LITTLE - 1], vec![LITTLE - 1, 1]];
        assert_eq!(shares(&weights, usize::MAX), [1, 0]);
        assert_eq!(shares(&weights[1..], usize::MAX), [0]);
    }

    #[test]
    fn a_look_takes_no_more_than_the_largest() {
        let weighed: Vec<(usize, usize)> = (0..LARGEST + 100).map(|weight| (weight, weight)).collect();
        let found = largest(weighed);
        assert_eq!((found.len(), found[0].0), (LARGEST, LARGEST + 99));
        assert!(found.is_sorted_by(|one, other| one.0 > other.0));
    }
}
