//! Start and stop: loads the kernel's source, starts the others, runs the pipeline, says at once what breaks.
//!
//! Start: programs attached, then existing cgroups read, then `agent_started`. Stop: the source reads what is left in
//! the kernel and ends, the queue runs dry, open incidents are closed, `agent_stopped`, the sinks drain.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
};

use crate::{
    config::Config,
    host::{HostRoot, memory::MemoryHierarchy, pressure, spared, system},
    ladder::{self, Rung, Wish},
    live::Live,
    observation::{MemcgId, Observation},
    pipeline::{self, Pipeline, keep::Keeper},
    sinks::{
        Sink,
        hook::Hook,
        journal::Journal,
        metrics::{self, Metrics},
        otlp::Otlp,
        socket::Socket,
    },
    sources::{
        cgroup, counters, gvisor,
        kernel::{
            self,
            load::{Loaded, Sight},
        },
        kmsg,
    },
    state::{Left, StateDir},
    stats::Stats,
    stop::{self, Stop, Stopper},
};

/// Observations between the source and the correlator. Small: a full queue makes the source wait, and what waits in
/// the kernel's ring is counted when it overflows.
const QUEUE: usize = 256;
/// Questions of commands and scrapers that wait for an answer.
const REQUESTS: usize = 64;

/// Runs until `stop`, or until nothing works any more. Events go to `outputs` and to the sinks of the configuration.
///
/// # Errors
/// No source works on this host, or the only one broke.
pub async fn run(config: impl Into<Live>, outputs: Vec<Box<dyn Sink>>, stop: Stop) -> anyhow::Result<()> {
    let live = config.into();
    let mut config = Config::clone(&live.now());
    for sentence in system::missing_privileges() {
        tracing::warn!("{sentence}");
    }
    system::raise_file_limit();
    let root = HostRoot::new(&config.host_root);
    let hierarchy = MemoryHierarchy::find(&root).context("find the memory cgroups")?;
    let kept = open_state(&mut config)?;
    let keep = kept.as_ref().zip(config.state_dir.clone()).map(|((_, left), state_dir)| kernel::keeping::Keep {
        bpf_fs: config.bpf_fs.clone(),
        state_dir,
        account: left.account,
        cannot_pin: None,
    });
    let wish = Wish { root: &root, hierarchy: hierarchy.as_ref(), tier: config.tier, withheld: &config.withheld };
    let rung = ladder::climb(wish, keep).context("nothing works on this host")?;
    for sentence in &rung.sight.degraded {
        tracing::warn!(reason = sentence, "less is seen than could be");
    }
    if let (Some(_), Err(reason)) = (config.pressure_percent, pressure::is_told(&root, hierarchy.as_ref())) {
        tracing::warn!(reason, "pressure-percent has no effect here");
    }
    let (asker, requests) = mpsc::channel(REQUESTS);
    let stats = Arc::new(Stats::default());
    let sinks = start_sinks(&config, outputs, &asker, &rung.sight, &stats);
    let mut pipeline = Pipeline::new(&config, root.clone(), hierarchy.clone(), &rung, sinks)?;
    let has_past = rung.kernel.as_ref().is_some_and(Loaded::has_past);
    let mut containers = Vec::new();
    if let Some((state, left)) = kept {
        containers = left.containers;
        let kills = left.account.map(|account| account.kills);
        pipeline.keep(keeper(state, rung.kernel.as_ref(), kills)?, left.account, left.cgroups.as_deref());
    }
    if let Some(folder) = &config.state_dir {
        pipeline.told_before(folder);
    }
    pipeline.begin(has_past);
    pipeline.recall(containers);
    pipeline.report_start();
    let (observations, queue) = mpsc::channel(QUEUE);
    let (gvisor, cgroup) = (pipeline.gvisor_source(), pipeline.cgroup_source());
    let (stopper, order) = stop::channel();
    let mut sources = Sources::default();
    let known = pipeline.known_cgroups();
    start_rung(&mut sources, rung, (root, hierarchy, known), &observations, &order, &stats);
    let [gvisor_beat, cgroup_beat] = ["gvisor", "cgroup"].map(|name| stats.source(name));
    sources.spawn("gvisor", gvisor::run(gvisor, observations.clone(), order.clone(), Arc::clone(&stats), gvisor_beat));
    sources.spawn("cgroup", cgroup::run(cgroup, observations, order, cgroup_beat));
    // Not before: the threads of outputs that others may keep busy are there by now.
    spared::hurry();
    let (outcome, ()) = tokio::join!(supervise(sources, &stop, &stopper), pipeline.follow(queue, requests, live));
    spared::take_time();
    pipeline.report_end();
    outcome
}

/// The state folder and what is in it. Where it cannot be had, because another agent has it or it may not be written,
/// that is said, and nothing is kept.
fn open_state(config: &mut Config) -> anyhow::Result<Option<(StateDir, Left)>> {
    let Some(folder) = &config.state_dir else { return Ok(None) };
    let boot_id = system::boot_id().context("read the boot id")?;
    let opened = StateDir::open(folder, &boot_id).inspect_err(|error| {
        config.state_dir = None;
        tracing::warn!("nothing is kept across restarts: {error:#}");
    });
    Ok(opened.ok())
}

/// The sinks that the configuration asks for, beside the given ones. One that cannot be had is said and left out:
/// each fails alone.
fn start_sinks(
    config: &Config,
    mut outputs: Vec<Box<dyn Sink>>,
    asker: &mpsc::Sender<pipeline::Request>,
    sight: &Sight,
    stats: &Arc<Stats>,
) -> Vec<Box<dyn Sink>> {
    let sinks = &mut outputs;
    if let Some(folder) = &config.state_dir {
        let before = sinks.iter().filter_map(|sink| sink.progress()).collect();
        add(sinks, "journal", Journal::start(folder, u64::from(config.journal_mib) << 20, before));
    }
    if let Some(path) = &config.socket {
        add(sinks, "socket", Socket::start(path, asker));
    }
    if let Some(command) = &config.hook {
        add(sinks, "hook", Hook::start(command));
    }
    if let Some(endpoint) = &config.otlp_endpoint {
        add(sinks, "otlp", Otlp::start(endpoint, &HostRoot::new(&config.host_root), asker));
    }
    if let Some(address) = config.listen_address {
        let (tier, limits) = (sight.tier.clone(), sight.limits);
        let (stats, asker) = (Arc::clone(stats), asker.clone());
        add(sinks, "metrics", Metrics::start(metrics::Start { address, tier, limits, stats, asker }));
    }
    outputs
}

fn add(sinks: &mut Vec<Box<dyn Sink>>, name: &str, sink: anyhow::Result<impl Sink + 'static>) {
    match sink {
        Ok(sink) => sinks.push(Box::new(sink)),
        Err(error) => tracing::warn!(sink = name, "the agent goes on without this output: {error:#}"),
    }
}

/// What tells the kernel that a record is written and may go.
fn keeper(state: StateDir, kernel: Option<&Loaded>, kills_before: Option<u64>) -> anyhow::Result<Keeper> {
    match kernel.and_then(Loaded::release) {
        Some(mut release) => Keeper::new(state, Box::new(move |position| release.up_to(position)), kills_before),
        None => Keeper::new(state, Box::new(|_| {}), kills_before),
    }
}

/// Starts the sources that tell of kills.
fn start_rung(
    sources: &mut Sources,
    rung: Rung,
    (root, hierarchy, known): (HostRoot, Option<MemoryHierarchy>, HashSet<MemcgId>),
    observations: &mpsc::Sender<Observation>,
    order: &Stop,
    stats: &Stats,
) {
    let Rung { kernel: programs, counters: watches, log, counting, look, .. } = rung;
    let has_programs = programs.is_some();
    if let Some(loaded) = programs {
        let beat = stats.source(KERNEL);
        sources.spawn(KERNEL, kernel::run(loaded, observations.clone(), order.clone(), beat));
    }
    if let Some(log) = log {
        let beat = stats.source(KMSG);
        sources.spawn(KMSG, kmsg::run(log, look.log, observations.clone(), order.clone(), beat));
    }
    if let Some((watches, hierarchy)) = watches.zip(hierarchy) {
        let (counts, reads_totals) = (counting.counters, !has_programs);
        let asked = look.counters;
        let start = counters::Start { root, hierarchy, watches, counts, reads_totals, known, asked };
        let beat = stats.source(COUNTERS);
        sources.spawn(COUNTERS, counters::run(start, observations.clone(), order.clone(), beat));
    }
}

/// The sources that tell of kills: without one of them the agent is not what it says it is.
const KERNEL: &str = "kernel";
const KMSG: &str = "kmsg";
const COUNTERS: &str = "counters";

/// Sources that run, by their names also where one panics.
#[derive(Debug, Default)]
struct Sources {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<task::Id, &'static str>,
}

impl Sources {
    fn spawn(&mut self, name: &'static str, source: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let id = self.tasks.spawn(source).id();
        self.names.insert(id, name);
    }

    /// The next to end, and how; `None` where none runs any more.
    async fn next_end(&mut self) -> Option<(&'static str, anyhow::Result<()>)> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok((id, outcome)) => (id, outcome),
            Err(panic) => (panic.id(), Err(panic.into())),
        };
        Some((self.names.get(&id).copied().unwrap_or(KERNEL), outcome))
    }
}

/// Passes the order to stop on to the sources, says at once which of them broke, and stops the others where that is
/// one that tells of kills: an agent that sees no kills must not look alive.
async fn supervise(mut sources: Sources, stop: &Stop, stopper: &Stopper) -> anyhow::Result<()> {
    let (mut outcome, mut stopping) = (Ok(()), false);
    loop {
        let ended = tokio::select! {
            () = stop.stopped(), if !stopping => {
                stopper.stop();
                stopping = true;
                continue;
            }
            ended = sources.next_end() => ended,
        };
        let (name, error) = match ended {
            None => return outcome,
            Some((_, Ok(()))) => continue,
            Some((name, Err(error))) => (name, error),
        };
        tracing::error!(source = name, "a source broke: {error:#}");
        if [KERNEL, KMSG, COUNTERS].contains(&name) {
            stopper.stop();
            stopping = true;
            outcome = Err(error.context("kills are seen no more"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until_told(order: Stop) -> anyhow::Result<()> {
        order.stopped().await;
        Ok(())
    }

    /// Supervises the source of kills and one more until that one ended, then stops.
    async fn with(name: &'static str, other: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> bool {
        let (outer, stop) = stop::channel();
        let (stopper, order) = stop::channel();
        let mut sources = Sources::default();
        if name != KERNEL {
            sources.spawn(KERNEL, until_told(order.clone()));
        }
        sources.spawn("cgroup", until_told(order));
        sources.spawn(name, other);
        let supervised = supervise(sources, &stop, &stopper);
        let stopping = async {
            task::yield_now().await;
            outer.stop();
        };
        let (outcome, ()) = tokio::join!(supervised, stopping);
        outcome.is_ok()
    }

    #[tokio::test]
    async fn only_the_end_of_the_source_of_kills_is_the_end_of_the_agent() {
        assert!(with("gvisor", async { panic!("a panic that the test wants") }).await);
        assert!(with("gvisor", async { anyhow::bail!("broken") }).await);
        assert!(!with(KERNEL, async { panic!("a panic that the test wants") }).await);
        assert!(!with(KERNEL, async { anyhow::bail!("broken") }).await);
    }
}
