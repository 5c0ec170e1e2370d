//! How much memory is in use, as whoever would kill the process for it counts: its cgroup, where that has a
//! limit, or else the process itself. It decides nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the kernel says how much it is.
#[derive(Debug)]
pub enum Gauge {
    /// All that the cgroup is charged with, but for files that can be read again: the process, and what the
    /// kernel keeps for its sockets and other open files. Others in the same cgroup are counted too, because
    /// they would be the end of it just the same.
    Cgroup(Cgroup),
    /// The resident memory of the process alone.
    Process(File),
}

/// A cgroup with a limit.
#[derive(Debug)]
pub struct Cgroup {
    limit: usize,
    /// Whether what waits in sockets is charged.
    sockets: bool,
    usage: File,
    stat: File,
    /// In version 1, what waits in sockets has a count of its own.
    tcp: Option<File>,
}

impl Gauge {
    /// The gauge of this process, on this system.
    ///
    /// # Errors
    ///
    /// When there is not even `/proc`.
    pub fn find() -> io::Result<Self> {
        let (groups, mounts) =
            (fs::read_to_string("/proc/self/cgroup")?, fs::read_to_string("/proc/self/mountinfo")?);
        let limited =
            directories(&groups, &mounts).filter_map(|(version, path)| Cgroup::open(version, &path));
        Ok(match limited.min_by_key(|cgroup| cgroup.limit) {
            Some(cgroup) => Self::Cgroup(cgroup),
            None => Self::Process(File::open("/proc/self/statm")?),
        })
    }

    /// What the system allows, if it has a limit.
    pub fn limit(&self) -> Option<usize> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup.limit),
            Self::Process(_) => None,
        }
    }

    /// Whether what waits in sockets is counted.
    pub fn counts_sockets(&self) -> bool {
        matches!(self, Self::Cgroup(Cgroup { sockets: true, .. }))
    }

    /// Bytes in use now.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn read(&self) -> io::Result<usize> {
        match self {
            Self::Process(statm) => {
                // proc(5): the second number, in pages, which are of 4 KiB wherever this matters.
                let resident = read_text(statm)?.split(' ').nth(1).and_then(|pages| pages.parse().ok());
                Ok(resident.unwrap_or(0_usize) << 12)
            }
            Self::Cgroup(Cgroup { usage, stat, tcp, .. }) => {
                let charged = read_number(usage)? + tcp.as_ref().map_or(Ok(0), read_number)?;
                Ok(charged.saturating_sub(file_bytes(&read_text(stat)?)))
            }
        }
    }
}

/// The two versions of cgroups; a system may have both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Nothing if it has no limit.
    fn open(version: Version, directory: &Path) -> Option<Self> {
        let open = |name: &str| File::open(directory.join(name)).ok();
        let (limit, usage) = match version {
            Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            Version::Two => ("memory.max", "memory.current"),
        };
        let limit = limit_of(&open(limit)?)?;
        let tcp = match version {
            // It counts only once it has a limit of its own, however large.
            Version::One => limit_of(&open("memory.kmem.tcp.limit_in_bytes")?)
                .and_then(|_| open("memory.kmem.tcp.usage_in_bytes")),
            Version::Two => None,
        };
        let sockets = version == Version::Two || tcp.is_some();
        Some(Self { limit, sockets, usage: open(usage)?, stat: open("memory.stat")?, tcp })
    }
}

/// A gauge for tests: a system with this limit.
#[cfg(test)]
pub fn fixed(limit: Option<usize>) -> Gauge {
    let nothing = || File::open("/dev/null").expect("every system has it");
    match limit {
        None => Gauge::Process(nothing()),
        Some(limit) => {
            Gauge::Cgroup(Cgroup { limit, sockets: true, usage: nothing(), stat: nothing(), tcp: None })
        }
    }
}

/// `max`, and in version 1 the largest number of pages, stand for no limit.
fn limit_of(file: &File) -> Option<usize> {
    read_number(file).ok().filter(|bytes| *bytes < 1 << 60)
}

/// The directories of the cgroups that hold this process, each with those around it, by
/// `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), proc(5)).
fn directories(groups: &str, mounts: &str) -> impl Iterator<Item = (Version, PathBuf)> {
    let one = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    });
    let two = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let found = mounts.lines().filter_map(move |line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, Path::new(place.next()?));
        let mut kind = kind.split(' ');
        let (version, path) = match (kind.next()?, kind.nth(1)?) {
            ("cgroup", options) if options.split(',').any(|name| name == "memory") => (Version::One, one?),
            ("cgroup2", _) => (Version::Two, two?),
            _ => return None,
        };
        // In a container the path may begin outside of what is mounted; then the mount is the cgroup itself.
        let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let levels = inside.ancestors().map(|level| point.join(level)).collect::<Vec<_>>();
        Some(levels.into_iter().map(move |level| (version, level)))
    });
    found.flatten().collect::<Vec<_>>().into_iter()
}

/// Bytes of files in memory, by `memory.stat`: the kernel takes them back before it kills anybody.
fn file_bytes(stat: &str) -> usize {
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<usize>().ok())
    };
    // Version 1 counts the groups inside by names of their own; version 2 always does.
    let sum = |active, inactive| Some(value(active)? + value(inactive)?);
    sum("total_active_file", "total_inactive_file")
        .or_else(|| sum("active_file", "inactive_file"))
        .unwrap_or(0)
}

fn read_text(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; 8 << 10];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_number(file: &File) -> io::Result<usize> {
    read_text(file)?.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_of_a_process_are_found() {
        use Version::{One, Two};
        const V1: &str = "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/\n";
        // (what it is, /proc/self/cgroup, /proc/self/mountinfo, what is found)
        type Row<'a> = (&'a str, &'a str, &'a str, &'a [(Version, &'a str)]);
        let rows: [Row; 6] = [
            (
                "version 2, seen from outside",
                "0::/system.slice/fanfare.service\n",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
                &[
                    (Two, "/sys/fs/cgroup/system.slice/fanfare.service"),
                    (Two, "/sys/fs/cgroup/system.slice"),
                    (Two, "/sys/fs/cgroup/"),
                ],
            ),
            (
                "version 2, in a container with a namespace",
                "0::/\n",
                "1 0 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
                &[(Two, "/sys/fs/cgroup/")],
            ),
            (
                "version 1, the mount is a part",
                V1,
                "1 0 0:29 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                &[(One, "/sys/fs/cgroup/memory/")],
            ),
            (
                "version 1, the mount is elsewhere",
                V1,
                "1 0 0:29 /other /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                &[(One, "/sys/fs/cgroup/memory/")],
            ),
            (
                "both, memory in version 1",
                V1,
                "1 0 0:29 / /m rw - cgroup cgroup rw,memory\n2 0 0:30 / /c rw - cgroup cgroup rw,cpu\n\
                 3 0 0:31 / /u rw - cgroup2 cgroup2 rw\n",
                &[(One, "/m/docker/ab"), (One, "/m/docker"), (One, "/m/"), (Two, "/u/")],
            ),
            ("none", "", "1 0 0:29 / / rw - ext4 /dev/vda rw\n", &[]),
        ];
        for (name, groups, mounts, expected) in rows {
            let found: Vec<_> = directories(groups, mounts).collect();
            let expected: Vec<_> =
                expected.iter().map(|(version, path)| (*version, PathBuf::from(path))).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn files_in_memory_are_not_in_use() {
        for (stat, bytes) in [
            ("anon 900\nfile 80\nkernel 5\nsock 7\ninactive_file 50\nactive_file 30\n", 80),
            ("inactive_file 1\nactive_file 2\ntotal_inactive_file 50\ntotal_active_file 30\n", 80),
            ("", 0),
        ] {
            assert_eq!(file_bytes(stat), bytes, "{stat}");
        }
    }

    /// A directory as the kernel would fill it, for both versions.
    #[test]
    fn a_cgroup_without_a_limit_is_none() {
        // (version, files, the limit, whether sockets are counted, what is in use)
        type Row<'a> = (Version, &'a [(&'a str, &'a str)], Option<(usize, bool, usize)>);
        let rows: [Row; 5] = [
            (
                Version::Two,
                &[
                    ("memory.max", "1000\n"),
                    ("memory.current", "700\n"),
                    ("memory.stat", "inactive_file 60\nactive_file 40\n"),
                ],
                Some((1000, true, 600)),
            ),
            (Version::Two, &[("memory.max", "max\n"), ("memory.current", "7\n"), ("memory.stat", "")], None),
            (Version::Two, &[], None),
            (
                Version::One,
                &[
                    ("memory.limit_in_bytes", "1000\n"),
                    ("memory.usage_in_bytes", "700\n"),
                    ("memory.stat", "total_inactive_file 60\ntotal_active_file 40\n"),
                    ("memory.kmem.tcp.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.kmem.tcp.usage_in_bytes", "50\n"),
                ],
                Some((1000, false, 600)),
            ),
            (
                Version::One,
                &[
                    ("memory.limit_in_bytes", "1000\n"),
                    ("memory.usage_in_bytes", "700\n"),
                    ("memory.stat", ""),
                    ("memory.kmem.tcp.limit_in_bytes", "1000\n"),
                    ("memory.kmem.tcp.usage_in_bytes", "50\n"),
                ],
                Some((1000, true, 750)),
            ),
        ];
        for (version, files, expected) in rows {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(directory.path().join(name), text).unwrap();
            }
            let gauge = Cgroup::open(version, directory.path()).map(Gauge::Cgroup);
            let found =
                gauge.map(|gauge| (gauge.limit().unwrap(), gauge.counts_sockets(), gauge.read().unwrap()));
            assert_eq!(found, expected, "{files:?}");
        }
    }

    #[test]
    fn a_process_has_memory() {
        let used = Gauge::find().unwrap().read().unwrap();
        assert!(used > 1 << 20, "{used}");
    }
}
