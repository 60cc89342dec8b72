//! Workloads outside gVisor, by their cgroups: which of them are to be measured, and what happened to them.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc::{self, Sender, error::TrySendError};

use super::{
    Pipeline,
    sandboxes::{of_sandbox, settings},
};
use crate::{
    cgroup_path::CgroupPath,
    clock,
    config::Config,
    correlate::{Finding, Subject},
    event::{Body, Confidence, MemoryPressure, Severity, Source, WorkloadStarted, WorkloadStopped},
    host::HostRoot,
    observation::{Exec, Measurement, MemcgId, MemoryLimit, Pressure, Sandbox, SandboxKey, Stalled, WorkloadKey},
    registry::Standing,
    sources::cgroup::{self, Candidate, Change, Wanted},
    workload::Runtime,
};

/// Changes on their way to the cgroup source; what does not fit waits here.
const CHANGE_QUEUE: usize = 1024;
/// When a full queue is tried again.
const TRY_AGAIN_NS: u64 = 20_000_000;
/// Changes that wait; beyond it the oldest are lost, and with them figures of `ps`.
const MAX_WAITING: usize = 100_000;

/// A sandbox is starting for so long after that was said; it is said again more often.
const STARTING_NS: u64 = 60_000_000_000;

/// One cgroup under measurement.
#[derive(Debug, Clone, Copy)]
struct Told {
    is_container: bool,
    /// Its `workload_started` is told.
    started: bool,
}

/// What the cgroup source was told.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// To be measured.
    told: HashMap<MemcgId, Told>,
    changes: Option<Sender<Change>>,
    waiting: VecDeque<Change>,
    try_again_ns: u64,
    /// Cgroups of sandboxes that have not begun, and when that was said last.
    pub(super) starting: HashMap<SandboxKey, (MemcgId, u64)>,
}

impl Cgroups {
    fn tell(&mut self, change: Change) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(change);
        self.flush();
    }

    fn flush(&mut self) {
        let Some(changes) = &self.changes else { return };
        while let Some(change) = self.waiting.pop_front() {
            match changes.try_send(change) {
                Ok(()) => {}
                Err(TrySendError::Full(change)) => {
                    self.waiting.push_front(change);
                    self.try_again_ns = clock::boot_ns().saturating_add(TRY_AGAIN_NS);
                    return;
                }
                Err(TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }

    /// A sandbox' cgroup is there before the sandbox has begun, and is no workload of its own.
    pub(super) fn note_starting(&mut self, sandbox: &Sandbox) {
        let now_ns = sandbox.boot_ns;
        self.starting.retain(|_, (_, said_ns)| now_ns.saturating_sub(*said_ns) < STARTING_NS);
        if let Some((memcg, _)) = &sandbox.cgroup {
            self.starting.insert(sandbox.key, (*memcg, now_ns));
        }
    }

    fn is_starting(&self, memcg: MemcgId, now_ns: u64) -> bool {
        let is_it = |(of, said_ns): &(MemcgId, u64)| *of == memcg && now_ns.saturating_sub(*said_ns) < STARTING_NS;
        self.starting.values().any(is_it)
    }

    /// When something waits to be told.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        (!self.waiting.is_empty() && self.changes.is_some()).then_some(self.try_again_ns)
    }
}

pub(super) fn wanted(config: &Config) -> Wanted {
    Wanted { warn: config.warn_all, settings: settings(config), pressure_percent: config.pressure_percent }
}

impl Pipeline {
    /// What the cgroup source needs.
    pub(crate) fn cgroup_source(&mut self) -> cgroup::Start {
        let (sender, changes) = mpsc::channel(CHANGE_QUEUE);
        self.cgroups.changes = Some(sender);
        cgroup::Start {
            root: HostRoot::new(&self.config.host_root),
            hierarchy: self.hierarchy.clone(),
            wanted: self.of_cgroups.subscribe(),
            changes,
        }
    }

    /// A program began: of a container its runtime has written what it writes, and of a sandbox its sentry runs.
    pub(super) fn began(&mut self, exec: Exec) {
        if exec.may_be_sentry {
            self.pass_on_exec(exec.pid);
        }
        if let Some(memcg) = exec.begun.filter(|memcg| self.registry.began(*memcg)) {
            self.cgroups_looked_at(&[memcg]);
        }
    }

    /// More may be known of these.
    pub(super) fn cgroups_looked_at(&mut self, looked: &[MemcgId]) {
        self.cgroups.flush();
        for memcg in looked {
            self.place(*memcg);
        }
    }

    fn place(&mut self, memcg: MemcgId) {
        let Some(path) = self.registry.path(memcg).cloned() else { return };
        let within = |(_, sandbox): &(MemcgId, CgroupPath)| path.is_within(sandbox);
        let sandbox = self.sandboxes.values().find(|sandbox| sandbox.cgroup.as_ref().is_some_and(within));
        if let Some(sandbox) = sandbox.cloned() {
            self.describe_sandbox(&sandbox);
            return self.leave(memcg);
        }
        match self.registry.standing(memcg).filter(|_| !self.registry.is_removed(memcg)) {
            Some(Standing::Container) => self.measure(memcg, path, true),
            Some(Standing::Plain) => self.measure(memcg, path, false),
            Some(Standing::Other) => self.leave(memcg),
            None => {}
        }
    }

    fn measure(&mut self, memcg: MemcgId, path: CgroupPath, is_container: bool) {
        let key = WorkloadKey::Cgroup(memcg);
        if self.inventory.contains(key) {
            self.describe(memcg);
        }
        if is_container {
            self.note_containers(clock::boot_ns());
        }
        let started = match self.cgroups.told.get(&memcg) {
            Some(told) if told.is_container == is_container => return,
            told => told.is_some_and(|told| told.started),
        };
        self.cgroups.told.insert(memcg, Told { is_container, started });
        if is_container {
            self.leave_inside(&path);
        }
        self.cgroups.tell(Change::Measure(Candidate { memcg, path, is_container }));
    }

    /// Cgroups in a container's are no workloads.
    fn leave_inside(&mut self, container: &CgroupPath) {
        // The path of one run by hand did not tell; what it made inside was taken for plain cgroups.
        let is_below = |memcg: &MemcgId| {
            self.registry.path(*memcg).is_some_and(|path| path.depth() > container.depth() && path.is_within(container))
        };
        let below: Vec<MemcgId> = self.cgroups.told.keys().copied().filter(is_below).collect();
        for memcg in below {
            self.leave(memcg);
        }
    }

    /// No workload, or a sandbox' cgroup, which the gVisor source measures.
    pub(super) fn leave(&mut self, memcg: MemcgId) {
        if let Some(told) = self.cgroups.told.remove(&memcg) {
            self.cgroups.tell(Change::Leave(memcg));
            self.workload_stopped(memcg, told, clock::boot_ns());
            self.inventory.forget(WorkloadKey::Cgroup(memcg));
        }
    }

    /// A cgroup was removed.
    pub(super) fn cgroup_gone(&mut self, memcg: MemcgId, boot_ns: u64) {
        if let Some(mut told) = self.cgroups.told.remove(&memcg) {
            self.cgroups.tell(Change::Leave(memcg));
            // A container that was there for less than a look.
            if told.is_container && !told.started {
                told.started = self.workload_started(memcg, None, boot_ns);
            }
            self.workload_stopped(memcg, told, boot_ns);
        }
        self.inventory.ended(WorkloadKey::Cgroup(memcg), boot_ns);
    }

    /// A workload was measured. Which cgroups have a limit is known by that only.
    pub(super) fn measured(&mut self, measurement: Measurement) {
        if let WorkloadKey::Cgroup(memcg) = measurement.key {
            let told = self.cgroups.told.get(&memcg).copied();
            if !self.inventory.contains(measurement.key) {
                // What was left meanwhile is no workload.
                if told.is_none() {
                    return;
                }
                self.describe(memcg);
            }
            // What no runtime is known of yet may turn out to be a gVisor sandbox'.
            let is_settled = self.inventory.get(measurement.key).is_some_and(|entry| {
                entry.last.is_some() || !matches!(entry.workload.runtime, Runtime::Unknown | Runtime::Process)
            });
            let has_begun = measurement.limit.is_some() || !self.registry.is_beginning(memcg, measurement.boot_ns);
            let is_told = told.is_none_or(|told| told.started) || !self.config.workload_events;
            if !is_told && is_settled && has_begun && !self.cgroups.is_starting(memcg, measurement.boot_ns) {
                let started = self.workload_started(memcg, measurement.limit, measurement.boot_ns);
                if let Some(told) = self.cgroups.told.get_mut(&memcg) {
                    told.started = started;
                }
            }
        }
        self.inventory.measured(measurement);
    }

    /// Tells of a new workload where that is wanted; whether it did. gVisor's are told of when their sandbox is found.
    fn workload_started(&mut self, memcg: MemcgId, limit: Option<MemoryLimit>, boot_ns: u64) -> bool {
        let known = if self.config.workload_events { self.registry.workload(&subject(memcg)) } else { None };
        let is_own = known.is_some_and(|(workload, _)| workload.runtime != Runtime::Runsc);
        if is_own {
            let body = Body::WorkloadStarted(WorkloadStarted {
                pid: None,
                limit_bytes: limit.map(|limit| limit.bytes),
                limit_source: limit.map(|limit| limit.source.into()),
                threshold_percent: self.config.threshold_percent,
            });
            self.report(of_cgroup(memcg, boot_ns, body));
        }
        is_own
    }

    /// Tells of the end of one whose start was told.
    fn workload_stopped(&mut self, memcg: MemcgId, told: Told, boot_ns: u64) {
        if !told.started || !self.config.workload_events {
            return;
        }
        let entry = self.inventory.get(WorkloadKey::Cgroup(memcg));
        let measured = entry.and_then(|entry| entry.last.as_ref().map(|last| (entry.peak_bytes, last.limit)));
        let limit = measured.and_then(|(_, limit)| limit);
        let body = Body::WorkloadStopped(WorkloadStopped {
            pid: None,
            limit_bytes: limit.map(|limit| limit.bytes),
            limit_source: limit.map(|limit| limit.source.into()),
            peak_usage_bytes: measured.map(|(peak_bytes, _)| peak_bytes),
        });
        self.report(of_cgroup(memcg, boot_ns, body));
    }

    /// A workload's tasks wait for memory much of the time.
    pub(super) fn stalled(&mut self, stalled: Stalled) {
        let Pressure { some_avg10, full_avg10 } = stalled.pressure;
        let threshold_percent = stalled.line_percent;
        let body = Body::MemoryPressure(MemoryPressure { some_avg10, full_avg10, threshold_percent });
        let finding = match stalled.key {
            WorkloadKey::Sandbox(key) => {
                self.sandboxes.get(&key).map(|sandbox| of_sandbox(sandbox, stalled.boot_ns, body))
            }
            WorkloadKey::Cgroup(memcg) => Some(of_cgroup(memcg, stalled.boot_ns, body)),
        };
        if let Some(finding) = finding {
            self.report(Finding { severity: Severity::Warning, ..finding });
        }
    }

    fn describe(&mut self, memcg: MemcgId) {
        if let Some((workload, _)) = self.registry.workload(&subject(memcg)) {
            self.inventory.found(WorkloadKey::Cgroup(memcg), workload);
        }
    }

    /// Counts what is told of a workload.
    pub(super) fn count(&mut self, finding: &Finding, container_depth: Option<usize>) {
        match &finding.body {
            Body::OomKill(kill) => {
                let Some((key, depth)) = self.key_of(finding, container_depth) else { return };
                let memcg = kill.oom_memcg.as_ref().filter(|_| finding.limit_depth >= Some(depth));
                let own_limit = memcg.and_then(|memcg| memcg.limit_bytes.zip(memcg.usage_bytes));
                self.inventory.killed(key, own_limit);
                // A limit above it is that of another workload.
                if let Some(above) = self.limited_above(finding, depth) {
                    let memcg = kill.oom_memcg.as_ref();
                    self.inventory.killed(above, memcg.and_then(|memcg| memcg.limit_bytes.zip(memcg.usage_bytes)));
                }
            }
            Body::NearLimit(_) | Body::OverLimit(_) => {
                if let Some((key, _)) = self.key_of(finding, container_depth) {
                    self.inventory.warned(key);
                }
            }
            _ => {}
        }
    }

    /// The cgroup whose limit was hit, where that lies above the workload at this depth.
    fn limited_above(&self, finding: &Finding, depth: usize) -> Option<WorkloadKey> {
        let limit_depth = finding.limit_depth.filter(|at| (1..depth).contains(at))?;
        let subject = finding.subject.as_ref()?;
        let path = subject.path.as_ref().or_else(|| self.registry.path(subject.memcg))?;
        let key = WorkloadKey::Cgroup(self.registry.id(&path.ancestor(limit_depth)?)?);
        self.inventory.contains(key).then_some(key)
    }

    /// The workload that a finding is about, and the depth of its cgroup.
    fn key_of(&mut self, finding: &Finding, container_depth: Option<usize>) -> Option<(WorkloadKey, usize)> {
        if let Some(sandbox) = &finding.sandbox {
            let key = Some(WorkloadKey::Sandbox(sandbox.key)).filter(|key| self.inventory.contains(*key))?;
            let path = finding.subject.as_ref().and_then(|subject| subject.path.as_ref());
            return Some((key, path.map_or(usize::MAX, CgroupPath::depth)));
        }
        let subject = finding.subject.as_ref()?;
        let path = subject.path.clone().or_else(|| self.registry.path(subject.memcg).cloned())?;
        let id_at = |depth: usize| {
            let above = || self.registry.id_at(&path.ancestor(depth)?, finding.boot_ns);
            if depth == path.depth() { Some(subject.memcg) } else { above() }
        };
        let known = |memcg: &MemcgId| self.inventory.contains(WorkloadKey::Cgroup(*memcg));
        let with_id = |depth: usize| Some((id_at(depth)?, depth));
        // What lies above the container is another workload.
        let outermost = container_depth.unwrap_or(1).max(1);
        let mut inwards = (outermost..=path.depth()).rev().filter_map(with_id);
        if let Some((found, depth)) = inwards.find(|(memcg, _)| known(memcg)) {
            return Some((WorkloadKey::Cgroup(found), depth));
        }
        // Killed before it was measured: a container, or the cgroup with the limit.
        let depth = container_depth.or(finding.limit_depth).filter(|depth| *depth > 0)?;
        let memcg = id_at(depth)?;
        if self.registry.standing(memcg).is_some_and(|standing| standing == Standing::Other) {
            return None;
        }
        self.describe(memcg);
        if self.registry.is_removed(memcg) {
            self.inventory.ended(WorkloadKey::Cgroup(memcg), finding.boot_ns);
        }
        Some((WorkloadKey::Cgroup(memcg), depth))
    }
}

fn subject(memcg: MemcgId) -> Subject {
    Subject { memcg, path: None }
}

fn of_cgroup(memcg: MemcgId, boot_ns: u64, body: Body) -> Finding {
    Finding {
        boot_ns,
        body,
        severity: Severity::Info,
        source: Source::Cgroup,
        confidence: Confidence::Exact,
        incident_id: None,
        subject: Some(subject(memcg)),
        sandbox: None,
        limit_depth: None,
    }
}
