//! Processes already reported: one is marked and exits once, but some hooks fire twice for it.

use std::collections::{HashMap, HashSet, VecDeque};

use super::told::SAME_MARK_NS;

/// Processes remembered. Marks of one process lie within one run of the OOM killer, which kills fewer.
const CAPACITY: usize = 4096;

/// Lines of the log remembered. A copy could only come of a reader that begins anew.
const LINES: usize = 256;

/// A process by id and start time, which together are never used again within a boot.
type Process = (u32, u64);

/// The last processes of which something was told.
#[derive(Debug, Default)]
pub(crate) struct RecentProcesses {
    known: HashSet<Process>,
    order: VecDeque<Process>,
}

impl RecentProcesses {
    /// Whether it is remembered.
    pub(super) fn contains(&self, pid: u32, start_ns: u64) -> bool {
        self.known.contains(&(pid, start_ns))
    }

    /// Remembers a process; false where it was known.
    pub(crate) fn insert(&mut self, pid: u32, start_ns: u64) -> bool {
        if !self.known.insert((pid, start_ns)) {
            return false;
        }
        self.order.push_back((pid, start_ns));
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The last marks of victims whose start time is not known.
#[derive(Debug, Default)]
pub(super) struct RecentMarks {
    last: HashMap<u32, u64>,
    order: VecDeque<(u32, u64)>,
}

impl RecentMarks {
    /// Remembers when a thread was marked; false where it was shortly before or after.
    pub(super) fn insert(&mut self, tid: u32, boot_ns: u64) -> bool {
        if self.last.get(&tid).is_some_and(|at| at.abs_diff(boot_ns) < SAME_MARK_NS) {
            return false;
        }
        self.last.insert(tid, boot_ns);
        self.order.push_back((tid, boot_ns));
        if self.order.len() > CAPACITY
            && let Some((oldest, at)) = self.order.pop_front()
            && self.last.get(&oldest) == Some(&at)
        {
            self.last.remove(&oldest);
        }
        true
    }
}

/// Numbers of the last lines of the log that told of a kill.
#[derive(Debug, Default)]
pub(super) struct RecentLines(VecDeque<u64>);

impl RecentLines {
    /// Remembers a line; false where it was known.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        if self.0.contains(&seq) {
            return false;
        }
        self.0.push_back(seq);
        if self.0.len() > LINES {
            self.0.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_start_time_two_marks_of_a_thread_at_about_the_same_time_are_one() {
        let mut marks = RecentMarks::default();
        assert!(marks.insert(10, 5 * SAME_MARK_NS));
        assert!(!marks.insert(10, 5 * SAME_MARK_NS + 7) && !marks.insert(10, 5 * SAME_MARK_NS - 7));
        assert!(marks.insert(11, 5 * SAME_MARK_NS));
        assert!(marks.insert(10, 6 * SAME_MARK_NS));
        for tid in 0..3 * u32::try_from(CAPACITY).unwrap() {
            marks.insert(tid, 9 * SAME_MARK_NS);
        }
        assert_eq!((marks.last.len(), marks.order.len()), (CAPACITY, CAPACITY));
    }

    #[test]
    fn a_second_mark_of_the_same_process_is_known() {
        let mut recent = RecentProcesses::default();
        assert!(recent.insert(10, 1));
        assert!(!recent.insert(10, 1));
    }

    #[test]
    fn a_process_id_used_again_is_another_process() {
        let mut recent = RecentProcesses::default();
        assert!(recent.insert(10, 1));
        assert!(recent.insert(10, 2));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = RecentProcesses::default();
        for pid in 0..3 * u32::try_from(CAPACITY).unwrap() {
            recent.insert(pid, 1);
        }
        assert_eq!(recent.known.len(), CAPACITY);
        assert_eq!(recent.order.len(), CAPACITY);
    }
}
