//! Start and stop: loads the kernel's source, starts the others, runs the pipeline, says at once what breaks.
//!
//! Start: programs attached, then existing cgroups read, then `agent_started`. Stop: the source reads what is left in
//! the kernel and ends, the queue runs dry, open incidents are closed, `agent_stopped`, the sinks drain.

use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    config::Config,
    host::{HostRoot, memory::MemoryHierarchy, system},
    live::Live,
    pipeline::{self, Pipeline},
    sinks::{Sink, hook::Hook, journal::Journal, otlp::Otlp, socket::Socket},
    sources::{cgroup, gvisor, kernel},
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
    let config = live.now();
    for sentence in system::missing_privileges() {
        tracing::warn!("{sentence}");
    }
    system::raise_file_limit();
    let root = HostRoot::new(&config.host_root);
    let hierarchy = MemoryHierarchy::find(&root).context("find the memory cgroups")?;
    let loaded = kernel::load::load(hierarchy.as_ref(), &config.withheld).context("nothing works on this host")?;
    for sentence in &loaded.sight.degraded {
        tracing::warn!(reason = sentence, "less is seen than could be");
    }
    let (asker, requests) = mpsc::channel(REQUESTS);
    let sinks = start_sinks(&config, outputs, &asker);
    let mut pipeline = Pipeline::new(&config, root, hierarchy, &loaded.sight, sinks)?;
    pipeline.learn_existing_cgroups();
    pipeline.report_start();
    let (observations, queue) = mpsc::channel(QUEUE);
    let (gvisor, cgroup) = (pipeline.gvisor_source(), pipeline.cgroup_source());
    let (stopper, order) = stop::channel();
    let mut sources = JoinSet::new();
    sources.spawn(named(KERNEL, kernel::run(loaded, observations.clone(), order.clone())));
    sources.spawn(named("gvisor", gvisor::run(gvisor, observations.clone(), order.clone())));
    sources.spawn(named("cgroup", cgroup::run(cgroup, observations, order)));
    let (outcome, ()) = tokio::join!(supervise(sources, &stop, &stopper), pipeline.follow(queue, requests, live));
    pipeline.report_end();
    outcome
}

/// The sinks that the configuration asks for, beside the given ones. One that cannot be had is said and left out:
/// each fails alone.
fn start_sinks(
    config: &Config,
    mut outputs: Vec<Box<dyn Sink>>,
    asker: &mpsc::Sender<pipeline::Request>,
) -> Vec<Box<dyn Sink>> {
    let sinks = &mut outputs;
    if let Some(folder) = &config.state_dir {
        add(sinks, "journal", Journal::start(folder, u64::from(config.journal_mib) << 20));
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
    outputs
}

fn add(sinks: &mut Vec<Box<dyn Sink>>, name: &str, sink: anyhow::Result<impl Sink + 'static>) {
    match sink {
        Ok(sink) => sinks.push(Box::new(sink)),
        Err(error) => tracing::warn!(sink = name, "the agent goes on without this output: {error:#}"),
    }
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
