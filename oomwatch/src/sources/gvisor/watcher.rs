//! All sandboxes under watch: measures each when it is due, looks at their files again now and then.
//! Blocking, but each call is short: a reading takes 2 to 40 us, a scan of `/proc` some milliseconds.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    discover::{Discovery, Sandbox, Stamp},
    finder::{Finder, Found},
    limit::{CgroupReading, Limit, LimitSource},
    memory::{Choice, Meter, MeterError, ProcessKey},
    process::ProcessId,
    rpc::Address,
    sandbox::Details,
    telling::{self, address, crossed, describe, observed, say_found},
};
use crate::{
    clock,
    host::{
        HostError, HostRoot,
        charge::{CgroupFiles, Charge},
        memory::MemoryHierarchy,
        system,
    },
    observation::{Measurement, MemoryCrossed, MemoryLine, Observation, SandboxGone, WorkloadKey},
    sources::{
        stall::{self, Stall},
        watch::{self, Budget, Due, Reading, Settings, Watch},
    },
    stats::Stats,
};

/// How often a sandbox is asked whether its files changed: limits do, and containers join a pod.
const LOOK_AGAIN_NS: u64 = 5_000_000_000;
/// A look may be taken this much earlier or later: with a reading, and with others.
const LOOKS_TOGETHER_NS: u64 = 250_000_000;
/// How much later the limit of a sandbox' cgroup may come with a reading of the charge than with a look.
const LIMIT_MAY_WAIT_NS: u64 = 1_000_000_000;
/// How often they are looked at in any case: of one container all that can change shows in the stamp,
const LOOK_ANYWAY_NS: u64 = 120_000_000_000;
/// of a pod's others it does not, and some have no stamp. What could not be read whole is read again at the next look.
const LOOK_ANYWAY_OF_POD_NS: u64 = 30_000_000_000;
/// A reading that is due this soon is taken with the others, and from then on is due with them: to wake up costs more than
/// to read. So there are no more than two turns in the usual interval.
const TOGETHER_NS: u64 = 250_000_000;
/// Label of sandboxes that cannot be measured, beside those of the finder.
const UNMEASURABLE: &str = "unmeasurable";

/// What the user wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// How memory is measured.
    pub(crate) estimator: Choice,
    /// When to warn and how often to look.
    pub(crate) settings: Settings,
    /// Ask a sentry what its memory is when a warning fires.
    pub(crate) rpc: bool,
    /// Tell of sandboxes that wait for memory in this share of the time.
    pub(crate) pressure_percent: Option<u8>,
}

/// One sandbox under watch.
struct Watched {
    sandbox: Sandbox,
    meter: Meter,
    watch: Watch,
    stall: Stall,
    limit: Option<Limit>,
    /// When the limit of its cgroup was last read.
    cgroup_limit_ns: u64,
    look_ns: u64,
    look_anyway_ns: u64,
    /// Of its files, as of the last look at them.
    stamp: Option<Stamp>,
    /// The kernel tells its end.
    end_is_told: bool,
    /// The last attempt to measure it went well, or there was none.
    measurable: bool,
}

/// A sentry whose end can be waited for.
pub(super) struct Sentry {
    pub(super) id: ProcessId,
    pub(super) pidfd: OwnedFd,
}

/// All sandboxes.
pub(super) struct Watcher {
    root: HostRoot,
    hierarchy: Option<MemoryHierarchy>,
    wanted: Wanted,
    finder: Finder,
    watched: HashMap<ProcessId, Watched>,
    /// When the first of them is due: to find that out costs a look at each.
    due_ns: u64,
    /// Process ids mean the same to the agent as to the host.
    shares_process_ids: bool,
    budget: Budget,
    /// Less where the user wants shorter intervals.
    together_ns: u64,
    stats: Arc<Stats>,
    /// Found since the last call of [`Self::take_new`].
    new: Vec<Sentry>,
    out: Vec<Observation>,
    /// Of this turn.
    measured: Vec<Measurement>,
    questions: Vec<Question>,
}

/// A warning that waits for what its sentry says.
pub(super) struct Question {
    pub(super) address: Address,
    pub(super) crossed: MemoryCrossed,
}

impl Watcher {
    pub(super) fn new(
        root: HostRoot,
        hierarchy: Option<MemoryHierarchy>,
        wanted: Wanted,
        sees_exec: bool,
        stats: Arc<Stats>,
    ) -> Result<Self, HostError> {
        stats.resolution_failed(UNMEASURABLE, 0);
        let discovery = Discovery::new(root.clone(), hierarchy.clone())?;
        Ok(Self {
            finder: Finder::new(discovery, sees_exec, Arc::clone(&stats)),
            shares_process_ids: system::shares_process_ids(&root),
            root,
            hierarchy,
            wanted,
            watched: HashMap::new(),
            due_ns: u64::MAX,
            budget: Budget::new(clock::boot_ns()),
            together_ns: TOGETHER_NS.min(clock::ns(wanted.settings.poll_interval / 2)),
            stats,
            new: Vec::new(),
            out: Vec::new(),
            measured: Vec::new(),
            questions: Vec::new(),
        })
    }

    /// From now on the user wants this; or a start was missed.
    pub(super) fn want(&mut self, wanted: Wanted, now_ns: u64) {
        self.wanted = wanted;
        self.due_ns = now_ns;
        self.finder.scan_soon(now_ns);
        for watched in self.watched.values_mut() {
            watched.watch.set(wanted.settings);
            watched.meter.set_choice(wanted.estimator);
        }
    }

    /// What was seen since the last call.
    pub(super) fn take_observations(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.out)
    }

    /// Warnings since the last call for which a sentry is to be asked.
    pub(super) fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// Sentries found since the last call.
    pub(super) fn take_new(&mut self) -> Vec<Sentry> {
        std::mem::take(&mut self.new)
    }

    /// A process that may be a sentry began a program.
    pub(super) fn exec(&mut self, pid: u32, now_ns: u64) {
        self.finder.exec(pid, now_ns);
        self.take_in(now_ns);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_ns: u64) {
        let scans = self.finder.tick(now_ns);
        self.take_in(now_ns);
        if self.due_ns <= now_ns {
            for id in self.due(now_ns) {
                self.look_again(id, now_ns);
                self.measure(id, now_ns);
            }
            self.due_ns = self.next_due(now_ns);
        }
        if scans || !self.measured.is_empty() {
            let took = Duration::from_nanos(clock::boot_ns().saturating_sub(now_ns));
            self.stats.poll_duration.observe(took.as_secs_f64());
        }
        if !self.measured.is_empty() {
            self.out.push(Observation::Measured(std::mem::take(&mut self.measured)));
        }
    }

    /// Sandboxes with something to do: few of many, at most moments.
    fn due(&mut self, now_ns: u64) -> Vec<ProcessId> {
        let (budget, together_ns) = (&mut self.budget, self.together_ns);
        let looks_ns = now_ns.saturating_add(LOOKS_TOGETHER_NS);
        let mut is_due = |watched: &Watched| {
            watched.look_ns <= looks_ns || is_admitted(budget, watched.watch.due(), together_ns, now_ns)
        };
        self.watched.iter().filter(|(_, watched)| is_due(watched)).map(|(id, _)| *id).collect()
    }

    /// When the first of the sandboxes is next due.
    fn next_due(&mut self, now_ns: u64) -> u64 {
        let budget = &mut self.budget;
        let due = |watched: &Watched| {
            let reading_ns = budget.admit(now_ns, watched.watch.due());
            reading_ns.min(watched.look_ns.saturating_add(LOOKS_TOGETHER_NS))
        };
        self.watched.values().map(due).min().unwrap_or(u64::MAX)
    }

    /// When [`Self::tick`] is next due.
    pub(super) fn next_deadline(&self) -> u64 {
        self.due_ns.min(self.finder.next_deadline())
    }

    /// What the finder found.
    fn take_in(&mut self, now_ns: u64) {
        for found in self.finder.take_found() {
            match found {
                Found::Starting(sandbox) => {
                    self.out.push(Observation::SandboxStarting(Box::new(describe(&sandbox, now_ns))));
                }
                Found::Begun(sandbox) => self.found(*sandbox, now_ns),
                Found::Gone(id) => {
                    let gone = SandboxGone { key: observed(id), boot_ns: now_ns, peak_bytes: 0 };
                    self.out.push(Observation::SandboxGone(gone));
                }
            }
        }
    }

    fn found(&mut self, sandbox: Sandbox, now_ns: u64) {
        let id = sandbox.sentry;
        // Opened before the identity is checked again, so that it cannot be a later process of the same id.
        let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw);
        let pid = pid.filter(|_| self.shares_process_ids);
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Before the look: what is written meanwhile is looked at again.
        let stamp = self.finder.discovery.stamp(&sandbox);
        let Some(details) = self.finder.discovery.look(&sandbox) else { return self.finder.discovery.forget(id) };
        self.finder.discovery.know_gofers(id, &details.gofers);
        let stamp = stamp.map(|stamp| stamp.of(&details));
        let sandbox = Sandbox { details, ..sandbox };
        for reason in &sandbox.details.problems {
            self.finder.note_skipped(*reason, 1);
        }
        let files = self.cgroup_files(&sandbox.details);
        let mut watched = Watched {
            meter: Meter::new(self.wanted.estimator, key(id), files),
            watch: Watch::new(self.wanted.settings),
            stall: Stall::default(),
            limit: sandbox.details.limit,
            cgroup_limit_ns: now_ns,
            look_ns: now_ns,
            look_anyway_ns: now_ns,
            stamp,
            end_is_told: pidfd.is_some(),
            measurable: true,
            sandbox,
        };
        watched.note_look(now_ns);
        watched.meter.set_gofers(watched.sandbox.details.gofers.iter().copied().map(key).collect());
        say_found(&watched.sandbox, self.wanted.settings);
        self.out.push(Observation::SandboxFound(Box::new(describe(&watched.sandbox, now_ns))));
        self.watched.insert(id, watched);
        self.due_ns = now_ns;
        if let Some(pidfd) = pidfd {
            self.new.push(Sentry { id, pidfd });
        }
    }

    /// Files of the memory cgroup that a sandbox has for itself.
    fn cgroup_files(&self, details: &Details) -> Option<CgroupFiles> {
        let (cgroup, hierarchy) = details.own_cgroup().zip(self.hierarchy.as_ref())?;
        Some(CgroupFiles::new(&hierarchy.folder(&cgroup.path), hierarchy.version))
    }

    /// A sentry ended.
    pub(super) fn ended(&mut self, id: ProcessId, now_ns: u64) {
        self.finder.discovery.forget(id);
        if let Some(watched) = self.watched.remove(&id) {
            let gone = SandboxGone { key: observed(id), boot_ns: now_ns, peak_bytes: watched.watch.peak_bytes() };
            self.out.push(Observation::SandboxGone(gone));
        }
    }

    fn look_again(&mut self, id: ProcessId, now_ns: u64) {
        let soon_ns = now_ns.saturating_add(LOOKS_TOGETHER_NS);
        let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.look_ns <= soon_ns) else { return };
        watched.look_ns = now_ns.saturating_add(LOOK_AGAIN_NS);
        if !watched.end_is_told && !self.finder.discovery.lives(id) {
            return self.ended(id, now_ns);
        }
        // Where the charge is read often the limit stands beside it, soon after at the latest.
        let comes_with_charge = watched.measurable
            && watched.meter.reads_cgroup()
            && clock::ns(self.wanted.settings.poll_interval) <= LIMIT_MAY_WAIT_NS;
        let limit_holds_ns = if comes_with_charge { LOOK_AGAIN_NS + LIMIT_MAY_WAIT_NS } else { 0 };
        if let Some(hierarchy) = &self.hierarchy
            && now_ns.saturating_sub(watched.cgroup_limit_ns) >= limit_holds_ns
        {
            watched.look_at_cgroup_limit(&self.root, hierarchy, None, now_ns);
        }
        let stamp = self.finder.discovery.stamp(&watched.sandbox);
        if stamp == watched.stamp && now_ns < watched.look_anyway_ns {
            return;
        }
        let Some(details) = self.finder.discovery.look(&watched.sandbox) else { return };
        watched.stamp = stamp;
        self.update(id, details, now_ns);
    }

    /// What is known of a sandbox now.
    fn update(&mut self, id: ProcessId, details: Details, now_ns: u64) {
        let files = self.cgroup_files(&details);
        let Some(watched) = self.watched.get_mut(&id) else { return };
        // Of a pod that could not be read whole, what was known is better than a sum.
        let of_cgroup = |limit: Option<Limit>| limit.is_some_and(|limit| limit.source == LimitSource::Cgroup);
        let is_lifted = of_cgroup(watched.limit) && matches!(details.cgroup_reading, CgroupReading::Read { .. });
        if !details.incomplete || of_cgroup(details.limit) || is_lifted {
            watched.limit = details.limit;
        }
        let before = std::mem::replace(&mut watched.sandbox.details, details);
        watched.note_look(now_ns);
        let details = &watched.sandbox.details;
        if details.cgroup != before.cgroup {
            watched.meter = Meter::new(self.wanted.estimator, key(id), files);
        }
        if *details != before {
            self.finder.discovery.know_gofers(id, &details.gofers);
            watched.meter.set_gofers(details.gofers.iter().copied().map(key).collect());
            self.out.push(Observation::SandboxFound(Box::new(describe(&watched.sandbox, now_ns))));
        }
        let problems = details.problems.clone();
        for reason in problems.into_iter().filter(|reason| !before.problems.contains(reason)) {
            self.finder.note_skipped(reason, 1);
        }
    }

    fn measure(&mut self, id: ProcessId, now_ns: u64) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let due: Due = watched.watch.due();
        if !is_admitted(&mut self.budget, due, self.together_ns, now_ns) {
            return;
        }
        let near = watched.watch_limit().map(|limit| watched.watch.threshold_bytes(limit));
        // The turn may have begun long ago: other sandboxes were looked at, or all processes.
        let began_ns = clock::boot_ns();
        let measured = match watched.meter.read(&self.root, began_ns, near) {
            Ok(measured) => measured,
            Err(MeterError::Host(HostError::Gone { .. })) if !self.finder.discovery.lives(id) => {
                return self.ended(id, now_ns);
            }
            Err(error) => {
                if std::mem::replace(&mut watched.measurable, false) {
                    self.stats.resolution_failed(UNMEASURABLE, 1);
                    tracing::warn!(pid = id.pid, "a sandbox cannot be measured: {error}");
                }
                return watched.watch.skip(now_ns);
            }
        };
        watched.measurable = true;
        if let (Some(charge), Some(hierarchy)) = (&measured.charge, &self.hierarchy) {
            watched.look_at_cgroup_limit(&self.root, hierarchy, Some(charge), now_ns);
        }
        let limit = watched.watch_limit();
        let crossing = watched.watch.observe(Reading { boot_ns: began_ns, usage_bytes: measured.usage_bytes, limit });
        let cost = Duration::from_nanos(clock::boot_ns().saturating_sub(began_ns));
        self.budget.spend(began_ns, due, cost);
        let key = WorkloadKey::Sandbox(observed(id));
        if let (Some(cgroup), Some(hierarchy)) = (watched.sandbox.details.own_cgroup(), &self.hierarchy) {
            let of = stall::Of { root: &self.root, hierarchy, path: &cgroup.path, key };
            let stalled = watched.stall.look(of, self.wanted.pressure_percent, began_ns);
            self.out.extend(stalled.map(Observation::Stalled));
        }
        let (growth_bytes_per_second, time_to_limit) = watched.watch.trend();
        self.measured.push(Measurement {
            key,
            boot_ns: began_ns,
            usage_bytes: measured.usage_bytes,
            peak_bytes: watched.watch.peak_bytes(),
            limit: watched.limit.map(telling::limit),
            estimator: measured.estimator.name(),
            growth_bytes_per_second,
            time_to_limit,
            pressure: watched.stall.last(),
            is_near: watched.watch.is_told(),
        });
        if let Some(crossing) = crossing {
            let threshold_percent = self.wanted.settings.threshold_percent;
            let estimator = measured.estimator.name();
            let crossed = crossed(id, &crossing, watched.limit, threshold_percent, estimator);
            if self.wanted.rpc && crossed.line != MemoryLine::Recovered {
                self.questions.push(Question { address: address(&self.root, &watched.sandbox), crossed });
            } else {
                self.out.push(Observation::MemoryCrossed(Box::new(crossed)));
            }
        }
    }
}

impl Watched {
    /// Its files were looked at.
    fn note_look(&mut self, now_ns: u64) {
        let details = &self.sandbox.details;
        let is_simple = details.containers.len() <= 1 && self.stamp.is_some();
        let anyway_ns = match (details.incomplete, is_simple) {
            (true, _) => 0,
            (false, true) => LOOK_ANYWAY_NS,
            (false, false) => LOOK_ANYWAY_OF_POD_NS,
        };
        self.look_ns = now_ns.saturating_add(LOOK_AGAIN_NS);
        self.look_anyway_ns = now_ns.saturating_add(anyway_ns);
    }

    fn watch_limit(&self) -> Option<watch::Limit> {
        self.limit.map(|limit| watch::Limit { bytes: limit.bytes, enforced: limit.enforced })
    }

    /// A limit of the cgroup that changed has everything looked at, for what holds instead is written elsewhere.
    fn look_at_cgroup_limit(
        &mut self,
        root: &HostRoot,
        hierarchy: &MemoryHierarchy,
        charge: Option<&Charge>,
        now_ns: u64,
    ) {
        let Some(cgroup) = self.sandbox.details.own_cgroup() else { return };
        let stat = charge.map(|charge| charge.stat.as_slice());
        let Some(limit_bytes) = hierarchy.lowest_limit(root, &cgroup.path, stat) else { return };
        let reading = CgroupReading::Read { limit_bytes, made_by_runsc: cgroup.made_by_runsc };
        self.cgroup_limit_ns = now_ns;
        if reading != self.sandbox.details.cgroup_reading {
            self.look_ns = now_ns;
            self.look_anyway_ns = now_ns;
        }
    }
}

/// Whether a reading may be taken now, with those that are due at the same time, more or less.
fn is_admitted(budget: &mut Budget, due: Due, together_ns: u64, now_ns: u64) -> bool {
    let together_ns = if due.wanted_ns == due.latest_ns { together_ns } else { 0 };
    budget.admit(now_ns, due) <= now_ns.saturating_add(together_ns)
}

fn key(id: ProcessId) -> ProcessKey {
    ProcessKey { pid: id.pid, start_ticks: id.start_ticks }
}
