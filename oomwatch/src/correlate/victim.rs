//! A marked victim to a reported kill: duplicates and tasks that were dying anyway fall out here.

use super::{Correlator, Finding, Output, Subject, counted::Witness, found, limit, sandboxes::SandboxVictim};
use crate::{
    event::{Body, Confidence, Memcg, Memory, OomKill, Process, Role, Severity, Source, Trigger},
    observation::{Level, MemcgId, Victim, VictimMemory},
    workload::escape::escape,
};

impl Correlator {
    pub(super) fn victim(&mut self, victim: &Victim, out: &mut Vec<Output>) {
        let process = victim.pid.zip(victim.start_ns);
        if !self.is_kill(victim, process) {
            if let Some((pid, start_ns)) = process {
                self.dying.insert(pid, start_ns);
            }
            tracing::debug!(pid = victim.pid, "a task that was dying anyway was given memory reserves");
            return;
        }
        let is_news = match process {
            Some((pid, start_ns)) => self.seen.insert(pid, start_ns),
            None => self.marks.insert(victim.tid, victim.boot_ns),
        };
        if !is_news {
            return;
        }
        if let Some(counts) = &mut self.counts {
            let witness = Witness::Marked(Box::new(victim.clone()));
            let told = match victim.memcg {
                Some(memcg) => counts.witnessed(memcg, victim.boot_ns, false, witness),
                None => counts.unplaced(victim.boot_ns, victim.boot_ns, None, witness),
            };
            return self.tell(told, out);
        }
        self.tell_victim(victim, Confidence::Exact, out);
    }

    /// Tells a kill; its cgroup is known as surely as `confidence` says.
    pub(super) fn tell_victim(&mut self, victim: &Victim, confidence: Confidence, out: &mut Vec<Output>) {
        self.unkilled.killed(victim);
        let begins_group = self.groups.of(victim).is_none();
        let sandbox = self.sandboxes.of(&victim.into());
        let kill = Finding { confidence, ..self.kill(victim, sandbox.as_ref()) };
        let incident_id = kill.incident_id.clone().unwrap_or_default();
        self.accounts.told(victim, begins_group && self.groups.of(victim).is_some());
        if self.told.has(victim) {
            tracing::debug!(pid = victim.pid, "a kill that an earlier agent told");
            return;
        }
        out.push(found(kill));
        if let Some(sandbox) = sandbox {
            out.extend(self.sandboxes.killed(sandbox.of.key, victim.boot_ns, incident_id).map(Output::Await));
        }
    }

    fn is_kill(&mut self, victim: &Victim, process: Option<(u32, u64)>) -> bool {
        // Kept up to date in any case: later marks may come without a run.
        let counted = self.kill_counters.is_kill(victim);
        match &victim.run {
            Some(run) => run.killing.unwrap_or(counted),
            // The news of one mark may come twice, and by the second time the counter has moved for another.
            None => {
                counted && !self.facts.sees_killing && !process.is_some_and(|(pid, at)| self.dying.contains(pid, at))
            }
        }
    }

    fn kill(&mut self, victim: &Victim, sandbox: Option<&SandboxVictim>) -> Finding {
        let open = self.groups.of(victim);
        let limit = match open {
            Some(group) => group.limit.clone(),
            None => limit::of(victim),
        };
        let incident_id = match open {
            Some(group) => group.incident_id.clone(),
            None => sandbox
                .and_then(|sandbox| sandbox.incident_id.clone())
                .or_else(|| self.cgroups.incident_of(&victim.into(), limit_depth(limit.as_ref())))
                .unwrap_or_else(|| self.incident_id(victim.boot_ns)),
        };
        let group_kill = open.is_some() || limit::is_group_kill(victim, limit.as_ref());
        let oom_level = limit.as_ref().and_then(|limit| limit.memcg);
        let oom_memcg = oom_level.map(|level| memcg(victim, &level));
        let subject = victim.memcg.map(|memcg| Subject { memcg, path: victim.path.clone() });
        if group_kill {
            self.groups.add(victim, limit.clone(), &incident_id, oom_memcg.clone(), subject.clone());
        }
        let body = OomKill {
            victim: Some(process(victim, sandbox)),
            trigger: Some(Trigger { pid: Some(victim.trigger_pid), comm: escape(&victim.trigger_comm) }),
            scope: limit.as_ref().map(limit::Limit::scope),
            constraint: victim.run.as_ref().and_then(|run| limit::constraint_name(run.constraint)).map(Into::into),
            task_memcg: task_memcg(victim),
            oom_memcg,
            oom_memcg_confidence: limit.as_ref().map(|limit| limit.confidence),
            limit_owner: None,
            // A stub's or sentry's own figures say nothing of the memory that its sandbox holds.
            memory: victim.memory.filter(|_| sandbox.is_none()).map(memory),
            // Without its cgroups nobody knows what is set there.
            group_kill: (group_kill || !victim.levels.is_empty()).then_some(group_kill),
            latency_seconds: None,
        };
        Finding {
            boot_ns: victim.boot_ns,
            body: Body::OomKill(Box::new(body)),
            severity: Severity::Critical,
            source: Source::Bpf,
            confidence: Confidence::Exact,
            incident_id: Some(incident_id),
            subject,
            sandbox: sandbox.map(|sandbox| sandbox.of.clone()),
            limit_depth: oom_level.map(|level| level.depth as usize),
        }
    }
}

/// Of the host it is 0.
fn limit_depth(limit: Option<&limit::Limit>) -> Option<u32> {
    limit.map(|limit| limit.memcg.map_or(0, |level| level.depth))
}

fn process(victim: &Victim, sandbox: Option<&SandboxVictim>) -> Process {
    let by_namespace = if victim.ns_pid == Some(1) { Role::Init } else { Role::Process };
    let role = sandbox.map_or(by_namespace, |sandbox| sandbox.role);
    Process {
        pid: victim.pid,
        tid: victim.tid,
        start_boottime_ns: victim.start_ns,
        ns_pid: victim.ns_pid,
        comm: victim.comm.as_deref().map(escape),
        uid: victim.uid,
        oom_score_adj: victim.oom_score_adj,
        role: Some(role),
    }
}

/// Without its levels only its names are known.
fn task_memcg(victim: &Victim) -> Option<Memcg> {
    let names_only = |id: MemcgId| Memcg {
        path: victim.path.as_ref().map(|path| escape(path.as_bytes())),
        id: Some(id.id),
        limit_bytes: None,
        usage_bytes: None,
    };
    victim.levels.first().map(|level| memcg(victim, level)).or_else(|| victim.memcg.map(names_only))
}

/// The root has neither a limit nor a charge of its own that means anything.
fn memcg(victim: &Victim, level: &Level) -> Memcg {
    let path = victim.path.as_ref().and_then(|path| path.ancestor(level.depth as usize));
    Memcg {
        path: path.map(|path| escape(path.as_bytes())),
        id: Some(level.memcg.id),
        limit_bytes: level.limit_bytes,
        usage_bytes: Some(level.usage_bytes),
    }
}

fn memory(memory: VictimMemory) -> Memory {
    Memory {
        total_vm_bytes: memory.total_vm_bytes,
        anon_rss_bytes: memory.anon_rss_bytes,
        file_rss_bytes: memory.file_rss_bytes,
        shmem_rss_bytes: memory.shmem_rss_bytes,
        swap_bytes: memory.swap_bytes,
        pgtables_bytes: memory.pgtables_bytes,
    }
}
