//! gVisor sandboxes: whose a victim was and in which role, and warnings of their memory. Known for a while after their
//! end: cgroup and state file are often gone before anybody asks.

use std::collections::HashMap;

use super::{Finding, OfSandbox, Subject};
use crate::{
    event::{Body, Confidence, MemoryWarning, Role, Severity, Source},
    observation::{Level, MemcgId, MemoryCrossed, MemoryLine, Sandbox, SandboxGone, SandboxKey, Victim, WorkloadKey},
    outcome::{Awaited, Container},
};

/// How long an ended sandbox is remembered.
const REMEMBER_NS: u64 = 60_000_000_000;
/// What is seen of a sandbox within this time of a kill in it is of the same incident: a stub's death frees nothing, for
/// the memory is the sentry's, so the kernel may have to kill once more; and a reading from before may be told after it.
const SAME_KILL_NS: u64 = 5_000_000_000;

/// One sandbox.
#[derive(Debug)]
struct Entry {
    sandbox: Sandbox,
    /// The incident of its last warning or kill.
    incident_id: Option<String>,
    /// It is above a line now.
    warned: bool,
    /// The last kill in it.
    killed_ns: Option<u64>,
    ended_ns: Option<u64>,
    /// Not found yet, and perhaps never.
    starting: bool,
}

/// What a victim was.
#[derive(Debug, Clone)]
pub(super) struct SandboxVictim {
    pub(super) of: OfSandbox,
    pub(super) role: Role,
    /// Of what happened to it just before, where something did.
    pub(super) incident_id: Option<String>,
}

/// Where a victim was and who, so far as that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) boot_ns: u64,
    pub(super) pid: Option<u32>,
    pub(super) start_ns: Option<u64>,
    pub(super) memcg: Option<MemcgId>,
    pub(super) levels: &'a [Level],
}

impl<'a> From<&'a Victim> for Whose<'a> {
    fn from(victim: &'a Victim) -> Self {
        let Victim { boot_ns, pid, start_ns, memcg, ref levels, .. } = *victim;
        Self { boot_ns, pid, start_ns, memcg, levels }
    }
}

/// All sandboxes.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    entries: HashMap<SandboxKey, Entry>,
}

impl Sandboxes {
    /// A sandbox was found, or changed.
    pub(super) fn found(&mut self, sandbox: Sandbox) {
        self.forget(sandbox.boot_ns);
        if let Some(entry) = self.entries.get_mut(&sandbox.key) {
            entry.sandbox = sandbox;
            if std::mem::take(&mut entry.starting) {
                entry.ended_ns = None;
            }
        } else {
            self.insert(sandbox, false);
        }
    }

    /// What may become a sandbox begins; told again for as long as it does.
    pub(super) fn starting(&mut self, sandbox: Sandbox) {
        self.forget(sandbox.boot_ns);
        match self.entries.get_mut(&sandbox.key) {
            Some(entry) if entry.starting => entry.sandbox = sandbox,
            Some(_) => {}
            None => self.insert(sandbox, true),
        }
    }

    fn insert(&mut self, sandbox: Sandbox, starting: bool) {
        let entry = Entry { incident_id: None, warned: false, killed_ns: None, ended_ns: None, starting, sandbox };
        self.entries.insert(entry.sandbox.key, entry);
    }

    /// A sandbox ended.
    pub(super) fn gone(&mut self, gone: SandboxGone) {
        if let Some(entry) = self.entries.get_mut(&gone.key) {
            entry.ended_ns = Some(gone.boot_ns);
        }
    }

    /// The id by which a sandbox' events name it.
    pub(super) fn id_of(&self, key: WorkloadKey) -> Option<String> {
        match key {
            WorkloadKey::Sandbox(key) => self.entries.get(&key)?.sandbox.workload.container_id.clone(),
            WorkloadKey::Cgroup(_) => None,
        }
    }

    /// A line was crossed.
    pub(super) fn crossed(&mut self, key: SandboxKey, crossed: &MemoryCrossed, incident_id: String) -> Option<Finding> {
        let entry = self.entries.get_mut(&key)?;
        let incident_id = entry.open_incident(crossed.boot_ns).unwrap_or(incident_id);
        entry.warned = crossed.line != MemoryLine::Recovered;
        entry.incident_id = Some(incident_id.clone());
        Some(Finding { subject: entry.subject(), sandbox: Some(entry.of()), ..warning(crossed, incident_id) })
    }

    /// Whose sandbox a victim belonged to: the one whose process it was, else the innermost by its cgroup.
    pub(super) fn of(&self, victim: &Whose<'_>) -> Option<SandboxVictim> {
        let holders = self.entries.values().filter(|entry| entry.holds(victim));
        let entry = holders.max_by_key(|entry| (entry.has_process(victim), entry.depth(), entry.sandbox.boot_ns))?;
        let incident_id = entry.open_incident(victim.boot_ns);
        Some(SandboxVictim { of: entry.of(), role: entry.role(victim), incident_id })
    }

    /// A kill in a sandbox was told: its outcome is to be told.
    pub(super) fn killed(&mut self, key: SandboxKey, boot_ns: u64, incident_id: String) -> Option<Awaited> {
        let entry = self.entries.get_mut(&key)?;
        entry.incident_id = Some(incident_id.clone());
        entry.killed_ns = Some(boot_ns);
        let workload = Box::new(entry.sandbox.workload.clone());
        let container = Container::Sandbox { key, workload };
        Some(Awaited { incident_id, subject: entry.subject(), container, killed_ns: boot_ns })
    }

    fn forget(&mut self, now_ns: u64) {
        self.entries.retain(|_, entry| {
            let since_ns = entry.ended_ns.or(entry.starting.then_some(entry.sandbox.boot_ns));
            since_ns.is_none_or(|at| now_ns.saturating_sub(at) < REMEMBER_NS)
        });
    }
}

impl Entry {
    fn of(&self) -> OfSandbox {
        OfSandbox { key: self.sandbox.key, workload: self.sandbox.workload.clone() }
    }

    /// The incident that something of this time belongs to.
    fn open_incident(&self, boot_ns: u64) -> Option<String> {
        let is_of_kill = self.killed_ns.is_some_and(|at| at.abs_diff(boot_ns) < SAME_KILL_NS);
        self.incident_id.clone().filter(|_| self.warned || is_of_kill)
    }

    /// By its cgroup, which a victim cannot choose; by process where the sandbox has none of its own.
    fn holds(&self, victim: &Whose<'_>) -> bool {
        match &self.sandbox.cgroup {
            Some((memcg, _)) => is_in(victim, *memcg),
            None => self.has_process(victim),
        }
    }

    /// Its sentry or a gofer of it. Process ids are given to others once it ended.
    fn has_process(&self, victim: &Whose<'_>) -> bool {
        let lived = self.ended_ns.is_none_or(|at| victim.boot_ns <= at);
        lived && (self.is_sentry(victim) || self.is_gofer(victim))
    }

    fn is_sentry(&self, victim: &Whose<'_>) -> bool {
        let is_it = |start_ns| self.sandbox.key.started_at(start_ns);
        victim.pid == Some(self.sandbox.key.pid) && victim.start_ns.is_none_or(is_it)
    }

    fn is_gofer(&self, victim: &Whose<'_>) -> bool {
        victim.pid.is_some_and(|pid| self.sandbox.gofers.contains(&pid))
    }

    fn depth(&self) -> usize {
        self.sandbox.cgroup.as_ref().map_or(0, |(_, path)| path.depth())
    }

    fn role(&self, victim: &Whose<'_>) -> Role {
        match victim {
            victim if self.is_sentry(victim) => Role::Sentry,
            victim if self.is_gofer(victim) => Role::Gofer,
            _ => Role::Stub,
        }
    }

    fn subject(&self) -> Option<Subject> {
        let (memcg, path) = self.sandbox.cgroup.clone()?;
        Some(Subject { memcg, path: Some(path) })
    }
}

/// What is told of a line that was crossed.
pub(super) fn warning(crossed: &MemoryCrossed, incident_id: String) -> Finding {
    let (kind, severity): (fn(MemoryWarning) -> Body, Severity) = match crossed.line {
        MemoryLine::Near => (Body::NearLimit, Severity::Warning),
        MemoryLine::Over => (Body::OverLimit, Severity::Warning),
        MemoryLine::Recovered => (Body::Recovered, Severity::Info),
    };
    Finding {
        boot_ns: crossed.boot_ns,
        body: kind(measured(crossed)),
        severity,
        source: Source::Gvisor,
        // A cgroup's charge is the kernel's word, the rest is the agent's measurement.
        confidence: if crossed.estimator == "cgroup" { Confidence::Exact } else { Confidence::Estimated },
        incident_id: Some(incident_id),
        subject: None,
        sandbox: None,
        limit_depth: None,
    }
}

fn is_in(victim: &Whose<'_>, memcg: MemcgId) -> bool {
    victim.memcg == Some(memcg) || victim.levels.iter().any(|level| level.memcg == memcg)
}

fn measured(crossed: &MemoryCrossed) -> MemoryWarning {
    #[expect(clippy::cast_precision_loss, reason = "a percentage of at most three digits")]
    let percent = |limit: u64| (crossed.usage_bytes as f64 / limit as f64 * 1000.0).round() / 10.0;
    MemoryWarning {
        pid: crossed.key.pid(),
        usage_bytes: crossed.usage_bytes,
        limit_bytes: crossed.limit.map(|limit| limit.bytes),
        usage_percent: crossed.limit.map(|limit| percent(limit.bytes)),
        threshold_percent: crossed.threshold_percent,
        limit_source: crossed.limit.map(|limit| limit.source.into()),
        limit_enforced: crossed.limit.map(|limit| limit.enforced),
        estimator: crossed.estimator.into(),
        growth_bytes_per_second: crossed.growth_bytes_per_second,
        time_to_limit_seconds: crossed.time_to_limit.map(|time| time.as_secs_f64()),
        breakdown: crossed.breakdown,
    }
}

#[cfg(test)]
#[path = "sandboxes_tests.rs"]
mod tests;
