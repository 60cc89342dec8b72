//! What a sandbox costs the kernel beside its memory: page tables, threads, processes.
//!
//! Its processes form a tree of two levels below the sentry: stubs, one for each address space, and below each its twin
//! that shares its address space (systrap), or one stub and below that all others (ptrace). Of each level the oldest
//! are read and some of the others, which stand for the rest, so that a survey of a hundred processes costs hardly more
//! than one of ten.

use super::process::{self, AddressSpace, ProcessKey, Status, present};
use crate::host::{HostError, HostRoot};

/// Processes of one level that are read. The oldest are the template of the others and the first program, which has
/// more threads than most.
const PROCESSES: Sample = Sample { oldest: 2, others: 6 };
/// Threads of one process whose lists of children are read. Of the sentry's only one of the oldest has any.
const LISTS: Sample = Sample { oldest: 8, others: 8 };
/// Kernel memory of a thread: 16 KiB of stack, 5 KiB of `task_struct` and what hangs on it. This figure and the next two
/// are a fit to 37 sandboxes (13 workloads; 20221219 and 20240729 on ptrace, 20240729 on systrap; Linux 6.18, x86-64)
/// with page tables measured: the largest residue was 1 MB.
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
    let (mut upper, mut below) = (PROCESSES.of(stubs.count), PROCESSES.of(stubs.count));
    let mut twins_or_stubs = Vec::new();
    for stub in PROCESSES.choose(&stubs.pids) {
        let Some(status) = present(Status::read(root, *stub))? else { continue };
        let children = Children::of(root, *stub)?;
        upper.add(cost(&status));
        below.add(children.count);
        twins_or_stubs.extend(children.pids.into_iter().map(|pid| (pid, status.address_space)));
    }
    let mut lower = PROCESSES.of(below.total());
    for (pid, parent) in PROCESSES.choose(&twins_or_stubs) {
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
        let mut count = LISTS.of(length(&threads));
        let mut pids = Vec::new();
        for thread in LISTS.choose(&threads) {
            let children = present(process::children(root, pid, *thread))?.unwrap_or_default();
            count.add(length(&children));
            pids.extend(children);
        }
        Ok(Self { count: count.total(), pids })
    }
}

/// How many of many are looked at.
struct Sample {
    /// The first, each for itself.
    oldest: usize,
    /// Some of the rest, standing for all of it.
    others: usize,
}

impl Sample {
    /// Those to look at; the others are evenly spaced.
    fn choose<'a, T>(&self, items: &'a [T]) -> impl Iterator<Item = &'a T> {
        let (oldest, rest) = items.split_at(items.len().min(self.oldest));
        let count = rest.len().min(self.others);
        let others = (0..count).filter_map(move |index| rest.get((2 * index + 1) * rest.len() / (2 * count)));
        oldest.iter().chain(others)
    }

    /// A sum over so many, of which those chosen will be added in their order.
    fn of(&self, all: u64) -> Sum {
        Sum { oldest: self.oldest, added: 0, all, of_oldest: 0, of_others: 0 }
    }
}

/// A sum over all, of which some are known.
#[derive(Debug)]
struct Sum {
    oldest: usize,
    added: usize,
    all: u64,
    of_oldest: u64,
    of_others: u64,
}

impl Sum {
    fn add(&mut self, value: u64) {
        let sum = if self.added < self.oldest { &mut self.of_oldest } else { &mut self.of_others };
        *sum = sum.saturating_add(value);
        self.added += 1;
    }

    fn total(&self) -> u64 {
        let known = self.added.saturating_sub(self.oldest).max(1);
        let rest = u128::from(self.all).saturating_sub(wide(self.oldest));
        let of_rest = u128::from(self.of_others) * rest / wide(known);
        self.of_oldest.saturating_add(u64::try_from(of_rest).unwrap_or(u64::MAX))
    }
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

fn wide(count: usize) -> u128 {
    u128::try_from(count).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(length: u32) -> Vec<u32> {
        let items: Vec<u32> = (0..length).collect();
        Sample { oldest: 2, others: 4 }.choose(&items).copied().collect()
    }

    #[test]
    fn the_oldest_are_chosen_and_some_of_the_others() {
        assert_eq!(chosen(0), [0; 0]);
        assert_eq!(chosen(1), [0]);
        assert_eq!(chosen(6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(chosen(7), [0, 1, 2, 3, 5, 6]);
        assert_eq!(chosen(102), [0, 1, 14, 39, 64, 89]);
    }

    fn sum(all: u64, values: &[u64]) -> u64 {
        let mut sum = Sample { oldest: 2, others: 4 }.of(all);
        for value in values {
            sum.add(*value);
        }
        sum.total()
    }

    #[test]
    fn the_others_stand_for_the_rest() {
        assert_eq!(sum(0, &[]), 0);
        assert_eq!(sum(100, &[]), 0, "all ended meanwhile");
        assert_eq!(sum(1, &[7]), 7);
        assert_eq!(sum(3, &[7, 8, 9]), 24);
        assert_eq!(sum(102, &[1000, 500, 10, 20, 30, 40]), 1500 + 2500);
        assert_eq!(sum(u64::MAX, &[1, 1, u64::MAX, u64::MAX]), u64::MAX);
    }
}
