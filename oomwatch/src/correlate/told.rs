//! What an earlier agent of this boot told, as its journal has it: its successor reads some of those records again.

use std::collections::{HashMap, HashSet};

use crate::observation::{MemoryLine, Victim, WorkloadKey};

/// Two marks of one thread id this near to each other are one kill: no id is used again so soon.
pub(super) const SAME_MARK_NS: u64 = 1_000_000_000;

/// Who was warned of: by what an event has of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Warned {
    /// A sandbox, by its sentry's process id and its own.
    Sandbox(u32, String),
    /// A cgroup, by its id.
    Cgroup(u64),
}

/// A warning that is in force.
#[derive(Debug, Clone)]
pub(super) struct Warning {
    pub(super) line: MemoryLine,
    pub(super) incident_id: String,
}

/// Kills told before, newest last.
#[derive(Debug, Default)]
pub struct Told {
    /// By process id and start time, nanoseconds of boot time.
    processes: HashSet<(u32, u64)>,
    /// Those whose start time is not known: when, by thread id.
    marks: HashMap<u32, u64>,
    /// Incidents of group kills whose end was told.
    groups: HashSet<String>,
    /// Incidents without a kill.
    unkilled: HashSet<String>,
    warnings: HashMap<Warned, Warning>,
    /// When it was read, boot time.
    read_ns: u64,
}

impl Told {
    /// Nothing yet, as of that boot time.
    pub fn new(read_ns: u64) -> Self {
        Self { read_ns, ..Self::default() }
    }

    /// A line was crossed.
    pub fn crossed(&mut self, who: Warned, line: MemoryLine, incident_id: &str) {
        if line == MemoryLine::Recovered {
            self.warnings.remove(&who);
        } else {
            self.warnings.insert(who, Warning { line, incident_id: incident_id.to_owned() });
        }
    }

    /// Whether there are such.
    pub(super) fn has_warnings(&self) -> bool {
        !self.warnings.is_empty()
    }

    /// The warning that a workload was under when the earlier agent ended; given once.
    pub(super) fn take_warning(&mut self, key: WorkloadKey, sandbox_id: Option<&str>) -> Option<Warning> {
        let who = match key {
            WorkloadKey::Sandbox(key) => Warned::Sandbox(key.pid, sandbox_id?.to_owned()),
            WorkloadKey::Cgroup(memcg) => Warned::Cgroup(memcg.id),
        };
        self.warnings.remove(&who)
    }

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

    /// A limit was hit and nothing killed.
    pub fn unkilled(&mut self, incident_id: &str) {
        self.unkilled.insert(incident_id.to_owned());
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

    /// One that ended at that time. Later ones may be of the same incident: of a warning in force.
    pub(super) fn has_group(&self, incident_id: Option<&str>, boot_ns: u64) -> bool {
        boot_ns <= self.read_ns && incident_id.is_some_and(|incident_id| self.groups.contains(incident_id))
    }

    pub(super) fn has_unkilled(&self, incident_id: Option<&str>) -> bool {
        incident_id.is_some_and(|incident_id| self.unkilled.contains(incident_id))
    }
}
