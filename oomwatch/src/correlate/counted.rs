//! Kills that no eBPF program saw with all there is to know: by the kernel's log and by counters, joined by `counts`.

use super::{
    Correlator, Finding, Output, Subject,
    counts::{Counts, Told},
    found,
    sandboxes::{SandboxVictim, Whose},
};
use crate::{
    cgroup_path::CgroupPath,
    event::{
        Body, Confidence, Memcg, Memory, OomKill, OomMemcgConfidence, Process, Role, Scope, Severity, Source, Trigger,
    },
    observation::{Counters, LoggedGroup, LoggedKill, LoggedMemcg, MemcgId, Victim},
    workload::escape::escape,
};

/// A kill with its victim.
#[derive(Debug, Clone)]
pub(super) enum Witness {
    /// A line of the log.
    Logged(Box<LoggedKill>),
    /// A mark without its cgroup.
    Marked(Box<Victim>),
}

impl Correlator {
    pub(super) fn logged(&mut self, kill: LoggedKill, out: &mut Vec<Output>) {
        if !self.lines.insert(kill.seq) {
            return;
        }
        let now_ns = kill.boot_ns;
        let memcg = kill.task_memcg.as_ref().and_then(|memcg| memcg.memcg);
        let (again, within) = (kill.again, kill.group.as_ref().map(|group| group.path.clone()));
        if let Some(group) = kill.group.as_ref().filter(|_| !again) {
            self.join_group(group, &kill);
        }
        let told = match (&mut self.counts, memcg) {
            (Some(counts), Some(memcg)) => counts.witnessed(memcg, now_ns, again, Witness::Logged(Box::new(kill))),
            (Some(counts), None) if again => {
                counts.unplaced_again(now_ns);
                self.accounts.counted_twice(None);
                None
            }
            // Its cgroup is known, but gone and never seen: no counter will tell of it.
            (Some(_), None) if kill.task_memcg.is_some() => {
                Some(Told::Witnessed(Witness::Logged(Box::new(kill)), None))
            }
            (Some(counts), None) => {
                let within = within.or_else(|| kill.oom_memcg.as_ref().map(|memcg| memcg.path.clone()));
                counts.unplaced(now_ns, kill.read_ns, within, Witness::Logged(Box::new(kill)))
            }
            (None, _) => None,
        };
        self.tell(told, out);
    }

    pub(super) fn counted(&mut self, counters: &Counters, out: &mut Vec<Output>) {
        self.kill_counters.read(counters);
        if let Some(counts) = &mut self.counts {
            counts.counted(counters);
            if counts.ask_at().is_some_and(|at| at <= counters.boot_ns) {
                self.settle_seen_counts(counters.boot_ns, out);
            }
        }
    }

    /// Tells of what all sources were read.
    pub(super) fn settle_seen_counts(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        let told = self.counts.as_mut().map(|counts| counts.seen_due(now_ns)).unwrap_or_default();
        self.tell(told, out);
    }

    /// Tells what waited long enough, too.
    pub(super) fn settle_counts(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        let told = self.counts.as_mut().map(|counts| counts.due(now_ns)).unwrap_or_default();
        self.tell(told, out);
    }

    /// Tells everything that waits.
    pub(super) fn settle_all_counts(&mut self, out: &mut Vec<Output>) {
        let told = self.counts.as_mut().map(Counts::rest).unwrap_or_default();
        self.tell(told, out);
    }

    /// Tells what `counts` found.
    pub(super) fn tell(&mut self, told: impl IntoIterator<Item = Told<Witness>>, out: &mut Vec<Output>) {
        for told in told {
            match told {
                Told::Witnessed(Witness::Logged(kill), place) => self.tell_logged(*kill, place, out),
                Told::Witnessed(Witness::Marked(mut victim), place) => {
                    let confidence = if place.is_some() { Confidence::Counted } else { Confidence::Exact };
                    if let Some((memcg, path)) = place {
                        (victim.memcg, victim.path) = (Some(memcg), Some(path));
                    }
                    self.tell_victim(&victim, confidence, out);
                }
                Told::Counted(memcg, path, boot_ns) => self.tell_counted(memcg, path, boot_ns, out),
                Told::Twice(memcg) => self.accounts.counted_twice(Some(memcg)),
                Told::Placed(memcg) => self.accounts.placed(memcg),
            }
        }
    }

    fn tell_logged(&mut self, mut kill: LoggedKill, place: Option<(MemcgId, CgroupPath)>, out: &mut Vec<Output>) {
        let confidence = if place.is_some() { Confidence::Counted } else { Confidence::Exact };
        if let Some((memcg, path)) = place {
            kill.task_memcg = Some(LoggedMemcg { memcg: Some(memcg), path, limit_bytes: None, usage_bytes: None });
        }
        let whose = whose(&kill);
        let sandbox = self.sandboxes.of(&whose);
        let of_group = kill.group.as_ref().and_then(|group| self.groups.logged_incident(group.first_seq));
        let incident_id = of_group.unwrap_or_else(|| self.incident_of(&whose, sandbox.as_ref()));
        self.accounts.told_by(whose.memcg, kill.boot_ns);
        let limit_depth = kill.oom_memcg.as_ref().map(|memcg| memcg.path.depth());
        let subject = kill.task_memcg.as_ref().and_then(subject);
        let body = Body::OomKill(Box::new(logged_kill(&kill, sandbox.as_ref())));
        out.push(found(Finding {
            boot_ns: kill.boot_ns,
            body,
            severity: Severity::Critical,
            source: Source::Kmsg,
            confidence,
            incident_id: Some(incident_id.clone()),
            subject,
            sandbox: sandbox.as_ref().map(|sandbox| sandbox.of.clone()),
            limit_depth,
        }));
        self.await_sandbox(sandbox, kill.boot_ns, incident_id, out);
    }

    fn tell_counted(&mut self, memcg: MemcgId, path: CgroupPath, boot_ns: u64, out: &mut Vec<Output>) {
        let whose = Whose { boot_ns, pid: None, start_ns: None, memcg: Some(memcg), levels: &[] };
        let sandbox = self.sandboxes.of(&whose);
        let incident_id = self.incident_of(&whose, sandbox.as_ref());
        self.accounts.told_by(Some(memcg), boot_ns);
        let task_memcg =
            Memcg { path: Some(escape(path.as_bytes())), id: Some(memcg.id), limit_bytes: None, usage_bytes: None };
        let body = OomKill {
            victim: None,
            trigger: None,
            scope: None,
            constraint: None,
            task_memcg: Some(task_memcg),
            oom_memcg: None,
            oom_memcg_confidence: None,
            limit_owner: None,
            memory: None,
            // Cgroup v1 has none.
            group_kill: (memcg.hierarchy != 0).then_some(false),
            latency_seconds: None,
        };
        out.push(found(Finding {
            boot_ns,
            body: Body::OomKill(Box::new(body)),
            severity: Severity::Critical,
            source: Source::Cgroup,
            confidence: Confidence::Counted,
            incident_id: Some(incident_id.clone()),
            subject: Some(Subject { memcg, path: Some(path) }),
            sandbox: sandbox.as_ref().map(|sandbox| sandbox.of.clone()),
            limit_depth: None,
        }));
        self.await_sandbox(sandbox, boot_ns, incident_id, out);
    }

    fn incident_of(&self, whose: &Whose<'_>, sandbox: Option<&SandboxVictim>) -> String {
        sandbox
            .and_then(|sandbox| sandbox.incident_id.clone())
            .or_else(|| self.cgroups.incident_of(whose, None))
            .unwrap_or_else(|| self.incident_id(whose.boot_ns))
    }

    fn await_sandbox(
        &mut self,
        victim: Option<SandboxVictim>,
        boot_ns: u64,
        incident_id: String,
        out: &mut Vec<Output>,
    ) {
        if let Some(victim) = victim {
            out.extend(self.sandboxes.killed(victim.of.key, boot_ns, incident_id).map(Output::Await));
        }
    }

    fn join_group(&mut self, group: &LoggedGroup, kill: &LoggedKill) {
        let whose = whose(kill);
        let incident_id = self.incident_of(&whose, self.sandboxes.of(&whose).as_ref());
        let oom_memcg = kill.oom_memcg.as_ref().map(memcg);
        let subject = kill.task_memcg.as_ref().and_then(subject);
        self.groups.logged(group.first_seq, kill.boot_ns, incident_id, oom_memcg, subject);
    }
}

fn whose(kill: &LoggedKill) -> Whose<'_> {
    let memcg = kill.task_memcg.as_ref().and_then(|memcg| memcg.memcg);
    Whose { boot_ns: kill.boot_ns, pid: kill.pid, start_ns: None, memcg, levels: &[] }
}

fn logged_kill(kill: &LoggedKill, sandbox: Option<&SandboxVictim>) -> OomKill {
    // A dump that is left out names no cgroup, and of the host none is to be named.
    let limit_is_known = kill.oom_memcg.is_some() || !kill.of_memcg;
    OomKill {
        victim: Some(victim(kill, sandbox)),
        trigger: kill.trigger.as_ref().map(|it| Trigger { pid: it.pid, comm: escape(&it.comm) }),
        scope: Some(if kill.of_memcg { Scope::Memcg } else { Scope::Host }),
        constraint: kill.constraint.map(Into::into),
        task_memcg: kill.task_memcg.as_ref().map(memcg),
        oom_memcg: kill.oom_memcg.as_ref().map(memcg),
        oom_memcg_confidence: limit_is_known.then_some(OomMemcgConfidence::Exact),
        limit_owner: None,
        // A stub's or sentry's own figures say nothing of the memory that its sandbox holds.
        memory: sandbox.is_none().then_some(Memory {
            total_vm_bytes: kill.memory.total_vm_bytes,
            anon_rss_bytes: kill.memory.anon_rss_bytes,
            file_rss_bytes: kill.memory.file_rss_bytes,
            shmem_rss_bytes: kill.memory.shmem_rss_bytes,
            swap_bytes: kill.memory.swap_bytes,
            pgtables_bytes: kill.memory.pgtables_bytes,
        }),
        group_kill: Some(kill.group.is_some()),
        latency_seconds: None,
    }
}

fn victim(kill: &LoggedKill, sandbox: Option<&SandboxVictim>) -> Process {
    let by_namespace = kill.is_init.map(|is_init| if is_init { Role::Init } else { Role::Process });
    Process {
        start_boottime_ns: None,
        pid: kill.pid,
        tid: kill.tid,
        ns_pid: kill.ns_pid,
        comm: Some(escape(&kill.comm)),
        uid: kill.uid,
        oom_score_adj: kill.oom_score_adj,
        role: match sandbox {
            Some(sandbox) => kill.pid.map(|_| sandbox.role),
            None => by_namespace,
        },
    }
}

fn memcg(memcg: &LoggedMemcg) -> Memcg {
    Memcg {
        path: Some(escape(memcg.path.as_bytes())),
        id: memcg.memcg.map(|memcg| memcg.id),
        limit_bytes: memcg.limit_bytes,
        usage_bytes: memcg.usage_bytes,
    }
}

fn subject(memcg: &LoggedMemcg) -> Option<Subject> {
    memcg.memcg.map(|id| Subject { memcg: id, path: Some(memcg.path.clone()) })
}
