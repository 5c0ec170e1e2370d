//! Which processor each worker keeps to. Left alone, the kernel puts two busy workers on one processor now and then and
//! moves them apart milliseconds later, although the other has nothing to do that could not wait; for as long, clients
//! of the one wait for those of the other. It does nothing where there is no processor for each: there the kernel knows
//! better.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor(usize);

impl Processor {
    /// One for each of so many workers, if this process may use just as many; otherwise none.
    pub fn for_each_of(workers: usize) -> Vec<Self> {
        // Where nobody tells, nobody knows.
        let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
        share_out(&allowed, workers)
    }

    /// Keeps the calling thread to it.
    pub fn keep_to(self) -> io::Result<()> {
        let Self(number) = self;
        let mut only = CpuSet::new();
        only.set(number);
        Ok(sched_setaffinity(None, &only)?)
    }
}

fn share_out(allowed: &CpuSet, workers: usize) -> Vec<Processor> {
    let all = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number)).map(Processor);
    if allowed.count() as usize == workers && workers > 1 { all.collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_for_each_or_none_for_any() {
        // (what the process may use, workers, what they get)
        let rows: [(&[usize], usize, &[usize]); 6] = [
            (&[0, 1], 2, &[0, 1]),
            (&[3, 7, 1000], 3, &[3, 7, 1000]),
            // A limit on CPU time, or `workers`, allows fewer than there are.
            (&[0, 1, 2, 3], 2, &[]),
            (&[0, 1], 3, &[]),
            // It is in nobody's way.
            (&[5], 1, &[]),
            (&[], 1, &[]),
        ];
        for (allowed, workers, expected) in rows {
            let mut set = CpuSet::new();
            allowed.iter().for_each(|number| set.set(*number));
            let expected: Vec<_> = expected.iter().copied().map(Processor).collect();
            assert_eq!(share_out(&set, workers), expected, "{allowed:?}, {workers} workers");
        }
    }
}
