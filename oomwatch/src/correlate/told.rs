//! What an earlier agent of this boot told, as its journal has it: its successor reads some of those records again.

use std::collections::{HashMap, HashSet};

use crate::observation::Victim;

/// Two marks of one thread id this near to each other are one kill: no id is used again so soon.
pub(super) const SAME_MARK_NS: u64 = 1_000_000_000;

/// Kills told before, newest last.
#[derive(Debug, Default)]
pub struct Told {
    /// By process id and start time, nanoseconds of boot time.
    processes: HashSet<(u32, u64)>,
    /// Those whose start time is not known: when, by thread id.
    marks: HashMap<u32, u64>,
    /// Incidents of group kills whose end was told.
    groups: HashSet<String>,
}

impl Told {
    /// The kill of this process.
    pub fn process(&mut self, pid: u32, start_ns: u64) {
        self.processes.insert((pid, start_ns));
    }

    /// The kill of this thread at that boot time.
    pub fn mark(&mut self, tid: u32, boot_ns: u64) {
        self.marks.insert(tid, boot_ns);
    }

    /// The end of the group kill of this incident.
    pub fn group(&mut self, incident_id: &str) {
        self.groups.insert(incident_id.to_owned());
    }

    /// Kills.
    pub fn kills(&self) -> usize {
        self.processes.len() + self.marks.len()
    }

    pub(super) fn has(&self, victim: &Victim) -> bool {
        match victim.pid.zip(victim.start_ns) {
            Some(process) => self.processes.contains(&process),
            None => self.marks.get(&victim.tid).is_some_and(|at| at.abs_diff(victim.boot_ns) < SAME_MARK_NS),
        }
    }

    pub(super) fn has_group(&self, incident_id: Option<&str>) -> bool {
        incident_id.is_some_and(|incident_id| self.groups.contains(incident_id))
    }
}
