//! A child process that ends with its owner. It knows nothing of what the process is for.

use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::DEADLINE;

/// A running child, killed by its own process id when dropped.
pub struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts `command`, with no standard input.
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let pid = child.id().unwrap();
        Self { child, pid }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal by name: `TERM`, `STOP` … A process that has ended already is fine.
    pub async fn signal(&self, name: &str) {
        // The shell's own `kill`, for `libc::kill` would be the only unsafe call of these tests.
        let script = format!("kill -{name} {}", self.pid);
        let sent = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().await;
        sent.expect("sh runs");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.expect("the process ends in time").unwrap()
    }

    /// SIGKILL, and wait.
    pub async fn kill(&mut self) {
        let _ = self.child.start_kill();
        self.ended().await;
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// A process' memory, by proc(5); 0 if it is gone.
pub fn resident_bytes(pid: u32) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}
