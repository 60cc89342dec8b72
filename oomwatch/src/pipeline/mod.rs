//! Observations in, numbered and described events out: asks the correlator what happened, the registry whose it was,
//! hands the event to the sinks. Owns all state of the agent; runs in one task.

pub(crate) mod keep;
mod living;
mod notebook;
mod outcome;
mod patience;
mod recollection;
mod report;
mod request;
mod sandboxes;
mod scans;
mod workloads;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{
    mpsc::{Receiver, Sender},
    watch,
};

pub(crate) use self::request::Request;
use crate::{
    clock,
    config::Config,
    correlate::{Correlator, Counting, Output, Subject},
    event::AgentStarted,
    filter::Filter,
    host::{HostRoot, memory::MemoryHierarchy, system},
    inventory::Inventory,
    ladder::Rung,
    live::Live,
    observation::{Counters, LoggedKill, Lost, LostRecords, MemcgId, Observation, Sandbox, SandboxKey},
    outcome::Outcomes,
    registry::Registry,
    sinks::{Sink, Sinks},
    sources::{Look, cgroup, gvisor},
};

/// Observations after which deadlines and questions have their turn: some milliseconds of a storm.
const BREATH_AFTER: u32 = 64;
/// Cgroups looked at in one go; where nothing waits, what comes meanwhile waits for one of them only.
const LOOKS_AT_ONCE: usize = 16;

/// The agent's state.
pub(crate) struct Pipeline {
    config: Config,
    filter: Filter,
    /// What is wanted of the gVisor source now.
    of_gvisor: watch::Sender<gvisor::Wanted>,
    /// What is wanted of the cgroup source now.
    of_cgroups: watch::Sender<cgroup::Wanted>,
    hierarchy: Option<MemoryHierarchy>,
    correlator: Correlator,
    outcomes: Outcomes,
    inventory: Inventory,
    registry: Registry,
    sinks: Sinks,
    boot_id: Arc<str>,
    started: AgentStarted,
    seq: u64,
    sees_exec: bool,
    execs: Option<Sender<u32>>,
    look: Look,
    /// Sandboxes told of by `workload_started`.
    sandboxes: HashMap<SandboxKey, Sandbox>,
    keeper: Option<keep::Keeper>,
    /// Kills come from rings, which say how far they were read.
    has_rings: bool,
    /// What comes in was recorded for an earlier agent.
    catching_up: bool,
    scans: scans::Scans,
    cgroups: workloads::Cgroups,
    recollection: recollection::Recollection,
    patience: patience::Patience,
}

impl Pipeline {
    /// Nothing known yet.
    pub(crate) fn new(
        config: &Config,
        root: HostRoot,
        hierarchy: Option<MemoryHierarchy>,
        rung: &Rung,
        sinks: Vec<Box<dyn Sink>>,
    ) -> anyhow::Result<Self> {
        let boot_id = system::boot_id().context("read the boot id")?;
        let sight = &rung.sight;
        Ok(Self {
            recollection: recollection::Recollection::new(config.state_dir.as_deref(), &boot_id),
            config: config.clone(),
            filter: Filter::new(&config.include, &config.exclude).context("include and exclude")?,
            of_gvisor: watch::Sender::new(sandboxes::wanted(config)),
            of_cgroups: watch::Sender::new(workloads::wanted(config)),
            correlator: Correlator::new(sight.facts, &boot_id).with_counts(rung.counting),
            has_rings: rung.kernel.is_some(),
            outcomes: Outcomes::new(sight.sees_exit),
            inventory: Inventory::default(),
            registry: Registry::new(
                root,
                hierarchy.clone(),
                rung.kernel.is_some() && rung.counting == Counting::default(),
            ),
            sinks: Sinks::new(sinks),
            boot_id: boot_id.into(),
            started: AgentStarted {
                version: env!("CARGO_PKG_VERSION").into(),
                tier: sight.tier.clone(),
                kernel: system::kernel_release(),
                cgroup_version: hierarchy.as_ref().map(|hierarchy| hierarchy.version),
                degraded: sight.degraded.clone(),
            },
            hierarchy,
            seq: 0,
            sees_exec: sight.sees_exec,
            execs: None,
            look: rung.look.clone(),
            sandboxes: HashMap::new(),
            cgroups: workloads::Cgroups::default(),
            keeper: None,
            catching_up: false,
            scans: scans::Scans::default(),
            patience: patience::Patience::default(),
        })
    }

    /// Reads every cgroup there is. Where the past is still to be told, their counters say nothing of it.
    pub(crate) fn begin(&mut self, has_past: bool) {
        self.catching_up = has_past;
        let scanned = self.scan();
        if has_past {
            for counters in &scanned {
                self.registry.found(counters);
            }
        } else {
            self.correlator.begin(&scanned);
            self.learn(scanned);
        }
    }

    fn caught_up(&mut self) {
        if std::mem::take(&mut self.catching_up) {
            let scanned = self.scan();
            self.correlator.begin(&scanned);
            self.learn(scanned);
        }
    }

    fn learn(&mut self, scanned: Vec<Counters>) {
        for counters in scanned {
            self.registry.found(&counters);
            let outputs = self.correlator.observe(Observation::Counters(counters));
            self.take(outputs);
        }
    }

    /// Takes in observations until the source is gone and the queue is empty.
    pub(crate) async fn follow(
        &mut self,
        mut queue: Receiver<Observation>,
        mut requests: Receiver<Request>,
        mut live: Live,
    ) {
        let mut since_breath = 0;
        loop {
            let deadline = sleep_until(self.next_deadline());
            tokio::select! {
                biased;
                config = live.changed() => self.configure(&config),
                observation = queue.recv() => match observation {
                    Some(observation) => {
                        self.observe(observation);
                        since_breath += 1;
                    }
                    None => break,
                },
                () = deadline => {
                    self.tick(1);
                    for _ in 1..LOOKS_AT_ONCE {
                        // The sources are tasks of the same thread.
                        tokio::task::yield_now().await;
                        if !queue.is_empty() || !self.look_at_cgroups(clock::boot_ns(), 1) {
                            break;
                        }
                    }
                }
                Some(request) = requests.recv() => self.answer(request),
            }
            if since_breath >= BREATH_AFTER {
                since_breath = 0;
                self.breathe(&mut requests);
            }
        }
        let last = self.correlator.finish();
        self.take(last);
        self.report_last_outcomes();
    }

    /// What is due while observations keep coming: a queue that is never empty delays nothing for long.
    fn breathe(&mut self, requests: &mut Receiver<Request>) {
        if self.next_deadline().is_some_and(|deadline_ns| deadline_ns <= clock::boot_ns()) {
            self.tick(LOOKS_AT_ONCE);
        }
        for _ in 0..requests.len() {
            let Ok(request) = requests.try_recv() else { break };
            self.answer(request);
        }
    }

    /// From now on this configuration holds.
    fn configure(&mut self, config: &Config) {
        match Filter::new(&config.include, &config.exclude) {
            Ok(filter) => self.filter = filter,
            Err(error) => tracing::error!(%error, "include and exclude stay as they were"),
        }
        self.of_gvisor.send_replace(sandboxes::wanted(config));
        self.of_cgroups.send_replace(workloads::wanted(config));
        self.config = config.clone();
    }

    fn next_deadline(&self) -> Option<u64> {
        let deadlines = [
            self.correlator.ask_at(),
            self.judge_at().map(|deadline_ns| self.patience.look_at(deadline_ns)),
            self.cgroups.next_deadline(),
            self.recollection.next_deadline(),
            self.registry.next_deadline(),
            self.sinks.next_deadline(),
            self.scans.next_deadline(),
            self.keep_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When time alone says what happened.
    fn judge_at(&self) -> Option<u64> {
        [self.correlator.judge_at(), self.outcomes.next_deadline()].into_iter().flatten().min()
    }

    fn observe(&mut self, mut observation: Observation) {
        if let Observation::Logged(kill) = &mut observation {
            self.remember_cgroups(kill);
        }
        match &observation {
            Observation::CgroupMade(change) => self.registry.made(change),
            Observation::CgroupRemoved(change) => {
                self.registry.removed(change);
                self.cgroup_gone(change.memcg, change.boot_ns);
            }
            Observation::MeasuredGone(memcg) => self.cgroup_gone(*memcg, clock::boot_ns()),
            Observation::Lost(Lost { records: LostRecords::Cgroup, .. }) => {
                self.scans.want();
                // Execs travel in the same ring.
                self.look_for_sandboxes();
            }
            Observation::CaughtUp => self.caught_up(),
            Observation::Read(mark) => self.note_read(*mark),
            Observation::Exec(exec) => self.began(*exec),
            Observation::SandboxStarting(sandbox) => self.cgroups.note_starting(sandbox),
            Observation::SandboxFound(sandbox) => self.sandbox_found(sandbox),
            Observation::SandboxGone(gone) => self.sandbox_gone(*gone),
            Observation::Measured(measured) => {
                measured.iter().cloned().for_each(|measurement| self.measured(measurement));
            }
            Observation::Stalled(stalled) => self.stalled(*stalled),
            Observation::Undecodable(reason) => tracing::warn!(reason, "a record of the kernel cannot be read"),
            _ => {}
        }
        let verdicts = self.verdicts(&observation);
        let outputs = self.correlator.observe(observation);
        self.take(outputs);
        for verdict in verdicts {
            self.report_outcome(verdict);
        }
        self.note_told();
    }

    /// A cgroup that is gone by now may be one that was known.
    fn remember_cgroups(&self, kill: &mut LoggedKill) {
        let boot_ns = kill.boot_ns;
        for memcg in kill.task_memcg.iter_mut().chain(&mut kill.oom_memcg) {
            memcg.memcg = memcg.memcg.or_else(|| self.registry.id_at(&memcg.path, boot_ns));
        }
    }

    /// Every cgroup that is known.
    pub(crate) fn known_cgroups(&self) -> HashSet<MemcgId> {
        self.registry.ids().collect()
    }

    fn tick(&mut self, looks: usize) {
        let now_ns = clock::boot_ns();
        let outputs = self.correlator.ask(now_ns);
        self.take(outputs);
        if self.judge_at().is_some_and(|deadline_ns| self.patience.is_over(deadline_ns, now_ns)) {
            let outputs = self.correlator.tick(now_ns);
            self.take(outputs);
            self.report_due_outcomes(now_ns);
        }
        self.look_at_cgroups(now_ns, looks);
        self.scan_where_due(now_ns);
        self.keep_history(now_ns);
        self.report_losses(now_ns);
        self.note_told();
        self.settle(now_ns);
    }

    /// Whether there was one to look at.
    fn look_at_cgroups(&mut self, now_ns: u64, most: usize) -> bool {
        let looked = self.registry.tick(now_ns, most);
        self.cgroups_looked_at(&looked);
        !looked.is_empty()
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Found(finding) => self.report(*finding),
                Output::Read(subject) => self.read_counters(&subject),
                Output::Await(kill) if self.may_be_judged(kill.killed_ns) => self.await_outcome(kill),
                Output::Await(_) => {}
                Output::ReadAll => self.compare(),
                Output::Look(looker) => self.look.order(looker),
            }
        }
    }

    /// Kills are missing: whose, the cgroups' own counters may tell.
    fn compare(&mut self) {
        let outputs = self.correlator.compare(&self.scan());
        self.take(outputs);
    }

    fn read_counters(&mut self, subject: &Subject) {
        let path = subject.path.clone().or_else(|| self.registry.path(subject.memcg).cloned());
        let (Some(hierarchy), Some(path)) = (&self.hierarchy, path) else {
            self.correlator.forget(subject.memcg);
            return;
        };
        let counters = hierarchy.counters(subject.memcg, &path);
        self.observe(Observation::Counters(counters));
    }
}

/// Sleeps until a boot time; for ever where there is none.
async fn sleep_until(deadline_ns: Option<u64>) {
    match deadline_ns {
        Some(deadline_ns) => {
            let wait = deadline_ns.saturating_sub(clock::boot_ns());
            tokio::time::sleep(Duration::from_nanos(wait)).await;
        }
        None => std::future::pending().await,
    }
}
