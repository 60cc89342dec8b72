//! Wires the stages: kernel source, correlator, registry, sinks. The only module that knows tasks and channels.
//!
//! Start: programs attached, then existing cgroups read, then `agent_started`. Stop: the source reads what is left in
//! the kernel and ends, the queue runs dry, open incidents are closed, `agent_stopped`, the sinks drain.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
};

use crate::{
    cgroup_path::CgroupPath,
    clock,
    config::{self, Config},
    correlate::{Correlator, Finding, Output, Subject},
    event::{
        AgentStarted, AgentStopped, Body, Confidence, Event, Loss, LossStage, OomKill, OomOutcome, SCHEMA, Severity,
        Source, WorkloadStarted, WorkloadStopped,
    },
    host::{HostRoot, memory::MemoryHierarchy, system},
    observation::{Lost, LostRecords, Observation, Sandbox, SandboxGone, SandboxKey},
    outcome::{Awaited, Outcomes},
    registry::Registry,
    sinks::{self, stdout::Stdout},
    sources::{
        gvisor::{
            self,
            memory::{Choice, Estimator},
            watch::Settings,
        },
        kernel::{self, load::Sight},
    },
    stop::{self, Stop, Stopper},
    workload::{CgroupIdentity, Workload, limit_owner},
};

/// Observations between the source and the correlator. Small: a full queue makes the source wait, and what waits in
/// the kernel's ring is counted when it overflows.
const QUEUE: usize = 256;
/// Processes that may be sentries, on their way to the gVisor source. What does not fit is found by its next scan.
const EXEC_QUEUE: usize = 1024;

/// Runs until `stop`, or until nothing works any more.
///
/// # Errors
/// No source works on this host, or the only one broke.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    for sentence in system::missing_privileges() {
        tracing::warn!("{sentence}");
    }
    let root = HostRoot::new(&config.host_root);
    let hierarchy = MemoryHierarchy::find(&root).context("find the memory cgroups")?;
    let loaded = kernel::load::load(hierarchy.as_ref(), &config.withheld).context("nothing works on this host")?;
    for sentence in &loaded.sight.degraded {
        tracing::warn!(reason = sentence, "less is seen than could be");
    }
    let mut agent = Agent::new(&config, root, hierarchy, &loaded.sight)?;
    agent.learn_existing_cgroups();
    agent.report_start();
    let (observations, queue) = mpsc::channel(QUEUE);
    let gvisor = agent.gvisor_source();
    let (stopper, order) = stop::channel();
    let mut sources = JoinSet::new();
    sources.spawn(named(KERNEL, kernel::run(loaded, observations.clone(), order.clone())));
    sources.spawn(named("gvisor", gvisor::run(gvisor, observations, order)));
    let (outcome, ()) = tokio::join!(supervise(sources, &stop, &stopper), agent.follow(queue));
    agent.report_end();
    outcome
}

/// The source without which the agent is of no use.
const KERNEL: &str = "kernel";

type Ended = (&'static str, anyhow::Result<()>);

async fn named(name: &'static str, source: impl Future<Output = anyhow::Result<()>>) -> Ended {
    (name, source.await)
}

/// Passes the order to stop on to the sources, says at once which of them broke, and stops the others where that is
/// the kernel's: an agent that sees no kills must not look alive.
async fn supervise(mut sources: JoinSet<Ended>, stop: &Stop, stopper: &Stopper) -> anyhow::Result<()> {
    let (mut outcome, mut stopping) = (Ok(()), false);
    loop {
        let ended = tokio::select! {
            () = stop.stopped(), if !stopping => {
                stopper.stop();
                stopping = true;
                continue;
            }
            ended = sources.join_next() => ended,
        };
        let (name, error) = match ended {
            None => return outcome,
            Some(Ok((_, Ok(())))) => continue,
            Some(Ok((name, Err(error)))) => (name, error),
            Some(Err(panic)) => (KERNEL, panic.into()),
        };
        tracing::error!(source = name, "a source broke: {error:#}");
        if name == KERNEL {
            stopper.stop();
            stopping = true;
            outcome = Err(error.context("kills are seen no more"));
        }
    }
}

struct Agent {
    config: Config,
    hierarchy: Option<MemoryHierarchy>,
    correlator: Correlator,
    outcomes: Outcomes,
    registry: Registry,
    stdout: Stdout,
    boot_id: Arc<str>,
    started: AgentStarted,
    seq: u64,
    sees_exec: bool,
    execs: Option<Sender<u32>>,
    /// Sandboxes told of by `workload_started`.
    sandboxes: HashMap<SandboxKey, Sandbox>,
}

impl Agent {
    fn new(config: &Config, root: HostRoot, hierarchy: Option<MemoryHierarchy>, sight: &Sight) -> anyhow::Result<Self> {
        let boot_id = system::boot_id().context("read the boot id")?;
        Ok(Self {
            config: config.clone(),
            correlator: Correlator::new(sight.facts, &boot_id),
            outcomes: Outcomes::default(),
            registry: Registry::new(root, hierarchy.clone()),
            stdout: Stdout::start()?,
            boot_id: boot_id.into(),
            started: AgentStarted {
                version: env!("CARGO_PKG_VERSION"),
                tier: sight.tier.clone(),
                kernel: system::kernel_release(),
                cgroup_version: hierarchy.as_ref().map(|hierarchy| hierarchy.version),
                degraded: sight.degraded.clone(),
            },
            hierarchy,
            seq: 0,
            sees_exec: sight.sees_exec,
            execs: None,
            sandboxes: HashMap::new(),
        })
    }

    /// What the gVisor source needs; the kernel source tells it of processes through the agent.
    fn gvisor_source(&mut self) -> gvisor::Start {
        let (sender, execs) = mpsc::channel(EXEC_QUEUE);
        self.execs = self.sees_exec.then_some(sender);
        gvisor::Start {
            root: HostRoot::new(&self.config.host_root),
            hierarchy: self.hierarchy.clone(),
            wanted: wanted(&self.config),
            execs: self.sees_exec.then_some(execs),
        }
    }

    fn learn_existing_cgroups(&mut self) {
        let scanned = self.hierarchy.as_ref().map(MemoryHierarchy::scan);
        for counters in scanned.into_iter().flatten() {
            self.registry.found(&counters);
            let outputs = self.correlator.observe(Observation::Counters(counters));
            self.take(outputs);
        }
    }

    /// Takes in observations until the source is gone and the queue is empty.
    async fn follow(&mut self, mut queue: Receiver<Observation>) {
        loop {
            let deadline = sleep_until(self.next_deadline());
            tokio::select! {
                biased;
                observation = queue.recv() => match observation {
                    Some(observation) => self.observe(observation),
                    None => break,
                },
                () = deadline => self.tick(),
            }
        }
        let last = self.correlator.finish();
        self.take(last);
    }

    fn next_deadline(&self) -> Option<u64> {
        [self.correlator.next_deadline(), self.outcomes.next_deadline(), self.registry.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn observe(&mut self, observation: Observation) {
        match &observation {
            Observation::CgroupMade(change) => self.registry.made(change),
            Observation::CgroupRemoved(change) => self.registry.removed(change),
            Observation::Lost(Lost { records: LostRecords::Cgroup, .. }) => self.learn_existing_cgroups(),
            Observation::Exec(pid) => self.pass_on_exec(*pid),
            Observation::SandboxFound(sandbox) => self.sandbox_found(sandbox),
            Observation::SandboxGone(gone) => self.sandbox_gone(*gone),
            Observation::Undecodable(reason) => tracing::warn!(reason, "a record of the kernel cannot be read"),
            _ => {}
        }
        let removed = match &observation {
            Observation::CgroupRemoved(change) => self.outcomes.removed(change.memcg),
            _ => Vec::new(),
        };
        let outputs = self.correlator.observe(observation);
        self.take(outputs);
        for kill in removed {
            self.report_outcome(kill, false);
        }
    }

    fn tick(&mut self) {
        let now_ns = clock::boot_ns();
        let outputs = self.correlator.tick(now_ns);
        self.take(outputs);
        for kill in self.outcomes.due(now_ns) {
            let hierarchy = self.hierarchy.as_ref();
            let survived =
                hierarchy.is_some_and(|hierarchy| hierarchy.is_populated(kill.container_id, &kill.container));
            self.report_outcome(kill, survived);
        }
        self.registry.tick(now_ns);
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Found(finding) => self.report(*finding),
                Output::Read(subject) => self.read_counters(&subject),
            }
        }
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

    fn report(&mut self, mut finding: Finding) {
        let now_ns = clock::boot_ns();
        let known = finding.subject.as_ref().and_then(|subject| self.registry.workload(subject));
        let sandbox_depth =
            finding.sandbox.as_ref().and(finding.subject.as_ref()).and_then(|subject| subject.path.as_ref());
        let container_depth = known.as_ref().and_then(|(_, depth)| *depth).or(sandbox_depth.map(CgroupPath::depth));
        if let Body::OomKill(kill) = &mut finding.body {
            kill.limit_owner = owner(kill, finding.subject.as_ref(), finding.limit_depth, container_depth);
            kill.latency_seconds = Duration::from_nanos(now_ns.saturating_sub(finding.boot_ns)).as_secs_f64();
        }
        // Of a sandbox the correlator knows more: its sentry.
        if let (Body::OomKill(_), Some(depth), None) = (&finding.body, container_depth, &finding.sandbox) {
            self.await_outcome(&finding, depth);
        }
        let workload = merge(finding.sandbox.take(), known.map(|(workload, _)| workload));
        let timestamp = clock::wall_time(if finding.boot_ns == 0 { now_ns } else { finding.boot_ns });
        self.emit(|seq, boot_id| Event {
            schema: SCHEMA,
            seq,
            timestamp,
            boot_id,
            body: finding.body,
            severity: finding.severity,
            source: finding.source,
            confidence: finding.confidence,
            incident_id: finding.incident_id,
            workload,
        });
    }

    /// Remembers to say what became of the container.
    fn await_outcome(&mut self, kill: &Finding, container_depth: usize) {
        let (Some(incident_id), Some(victim)) = (&kill.incident_id, &kill.subject) else { return };
        let path = victim.path.clone().or_else(|| self.registry.path(victim.memcg).cloned());
        let Some(container) = path.and_then(|path| path.ancestor(container_depth)) else { return };
        self.outcomes.killed(Awaited {
            incident_id: incident_id.clone(),
            victim: victim.clone(),
            container_id: self.registry.id(&container),
            container,
            killed_ns: kill.boot_ns,
        });
    }

    fn report_outcome(&mut self, kill: Awaited, container_survived: bool) {
        self.report(Finding {
            boot_ns: 0,
            body: Body::OomOutcome(OomOutcome { container_survived, exit_code: None }),
            severity: if container_survived { Severity::Warning } else { Severity::Critical },
            source: Source::Cgroup,
            confidence: Confidence::Exact,
            incident_id: Some(kill.incident_id),
            subject: Some(kill.victim),
            sandbox: None,
            limit_depth: None,
        });
    }

    fn pass_on_exec(&mut self, pid: u32) {
        if let Some(execs) = &self.execs
            && execs.try_send(pid).is_err()
        {
            tracing::debug!(pid, "the gVisor source is busy: left to its next scan");
        }
    }

    fn sandbox_found(&mut self, sandbox: &Sandbox) {
        let known = self.sandboxes.insert(sandbox.key, sandbox.clone());
        if self.config.workload_events && known.is_none() {
            let body = Body::WorkloadStarted(WorkloadStarted {
                pid: sandbox.key.pid,
                limit_bytes: sandbox.limit.map(|limit| limit.bytes),
                limit_source: sandbox.limit.map(|limit| limit.source),
                threshold_percent: self.config.threshold_percent,
            });
            self.report(of_sandbox(sandbox, sandbox.boot_ns, body));
        }
    }

    fn sandbox_gone(&mut self, gone: SandboxGone) {
        let Some(sandbox) = self.sandboxes.remove(&gone.key) else { return };
        if self.config.workload_events {
            let body = Body::WorkloadStopped(WorkloadStopped {
                pid: gone.key.pid,
                limit_bytes: sandbox.limit.map(|limit| limit.bytes),
                limit_source: sandbox.limit.map(|limit| limit.source),
                peak_usage_bytes: gone.peak_bytes,
            });
            self.report(of_sandbox(&sandbox, gone.boot_ns, body));
        }
    }

    fn report_own(&mut self, body: Body, severity: Severity) {
        let timestamp = clock::wall_time(clock::boot_ns());
        self.emit(|seq, boot_id| Event {
            schema: SCHEMA,
            seq,
            timestamp,
            boot_id,
            body,
            severity,
            source: Source::Agent,
            confidence: Confidence::Exact,
            incident_id: None,
            workload: None,
        });
    }

    fn report_start(&mut self) {
        self.report_own(Body::AgentStarted(self.started.clone()), Severity::Info);
    }

    fn report_end(mut self) {
        let AgentStarted { version, tier, kernel, cgroup_version, degraded } = self.started.clone();
        let body = AgentStopped { version, tier, kernel, cgroup_version, degraded };
        self.report_own(Body::AgentStopped(body), Severity::Info);
        if !self.stdout.finish() {
            tracing::warn!("events were still waiting for a reader of standard output");
        }
    }

    /// Numbers an event and hands it to the sinks, after the news of what a sink lost before it.
    fn emit(&mut self, event: impl FnOnce(u64, Arc<str>) -> Event) {
        let lost = self.stdout.take_lost();
        if lost > 0 {
            self.report_own(Body::Loss(Loss { stage: LossStage::Sink, lost, records: None }), Severity::Critical);
        }
        self.seq += 1;
        let event = event(self.seq, Arc::clone(&self.boot_id));
        self.stdout.write(sinks::line(self.config.output, &event));
    }
}

fn of_sandbox(sandbox: &Sandbox, boot_ns: u64, body: Body) -> Finding {
    Finding {
        boot_ns,
        body,
        severity: Severity::Info,
        source: Source::Gvisor,
        confidence: Confidence::Exact,
        incident_id: None,
        subject: sandbox.cgroup.clone().map(|(memcg, path)| Subject { memcg, path: Some(path) }),
        sandbox: Some(sandbox.workload.clone()),
        limit_depth: None,
    }
}

/// What is known of a sandbox from its own files and from its engine's.
fn merge(sandbox: Option<Workload>, known: Option<Arc<Workload>>) -> Option<Arc<Workload>> {
    let Some(sandbox) = sandbox else { return known };
    let known = known.map(|known| (*known).clone()).unwrap_or_default();
    Some(Arc::new(Workload {
        runtime: sandbox.runtime,
        engine: known.engine.or(sandbox.engine),
        container_id: known.container_id.or(sandbox.container_id),
        container_name: known.container_name.or(sandbox.container_name),
        sandbox_id: sandbox.sandbox_id.or(known.sandbox_id),
        pod_uid: known.pod_uid.or(sandbox.pod_uid),
        pod_name: known.pod_name.or(sandbox.pod_name),
        pod_namespace: known.pod_namespace.or(sandbox.pod_namespace),
        image: known.image.or(sandbox.image),
        ..known
    }))
}

fn wanted(config: &Config) -> gvisor::Wanted {
    let estimator = match config.estimator {
        config::Estimator::Auto => Choice::Auto,
        config::Estimator::Cgroup => Choice::Only(Estimator::Cgroup),
        config::Estimator::Memfd => Choice::Only(Estimator::Memfd),
        config::Estimator::RssSum => Choice::Only(Estimator::RssSum),
    };
    let settings = Settings {
        threshold_percent: config.threshold_percent,
        rearm_percent: config.rearm_percent,
        poll_interval: config.poll_interval,
    };
    gvisor::Wanted { estimator, settings, rpc: config.gvisor_rpc }
}

/// Who set the limit that was hit; `None` where the victim's cgroup or the limit is not known.
fn owner(
    kill: &OomKill,
    subject: Option<&Subject>,
    limit_depth: Option<usize>,
    container_depth: Option<usize>,
) -> Option<crate::workload::LimitOwner> {
    kill.oom_memcg_confidence?;
    let path = subject?.path.as_ref()?;
    let mut identity = CgroupIdentity::of(path.as_bytes());
    identity.container_depth = container_depth.or(identity.container_depth);
    Some(limit_owner(&identity, limit_depth))
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
