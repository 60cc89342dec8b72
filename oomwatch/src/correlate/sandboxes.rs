//! gVisor sandboxes: whose a victim was and in which role, and warnings of their memory. Known for a while after their
//! end: cgroup and state file are often gone before anybody asks.

use std::collections::HashMap;

use super::{Finding, Subject};
use crate::{
    event::{Body, Confidence, MemoryWarning, Role, Severity, Source},
    observation::{Level, MemcgId, MemoryCrossed, MemoryLine, Sandbox, SandboxGone, SandboxKey, Victim},
    outcome::{Awaited, Container},
    workload::Workload,
};

/// How long an ended sandbox is remembered, and how long a warning before a kill is of the same incident.
const REMEMBER_NS: u64 = 60_000_000_000;

/// One sandbox.
#[derive(Debug)]
struct Entry {
    sandbox: Sandbox,
    /// The incident of its last warning, and when that was last true.
    warning: Option<(String, u64)>,
    /// It is above a line now.
    warned: bool,
    ended_ns: Option<u64>,
}

/// What a victim was.
#[derive(Debug, Clone)]
pub(super) struct SandboxVictim {
    pub(super) key: SandboxKey,
    pub(super) role: Role,
    pub(super) workload: Workload,
    /// Of the warning before, where there was one.
    pub(super) incident_id: Option<String>,
}

/// Where a victim was and who, so far as that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) boot_ns: u64,
    pub(super) pid: Option<u32>,
    pub(super) memcg: Option<MemcgId>,
    pub(super) levels: &'a [Level],
}

impl<'a> From<&'a Victim> for Whose<'a> {
    fn from(victim: &'a Victim) -> Self {
        Self { boot_ns: victim.boot_ns, pid: victim.pid, memcg: victim.memcg, levels: &victim.levels }
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
        } else {
            let entry = Entry { warning: None, warned: false, ended_ns: None, sandbox };
            self.entries.insert(entry.sandbox.key, entry);
        }
    }

    /// A sandbox ended.
    pub(super) fn gone(&mut self, gone: SandboxGone) {
        if let Some(entry) = self.entries.get_mut(&gone.key) {
            entry.ended_ns = Some(gone.boot_ns);
        }
    }

    /// A line was crossed.
    pub(super) fn crossed(&mut self, key: SandboxKey, crossed: &MemoryCrossed, incident_id: String) -> Option<Finding> {
        let entry = self.entries.get_mut(&key)?;
        let incident_id = match entry.warning.take() {
            Some((incident_id, _)) if entry.warned => incident_id,
            _ => incident_id,
        };
        entry.warned = crossed.line != MemoryLine::Recovered;
        entry.warning = Some((incident_id.clone(), crossed.boot_ns));
        Some(Finding {
            subject: entry.subject(),
            sandbox: Some(entry.sandbox.workload.clone()),
            ..warning(crossed, incident_id)
        })
    }

    /// Whose sandbox a victim belonged to.
    pub(super) fn of(&self, victim: &Whose<'_>) -> Option<SandboxVictim> {
        let entry =
            self.entries.values().filter(|entry| entry.holds(victim)).max_by_key(|entry| entry.sandbox.boot_ns)?;
        let role = entry.role(victim);
        let fresh = |at: u64| entry.warned || victim.boot_ns.saturating_sub(at) < REMEMBER_NS;
        let incident_id =
            entry.warning.as_ref().filter(|(_, at)| fresh(*at)).map(|(incident_id, _)| incident_id.clone());
        Some(SandboxVictim { key: entry.sandbox.key, role, workload: entry.sandbox.workload.clone(), incident_id })
    }

    /// A kill in a sandbox was told: its outcome is to be told.
    pub(super) fn killed(&mut self, key: SandboxKey, boot_ns: u64, incident_id: String) -> Option<Awaited> {
        let entry = self.entries.get_mut(&key)?;
        // A stub's death frees nothing, for the memory is the sentry's: the kernel may have to kill once more.
        entry.warning = Some((incident_id.clone(), boot_ns));
        let workload = Box::new(entry.sandbox.workload.clone());
        let container = Container::Sandbox { key, workload };
        Some(Awaited { incident_id, subject: entry.subject(), container, killed_ns: boot_ns })
    }

    fn forget(&mut self, now_ns: u64) {
        self.entries.retain(|_, entry| entry.ended_ns.is_none_or(|at| now_ns.saturating_sub(at) < REMEMBER_NS));
    }
}

impl Entry {
    /// By its cgroup, which a victim cannot choose; by process id where the sandbox has none of its own.
    fn holds(&self, victim: &Whose<'_>) -> bool {
        match &self.sandbox.cgroup {
            Some((memcg, _)) => is_in(victim, *memcg),
            None => victim.pid.is_some_and(|pid| self.is_sentry(pid) || self.sandbox.gofers.contains(&pid)),
        }
    }

    fn is_sentry(&self, pid: u32) -> bool {
        pid == self.sandbox.key.pid
    }

    fn role(&self, victim: &Whose<'_>) -> Role {
        match victim.pid {
            Some(pid) if self.is_sentry(pid) => Role::Sentry,
            Some(pid) if self.sandbox.gofers.contains(&pid) => Role::Gofer,
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
