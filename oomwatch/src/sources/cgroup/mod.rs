//! The source that measures workloads outside gVisor: containers, and cgroups with a memory limit of their own.
//!
//! Which cgroups there are comes in by a channel; where each of them stands (container, plain) is known to the agent.
//! By default each is measured every [`SLOW_NS`](watcher::SLOW_NS), for `ps`, `/metrics` and `recommend`; where
//! warnings are wanted (`--warn-all`) it is watched like a sandbox.

mod peak;
mod watcher;

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{
    mpsc::{Receiver, Sender},
    watch,
};

pub(crate) use self::watcher::Wanted;
use self::watcher::Watcher;
use crate::{
    cgroup_path::CgroupPath,
    clock,
    host::{HostRoot, memory::MemoryHierarchy},
    observation::{MemcgId, Observation},
    stats::{BEAT, Heartbeat},
    stop::Stop,
};

/// What the source starts with.
pub(crate) struct Start {
    /// The host.
    pub(crate) root: HostRoot,
    /// The memory cgroups.
    pub(crate) hierarchy: Option<MemoryHierarchy>,
    /// What the user wants, now and later.
    pub(crate) wanted: watch::Receiver<Wanted>,
    /// Cgroups as they come and go.
    pub(crate) changes: Receiver<Change>,
}

/// A cgroup came, went or turned out to be something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// To be measured.
    Measure(Candidate),
    /// Not to be measured (any more).
    Leave(MemcgId),
}

/// A cgroup to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Which.
    pub(crate) memcg: MemcgId,
    /// Where.
    pub(crate) path: CgroupPath,
    /// Measured in any case; others only while they have a limit of their own.
    pub(crate) is_container: bool,
}

/// Measures until `stop`.
pub(crate) async fn run(
    start: Start,
    out: Sender<Observation>,
    stop: Stop,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    let Start { root, hierarchy, mut wanted, mut changes } = start;
    let Some(hierarchy) = hierarchy else {
        return rest(stop, heartbeat).await;
    };
    let first = *wanted.borrow_and_update();
    let mut watcher = Watcher::new(root, hierarchy, first);
    loop {
        heartbeat.beat();
        watcher.turn(clock::boot_ns());
        for observation in watcher.take_observations() {
            out.send(observation).await.context("pass on an observation")?;
        }
        let deadline_ns = watcher.next_deadline();
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            Some(change) = changes.recv() => watcher.change(change, clock::boot_ns()),
            Ok(()) = wanted.changed() => watcher.want(*wanted.borrow_and_update(), clock::boot_ns()),
            () = sleep_until(deadline_ns) => {}
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

/// Nothing is to be measured here.
async fn rest(stop: Stop, heartbeat: Heartbeat) -> anyhow::Result<()> {
    loop {
        heartbeat.beat();
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

/// Lets others work in between where more is due already.
async fn sleep_until(deadline_ns: Option<u64>) {
    match deadline_ns.map(|at| at.saturating_sub(clock::boot_ns())) {
        Some(0) => tokio::task::yield_now().await,
        Some(wait_ns) => tokio::time::sleep(Duration::from_nanos(wait_ns)).await,
        None => std::future::pending().await,
    }
}
