//! A group of processes that may take so much memory and no more, made by the test and gone after it. The
//! kernel kills what takes more, which is what these tests are about.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the kernel keeps groups for memory, by version.
const ROOTS: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// A memory-limited cgroup, of whichever version this machine has. Making one takes root's rights.
pub struct Cgroup {
    directory: PathBuf,
    /// In version 1.
    watch: Option<Watch>,
}

/// Looks at two counts for as long as it is not dropped.
struct Watch {
    most: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "the kernel tells of no peak of both, so it is looked for")]
    fn begin(directory: &Path) -> Self {
        let counts =
            ["memory.usage_in_bytes", "memory.kmem.tcp.usage_in_bytes"].map(|name| directory.join(name));
        let (most, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (seen, ended) = (most.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                seen.fetch_max(counts.iter().map(|path| read(path)).sum(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { most, thread: Some(thread), over }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn read(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

impl Cgroup {
    /// One with this limit. What waits in sockets counts, too: always in version 2, and apart in version 1.
    pub fn limited(bytes: u64) -> Self {
        let name = format!("fanfare-test-{}-{}", std::process::id(), fastrand::u32(..));
        for (root, limit) in ROOTS {
            let directory = Path::new(root).join(&name);
            if fs::create_dir(&directory).is_err() {
                continue;
            }
            let mut group = Self { directory, watch: None };
            if group.write(limit, bytes) {
                if limit == "memory.limit_in_bytes" {
                    // It counts only once it has a limit, and this one nobody reaches.
                    assert!(group.write("memory.kmem.tcp.limit_in_bytes", 1 << 40));
                    group.watch = Some(Watch::begin(&group.directory));
                } else {
                    group.write("memory.swap.max", 0);
                }
                return group;
            }
        }
        panic!(
            "no cgroup with a memory limit can be made: it takes root's rights and a writable /sys/fs/cgroup"
        )
    }

    /// The file that takes the number of a process that joins.
    pub fn door(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// The most that was ever in use, sockets included. In version 1, which counts them apart, it is the most that was
    /// seen by looking all the time.
    pub fn peak(&self) -> u64 {
        match &self.watch {
            Some(watch) => watch.most.load(Ordering::Relaxed),
            None => read(&self.directory.join("memory.peak")),
        }
    }

    /// How many processes were killed for memory.
    pub fn killed(&self) -> u64 {
        let file = if self.watch.is_some() { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.directory.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kernel counts it").parse().unwrap()
    }

    fn write(&self, file: &str, value: u64) -> bool {
        fs::write(self.directory.join(file), value.to_string()).is_ok()
    }
}

impl Drop for Cgroup {
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells of no end of a process to others than its parent"
    )]
    fn drop(&mut self) {
        self.watch = None;
        // Its processes have been killed a moment ago and may not have gone yet.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
