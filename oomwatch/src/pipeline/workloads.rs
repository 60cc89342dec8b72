//! Workloads outside gVisor, by their cgroups: which of them are to be measured, and what happened to them.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc::{self, Sender, error::TrySendError};

use super::{Pipeline, sandboxes::settings};
use crate::{
    cgroup_path::CgroupPath,
    clock,
    config::Config,
    correlate::{Finding, Subject},
    event::Body,
    host::HostRoot,
    observation::{Measurement, MemcgId, WorkloadKey},
    registry::Standing,
    sources::cgroup::{self, Candidate, Change, Wanted},
};

/// Changes on their way to the cgroup source; what does not fit waits here.
const CHANGE_QUEUE: usize = 1024;
/// When a full queue is tried again.
const TRY_AGAIN_NS: u64 = 20_000_000;
/// Changes that wait; beyond it the oldest are lost, and with them figures of `ps`.
const MAX_WAITING: usize = 100_000;

/// What the cgroup source was told.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// To be measured; true for containers.
    told: HashMap<MemcgId, bool>,
    changes: Option<Sender<Change>>,
    waiting: VecDeque<Change>,
    try_again_ns: u64,
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

    /// When something waits to be told.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        (!self.waiting.is_empty() && self.changes.is_some()).then_some(self.try_again_ns)
    }
}

pub(super) fn wanted(config: &Config) -> Wanted {
    Wanted { warn: config.warn_all, settings: settings(config) }
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
            return self.leave_to_gvisor(memcg, &path);
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
        if self.cgroups.told.insert(memcg, is_container) == Some(is_container) {
            return;
        }
        if is_container {
            self.leave_around(&path);
        }
        self.cgroups.tell(Change::Measure(Candidate { memcg, path, is_container }));
    }

    /// Cgroups above and below a container's are no workloads.
    fn leave_around(&mut self, container: &CgroupPath) {
        for above in self.registry.mark_above(container) {
            self.leave(above);
        }
        // The path of one run by hand did not tell; what it made inside was taken for plain cgroups.
        let is_below = |memcg: &MemcgId| {
            self.registry.path(*memcg).is_some_and(|path| path.depth() > container.depth() && path.is_within(container))
        };
        let below: Vec<MemcgId> = self.cgroups.told.keys().copied().filter(is_below).collect();
        for memcg in below {
            self.leave(memcg);
        }
    }

    /// A sandbox' cgroup, which the gVisor source measures.
    pub(super) fn leave_to_gvisor(&mut self, memcg: MemcgId, path: &CgroupPath) {
        for above in self.registry.mark_above(path) {
            self.leave(above);
        }
        self.leave(memcg);
    }

    fn leave(&mut self, memcg: MemcgId) {
        if self.cgroups.told.remove(&memcg).is_some() {
            self.cgroups.tell(Change::Leave(memcg));
            self.inventory.forget(WorkloadKey::Cgroup(memcg));
        }
    }

    /// A cgroup was removed.
    pub(super) fn cgroup_gone(&mut self, memcg: MemcgId, boot_ns: u64) {
        if self.cgroups.told.remove(&memcg).is_some() {
            self.cgroups.tell(Change::Leave(memcg));
        }
        self.inventory.ended(WorkloadKey::Cgroup(memcg), boot_ns);
    }

    /// A workload was measured. Which cgroups have a limit is known by that only.
    pub(super) fn measured(&mut self, measurement: Measurement) {
        if let WorkloadKey::Cgroup(memcg) = measurement.key
            && !self.inventory.contains(measurement.key)
        {
            // What was left meanwhile is no workload.
            if !self.cgroups.told.contains_key(&memcg) {
                return;
            }
            self.describe(memcg);
        }
        self.inventory.measured(measurement);
    }

    fn describe(&mut self, memcg: MemcgId) {
        if let Some((workload, _)) = self.registry.workload(&Subject { memcg, path: None }) {
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
            }
            Body::NearLimit(_) | Body::OverLimit(_) => {
                if let Some((key, _)) = self.key_of(finding, container_depth) {
                    self.inventory.warned(key);
                }
            }
            _ => {}
        }
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
            if depth == path.depth() { Some(subject.memcg) } else { self.registry.id(&path.ancestor(depth)?) }
        };
        let known = |memcg: &MemcgId| self.inventory.contains(WorkloadKey::Cgroup(*memcg));
        let with_id = |depth: usize| Some((id_at(depth)?, depth));
        if let Some((found, depth)) = (1..=path.depth()).rev().filter_map(with_id).find(|(memcg, _)| known(memcg)) {
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
