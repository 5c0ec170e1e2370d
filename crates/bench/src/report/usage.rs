//! What a server costs, read from outside: CPU time and resident memory of the processes that were named.
//! It does not find processes, nor follow their children.

use std::io;

use serde::{Deserialize, Serialize};

use crate::client::sys;

/// The processes that make up a server; their figures are added up.
#[derive(Debug, Clone, Default)]
pub struct Processes(Vec<u32>);

/// CPU time, in nanoseconds. `total` is exact; the kernel divides it into `user` and `system` by sampling at
/// its tick, so these two are good only over many ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// By the processes' CPU clocks.
    pub total: u64,
    /// The part outside the kernel.
    pub user: u64,
    /// The part inside the kernel.
    pub system: u64,
}

/// A process's CPU clocks at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuReading {
    total: u64,
    user_ticks: u64,
    system_ticks: u64,
}

impl Processes {
    /// Names the processes; fails if one of them cannot be read.
    pub fn new(pids: Vec<u32>) -> io::Result<Self> {
        let processes = Self(pids);
        processes.cpu()?;
        processes.resident()?;
        Ok(processes)
    }

    /// Whether none was named, so that there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> io::Result<u64> {
        self.0.iter().map(|pid| resident(*pid).map_err(|error| named(*pid, &error))).sum()
    }

    /// Whether they are named, and each goes before whoever stands back.
    pub(crate) fn in_front(&self) -> io::Result<bool> {
        self.0.iter().try_fold(!self.is_empty(), |all, pid| {
            Ok(all && sys::stands_in_front(*pid).map_err(|error| named(*pid, &error))?)
        })
    }

    /// Files that are open.
    pub(crate) fn files(&self) -> io::Result<u64> {
        let count =
            |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(|files| files.count() as u64);
        self.0.iter().map(|pid| count(pid).map_err(|error| named(*pid, &error))).sum()
    }

    /// What all have used since they began.
    pub(crate) fn cpu(&self) -> io::Result<CpuReading> {
        self.0.iter().try_fold(CpuReading::default(), |sum, pid| {
            let one = CpuReading::of(*pid).map_err(|error| named(*pid, &error))?;
            Ok(CpuReading {
                total: sum.total + one.total,
                user_ticks: sum.user_ticks + one.user_ticks,
                system_ticks: sum.system_ticks + one.system_ticks,
            })
        })
    }
}

impl CpuReading {
    /// This process's own.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> io::Result<Self> {
        let (user_ticks, system_ticks) = ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "its stat file cannot be understood")
            })?;
        Ok(Self { total: sys::process_cpu(pid)?, user_ticks, system_ticks })
    }

    /// What was used since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Cpu {
        let tick = 1_000_000_000 / sys::ticks_per_second();
        Cpu {
            total: self.total.saturating_sub(earlier.total),
            user: self.user_ticks.saturating_sub(earlier.user_ticks) * tick,
            system: self.system_ticks.saturating_sub(earlier.system_ticks) * tick,
        }
    }
}

impl Cpu {
    /// The exact total times the sampled share of user time.
    pub fn user_share_of_total(&self) -> f64 {
        let sampled = self.user + self.system;
        if sampled == 0 { 0.0 } else { self.total as f64 * self.user as f64 / sampled as f64 }
    }
}

impl std::ops::AddAssign for Cpu {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.user += other.user;
        self.system += other.system;
    }
}

/// `smaps_rollup` counts exactly; `statm` may lag by some pages for each thread, but is always readable.
fn resident(pid: u32) -> io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    if let Some(kib) = rollup.as_deref().and_then(rollup_kib) {
        return Ok(kib * 1024);
    }
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
    pages
        .map(|pages| pages * sys::page_bytes())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its statm file cannot be understood"))
}

fn rollup_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15. The second field is the program's name, which may hold spaces and parentheses.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn named(pid: u32, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("process {pid}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let stat = "71 (a) b) S 1 71 71 0 -1 4194560 100 0 0 0 123 45 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some((123, 45)));
        assert_eq!(ticks("71 (a"), None);
        assert_eq!(rollup_kib("5600-7ffd ---p [rollup]\nRss:    2012 kB\nPss:  400 kB\n"), Some(2012));
        assert_eq!(rollup_kib("Pss:  400 kB\n"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Processes::new(vec![u32::MAX >> 2]).unwrap_err();
        assert!(error.to_string().starts_with("process 1073741823: "), "{error}");
    }

    #[test]
    fn our_own_process_has_memory_and_time() {
        let own = Processes::new(vec![std::process::id()]).unwrap();
        assert!(own.resident().unwrap() > 100_000);
        assert!(own.cpu().unwrap().total > 0);
    }

    #[test]
    fn the_exact_total_is_divided_by_the_sampled_share() {
        let cpu = Cpu { total: 1_000, user: 10, system: 30 };
        assert!((cpu.user_share_of_total() - 250.0).abs() < 1e-9);
        assert!(Cpu::default().user_share_of_total().abs() < 1e-9);
    }
}
