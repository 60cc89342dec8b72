//! What a sandbox costs the kernel beside its memory: page tables, threads, processes.
//!
//! Its processes form a tree of two levels below the sentry: stubs, one for each address space, and below each its twin
//! that shares its address space (systrap), or one stub and below that all others (ptrace). At most [`SAMPLE`]
//! processes and [`MAX_LISTS`] lists of children are read of each level and stand for the others, so that a survey of
//! a hundred processes costs hardly more than one of twenty.

use super::process::{self, AddressSpace, ProcessKey, Status, present};
use crate::host::{HostError, HostRoot};

/// Processes of one level that are looked at.
const SAMPLE: usize = 16;
/// Threads of a process whose children are listed. The oldest ones are read one by one: the stubs are their children.
const MAX_LISTS: usize = 32;
const OLDEST: usize = 16;
/// Kernel memory of a thread: 16 KiB of stack, 5 KiB of `task_struct` and what hangs on it. This figure and the next two
/// are a fit to 37 sandboxes (13 workloads; 20221219 and 20240729 on ptrace, 20240729 on systrap; Linux 6.18, x86-64)
/// with page tables measured: the largest residue is 1 MB.
const THREAD_BYTES: u64 = 21 << 10;
/// Kernel memory of a process without its threads and page tables.
const PROCESS_BYTES: u64 = 14 << 10;
/// Kernel memory of any sandbox (descriptors, sockets, namespaces, mounts) and what its stubs do not share.
const SANDBOX_BYTES: u64 = 1 << 20;

/// Memory of the kernel that is spent on the sandbox, bytes, without what depends on the size of its memory files.
pub(super) fn kernel_bytes(root: &HostRoot, sentry: ProcessKey, gofers: &[ProcessKey]) -> Result<u64, HostError> {
    let mut sum = SANDBOX_BYTES.saturating_add(cost(&Status::read(root, sentry.pid)?));
    for gofer in gofers {
        sum = sum.saturating_add(present(Status::read(root, gofer.pid))?.map_or(0, |status| cost(&status)));
    }
    Ok(sum.saturating_add(stubs_bytes(root, sentry.pid)?))
}

fn cost(status: &Status) -> u64 {
    let page_tables = status.address_space.page_tables_kib.saturating_mul(1 << 10);
    page_tables.saturating_add(status.threads.saturating_mul(THREAD_BYTES)).saturating_add(PROCESS_BYTES)
}

/// Cost of all processes below the sentry.
fn stubs_bytes(root: &HostRoot, sentry: u32) -> Result<u64, HostError> {
    let stubs = Children::of(root, sentry)?;
    let mut upper = Share::of(stubs.count);
    let mut lower_count = 0;
    let mut lower_pids = Vec::new();
    for stub in evenly(&stubs.pids, SAMPLE) {
        let Some(status) = present(Status::read(root, *stub))? else { continue };
        upper.add(cost(&status));
        let children = Children::of(root, *stub)?;
        lower_count += children.count;
        lower_pids.extend(children.pids.into_iter().map(|pid| (pid, status.address_space)));
    }
    let mut lower = Share::of(upper.scale(lower_count));
    for (pid, parent) in evenly(&lower_pids, SAMPLE) {
        if let Some(status) = present(Status::read(root, *pid))? {
            lower.add(cost(&without_shared(status, *parent)));
        }
    }
    Ok(upper.total().saturating_add(lower.total()))
}

/// Page tables of a twin are its parent's, counted there.
fn without_shared(status: Status, parent: AddressSpace) -> Status {
    if status.address_space == parent { Status { address_space: AddressSpace::default(), ..status } } else { status }
}

/// Children of a process.
struct Children {
    /// How many, estimated where it has too many threads to ask them all.
    count: u64,
    /// Those found.
    pids: Vec<u32>,
}

impl Children {
    /// None for a process that has ended.
    fn of(root: &HostRoot, pid: u32) -> Result<Self, HostError> {
        let threads = present(process::threads(root, pid))?.unwrap_or_default();
        let (oldest, others) = threads.split_at(threads.len().min(OLDEST));
        let asked = evenly(others, MAX_LISTS - OLDEST);
        let mut pids = list(root, pid, oldest.iter())?;
        let later = list(root, pid, asked.iter().copied())?;
        let mut share = Share::of(length(others));
        asked.iter().for_each(|_thread| share.add(0));
        let count = length(&pids).saturating_add(share.scale(length(&later)));
        pids.extend(later);
        Ok(Self { count, pids })
    }
}

fn list<'a>(root: &HostRoot, pid: u32, threads: impl Iterator<Item = &'a u32>) -> Result<Vec<u32>, HostError> {
    let mut pids = Vec::new();
    for thread in threads {
        pids.extend(present(process::children(root, pid, *thread))?.unwrap_or_default());
    }
    Ok(pids)
}

/// Some of many, standing for all.
#[derive(Debug)]
struct Share {
    of: u64,
    seen: u64,
    bytes: u64,
}

impl Share {
    fn of(all: u64) -> Self {
        Self { of: all, seen: 0, bytes: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.seen += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// What belongs to all, given what belongs to those seen.
    fn scale(&self, value: u64) -> u64 {
        let scaled = u128::from(value) * u128::from(self.of) / u128::from(self.seen.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    fn total(&self) -> u64 {
        self.scale(self.bytes)
    }
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// At most so many of the items, from the first on, evenly spaced.
fn evenly<T>(items: &[T], most: usize) -> Vec<&T> {
    let count = items.len().min(most);
    (0..count).filter_map(|index| items.get(index * items.len() / count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(length: u32, most: usize) -> Vec<u32> {
        let items: Vec<u32> = (0..length).collect();
        evenly(&items, most).into_iter().copied().collect()
    }

    #[test]
    fn a_sample_is_spread_over_all_and_never_larger_than_asked_for() {
        assert_eq!(spread(0, 4), [0; 0]);
        assert_eq!(spread(3, 4), [0, 1, 2]);
        assert_eq!(spread(8, 4), [0, 2, 4, 6]);
        assert_eq!(spread(9, 4), [0, 2, 4, 6]);
        assert_eq!(spread(5, 4), [0, 1, 2, 3]);
        assert_eq!(spread(5, 0), [0; 0]);
    }

    #[test]
    fn a_share_stands_for_all() {
        let mut share = Share::of(100);
        assert_eq!(share.total(), 0, "nothing seen");
        for bytes in [10, 20, 30, 40] {
            share.add(bytes);
        }
        assert_eq!(share.total(), 2500);
        assert_eq!(share.scale(4), 100);
        share.add(u64::MAX);
        assert_eq!(share.total(), u64::MAX);
    }
}
