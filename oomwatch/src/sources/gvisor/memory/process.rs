//! Memory and kinship of processes, from `/proc/<pid>`: `statm`, `stat`, `status`, `task/<tid>/children`.

use std::path::{Path, PathBuf};

use crate::host::{HostError, HostRoot};

/// Largest of the small files read, bytes; `status` has about 1.5 KiB.
const MAX_FILE: usize = 1 << 14;
/// Largest list of children read, bytes: 100,000 of them.
const MAX_CHILDREN: usize = 1 << 20;
/// Threads listed of one process; a sentry with 100 processes inside has about 120.
const MAX_THREADS: usize = 4096;
/// Processes that [`rss_sum`] looks at; a tree with more gives no figure.
const MAX_TREE: usize = 8192;
/// Place of the start time in `/proc/<pid>/stat`, counted from the state, which follows the name.
const START_TIME: usize = 19;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    /// Process id on the host.
    pub(crate) pid: u32,
    /// Start time after boot, clock ticks (`/proc/<pid>/stat`, field 22).
    pub(crate) start_ticks: u64,
}

impl ProcessKey {
    /// Fails with [`HostError::Gone`] where the number belongs to nobody, to another process or to a dead one. What
    /// was read under that number before was the process' own.
    pub(super) fn verify(self, root: &HostRoot) -> Result<(), HostError> {
        // Of the thread: that of the process sums up all threads.
        let path = file(self.pid, &format!("task/{}/stat", self.pid));
        let text = root.read_bounded(&path, MAX_FILE)?;
        let (dead, start_ticks) = state_and_start(&text).ok_or_else(|| HostError::format(&path, "no start time"))?;
        if dead || start_ticks != self.start_ticks { Err(HostError::Gone { path }) } else { Ok(()) }
    }
}

/// Anonymous memory that is mapped, bytes.
pub(super) fn anonymous_bytes(root: &HostRoot, pid: u32) -> Result<u64, HostError> {
    Ok(Resident::read(root, pid)?.anonymous_bytes())
}

/// Whether it is dead, and when it started.
fn state_and_start(stat: &[u8]) -> Option<(bool, u64)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(name_end + 1..)?.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let dead = matches!(fields.next()?, b"Z" | b"X" | b"x");
    Some((dead, number(fields.nth(START_TIME - 1)?)?))
}

/// Pages of `/proc/<pid>/statm`.
struct Resident {
    pages: u64,
    shared_pages: u64,
}

impl Resident {
    fn read(root: &HostRoot, pid: u32) -> Result<Self, HostError> {
        let path = file(pid, "statm");
        let text = root.read_bounded(&path, MAX_FILE)?;
        Self::parse(&text).ok_or_else(|| HostError::format(&path, "not three numbers"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.split(u8::is_ascii_whitespace).skip(1).map(number);
        Some(Self { pages: fields.next()??, shared_pages: fields.next()?? })
    }

    fn anonymous_bytes(&self) -> u64 {
        bytes(self.pages.saturating_sub(self.shared_pages))
    }
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(procfs::page_size())
}

/// What a process costs the kernel, from `/proc/<pid>/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) threads: u64,
    pub(super) address_space: AddressSpace,
}

/// A parent and its child with the same figures share one address space: a stub and its twin. (So do a process and its
/// fork that did nothing since; but stubs are forked from one whose address space is empty.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct AddressSpace {
    virtual_kib: u64,
    pub(super) page_tables_kib: u64,
}

impl Status {
    pub(super) fn read(root: &HostRoot, pid: u32) -> Result<Self, HostError> {
        let path = file(pid, "status");
        let text = root.read_bounded(&path, MAX_FILE)?;
        Self::parse(&text).ok_or_else(|| HostError::format(&path, "no count of threads"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let field = |key: &[u8]| {
            let mut lines = text.split(|byte| *byte == b'\n');
            let value = lines.find_map(|line| line.strip_prefix(key))?.trim_ascii();
            number(value.strip_suffix(b" kB").unwrap_or(value))
        };
        // One that is about to end has no address space.
        let address_space = AddressSpace {
            virtual_kib: field(b"VmSize:").unwrap_or_default(),
            page_tables_kib: field(b"VmPTE:").unwrap_or_default(),
        };
        Some(Self { threads: field(b"Threads:")?, address_space })
    }
}

/// Ids of its threads, oldest first.
pub(super) fn threads(root: &HostRoot, pid: u32) -> Result<Vec<u32>, HostError> {
    let listing = root.list(&file(pid, "task"), MAX_THREADS)?;
    Ok(listing.names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Children that one thread has forked, oldest first.
pub(super) fn children(root: &HostRoot, pid: u32, thread: u32) -> Result<Vec<u32>, HostError> {
    let text = root.read_bounded(&file(pid, &format!("task/{thread}/children")), MAX_CHILDREN)?;
    let words = text.split(u8::is_ascii_whitespace);
    Ok(words.filter_map(|word| number(word)?.try_into().ok()).collect())
}

/// `VmRSS` of the sentry and all its descendants, bytes: the original system's figure, wrong both ways.
pub(super) fn rss_sum(root: &HostRoot, sentry: ProcessKey) -> Result<u64, HostError> {
    let mut sum = bytes(Resident::read(root, sentry.pid)?.pages);
    let mut seen = 1;
    let mut parents = vec![sentry.pid];
    while let Some(parent) = parents.pop() {
        for thread in present(threads(root, parent))?.unwrap_or_default() {
            let children = present(children(root, parent, thread))?.unwrap_or_default();
            seen += children.len();
            if seen > MAX_TREE {
                return Err(HostError::format(&file(sentry.pid, ""), format!("more than {MAX_TREE} processes")));
            }
            for child in &children {
                let memory = present(Resident::read(root, *child))?;
                sum = sum.saturating_add(memory.map_or(0, |memory| bytes(memory.pages)));
            }
            parents.extend(children);
        }
    }
    sentry.verify(root)?;
    Ok(sum)
}

/// `None` for what has ended meanwhile.
pub(super) fn present<T>(read: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(HostError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of a process.
pub(super) fn file(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let fields = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = |state: &str| format!("7 (a) Z 1 (b) {state} {fields}\n");
        assert_eq!(state_and_start(stat("S").as_bytes()), Some((false, 4711)));
        assert_eq!(state_and_start(stat("Z").as_bytes()), Some((true, 4711)));
        for text in ["", "7 (a", "7 (a) S 1 2", "7 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"] {
            assert_eq!(state_and_start(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn anonymous_memory_is_what_is_resident_and_not_shared() {
        let parse = |text: &str| Resident::parse(text.as_bytes()).map(|memory| memory.anonymous_bytes());
        assert_eq!(parse("900 30 10 1 0 20 0\n"), Some(20 * procfs::page_size()));
        assert_eq!(parse("0 0 0 0 0 0 0\n"), Some(0));
        assert_eq!(parse("9 1 2 0 0 0 0"), Some(0), "counters of different instants");
        for text in ["", "1", "1 2", "1 2 x", "1 -2 3", "a b c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_status_without_an_address_space_has_no_page_tables() {
        let text = b"Name:\tVmPTE: 9 kB\nVmSize:\t  100 kB\nVmPTE:\t     44 kB\nThreads:\t3\n";
        let address_space = AddressSpace { virtual_kib: 100, page_tables_kib: 44 };
        assert_eq!(Status::parse(text), Some(Status { threads: 3, address_space }));
        let text = b"Name:\texe\nState:\tZ (zombie)\nThreads:\t1\n";
        assert_eq!(Status::parse(text), Some(Status { threads: 1, address_space: AddressSpace::default() }));
        assert_eq!(Status::parse(b"Name:\texe\n"), None);
    }
}
