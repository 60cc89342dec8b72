//! All cgroups under measurement: looks at each when it is due, so many in one turn.
//! Blocking, but each turn is short: a look takes some 40 us.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{Candidate, Change, peak::Peak};
use crate::{
    cgroup_path::CgroupPath,
    clock,
    host::{
        HostError, HostRoot,
        charge::{CgroupFiles, Gauge, Held, Pace},
        limit::host_memory,
        memory::MemoryHierarchy,
    },
    observation::{Measurement, MemcgId, MemoryCrossed, MemoryLimit, Observation, WorkloadKey},
    sources::{
        stall::{self, Stall},
        watch::{Budget, Crossing, Due, Kind, Limit, Reading, Settings, Watch},
    },
    workload::CgroupIdentity,
};

/// How often a cgroup is measured where no warning is wanted, and how often one without a limit is looked at for one.
pub(super) const SLOW_NS: u64 = 10_000_000_000;
/// How often limit, peak and pressure are read: each costs as much as the charge.
const LOOK_AGAIN_NS: u64 = 30_000_000_000;
/// The same where warnings are wanted: one is to be of the limit in force.
const LOOK_AGAIN_TO_WARN_NS: u64 = 5_000_000_000;
/// Looks at a new cgroup before it is at the usual pace: its limit is written after it is made, and a gVisor sandbox
/// needs some time to be known as one.
const FIRST_LOOKS_NS: [u64; 3] = [200_000_000, 1_000_000_000, 3_000_000_000];
/// Looks that are so far away,
const GATHER_FROM_NS: u64 = 100_000_000;
/// are taken together with others of the same slice of time: waking up costs more than a look.
const GATHER_NS: u64 = 20_000_000;
/// The slice of those that are [`SLOW_NS`] away, where there is no warning that could have to wait for all of them.
const GATHER_SLOW_NS: u64 = 500_000_000;
/// Cgroups looked at in one turn, so that nothing else waits longer than some 2 ms.
const LOOKS_A_TURN: usize = 50;
/// Cgroups under measurement; a host with more leaves out the others.
const MAX_CGROUPS: usize = 16_384;
/// How memory is measured here.
const ESTIMATOR: &str = "cgroup";
const LIMIT_SOURCE: &str = "cgroup";

/// What the user wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Warn of these workloads too.
    pub(crate) warn: bool,
    /// When to warn and how often to look.
    pub(crate) settings: Settings,
    /// Tell of workloads that wait for memory in this share of the time.
    pub(crate) pressure_percent: Option<u8>,
}

/// One cgroup.
struct Watched {
    path: CgroupPath,
    is_container: bool,
    files: CgroupFiles,
    gauge: Gauge,
    watch: Watch,
    /// A warning of it was told and is not over.
    is_warned: bool,
    peak: Peak,
    /// Its own or its pod's, less than the host has. One above is shared with others, and stands with the cgroup that has it.
    limit_bytes: Option<u64>,
    stall: Stall,
    /// Looks so far, at most as many as there are first ones.
    looks: usize,
    look_again_ns: u64,
    looked_ns: u64,
    /// It is measured: a container, or one that has or had a limit of its own.
    wanted: bool,
    due_ns: u64,
}

/// All cgroups.
pub(super) struct Watcher {
    root: HostRoot,
    hierarchy: MemoryHierarchy,
    host_bytes: Option<u64>,
    wanted: Wanted,
    watched: HashMap<MemcgId, Watched>,
    /// Some found no room, and that was said.
    is_full: bool,
    due: BTreeSet<(u64, MemcgId)>,
    budget: Budget,
    out: Vec<Observation>,
    /// Of this turn.
    measured: Vec<Measurement>,
}

impl Watcher {
    pub(super) fn new(root: HostRoot, hierarchy: MemoryHierarchy, wanted: Wanted) -> Self {
        Self {
            host_bytes: host_memory(&root),
            root,
            hierarchy,
            wanted,
            watched: HashMap::new(),
            is_full: false,
            due: BTreeSet::new(),
            budget: Budget::new(clock::boot_ns()),
            out: Vec::new(),
            measured: Vec::new(),
        }
    }

    /// From now on the user wants this: every cgroup is looked at anew, and where warnings begin, what is near its limit
    /// already is told.
    pub(super) fn want(&mut self, wanted: Wanted, now_ns: u64) {
        let begins = wanted.warn && !self.wanted.warn;
        self.wanted = wanted;
        for watched in self.watched.values_mut() {
            watched.watch.set(wanted.settings);
            if begins {
                watched.watch.tell_again();
                watched.look_again_ns = now_ns;
            }
            watched.due_ns = now_ns;
        }
        self.due = self.watched.keys().map(|memcg| (now_ns, *memcg)).collect();
    }

    /// What was seen since the last call.
    pub(super) fn take_observations(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.out)
    }

    /// Which cgroups there are has changed.
    pub(super) fn change(&mut self, change: Change, now_ns: u64) {
        match change {
            Change::Measure(candidate) => self.add(candidate, now_ns),
            Change::Leave(memcg) => self.forget(memcg),
        }
    }

    fn add(&mut self, candidate: Candidate, now_ns: u64) {
        if let Some(known) = self.watched.get_mut(&candidate.memcg) {
            known.is_container |= candidate.is_container;
            return;
        }
        if self.watched.len() >= MAX_CGROUPS && !(candidate.is_container && self.make_room()) {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::warn!(most = MAX_CGROUPS, "there are too many cgroups: some are not measured");
            }
            return;
        }
        let due_ns = now_ns.saturating_add(FIRST_LOOKS_NS[0]);
        let files = CgroupFiles::new(&self.hierarchy.folder(&candidate.path), self.hierarchy.version);
        let watched = Watched {
            gauge: Gauge::new(files.clone()),
            files,
            path: candidate.path,
            is_container: candidate.is_container,
            watch: Watch::new(self.wanted.settings),
            is_warned: false,
            peak: Peak::default(),
            limit_bytes: None,
            stall: Stall::default(),
            looks: 0,
            look_again_ns: 0,
            looked_ns: 0,
            wanted: candidate.is_container,
            due_ns,
        };
        self.watched.insert(candidate.memcg, watched);
        self.due.insert((due_ns, candidate.memcg));
    }

    /// Any user may make as many cgroups as he likes. One of those gives way that have no limit and so are no workload.
    fn make_room(&mut self) -> bool {
        let idle = self.watched.iter().find(|(_, watched)| !watched.wanted && !watched.is_container);
        let Some(memcg) = idle.map(|(memcg, _)| *memcg) else { return false };
        self.forget(memcg);
        true
    }

    fn forget(&mut self, memcg: MemcgId) {
        if let Some(watched) = self.watched.remove(&memcg) {
            self.due.remove(&(watched.due_ns, memcg));
        }
    }

    /// Looks at what is due, at a bounded number of cgroups.
    pub(super) fn turn(&mut self, now_ns: u64) {
        for _ in 0..LOOKS_A_TURN {
            let Some(&(due_ns, memcg)) = self.due.first().filter(|(due_ns, _)| *due_ns <= now_ns) else { break };
            self.due.remove(&(due_ns, memcg));
            match self.look(memcg) {
                Some(next_ns) => self.schedule(memcg, next_ns),
                None => self.gone(memcg),
            }
        }
        if !self.measured.is_empty() {
            self.out.push(Observation::Measured(std::mem::take(&mut self.measured)));
        }
    }

    /// When [`Self::turn`] is next due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(due_ns, _)| *due_ns)
    }

    fn schedule(&mut self, memcg: MemcgId, due_ns: u64) {
        if let Some(watched) = self.watched.get_mut(&memcg) {
            watched.due_ns = due_ns;
            self.due.insert((due_ns, memcg));
        }
    }

    fn gone(&mut self, memcg: MemcgId) {
        if self.watched.remove(&memcg).is_some_and(|watched| watched.wanted) {
            self.out.push(Observation::MeasuredGone(memcg));
        }
    }

    /// Looks at one cgroup; when to look again, `None` where it is gone.
    fn look(&mut self, memcg: MemcgId) -> Option<u64> {
        let now_ns = clock::boot_ns();
        let watched = self.watched.get_mut(&memcg)?;
        let due = watched.due(self.wanted.warn);
        let admitted_ns = self.budget.admit(now_ns, due);
        if self.wanted.warn && admitted_ns > now_ns {
            return Some(admitted_ns);
        }
        let host = Host {
            root: &self.root,
            hierarchy: &self.hierarchy,
            memory_bytes: self.host_bytes,
            warn: self.wanted.warn,
        };
        match watched.read(&host, now_ns) {
            Ok(Some(held_bytes)) => {
                let key = WorkloadKey::Cgroup(memcg);
                let of = stall::Of { root: &self.root, hierarchy: &self.hierarchy, path: &watched.path, key };
                let stalled = watched.stall.look(of, self.wanted.pressure_percent, now_ns);
                self.out.extend(stalled.map(Observation::Stalled));
                let crossing = watched.watch.observe(watched.reading(now_ns, held_bytes));
                self.measured.push(watched.measurement(memcg, now_ns, held_bytes));
                if let Some(crossing) = crossing.filter(|crossing| watched.tells(crossing.kind, self.wanted.warn)) {
                    let threshold_percent = self.wanted.settings.threshold_percent;
                    let crossed = crossed(memcg, &crossing, watched.limit(), threshold_percent);
                    self.out.push(Observation::MemoryCrossed(Box::new(crossed)));
                }
                let cost = Duration::from_nanos(clock::boot_ns().saturating_sub(now_ns));
                self.budget.spend(now_ns, due, cost);
            }
            Ok(None) => {}
            Err(HostError::Gone { .. }) => return None,
            Err(error) => {
                tracing::debug!(%error, "a cgroup cannot be measured");
                watched.watch.skip(now_ns);
            }
        }
        // Cgroup v1 has no pressure to be looked for.
        let pressure_percent = self.wanted.pressure_percent.filter(|_| self.hierarchy.version == 2);
        Some(watched.next(Wanted { pressure_percent, ..self.wanted }, now_ns))
    }
}

/// Where to look.
#[derive(Clone, Copy)]
struct Host<'a> {
    root: &'a HostRoot,
    hierarchy: &'a MemoryHierarchy,
    /// Memory of the host; `None` where not known.
    memory_bytes: Option<u64>,
    /// Warnings are wanted.
    warn: bool,
}

impl Watched {
    /// Memory held now; `None` where the cgroup is not one to be measured.
    fn read(&mut self, host: &Host<'_>, now_ns: u64) -> Result<Option<u64>, HostError> {
        let looks_again = self.look_again_ns <= now_ns;
        if looks_again {
            // One that cannot be read now is what it was.
            if let Some(own) = host.hierarchy.own_limit(host.root, &self.path)? {
                let own = own.or_else(|| self.limit_of_pod(host));
                // One that has no limit any more is a workload still: a warning of it is over.
                self.wanted |= self.is_container || own.is_some();
                self.limit_bytes = own.filter(|bytes| *bytes > 0 && host.memory_bytes.is_none_or(|all| *bytes < all));
            }
            let again_ns = if host.warn { LOOK_AGAIN_TO_WARN_NS } else { LOOK_AGAIN_NS };
            // One without a limit is looked at for nothing else. Looks are taken together, so the one that is meant may come early.
            self.look_again_ns = if self.wanted { now_ns.saturating_add(again_ns - GATHER_SLOW_NS) } else { now_ns };
        }
        if !self.wanted {
            return Ok(None);
        }
        let near = self.limit_bytes.map(|bytes| self.watch.threshold_bytes(Limit { bytes, enforced: true }));
        let pace = Pace { exact_every_ns: if looks_again { 0 } else { u64::MAX }, keeps: host.warn };
        let Held { bytes: held_bytes, exact } = self.gauge.read(host.root, now_ns, near, pace)?;
        let mark = if looks_again { self.files.highest_charge(host.root) } else { None };
        self.peak.observe(held_bytes, exact.map_or(0, |charge| charge.reclaimable_bytes), mark);
        Ok(Some(held_bytes))
    }

    /// Whether a crossing is to be told: a rise where warnings are wanted, and the end of each that was told, also where none
    /// are wanted any more.
    fn tells(&mut self, kind: Kind, warn: bool) -> bool {
        match kind {
            Kind::Rose(_) => {
                self.is_warned |= warn;
                warn
            }
            Kind::Recovered => std::mem::take(&mut self.is_warned),
        }
    }

    /// A pod's cgroup is no workload of its own. Usually its limit is the sum of its containers'; where these have none, it is
    /// the best that is known.
    fn limit_of_pod(&self, host: &Host<'_>) -> Option<u64> {
        let pod = self.path.ancestor(CgroupIdentity::of(self.path.as_bytes()).pod_depth?)?;
        host.hierarchy.own_limit(host.root, &pod).ok().flatten().flatten()
    }

    /// When it is to be looked at, so far as a warning needs it.
    fn due(&self, warn: bool) -> Due {
        if !warn || !self.wanted {
            return Due { wanted_ns: self.due_ns, latest_ns: self.due_ns };
        }
        let Due { wanted_ns, latest_ns } = self.watch.due();
        Due { wanted_ns: self.gathered(wanted_ns, warn), latest_ns: self.gathered(latest_ns, warn) }
    }

    /// Never later.
    fn gathered(&self, at_ns: u64, warn: bool) -> u64 {
        let slice_ns = match at_ns.saturating_sub(self.looked_ns) {
            SLOW_NS.. if !warn => GATHER_SLOW_NS,
            GATHER_FROM_NS.. => GATHER_NS,
            _ => 1,
        };
        at_ns - at_ns % slice_ns
    }

    /// When to look again after a look now.
    fn next(&mut self, wanted: Wanted, now_ns: u64) -> u64 {
        self.looks = (self.looks + 1).min(FIRST_LOOKS_NS.len());
        let usual_ns = FIRST_LOOKS_NS.get(self.looks).copied().unwrap_or(SLOW_NS);
        if self.looks < FIRST_LOOKS_NS.len() {
            self.look_again_ns = now_ns;
        }
        self.looked_ns = now_ns;
        let after = |wait_ns| self.gathered(now_ns.saturating_add(wait_ns), wanted.warn);
        if !self.wanted {
            return after(usual_ns);
        }
        let warning_ns = if wanted.warn { self.due(true).wanted_ns } else { after(usual_ns) };
        warning_ns.min(after(stall::every_ns(wanted.pressure_percent)))
    }

    fn limit(&self) -> Option<MemoryLimit> {
        self.limit_bytes.map(|bytes| MemoryLimit { bytes, source: LIMIT_SOURCE, enforced: true })
    }

    fn reading(&self, boot_ns: u64, usage_bytes: u64) -> Reading {
        let limit = self.limit_bytes.map(|bytes| Limit { bytes, enforced: true });
        Reading { boot_ns, usage_bytes, limit }
    }

    fn measurement(&self, memcg: MemcgId, boot_ns: u64, usage_bytes: u64) -> Measurement {
        let (growth_bytes_per_second, time_to_limit) = self.watch.trend();
        Measurement {
            key: WorkloadKey::Cgroup(memcg),
            boot_ns,
            usage_bytes,
            peak_bytes: self.peak.bytes(),
            limit: self.limit(),
            estimator: ESTIMATOR,
            growth_bytes_per_second,
            time_to_limit,
            pressure: self.stall.last(),
            is_near: self.watch.is_told(),
        }
    }
}

fn crossed(memcg: MemcgId, crossing: &Crossing, limit: Option<MemoryLimit>, threshold_percent: u8) -> MemoryCrossed {
    MemoryCrossed {
        boot_ns: crossing.reading.boot_ns,
        key: WorkloadKey::Cgroup(memcg),
        line: crossing.kind.into(),
        usage_bytes: crossing.reading.usage_bytes,
        limit,
        threshold_percent,
        estimator: ESTIMATOR,
        growth_bytes_per_second: crossing.growth_bytes_per_second,
        time_to_limit: crossing.time_to_limit,
        breakdown: None,
    }
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
