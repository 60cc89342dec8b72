//! What became of containers: ends as sources see them to `outcome`, its verdicts to events.

use super::Pipeline;
use crate::{
    clock,
    correlate::{Finding, OfSandbox},
    event::{Body, Confidence, OomOutcome, Severity, Source},
    host::memory::MemoryHierarchy,
    observation::{Exited, Observation, SandboxKey, WorkloadKey},
    outcome::{Awaited, Container, VERDICT_AFTER_NS, Verdict},
};

impl Pipeline {
    /// Verdicts that an observation allows.
    pub(super) fn verdicts(&mut self, observation: &Observation) -> Vec<Verdict> {
        match observation {
            Observation::CgroupRemoved(change) => self.outcomes.removed(change.memcg, change.boot_ns),
            Observation::Exited(exit) => {
                let keys = self.ended_with(exit);
                if keys.is_empty() || !self.outcomes.is_news(exit.pid, exit.start_ns) {
                    return Vec::new();
                }
                self.outcomes.exited(&keys, exit.boot_ns, exit.exit_code)
            }
            Observation::SandboxGone(gone) => self.outcomes.sandbox_gone(gone.key, gone.boot_ns),
            _ => Vec::new(),
        }
    }

    /// What a process may have been the first one of.
    fn ended_with(&self, exit: &Exited) -> Vec<WorkloadKey> {
        let sandbox = exit.may_be_sentry.then(|| WorkloadKey::Sandbox(SandboxKey::of(exit.pid, exit.start_ns)));
        self.registry.left_by(exit).into_iter().map(WorkloadKey::Cgroup).chain(sandbox).collect()
    }

    /// Of what was recorded for an earlier agent, nobody can say any more what became of it within two seconds, unless it
    /// has just happened.
    pub(super) fn may_be_judged(&self, killed_ns: u64) -> bool {
        !self.catching_up || clock::boot_ns().saturating_sub(killed_ns) < VERDICT_AFTER_NS
    }

    /// What is to be told of the container that a process was killed in.
    pub(super) fn outcome_of(&self, kill: &Finding, container_depth: usize) -> Option<Awaited> {
        let (incident_id, victim) = (kill.incident_id.clone()?, kill.subject.clone()?);
        let of_victim = victim.path.clone().or_else(|| self.registry.path(victim.memcg).cloned())?;
        let path = of_victim.ancestor(container_depth)?;
        // By its path it could be taken for a successor that is there already.
        let id = if path == of_victim { Some(victim.memcg) } else { self.registry.id_at(&path, kill.boot_ns) };
        let container = Container::Cgroup { path, id };
        Some(Awaited { incident_id, subject: Some(victim), container, killed_ns: kill.boot_ns })
    }

    /// Tells what became of a container, now or when it is known.
    pub(super) fn await_outcome(&mut self, kill: Awaited) {
        if let Some(verdict) = self.outcomes.killed(kill) {
            self.report_outcome(verdict);
        }
    }

    pub(super) fn report_due_outcomes(&mut self, now_ns: u64) {
        let verdicts = self.outcomes.due(now_ns, |container| lives(self.hierarchy.as_ref(), container));
        for verdict in verdicts {
            self.report_outcome(verdict);
        }
    }

    /// Nothing more will be heard.
    pub(super) fn report_last_outcomes(&mut self) {
        let now_ns = clock::boot_ns();
        let verdicts = self.outcomes.finish(now_ns, |container| lives(self.hierarchy.as_ref(), container));
        for verdict in verdicts {
            self.report_outcome(verdict);
        }
    }

    pub(super) fn report_outcome(&mut self, verdict: Verdict) {
        let Verdict { awaited, survived, exit_code, ended_ns } = verdict;
        let (sandbox, seen_by) = match awaited.container {
            Container::Cgroup { .. } => (None, Source::Cgroup),
            Container::Sandbox { key, workload } => (Some(OfSandbox { key, workload: *workload }), Source::Gvisor),
        };
        self.report(Finding {
            boot_ns: ended_ns.unwrap_or(0),
            body: Body::OomOutcome(OomOutcome { container_survived: survived, exit_code }),
            severity: if survived { Severity::Warning } else { Severity::Critical },
            source: if exit_code.is_some() { Source::Bpf } else { seen_by },
            confidence: Confidence::Exact,
            incident_id: Some(awaited.incident_id),
            subject: awaited.subject,
            sandbox,
            limit_depth: None,
        });
    }
}

/// Whether a container has a process that is not on its way out. A sentry was seen in `/proc` when it was found.
fn lives(hierarchy: Option<&MemoryHierarchy>, container: &Container) -> bool {
    match container {
        Container::Cgroup { path, id } => hierarchy.is_some_and(|all| all.is_alive(*id, path)),
        Container::Sandbox { key, .. } => hierarchy.is_none_or(|all| all.is_on_its_way_out(key.pid) == Some(false)),
    }
}
