//! One process of the host as `/proc/<pid>` shows it: `comm`, `cmdline`, `stat`, `status`, `cgroup`, `exe`, `fd`; and the
//! mounts of the host, `/proc/1/mountinfo`. Bounded reads through one handle, which a new process of the same id never
//! answers for.

use std::{collections::HashSet, os::fd::OwnedFd, path::Path};

use procfs::{FromRead as _, ProcessCGroups, process::Stat};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, StatxFlags},
    io::Errno,
};

use crate::{
    cgroup_path::CgroupPath,
    host::{self, HostError, HostRoot},
};

/// Longest arguments read, bytes; runsc's have below 4 kB.
const MAX_CMDLINE: usize = 64 << 10;
/// Largest of the other files read, bytes.
const MAX_FILE: usize = 64 << 10;
/// Largest list of mounts read, bytes: some 50,000 mounts.
const MAX_MOUNTINFO: usize = 16 << 20;
/// Descriptors looked at for the memory file; a sentry opens it among its first ten.
const MAX_FDS: usize = 1024;
/// Room for the name of a thread (`TASK_COMM_LEN` and a line feed).
const MAX_COMM: usize = 64;
/// What the file that holds an application's memory is called, in every release from 2022 to 2026.
const MEMORY_FILE: &[u8] = b"/memfd:runsc-memory (deleted)";

/// A process, distinct from all others since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`, rounded down to a clock tick (10 ms).
    pub(crate) fn start_ns(self) -> u64 {
        self.start_ticks.saturating_mul(1_000_000_000 / procfs::ticks_per_second().max(1))
    }
}

/// The host's `/proc`.
#[derive(Debug)]
pub(super) struct Processes(OwnedFd);

impl Processes {
    /// # Errors
    /// `/proc` cannot be opened.
    pub(super) fn open(root: &HostRoot) -> Result<Self, HostError> {
        root.open(Path::new("/proc"), OFlags::RDONLY | OFlags::DIRECTORY).map(Self)
    }

    /// Ids of all processes.
    pub(super) fn all(&self) -> Result<Vec<u32>, Errno> {
        let mut pids = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            pids.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    /// Whether a process is called like one of runsc's. Read without touching its memory, so that nothing it does can
    /// hold the reader up.
    pub(super) fn may_be_runsc(&self, pid: u32) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, format!("{pid}/comm"), flags, Mode::empty())?;
        let mut comm = [0; MAX_COMM];
        let length = rustix::io::read(&fd, &mut comm)?;
        let comm = comm.get(..length).unwrap_or_default().trim_ascii_end();
        Ok(comm == b"exe" || comm.starts_with(b"runsc") || comm.starts_with(b"gvisor"))
    }

    pub(super) fn process(&self, pid: u32) -> Result<Process, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.0, pid.to_string(), flags, Mode::empty())?;
        Ok(Process { folder, pid })
    }
}

/// A handle on a process.
#[derive(Debug)]
pub(super) struct Process {
    folder: OwnedFd,
    pid: u32,
}

impl Process {
    pub(super) fn id(&self) -> Result<ProcessId, Errno> {
        let stat = self.read("stat", MAX_FILE)?;
        let stat = Stat::from_read(stat.as_slice()).map_err(|_unlike_a_stat| Errno::INVAL)?;
        Ok(ProcessId { pid: self.pid, start_ticks: stat.starttime })
    }

    /// Its arguments. Read from its memory: a process of a container could hold the reader up.
    pub(super) fn cmdline(&self) -> Result<Vec<u8>, Errno> {
        self.read("cmdline", MAX_CMDLINE)
    }

    /// The mount that its program was executed from.
    ///
    /// # Errors
    /// `NOENT` for a kernel thread and for a process on its way out.
    pub(super) fn exe_mount(&self) -> Result<u64, Errno> {
        let stat = rustix::fs::statx(&self.folder, "exe", AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
        let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        if told { Ok(stat.stx_mnt_id) } else { Err(Errno::NOSYS) }
    }

    /// Effective user id in the namespace of the reader.
    pub(super) fn uid(&self) -> Result<u32, Errno> {
        let status = self.read("status", MAX_FILE)?;
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"));
        let effective = line.and_then(|line| line.split(u8::is_ascii_whitespace).filter(|id| !id.is_empty()).nth(1));
        let effective = effective.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        effective.ok_or(Errno::INVAL)
    }

    /// Its cgroup in the hierarchy of the memory controller of that version.
    pub(super) fn memory_cgroup(&self, version: u8) -> Result<CgroupPath, Errno> {
        let text = self.read("cgroup", MAX_FILE)?;
        let cgroups = ProcessCGroups::from_read(text.as_slice()).map_err(|_unlike_a_cgroup| Errno::INVAL)?;
        let of_memory = cgroups.0.iter().find(|cgroup| match version {
            1 => cgroup.controllers.iter().any(|name| name == "memory"),
            _ => cgroup.hierarchy == 0,
        });
        of_memory.map(|cgroup| CgroupPath::from_bytes(cgroup.pathname.as_bytes())).ok_or(Errno::NOENT)
    }

    /// Whether it holds the file that gVisor keeps an application's memory in.
    pub(super) fn has_memory_file(&self) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, "fd", flags, Mode::empty())?;
        let listed = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
        for entry in Dir::new(listed)?.take(MAX_FDS) {
            // A descriptor closed meanwhile is not the one.
            let target = rustix::fs::readlinkat(&folder, entry?.file_name(), Vec::new());
            if target.is_ok_and(|target| target.as_bytes() == MEMORY_FILE) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(&self, name: &str, max_bytes: usize) -> Result<Vec<u8>, Errno> {
        let fd = rustix::fs::openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        host::read_all(&fd, max_bytes)?.ok_or(Errno::TOOBIG)
    }
}

/// Ids of the mounts that the host's own processes see; unique in the whole kernel while the mount is there.
///
/// A process of a container sees copies of mounts, with other ids, so nothing it executes comes from one of these.
/// runsc executes itself by way of `/proc/self/exe`, which keeps the mount it was first executed from.
#[derive(Debug, Default)]
pub(super) struct HostMounts(HashSet<u64>);

impl HostMounts {
    /// Reads the mounts of the host's first process and of the agent.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn read(root: &HostRoot) -> Result<Self, HostError> {
        let mut mounts = ids(&root.read_bounded(Path::new("/proc/1/mountinfo"), MAX_MOUNTINFO)?);
        if root.as_path() == Path::new("/") {
            mounts.extend(ids(&root.read_bounded(Path::new("/proc/self/mountinfo"), MAX_MOUNTINFO)?));
        }
        Ok(Self(mounts))
    }

    pub(super) fn contains(&self, mount: u64) -> bool {
        self.0.contains(&mount)
    }

    /// Whether the program of a process comes from one of the host's mounts, beyond doubt: an id of a mount that is
    /// gone is soon given to another, and a runtime's process becomes a container's by one more `exec`. The process
    /// keeps the mount of its program from going while they are read.
    pub(super) fn holds(root: &HostRoot, process: &Process) -> Result<bool, Errno> {
        let before = process.exe_mount()?;
        let mounts = Self::read(root).map_err(|_unreadable| Errno::ACCESS)?;
        Ok(mounts.contains(before) && process.exe_mount()? == before)
    }
}

fn ids(mountinfo: &[u8]) -> HashSet<u64> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let first = lines.filter_map(|line| line.split(|byte| *byte == b' ').next());
    first.filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect()
}
