//! Tasks without which a worker is worth nothing. It restarts none: what they leave behind cannot be trusted.

use std::io::{self, Write};

/// Held by such a task. The runtime would catch its panic, and the process would look alive and deliver nothing;
/// ended, it is started again.
struct Vital;

/// Runs a task, and ends the process if it panics.
pub(crate) async fn watch(task: impl Future<Output = ()>) {
    let _vital = Vital;
    task.await;
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Not to the log, which may be written later than now.
            let _ = writeln!(io::stderr(), "fanfare: a worker's shard has panicked; the process ends");
            std::process::abort();
        }
    }
}
