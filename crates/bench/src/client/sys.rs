//! The few things that must be asked of the kernel directly: one clock for every process of a run, the CPU clock of
//! another process, a timer finer than a millisecond, how many files may be open, and the end of a process. It is the
//! only module with `unsafe`, and it keeps no state but the timer's descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};

/// Nanoseconds by the monotonic clock, which all processes of a machine share.
pub(crate) fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC).expect("the monotonic clock can always be read")
}

/// CPU time that the calling thread has used, in nanoseconds.
pub(crate) fn thread_cpu() -> io::Result<u64> {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that a process has used in all its threads, in nanoseconds. Unlike `/proc/PID/stat` it is exact.
pub(crate) fn process_cpu(pid: u32) -> io::Result<u64> {
    let mut id: libc::clockid_t = 0;
    // SAFETY: `id` is a valid place for one clockid_t.
    let code = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut id) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    clock(id)
}

/// Kills a process, which cannot say anything any more.
pub(crate) fn kill(pid: u32) -> io::Result<()> {
    // SAFETY: kill takes two numbers; 0 and what is negative would be groups, which a pid above 0 is not.
    if pid == 0 || unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ticks a second in the times of `/proc/PID/stat`.
pub(crate) fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and has no side effect.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// Bytes of a memory page.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: sysconf takes a number and has no side effect.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Raises the number of files that this process may open to the hard limit, and returns it.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit, and the call only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Lets every other thread of the machine go before the calling one and those that it starts: an attacker who shares a
/// machine with the server takes what the server leaves, as one does who is far away.
pub(crate) fn stand_back() -> io::Result<()> {
    // Under this policy (sched(7)) everybody else who wakes goes first at once; with the lowest priority of the usual
    // one, a thread would still keep its turn for some milliseconds.
    schedule(libc::SCHED_IDLE, 0)
}

/// Lets the calling thread, and those that it starts, go before all others, and before a server that goes before others
/// itself ([`stands_in_front`]): a client who shares a machine with the server does not wait for the server to be done
/// with others, as one does not who is far away. It takes a right that few have.
pub(crate) fn stand_in_front() -> io::Result<()> {
    schedule(libc::SCHED_FIFO, 2)
}

/// Whether a process goes before whoever stands back, whatever happens, as `chrt --rr 1` has it do. Without it Linux
/// gives the other up to a tick, 4 ms, each time that somebody who stands in front has interrupted the process: it has
/// had its part then, and the other has not.
pub(crate) fn stands_in_front(pid: u32) -> io::Result<bool> {
    // SAFETY: takes a number and has no side effect.
    match unsafe { libc::sched_getscheduler(pid as libc::pid_t) } {
        -1 => Err(io::Error::last_os_error()),
        policy => Ok(matches!(policy & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR | libc::SCHED_FIFO)),
    }
}

/// Takes that back for the calling thread.
pub(crate) fn stand_in_line() -> io::Result<()> {
    schedule(libc::SCHED_OTHER, 0)
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    /// The calling thread, on Linux.
    const THIS: libc::pid_t = 0;
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: `parameters` is only read.
    if unsafe { libc::sched_setscheduler(THIS, policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sleeps until a moment of the monotonic clock.
pub(crate) fn sleep_until(when: u64) {
    let when = timespec(when);
    // SAFETY: `when` is a valid timespec; the remaining time is not asked for. A signal ends the sleep early,
    // so it is taken up again; an absolute time makes that exact.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const when,
            std::ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

/// Becomes readable at a moment of the monotonic clock: epoll's own timeouts are whole milliseconds, which
/// would be the largest part of the latencies measured here.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes two numbers; the descriptor it returns is owned by nobody else.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is valid.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Rings once at `when`; at once if that has passed. Setting it again forgets the last time.
    pub(crate) fn set(&self, when: u64) -> io::Result<()> {
        let spec = libc::itimerspec {
            it_interval: timespec(0),
            // Zero would disarm the timer.
            it_value: timespec(when.max(1)),
        };
        // SAFETY: `spec` is valid, and the old value is not asked for.
        let code = unsafe {
            libc::timerfd_settime(
                self.0.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &raw const spec,
                std::ptr::null_mut(),
            )
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl event::Source for Timer {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
    }
}

fn clock(id: libc::clockid_t) -> io::Result<u64> {
    let mut now = timespec(0);
    // SAFETY: `now` is a valid place for one timespec.
    if unsafe { libc::clock_gettime(id, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_rings_no_earlier_than_it_was_set() {
        let mut poll = mio::Poll::new().unwrap();
        let mut timer = Timer::new().unwrap();
        poll.registry().register(&mut timer, Token(7), Interest::READABLE).unwrap();
        let mut events = mio::Events::with_capacity(4);
        for ahead in [0, 300_000, 2_000_000] {
            let due = monotonic() + ahead;
            timer.set(due).unwrap();
            poll.poll(&mut events, None).unwrap();
            assert!(monotonic() >= due);
            assert_eq!(events.iter().map(event::Event::token).collect::<Vec<_>>(), [Token(7)]);
        }
    }

    #[test]
    fn who_stands_in_front_is_known() {
        const CALLER: u32 = 0;
        let ranks = || {
            let mut ranks = vec![stands_in_front(CALLER).unwrap()];
            // It takes a right.
            if stand_in_front().is_ok() {
                ranks.push(stands_in_front(CALLER).unwrap());
            }
            stand_back().unwrap();
            ranks.push(stands_in_front(CALLER).unwrap());
            ranks
        };
        let ranks = std::thread::spawn(ranks).join().unwrap();
        assert!(matches!(ranks[..], [false, true, false] | [false, false]), "{ranks:?}");
        assert!(stands_in_front(u32::MAX >> 1).is_err());
    }

    #[test]
    fn the_cpu_clock_of_a_process_runs_with_its_work() {
        let before = process_cpu(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while process_cpu(std::process::id()).unwrap() < before + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
