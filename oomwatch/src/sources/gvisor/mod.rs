//! The source that watches gVisor sandboxes: finds them by themselves, measures them, warns before their limit.
//!
//! `argv`, `state` and `limit` read what runsc says, `discover` and `sandbox` check, `finder` looks at processes as they
//! start and now and then, `memory` measures, `sources::watch` decides what a series of measurements means and when the
//! next is due, `watcher` holds all sandboxes, `telling` says what of them is told.

pub(crate) mod argv;
pub(crate) mod discover;
mod finder;
mod lenient;
pub(crate) mod limit;
pub(crate) mod memory;
mod named;
pub(crate) mod process;
mod rpc;
pub(crate) mod sandbox;
pub(crate) mod state;
mod telling;
mod watcher;

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::unix::AsyncFd,
    sync::{
        mpsc::{Receiver, Sender},
        watch as changes,
    },
    task::JoinSet,
};

pub(crate) use self::watcher::Wanted;
use self::{
    process::ProcessId,
    watcher::{Question, Sentry, Watcher},
};
use crate::{
    clock,
    host::{HostRoot, memory::MemoryHierarchy},
    observation::{MemoryCrossed, Observation},
    stats::{BEAT, Heartbeat, Stats},
    stop::Stop,
};

/// What the source starts with.
pub(crate) struct Start {
    /// The host.
    pub(crate) root: HostRoot,
    /// The memory cgroups.
    pub(crate) hierarchy: Option<MemoryHierarchy>,
    /// What the user wants, now and later.
    pub(crate) wanted: changes::Receiver<Wanted>,
    /// Processes that may be sentries and began a program; `None` where the kernel does not tell.
    pub(crate) execs: Option<Receiver<u32>>,
}

/// Watches until `stop`.
pub(crate) async fn run(
    start: Start,
    out: Sender<Observation>,
    stop: Stop,
    stats: Arc<Stats>,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    let Start { root, hierarchy, mut wanted, mut execs } = start;
    let first = *wanted.borrow_and_update();
    let mut watcher =
        Watcher::new(root, hierarchy, first, execs.is_some(), stats).context("look for gVisor sandboxes")?;
    let (mut sentries, mut answers) = (JoinSet::new(), JoinSet::new());
    loop {
        heartbeat.beat();
        watcher.tick(clock::boot_ns());
        for sentry in watcher.take_new() {
            let _handle = sentries.spawn(end_of(sentry));
        }
        for question in watcher.take_questions() {
            let _handle = answers.spawn(answer(question));
        }
        for observation in watcher.take_observations() {
            out.send(observation).await.context("pass on an observation")?;
        }
        let now_ns = clock::boot_ns();
        let wait = Duration::from_nanos(watcher.next_deadline().saturating_sub(now_ns));
        tokio::select! {
            () = stop.stopped() => break,
            pid = next_exec(&mut execs) => watcher.exec(pid, clock::boot_ns()),
            Some(ended) = sentries.join_next() => {
                if let Ok(Ok(id)) = ended {
                    watcher.ended(id, clock::boot_ns());
                }
            }
            Some(Ok(crossed)) = answers.join_next() => {
                out.send(Observation::MemoryCrossed(Box::new(crossed))).await.context("pass on a warning")?;
            }
            Ok(()) = wanted.changed() => watcher.want(*wanted.borrow_and_update(), clock::boot_ns()),
            () = tokio::time::sleep(wait.min(BEAT)) => {}
        }
    }
    // A warning that waits for its sentry's word does not wait long.
    while let Some(answered) = answers.join_next().await {
        if let Ok(crossed) = answered {
            out.send(Observation::MemoryCrossed(Box::new(crossed))).await.context("pass on a warning")?;
        }
    }
    Ok(())
}

/// The next process that may be a sentry; never where the kernel does not tell.
async fn next_exec(execs: &mut Option<Receiver<u32>>) -> u32 {
    match execs {
        Some(receiver) => match receiver.recv().await {
            Some(pid) => pid,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The warning with what its sentry says, or without.
async fn answer(question: Question) -> MemoryCrossed {
    let Question { address, crossed } = question;
    match rpc::usage(address).await {
        Ok(breakdown) => MemoryCrossed { breakdown: Some(breakdown), ..crossed },
        Err(error) => {
            tracing::debug!(%error, pid = crossed.key.pid(), "a sentry did not say what its memory is");
            crossed
        }
    }
}

/// Waits for the end of a sentry.
async fn end_of(sentry: Sentry) -> io::Result<ProcessId> {
    // SAFETY: an `OwnedFd` always gives the same descriptor and owns it.
    let pidfd: AsyncFd<OwnedFd> = unsafe { AsyncFd::register(sentry.pidfd) }.map_err(|error| error.into_parts().1)?;
    let _readable = pidfd.readable().await?;
    Ok(sentry.id)
}
