//! All sandboxes under watch: finds them, measures each when it is due, looks at their files again now and then.
//! Blocking, but each call is short: a reading takes 2 to 40 us, a scan of `/proc` some milliseconds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    discover::{Discovery, Sandbox, Stamp, Verdict},
    limit::Limit,
    memory::{Choice, Meter, MeterError, ProcessKey},
    process::ProcessId,
    rpc::Address,
    sandbox::Reason,
};
use crate::{
    clock,
    host::{
        HostError, HostRoot,
        charge::{CgroupFiles, Charge},
        memory::MemoryHierarchy,
    },
    observation::{
        self, Measurement, MemoryCrossed, MemoryLimit, MemoryLine, Observation, SandboxGone, SandboxKey, WorkloadKey,
    },
    sources::watch::{self, Budget, Crossing, Due, Reading, Settings, Watch},
    stats::Stats,
    workload::{Engine, Runtime, Workload},
};

/// How often a sandbox is asked whether its files changed: limits do, and containers join a pod.
const LOOK_AGAIN_NS: u64 = 5_000_000_000;
/// How often they are looked at in any case.
const LOOK_ANYWAY_NS: u64 = 30_000_000_000;
/// A reading that is due this soon is taken with the others: one turn for many sandboxes.
const TOGETHER_NS: u64 = 25_000_000;
/// When a sentry that is starting is looked at again: it opens its memory file within some 20 ms. Later looks are rarer.
const STARTING_NS: u64 = 10_000_000;
/// Looks with the same time between them; the next as many come with [`STARTING_NS`] more.
const STARTING_STEP: u32 = 25;
/// How often, which takes 9 seconds: an emulated or busy host is slow. Then it is left to the next scan.
const STARTING_LOOKS: u32 = 200;
/// How often all processes are looked at, where starts are told by the kernel; a net below that.
const SCAN_NS: u64 = 30_000_000_000;
/// The same where they are not told: a sandbox is to be found within a second.
const SCAN_ALONE_NS: u64 = 800_000_000;

/// What the user wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// How memory is measured.
    pub(crate) estimator: Choice,
    /// When to warn and how often to look.
    pub(crate) settings: Settings,
    /// Ask a sentry what its memory is when a warning fires.
    pub(crate) rpc: bool,
}

/// One sandbox under watch.
struct Watched {
    sandbox: Sandbox,
    meter: Meter,
    watch: Watch,
    limit: Option<Limit>,
    /// The lowest of its cgroup and the ancestors, as last read.
    #[expect(clippy::option_option, reason = "not read and none are two things")]
    cgroup_limit: Option<Option<u64>>,
    look_ns: u64,
    look_anyway_ns: u64,
    /// Of its files, as of the last look at them.
    stamp: Option<Stamp>,
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
    discovery: Discovery,
    watched: HashMap<ProcessId, Watched>,
    starting: BTreeMap<u32, (u64, u32)>,
    budget: Budget,
    /// Less where the user wants shorter intervals.
    together_ns: u64,
    scan_every_ns: u64,
    scan_ns: u64,
    stats: Arc<Stats>,
    skipped: BTreeSet<Reason>,
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
        for reason in Reason::ALL {
            stats.resolution_failed(reason.as_str(), 0);
        }
        Ok(Self {
            discovery: Discovery::new(root.clone(), hierarchy.clone())?,
            root,
            hierarchy,
            wanted,
            watched: HashMap::new(),
            starting: BTreeMap::new(),
            budget: Budget::new(clock::boot_ns()),
            together_ns: TOGETHER_NS.min(u64::try_from(wanted.settings.poll_interval.as_nanos() / 20).unwrap_or(0)),
            scan_every_ns: if sees_exec { SCAN_NS } else { SCAN_ALONE_NS },
            scan_ns: 0,
            stats,
            skipped: BTreeSet::new(),
            new: Vec::new(),
            out: Vec::new(),
            measured: Vec::new(),
            questions: Vec::new(),
        })
    }

    /// From now on the user wants this.
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
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
        self.starting.insert(pid, (now_ns, 0));
        self.check_starting(now_ns);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_ns: u64) {
        let scans = self.scan_ns <= now_ns;
        if scans {
            self.scan(now_ns);
        }
        self.check_starting(now_ns);
        let due: Vec<ProcessId> = self.watched.keys().copied().collect();
        for id in due {
            self.look_again(id, now_ns);
            self.measure(id, now_ns);
        }
        if scans || !self.measured.is_empty() {
            let took = Duration::from_nanos(clock::boot_ns().saturating_sub(now_ns));
            self.stats.poll_duration.observe(took.as_secs_f64());
        }
        if !self.measured.is_empty() {
            self.out.push(Observation::Measured(std::mem::take(&mut self.measured)));
        }
    }

    /// When [`Self::tick`] is next due.
    pub(super) fn next_deadline(&mut self, now_ns: u64) -> u64 {
        let budget = &mut self.budget;
        let readings = self.watched.values().map(|watched| budget.admit(now_ns, watched.watch.due()));
        let looks = self.watched.values().map(|watched| watched.look_ns);
        let starting = self.starting.values().map(|(at, _)| *at);
        let next = readings.min().into_iter().chain(looks).chain(starting).chain([self.scan_ns]).min();
        next.unwrap_or(self.scan_ns)
    }

    fn scan(&mut self, now_ns: u64) {
        self.scan_ns = now_ns.saturating_add(self.scan_every_ns);
        let scan = match self.discovery.scan(now_ns) {
            Ok(scan) => scan,
            Err(error) => {
                tracing::warn!(%error, "gVisor sandboxes cannot be looked for");
                return;
            }
        };
        for sandbox in scan.found {
            self.found(sandbox, now_ns);
        }
        for pid in scan.starting {
            self.starting.entry(pid).or_insert((now_ns, 0));
        }
        for (reason, count) in scan.skipped {
            self.note_skipped(reason, count);
        }
    }

    /// Counted always, said once for each reason; a sandbox passed over again and again is no news.
    fn note_skipped(&mut self, reason: Reason, count: u32) {
        self.stats.resolution_failed(reason.as_str(), u64::from(count));
        if self.skipped.insert(reason) {
            tracing::info!(reason = reason.as_str(), count, "a process that looks like gVisor is not watched");
        }
    }

    fn check_starting(&mut self, now_ns: u64) {
        let due: Vec<u32> = self.starting.iter().filter(|(_, (at, _))| *at <= now_ns).map(|(pid, _)| *pid).collect();
        for pid in due {
            let Some((_, looks)) = self.starting.remove(&pid) else { continue };
            match self.discovery.check(pid, now_ns) {
                Ok(Verdict::Found(sandbox)) => self.found(*sandbox, now_ns),
                Ok(Verdict::NotYet(_)) if looks < STARTING_LOOKS => {
                    let pause_ns = STARTING_NS.saturating_mul((1 + looks / STARTING_STEP).into());
                    self.starting.insert(pid, (now_ns.saturating_add(pause_ns), looks + 1));
                }
                Ok(Verdict::NotYet(reason) | Verdict::Refused(reason)) => self.note_skipped(reason, 1),
                Ok(Verdict::Known(sentry)) => tracing::debug!(pid = sentry.pid, "a sandbox began a program"),
                Ok(Verdict::Other) => {}
                Err(error) => tracing::debug!(%error, pid, "a process cannot be looked at"),
            }
        }
    }

    fn found(&mut self, sandbox: Sandbox, now_ns: u64) {
        let id = sandbox.sentry;
        // Opened before the identity is checked again, so that it cannot be a later process of the same id.
        let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let Some(details) = self.discovery.look(&sandbox) else { return self.discovery.forget(id) };
        let sandbox = Sandbox { details, ..sandbox };
        let own_cgroup = sandbox.details.cgroup.as_ref().filter(|cgroup| cgroup.own);
        let files = own_cgroup
            .zip(self.hierarchy.as_ref())
            .map(|(cgroup, hierarchy)| CgroupFiles::new(&hierarchy.folder(&cgroup.path), hierarchy.version));
        let mut watched = Watched {
            meter: Meter::new(self.wanted.estimator, key(id), files),
            watch: Watch::new(self.wanted.settings),
            limit: sandbox.details.limit,
            cgroup_limit: None,
            look_ns: now_ns.saturating_add(LOOK_AGAIN_NS),
            look_anyway_ns: now_ns.saturating_add(LOOK_ANYWAY_NS),
            stamp: self.discovery.stamp(&sandbox),
            sandbox,
        };
        watched.meter.set_gofers(watched.sandbox.details.gofers.iter().copied().map(key).collect());
        say_found(&watched, self.wanted.settings);
        self.out.push(Observation::SandboxFound(Box::new(describe(&watched.sandbox, now_ns))));
        self.watched.insert(id, watched);
        if let Some(pidfd) = pidfd {
            self.new.push(Sentry { id, pidfd });
        }
    }

    /// A sentry ended.
    pub(super) fn ended(&mut self, id: ProcessId, now_ns: u64) {
        self.discovery.forget(id);
        if let Some(watched) = self.watched.remove(&id) {
            let gone = SandboxGone { key: observed(id), boot_ns: now_ns, peak_bytes: watched.watch.peak_bytes() };
            self.out.push(Observation::SandboxGone(gone));
        }
    }

    fn look_again(&mut self, id: ProcessId, now_ns: u64) {
        let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.look_ns <= now_ns) else { return };
        watched.look_ns = now_ns.saturating_add(LOOK_AGAIN_NS);
        let stamp = self.discovery.stamp(&watched.sandbox);
        if stamp == watched.stamp && now_ns < watched.look_anyway_ns {
            return;
        }
        watched.look_anyway_ns = now_ns.saturating_add(LOOK_ANYWAY_NS);
        let Some(details) = self.discovery.look(&watched.sandbox) else { return };
        watched.stamp = stamp;
        watched.limit = details.limit;
        if details != watched.sandbox.details {
            watched.meter.set_gofers(details.gofers.iter().copied().map(key).collect());
            watched.sandbox.details = details;
            self.out.push(Observation::SandboxFound(Box::new(describe(&watched.sandbox, now_ns))));
        }
    }

    fn measure(&mut self, id: ProcessId, now_ns: u64) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let due: Due = watched.watch.due();
        let together_ns = if due.wanted_ns == due.latest_ns { self.together_ns } else { 0 };
        if self.budget.admit(now_ns, due) > now_ns.saturating_add(together_ns) {
            return;
        }
        let near = watched.watch_limit().map(|limit| watched.watch.threshold_bytes(limit));
        let measured = match watched.meter.read(&self.root, now_ns, near) {
            Ok(measured) => measured,
            Err(MeterError::Host(HostError::Gone { .. })) => return self.ended(id, now_ns),
            Err(error) => {
                tracing::debug!(%error, pid = id.pid, "a sandbox cannot be measured");
                return watched.watch.skip(now_ns);
            }
        };
        if let (Some(charge), Some(hierarchy)) = (&measured.charge, &self.hierarchy) {
            watched.look_at_cgroup_limit(&self.root, hierarchy, charge, now_ns);
        }
        let limit = watched.watch_limit();
        let crossing = watched.watch.observe(Reading { boot_ns: now_ns, usage_bytes: measured.usage_bytes, limit });
        let cost = Duration::from_nanos(clock::boot_ns().saturating_sub(now_ns));
        self.budget.spend(now_ns, due, cost);
        let (growth_bytes_per_second, time_to_limit) = watched.watch.trend();
        self.measured.push(Measurement {
            key: WorkloadKey::Sandbox(observed(id)),
            boot_ns: now_ns,
            usage_bytes: measured.usage_bytes,
            peak_bytes: watched.watch.peak_bytes(),
            limit: watched.limit.map(self::limit),
            estimator: measured.estimator.name(),
            growth_bytes_per_second,
            time_to_limit,
            pressure: None,
        });
        if let Some(crossing) = crossing {
            let threshold_percent = self.wanted.settings.threshold_percent;
            let estimator = measured.estimator.name();
            let crossed = crossed(id, &crossing, watched.limit, threshold_percent, estimator);
            if self.wanted.rpc && crossed.line != MemoryLine::Recovered {
                self.questions.push(Question { address: address(&watched.sandbox), crossed });
            } else {
                self.out.push(Observation::MemoryCrossed(Box::new(crossed)));
            }
        }
    }
}

impl Watched {
    fn watch_limit(&self) -> Option<watch::Limit> {
        self.limit.map(|limit| watch::Limit { bytes: limit.bytes, enforced: limit.enforced })
    }

    /// A limit of the cgroup that changed has everything looked at, for what holds instead is written elsewhere.
    fn look_at_cgroup_limit(&mut self, root: &HostRoot, hierarchy: &MemoryHierarchy, charge: &Charge, now_ns: u64) {
        let Some(cgroup) = &self.sandbox.details.cgroup else { return };
        let Some(lowest) = hierarchy.lowest_limit(root, &cgroup.path, Some(&charge.stat)) else { return };
        if self.cgroup_limit.replace(lowest).is_some_and(|before| before != lowest) {
            self.look_ns = now_ns;
            self.look_anyway_ns = now_ns;
        }
    }
}

fn key(id: ProcessId) -> ProcessKey {
    ProcessKey { pid: id.pid, start_ticks: id.start_ticks }
}

fn observed(id: ProcessId) -> SandboxKey {
    SandboxKey { pid: id.pid, start_ticks: id.start_ticks }
}

fn limit(limit: Limit) -> MemoryLimit {
    MemoryLimit { bytes: limit.bytes, source: limit.source.name(), enforced: limit.enforced }
}

fn crossed(
    id: ProcessId,
    crossing: &Crossing,
    in_force: Option<Limit>,
    threshold_percent: u8,
    estimator: &'static str,
) -> MemoryCrossed {
    MemoryCrossed {
        boot_ns: crossing.reading.boot_ns,
        key: WorkloadKey::Sandbox(observed(id)),
        line: crossing.kind.into(),
        usage_bytes: crossing.reading.usage_bytes,
        limit: in_force.map(limit),
        threshold_percent,
        estimator,
        growth_bytes_per_second: crossing.growth_bytes_per_second,
        time_to_limit: crossing.time_to_limit,
        breakdown: None,
    }
}

/// Where the sentry listens: what its state file says, or the name that it had before it said so.
fn address(sandbox: &Sandbox) -> Address {
    let socket = sandbox.details.root().and_then(|state| state.control_socket.clone());
    socket.map_or_else(|| Address::Abstract(sandbox.args.sandbox_id.clone()), Address::Path)
}

/// What the files of a sandbox say of it. Names of the container come from its engine's files, by its id.
fn describe(sandbox: &Sandbox, now_ns: u64) -> observation::Sandbox {
    let root = sandbox.details.root();
    let own = sandbox.details.cgroup.as_ref().filter(|cgroup| cgroup.own);
    let names = root.map(|state| &state.names);
    let workload = Workload {
        runtime: Runtime::Runsc,
        engine: root.is_none().then_some(Engine::None),
        container_id: Some(sandbox.args.sandbox_id.clone()),
        container_name: names.and_then(|names| names.container_name.clone()),
        sandbox_id: Some(sandbox.args.sandbox_id.clone()),
        pod_uid: names.and_then(|names| names.pod_uid.clone()),
        pod_name: root.and_then(|state| state.pod_name.clone()),
        pod_namespace: root.and_then(|state| state.pod_namespace.clone()),
        image: names.and_then(|names| names.image.clone()),
        ..Workload::default()
    };
    observation::Sandbox {
        key: observed(sandbox.sentry),
        boot_ns: now_ns,
        cgroup: own.map(|cgroup| (cgroup.memcg, cgroup.path.clone())),
        gofers: sandbox.details.gofers.iter().map(|gofer| gofer.pid).collect(),
        workload,
        limit: sandbox.details.limit.map(limit),
    }
}

/// The original system's words.
fn say_found(watched: &Watched, settings: Settings) {
    const MIB: u64 = 1 << 20;
    let limit = watched.limit.map(|limit| limit.bytes);
    let threshold = limit.map(|bytes| bytes / 100 * u64::from(settings.threshold_percent));
    tracing::info!(
        pid = watched.sandbox.sentry.pid,
        memory_limit_mb = limit.map(|bytes| bytes / MIB),
        threshold_mb = threshold.map(|bytes| bytes / MIB),
        threshold_percent = settings.threshold_percent,
        sandbox_id = watched.sandbox.args.sandbox_id,
        "starting gVisor OOM watcher with memory monitoring"
    );
}
