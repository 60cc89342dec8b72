//! Limits of memory cgroups. Sizes are bytes.
//!
//! Reads `memory.limit_in_bytes` and `memory.stat` (cgroup v1; `hierarchical_memory_limit` there is the lowest of a
//! cgroup and its ancestors) or `memory.max` of each of them (cgroup2), and `/proc/meminfo`.

use std::path::Path;

use procfs::{FromRead as _, Meminfo};

use super::{HostError, HostRoot, memory::MemoryHierarchy};
use crate::cgroup_path::CgroupPath;

/// From here on a number means no limit: cgroup v1 writes `i64::MAX` rounded down to a page.
pub const NO_LIMIT: u64 = 1 << 62;
/// Largest `memory.stat` or `memory.max` read, bytes.
const MAX_CGROUP_FILE: usize = 64 << 10;
/// Largest `/proc/meminfo` read, bytes; the kernel's has below 2 KiB.
const MAX_MEMINFO: usize = 64 << 10;

/// Memory of the host; `None` where it cannot be read.
pub fn host_memory(root: &HostRoot) -> Option<u64> {
    let text = root.read_bounded(Path::new("/proc/meminfo"), MAX_MEMINFO).ok()?;
    Meminfo::from_read(text.as_slice()).ok().map(|memory| memory.mem_total)
}

impl MemoryHierarchy {
    /// The limit that a cgroup has for itself; `Some(None)` is none, `None` one that cannot be read.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn own_limit(&self, root: &HostRoot, path: &CgroupPath) -> Result<Option<Option<u64>>, HostError> {
        let file = if self.version == 1 { "memory.limit_in_bytes" } else { "memory.max" };
        let limit = match root.read_bounded(&self.folder(path).join(file), MAX_CGROUP_FILE) {
            Ok(text) => memory_max(&text),
            Err(gone @ HostError::Gone { .. }) => return Err(gone),
            Err(_) => None,
        };
        Ok(limit.map(|limit| limit.bytes().filter(|bytes| *bytes < NO_LIMIT)))
    }

    /// The cgroup that a kill in this one takes as a whole: the outermost with `memory.oom.group`, itself or around it,
    /// up to the first with a limit, which is taken for the one that was hit. Cgroup v1 has none.
    pub fn killed_as_group(&self, root: &HostRoot, path: &CgroupPath) -> Option<CgroupPath> {
        let mut outermost = None;
        for depth in (1..=path.depth()).rev() {
            let around = path.ancestor(depth)?;
            if self.limit_file(root, &around, "memory.oom.group").is_some_and(|text| text.trim_ascii() == b"1") {
                outermost = Some(around.clone());
            }
            if !matches!(self.own_limit(root, &around), Ok(Some(None))) {
                break;
            }
        }
        outermost
    }

    /// The lowest limit of a cgroup and its ancestors; `Some(None)` is none, `None` one that cannot be read. `stat` is
    /// the cgroup's `memory.stat`, where it was read already.
    pub fn lowest_limit(&self, root: &HostRoot, path: &CgroupPath, stat: Option<&[u8]>) -> Option<Option<u64>> {
        if self.version != 1 {
            return self.lowest_max(root, path);
        }
        match stat {
            Some(stat) => hierarchical_limit(stat),
            None => hierarchical_limit(&self.limit_file(root, path, "memory.stat")?),
        }
        .map(|bytes| Some(bytes).filter(|bytes| *bytes < NO_LIMIT))
    }

    /// The root has none.
    #[expect(clippy::option_option, reason = "no limit and no answer are two things")]
    fn lowest_max(&self, root: &HostRoot, path: &CgroupPath) -> Option<Option<u64>> {
        let mut lowest = None;
        for depth in 1..=path.depth() {
            let text = self.limit_file(root, &path.ancestor(depth)?, "memory.max")?;
            if let MemoryMax::Bytes(bytes) = memory_max(&text)? {
                lowest = Some(lowest.map_or(bytes, |lowest: u64| lowest.min(bytes)));
            }
        }
        Some(lowest)
    }

    fn limit_file(&self, root: &HostRoot, path: &CgroupPath, name: &str) -> Option<Vec<u8>> {
        root.read_bounded(&self.folder(path).join(name), MAX_CGROUP_FILE).ok()
    }
}

/// `hierarchical_memory_limit` of a `memory.stat` of cgroup v1.
fn hierarchical_limit(memory_stat: &[u8]) -> Option<u64> {
    memory_stat.split(|byte| *byte == b'\n').find_map(|line| number(line.strip_prefix(b"hierarchical_memory_limit ")?))
}

/// A `memory.max` of cgroup2, or a `memory.limit_in_bytes` of cgroup v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemoryMax {
    /// No limit at this level.
    Max,
    /// So many.
    Bytes(u64),
}

impl MemoryMax {
    fn bytes(self) -> Option<u64> {
        match self {
            Self::Max => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Reads a `memory.max`; `None` where it is none.
fn memory_max(text: &[u8]) -> Option<MemoryMax> {
    match text.trim_ascii() {
        b"max" => Some(MemoryMax::Max),
        text => number(text).map(MemoryMax::Bytes),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `memory.stat` of a sandbox on Linux 6.18, cgroup v1: 128 MiB of its own, nothing above.
    const STAT_V1: &[u8] = include_bytes!("../../../tests/fixtures/gvisor/memory.stat-v1");

    #[test]
    fn the_lowest_limit_of_cgroup_v1_is_in_its_memory_stat() {
        assert_eq!(hierarchical_limit(STAT_V1), Some(134_217_728));
        assert_eq!(
            hierarchical_limit(b"hierarchical_memory_limit 9223372036854771712\n"),
            Some(9_223_372_036_854_771_712)
        );
        for text in
            [&b""[..], b"hierarchical_memory_limit\n", b"hierarchical_memory_limit -1\n", b"cache 1\n", b"\xff\n"]
        {
            assert_eq!(hierarchical_limit(text), None);
        }
        assert_eq!(hierarchical_limit(b"hierarchical_memsw_limit 5\n"), None);
    }

    #[test]
    fn memory_max_of_cgroup2() {
        assert_eq!(memory_max(b"max\n"), Some(MemoryMax::Max));
        assert_eq!(memory_max(b"134217728\n"), Some(MemoryMax::Bytes(134_217_728)));
        for text in [&b""[..], b"-1\n", b"maximum\n", b"1 2\n", b"\xff"] {
            assert_eq!(memory_max(text), None);
        }
    }
}
