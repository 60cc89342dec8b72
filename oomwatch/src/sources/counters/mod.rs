//! The source of cgroups and their counters where no eBPF program tells of them: which memory cgroups come and go, and
//! what the kernel counts in each (`memory.events.local` of cgroup2, `memory.oom_control` of cgroup v1).
//!
//! `watches` are the kernel's hints that something changed: inotify, and on cgroup v1 eventfds. A hint only says when to
//! look; told is what a counter says. `cgroups` looks. Emits [`Observation::CgroupMade`], [`Observation::CgroupRemoved`],
//! [`Observation::Counted`], where no other source does [`Observation::KillTotal`], and [`Observation::Seen`] when it is asked.

mod cgroups;
mod watches;

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc::Sender},
};

use self::cgroups::Cgroups;
pub(crate) use self::watches::Watches;
use super::{
    readable::{self, Hint},
    totals::Totals,
};
use crate::{
    clock,
    host::{HostRoot, memory::MemoryHierarchy, vmstat},
    observation::{KillTotal, MemcgId, Observation, Seen},
    stats::{BEAT, Heartbeat},
    stop::Stop,
};

/// How often the kernel's count of all kills is read: where it rose, every cgroup is looked at. It finds what no hint
/// tells of: a host that ran out of memory itself (cgroup v1), hints that were lost, cgroups that are not watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at all for such a rise: they take milliseconds on a host with thousands.
const ALL_EVERY_NS: u64 = 100_000_000;

/// What the source starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// The host.
    pub(crate) root: HostRoot,
    /// The memory cgroups.
    pub(crate) hierarchy: MemoryHierarchy,
    /// The kernel's hints.
    pub(crate) watches: Watches,
    /// Kills are told by counters; else only cgroups come and go.
    pub(crate) counts: bool,
    /// No other source reads the kernel's count of kills.
    pub(crate) reads_totals: bool,
    /// Cgroups that the agent knows already.
    pub(crate) known: HashSet<MemcgId>,
    /// Asks to look at every counter.
    pub(crate) asked: Arc<Notify>,
}

/// Looks until `stop`, then once more.
pub(crate) async fn run(
    start: Start,
    out: Sender<Observation>,
    stop: Stop,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    let Start { root, hierarchy, watches, counts, reads_totals, known, asked } = start;
    let (changes, notices) = watches.hints().context("watch the kernel's hints")?;
    let (changes, notices) = (watched(changes)?, watched(notices)?);
    let mut cgroups = Cgroups::new(root, hierarchy, watches, counts, known);
    let mut totals = Totals::default();
    let mut total = vmstat::oom_kills().ok();
    if let (Some(total), true) = (total, reads_totals) {
        out.send(Observation::KillTotal(total)).await.context("pass on an observation")?;
    }
    cgroups.begin(clock::boot_ns());
    let mut stopping = false;
    // The count rose since all were looked at last.
    let (mut has_risen, mut all_ns) = (false, 0_u64);
    // What comes behind the counters that were read after it.
    let mut behind = Vec::new();
    loop {
        for observation in cgroups.take_observations().into_iter().chain(behind.drain(..)) {
            out.send(observation).await.context("pass on an observation")?;
            heartbeat.beat();
        }
        if stopping {
            return Ok(());
        }
        heartbeat.beat();
        let (mut send_total, mut is_asked) = (false, false);
        tokio::select! {
            () = stop.stopped() => stopping = true,
            hint = ready(changes.as_ref()) => hint?,
            hint = ready(notices.as_ref()) => hint?,
            () = asked.notified() => is_asked = true,
            () = sleep_until(cgroups.next_deadline()) => {}
            () = sleep_until(has_risen.then(|| all_ns.saturating_add(ALL_EVERY_NS))) => {}
            () = tokio::time::sleep(if counts { LOOK_EVERY } else { BEAT }) => {}
            () = totals.due(), if reads_totals => send_total = true,
        }
        let now = if send_total { totals.read() } else { vmstat::oom_kills().ok() };
        let from_ns = clock::boot_ns();
        cgroups.turn(from_ns);
        if rose(total, now) || stopping {
            has_risen = true;
            totals.soon();
        }
        let may_look = send_total || all_ns.saturating_add(ALL_EVERY_NS) <= from_ns;
        if is_asked || stopping || has_risen && may_look {
            (has_risen, all_ns) = (false, from_ns);
            cgroups.look_at_all(clock::boot_ns());
        }
        total = now.or(total);
        behind.extend(is_asked.then_some(Observation::Seen(Seen::Counters(from_ns))));
        behind.extend(now.filter(|_| send_total).map(Observation::KillTotal));
    }
}

fn rose(before: Option<KillTotal>, now: Option<KillTotal>) -> bool {
    before.zip(now).is_some_and(|(before, now)| now.kills > before.kills)
}

type Descriptor = Option<AsyncFd<Hint>>;

fn watched(hint: Option<Hint>) -> anyhow::Result<Descriptor> {
    hint.map(readable::watch).transpose().context("watch the kernel's hints")
}

/// Waits for a hint; for ever where there are none.
async fn ready(descriptor: Option<&AsyncFd<Hint>>) -> anyhow::Result<()> {
    let Some(descriptor) = descriptor else { return std::future::pending().await };
    descriptor.readable().await.context("wait for a hint")?.clear_ready();
    Ok(())
}

/// Lets others work in between where more is due already.
async fn sleep_until(deadline_ns: Option<u64>) {
    match deadline_ns.map(|at| at.saturating_sub(clock::boot_ns())) {
        Some(0) => tokio::task::yield_now().await,
        Some(wait_ns) => tokio::time::sleep(Duration::from_nanos(wait_ns)).await,
        None => std::future::pending().await,
    }
}
