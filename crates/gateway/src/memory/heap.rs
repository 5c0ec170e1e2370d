//! What the process has allocated, by the allocator's own count for each thread, added up by the threads
//! themselves: to know it costs a few instructions, where asking the kernel costs microseconds. With another
//! allocator than the binary's nothing is counted, and only what is measured holds.

use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};

/// How far a thread may be from what it has told. Smaller steps would make the threads share a cache line
/// with every message.
const STEP: i64 = 64 << 10;

/// Within this, memory that is free is given back to the kernel. jemalloc's own is ten times as long.
const DECAY: Duration = Duration::from_secs(1);

/// Allocated and not freed, over all threads that ever told.
static LIVE: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static TALLY: Tally = Tally::new();
}

struct Tally {
    counters: Option<(ThreadLocal<u64>, ThreadLocal<u64>)>,
    told: Cell<i64>,
}

impl Tally {
    fn new() -> Self {
        let counters = allocatedp::read().ok().zip(deallocatedp::read().ok());
        Self { counters, told: Cell::new(0) }
    }

    /// May be negative: a thread also frees what others have allocated.
    fn net(&self) -> i64 {
        self.counters.map_or(0, |(allocated, freed)| allocated.get().wrapping_sub(freed.get()).cast_signed())
    }
}

/// Adds up what this thread has allocated and freed since it last did. True if that was worth telling.
pub fn tally() -> bool {
    TALLY.with(|tally| {
        let net = tally.net();
        let change = net - tally.told.get();
        if change.abs() < STEP {
            return false;
        }
        tally.told.set(net);
        LIVE.fetch_add(change, Ordering::Relaxed);
        true
    })
}

/// Bytes that are allocated now, as far as the threads have told.
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// Gives back to the kernel whatever is free. Takes as long as there is much of it.
#[expect(unsafe_code, reason = "jemalloc's interface is C, and its safe wrapper does not know this command")]
pub fn purge() {
    // 4096 stands for every arena (MALLCTL_ARENAS_ALL in jemalloc.h).
    let command = c"arena.4096.purge";
    // SAFETY: the command is a C string that takes and gives nothing. It has no failure that would matter.
    let _ = unsafe {
        tikv_jemalloc_sys::mallctl(
            command.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        )
    };
}

/// Lets the allocator give back what is free in threads of its own, and soon: what a storm of handshakes took is of no
/// use to those who stay. Without these threads only one that allocates gives back, and after a storm none does. To be
/// called before any thread but the main one allocates.
pub fn give_back_by_itself() {
    // A new arena begins with the first; the main thread's was there before.
    let set =
        [c"arenas.dirty_decay_ms", c"arena.0.dirty_decay_ms"].into_iter().try_for_each(give_back_within);
    if let Err(error) = set.and_then(|()| tikv_jemalloc_ctl::background_thread::write(true)) {
        tracing::debug!("memory is given back late: {error}");
    }
}

#[expect(unsafe_code, reason = "jemalloc's safe wrapper does not know this setting")]
fn give_back_within(setting: &CStr) -> tikv_jemalloc_ctl::Result<()> {
    // SAFETY: both settings are of C's `ssize_t` (jemalloc(3)), which is `isize`.
    unsafe { tikv_jemalloc_ctl::raw::write(setting.to_bytes_with_nul(), DECAY.as_millis() as isize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    /// Other tests allocate, too, so only large amounts tell anything.
    const MUCH: usize = 256 << 20;

    #[test]
    fn what_is_allocated_is_told_whoever_frees_it() {
        tally();
        let before = live();
        let much = vec![0_u8; MUCH];
        assert!(tally());
        assert!(live() - before > MUCH as i64 / 2);
        std::thread::spawn(move || {
            drop(much);
            assert!(tally());
        })
        .join()
        .unwrap();
        assert!(live() - before < MUCH as i64 / 2);
        assert!(!tally(), "nothing has happened here meanwhile");
        purge();
    }
}
