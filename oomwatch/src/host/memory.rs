//! The hierarchy that has the memory controller: where it is mounted, its cgroups, their OOM counters.
//!
//! Reads `/proc/<pid>/mountinfo`, `/proc/cgroups`, and below the mount `memory.events.local`, `memory.events`
//! (cgroup2) or `memory.oom_control` (cgroup v1).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use procfs::{FromRead as _, process::Process};
use rustix::{
    fs::{Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{HostError, HostRoot};
use crate::{
    cgroup_path::CgroupPath,
    clock,
    observation::{Counters, MemcgId},
};

/// Largest counter file read, bytes; the kernel's have below 200.
const MAX_COUNTER_FILE: usize = 4096;
/// Largest list of processes read, bytes; only its first line is used.
const MAX_PROCESS_LIST: usize = 1 << 20;
/// Cgroups listed at start; a host with more learns the others when they change.
pub const MAX_CGROUPS: usize = 100_000;

/// The hierarchy of the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryHierarchy {
    /// 1 or 2.
    pub version: u8,
    /// Its id in the kernel; 0 for cgroup2.
    pub id: u32,
    pub(super) root: HostRoot,
    /// Its mount, seen from the root.
    mount: PathBuf,
}

impl MemoryHierarchy {
    /// Finds the hierarchy; `None` where the memory controller is mounted nowhere or only in part.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn find(root: &HostRoot) -> Result<Option<Self>, HostError> {
        let process = if root.as_path() == Path::new("/") { "/proc/self" } else { "/proc/1" };
        let mountinfo = Path::new(process).join("mountinfo");
        let mounts = Process::new_with_root(root.join(Path::new(process))?)
            .and_then(|process| process.mountinfo())
            .map_err(|error| HostError::format(&mountinfo, error.to_string()))?;
        let mut unified = None;
        for mount in mounts.into_iter().filter(|mount| mount.root == "/") {
            let root = root.clone();
            if mount.fs_type == "cgroup" && mount.super_options.contains_key("memory") {
                let id = hierarchy_id(&root)?;
                return Ok(Some(Self { version: 1, id, root, mount: mount.mount_point }));
            }
            if mount.fs_type == "cgroup2" && has_memory(&root, &mount.mount_point) {
                unified = Some(Self { version: 2, id: 0, root, mount: mount.mount_point });
            }
        }
        Ok(unified)
    }

    /// One of cgroup2 that is made of files at the root, for tests.
    #[cfg(test)]
    pub(crate) fn of_files(root: &HostRoot) -> Self {
        Self { version: 2, id: 0, root: root.clone(), mount: PathBuf::from("/") }
    }

    /// Every cgroup there is now, with its counters where they can be read. Ends at 100,000.
    pub fn scan(&self) -> Vec<Counters> {
        let mut found = Vec::new();
        let mut pending = vec![CgroupPath::root()];
        while let Some(path) = pending.pop() {
            // A cgroup removed meanwhile has no children.
            for (id, child) in self.children(&path).unwrap_or_default() {
                if found.len() >= MAX_CGROUPS {
                    return found;
                }
                found.push(self.counters(MemcgId { hierarchy: self.id, id }, &child));
                pending.push(child);
            }
        }
        found
    }

    /// Ids and paths of the cgroups right below `path`.
    pub(crate) fn children(&self, path: &CgroupPath) -> Option<Vec<(u64, CgroupPath)>> {
        let folder = self.root.open(&self.folder(path), OFlags::RDONLY | OFlags::DIRECTORY).ok()?;
        let mut children = Vec::new();
        for entry in Dir::new(folder).ok()?.flatten() {
            let name = entry.file_name().to_bytes();
            if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                let names = path.names().chain(std::iter::once(name));
                children.push((entry.ino(), CgroupPath::from_names(names)));
            }
        }
        Some(children)
    }

    /// Counters of one cgroup; those that cannot be read are `None`.
    pub fn counters(&self, memcg: MemcgId, path: &CgroupPath) -> Counters {
        let boot_ns = clock::boot_ns();
        let text = self.root.read_bounded(&self.folder(path).join(self.counter_file()), MAX_COUNTER_FILE);
        counters(boot_ns, memcg, path, &text.unwrap_or_default())
    }

    /// Counters of this very cgroup, and of no successor at the same path.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn own_counters(&self, memcg: MemcgId, path: &CgroupPath) -> Result<Counters, HostError> {
        let boot_ns = clock::boot_ns();
        let at = self.folder(path);
        let failed = |errno: Errno| HostError::from_io(&at, errno.into());
        let folder = self.root.open(&at, OFlags::PATH | OFlags::DIRECTORY)?;
        if rustix::fs::fstat(&folder).map_err(failed)?.st_ino != memcg.id {
            return Err(HostError::Gone { path: at });
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&folder, self.counter_file(), flags, Mode::empty()).map_err(failed)?;
        let mut text = [0; MAX_COUNTER_FILE];
        let length = rustix::io::read(&file, &mut text).map_err(failed)?;
        Ok(counters(boot_ns, memcg, path, text.get(..length).unwrap_or_default()))
    }

    /// Whether the kernel counts kills by cgroup here.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn counts_kills(&self) -> Result<(), String> {
        let children = self.children(&CgroupPath::root()).ok_or("the hierarchy cannot be read")?;
        // A hierarchy without a cgroup below its root says nothing against it.
        let read = children
            .iter()
            .map(|(_, path)| self.root.read_bounded(&self.folder(path).join(self.counter_file()), MAX_COUNTER_FILE));
        match read.into_iter().find(|read| !matches!(read, Err(HostError::Gone { .. }))) {
            Some(Ok(text)) if keyed(&text, b"oom_kill").is_none() => {
                Err(format!("{} has no oom_kill", self.counter_file()))
            }
            Some(Err(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Where a cgroup's own kills are counted.
    pub(crate) fn counter_file(&self) -> &'static str {
        if self.version == 1 { "memory.oom_control" } else { "memory.events.local" }
    }

    /// Whether this very cgroup is gone for certain.
    pub fn is_gone(&self, memcg: MemcgId, path: &CgroupPath) -> bool {
        match self.root.open(&self.folder(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => rustix::fs::fstat(&folder).is_ok_and(|stat| stat.st_ino != memcg.id),
            Err(error) => matches!(error, HostError::Gone { .. }),
        }
    }

    /// Whether cgroup2 says that there is a process, in itself or below.
    pub(super) fn says_populated(&self, path: &CgroupPath) -> bool {
        let text = self.root.read_bounded(&self.folder(path).join("cgroup.events"), MAX_COUNTER_FILE);
        text.is_ok_and(|text| keyed(&text, b"populated") == Some(1))
    }

    /// A process of one cgroup, the first by the kernel's order.
    pub fn first_process(&self, path: &CgroupPath) -> Option<u32> {
        let text = self.root.read_bounded(&self.folder(path).join("cgroup.procs"), MAX_PROCESS_LIST).ok()?;
        let line = text.split(|byte| *byte == b'\n').next()?;
        std::str::from_utf8(line).ok()?.parse().ok()
    }

    /// Processes of one cgroup, none of one that is gone.
    pub(super) fn processes(&self, path: &CgroupPath) -> Result<Vec<u32>, HostError> {
        let file = self.folder(path).join("cgroup.procs");
        let text = match self.root.read_bounded(&file, MAX_PROCESS_LIST) {
            Err(HostError::Gone { .. }) => return Ok(Vec::new()),
            text => text?,
        };
        let lines = String::from_utf8_lossy(&text);
        // 0 is a process of another namespace.
        let pids = lines.lines().map(|line| line.parse().ok().filter(|pid| *pid > 0));
        pids.collect::<Option<_>>().ok_or_else(|| HostError::format(&file, "not a list of processes"))
    }

    /// Where a cgroup's files are, seen from the root.
    pub(crate) fn folder(&self, path: &CgroupPath) -> PathBuf {
        let below = path.as_bytes().strip_prefix(b"/").unwrap_or_default();
        self.mount.join(OsStr::from_bytes(below))
    }
}

fn counters(boot_ns: u64, memcg: MemcgId, path: &CgroupPath, text: &[u8]) -> Counters {
    Counters {
        boot_ns,
        memcg,
        path: path.clone(),
        local_oom_kill: keyed(text, b"oom_kill"),
        local_oom: keyed(text, b"oom"),
        under_oom: keyed(text, b"under_oom").map(|value| value != 0),
        local_oom_group_kill: keyed(text, b"oom_group_kill"),
    }
}

fn has_memory(root: &HostRoot, mount: &Path) -> bool {
    root.read_bounded(&mount.join("cgroup.controllers"), MAX_COUNTER_FILE)
        .is_ok_and(|text| text.split(u8::is_ascii_whitespace).any(|name| name == b"memory"))
}

/// Of a cgroup v1 memory controller.
fn hierarchy_id(root: &HostRoot) -> Result<u32, HostError> {
    let path = Path::new("/proc/cgroups");
    let controllers = procfs::CGroupControllers::from_file(root.join(path)?)
        .map_err(|error| HostError::format(path, error.to_string()))?;
    let memory = controllers.0.iter().find(|controller| controller.name == "memory");
    memory.map(|memory| memory.hierarchy).ok_or_else(|| HostError::format(path, "has no line for memory"))
}

/// Value of a `key value` line; the order of the lines differs between kernels.
pub(super) fn keyed(text: &[u8], key: &[u8]) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix(b" ")?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18, cgroup v1: `under_oom` stands before `oom_kill`.
    const OOM_CONTROL: &[u8] = b"oom_kill_disable 0\nunder_oom 1\noom_kill 3\n";
    /// Linux 6.12, cgroup2.
    const EVENTS_LOCAL: &[u8] = b"low 0\nhigh 0\nmax 35\noom 2\noom_kill 5\noom_group_kill 0\n";

    #[test]
    fn keys_are_matched_whole() {
        assert_eq!(keyed(OOM_CONTROL, b"oom_kill"), Some(3));
        assert_eq!(keyed(OOM_CONTROL, b"under_oom"), Some(1));
        assert_eq!(keyed(EVENTS_LOCAL, b"oom"), Some(2));
        assert_eq!(keyed(EVENTS_LOCAL, b"oom_kill"), Some(5));
    }

    #[test]
    fn what_is_missing_or_malformed_is_absent() {
        assert_eq!(keyed(b"", b"oom"), None);
        assert_eq!(keyed(b"oom\n", b"oom"), None);
        assert_eq!(keyed(b"oom many\n", b"oom"), None);
        assert_eq!(keyed(b"oom_kill 5\n", b"oom"), None);
        assert_eq!(keyed(b"oom \xff\n", b"oom"), None);
    }
}
