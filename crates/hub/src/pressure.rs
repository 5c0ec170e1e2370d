//! Memory given back on purpose: each worker says what its connections hold, and the largest of all are
//! ended, wherever they are. How much memory there is, and when there is too little, is not known here.

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::mailbox::{ANSWER, Hub};

/// So many connections of each worker are looked at in one go, so that asking takes no memory to speak of.
const LARGEST: usize = 4096;

/// What was ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shed {
    /// How many connections.
    pub connections: usize,
    /// What they held. They may have shared it with others, so it says how large they were and not what was
    /// freed.
    pub bytes: usize,
}

/// What does not wait behind the publications in a worker's mailbox.
#[derive(Debug)]
pub(crate) enum Urgent {
    /// Say what the largest connections hold, in bytes, the largest first.
    Weigh(oneshot::Sender<Vec<usize>>),
    /// End so many of the largest.
    Shed(usize, oneshot::Sender<Shed>),
}

impl Hub {
    /// Ends the connections that hold the most, the largest first over all workers, until they held `bytes` or
    /// nobody holds anything. A worker that does not answer for a second is left out.
    pub async fn shed(&self, bytes: usize) -> Shed {
        let weights = self.ask(|_| Some(Urgent::Weigh)).await;
        let weights: Vec<Vec<usize>> = weights.into_iter().map(Option::unwrap_or_default).collect();
        let shares = shares(&weights, bytes);
        let share = |worker: usize| match shares[worker] {
            0 => None,
            share => Some(move |answer| Urgent::Shed(share, answer)),
        };
        let shed = self.ask(share).await.into_iter().flatten();
        shed.fold(Shed::default(), |all, one| Shed {
            connections: all.connections + one.connections,
            bytes: all.bytes + one.bytes,
        })
    }

    /// Asks all workers at once, and waits for their answers.
    async fn ask<T, Q>(&self, question: impl Fn(usize) -> Option<Q>) -> Vec<Option<T>>
    where
        Q: FnOnce(oneshot::Sender<T>) -> Urgent,
    {
        let asked: Vec<_> = (0..self.workers())
            .map(|worker| {
                let (answer, answered) = oneshot::channel();
                self.urge(worker, question(worker)?(answer));
                Some(answered)
            })
            .collect();
        let deadline = Instant::now() + ANSWER;
        let mut answers = Vec::with_capacity(asked.len());
        for answered in asked {
            answers.push(match answered {
                Some(answered) => timeout_at(deadline, answered).await.ok().and_then(Result::ok),
                None => None,
            });
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
    let (mut shares, mut freed) = (vec![0; weights.len()], 0);
    for (weight, worker) in all {
        if freed >= bytes {
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
        // (what each worker's connections hold, bytes to free, how many each is to end)
        type Row<'a> = (&'a [&'a [usize]], usize, &'a [usize]);
        let rows: &[Row] = &[
            (&[&[9, 5, 1], &[7, 6]], 9, &[1, 0]),
            (&[&[9, 5, 1], &[7, 6]], 10, &[1, 1]),
            (&[&[9, 5, 1], &[7, 6]], 23, &[2, 2]),
            (&[&[9, 5, 1], &[7, 6]], 1000, &[3, 2]),
            (&[&[4, 4], &[4, 4]], 8, &[0, 2]),
            (&[&[], &[3]], 1, &[0, 1]),
            (&[&[], &[]], 1, &[0, 0]),
        ];
        for (weights, bytes, expected) in rows {
            let weights: Vec<Vec<usize>> = weights.iter().map(|weights| weights.to_vec()).collect();
            assert_eq!(shares(&weights, *bytes), *expected, "{weights:?} {bytes}");
        }
    }

    #[test]
    fn a_look_takes_no_more_than_the_largest() {
        let weighed: Vec<(usize, usize)> = (0..LARGEST + 100).map(|weight| (weight, weight)).collect();
        let found = largest(weighed);
        assert_eq!((found.len(), found[0].0), (LARGEST, LARGEST + 99));
        assert!(found.is_sorted_by(|one, other| one.0 > other.0));
    }
}
