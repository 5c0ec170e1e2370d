//! How many files this process may open, and room for them in the kernel's table of them.

use std::fs::File;
use std::io;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Room for so many, half a megabyte, is made ready at the start. Limits of a million are common and say nothing of how
/// many will come; from here on the table has to double only four times until a million are there.
const READY: u64 = 1 << 16;

/// Raises the limit of open files to what the system lets this process have, makes room for them, and returns how many
/// they may be.
///
/// Left to itself the kernel doubles its table while connections come, and whoever accepts the one that no longer fits
/// sleeps until all processors have let go of the old table: 4 to 6 ms, in which a worker serves nobody. So call this
/// before anybody is served. A limit that cannot be raised stays as it is, and room that cannot be made comes as the
/// kernel makes it.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    // None is no limit.
    let most = current.unwrap_or(u64::MAX);
    let _ = make_room(most.min(READY));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// The table grows for a file with the highest number, and never shrinks.
fn make_room(files: u64) -> io::Result<()> {
    let any = File::open("/")?;
    let highest = i32::try_from(files).unwrap_or(i32::MAX) - 1;
    drop(fcntl_dupfd_cloexec(&any, highest.max(0))?);
    Ok(())
}
