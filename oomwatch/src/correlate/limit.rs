//! Which memcg's limit was hit: named by the kernel where the entry of the OOM killer is hooked, else the nearest
//! ancestor of the victim for which the trigger reclaimed in vain, or that stands at its limit.

use crate::{
    event::{OomMemcgConfidence, Scope},
    observation::{Level, Run, Victim},
};

/// How far below its limit a memcg still counts as full: the kernel charges in batches of 64 pages
/// (`MEMCG_CHARGE_BATCH`), of 4 KiB. Checked against 53 kills where both were known: right for all but two members
/// of group kills, for which the first member's answer is taken.
const FULL_SLACK_BYTES: u64 = 64 * 4096;

/// A futile reclaim this long ago led straight to the OOM killer.
const FRESH_NS: u64 = 1_000_000_000;
/// One this long ago may have: in a storm a thread waits for the threads before it in the one OOM killer (`oom_lock`),
/// whose victims free memory meanwhile, so that no memcg looks full any more.
const STALE_NS: u64 = 30_000_000_000;

/// The limit that was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    /// The memcg; `None` when the host ran out.
    pub(super) memcg: Option<Level>,
    /// Who says so.
    pub(super) confidence: OomMemcgConfidence,
}

impl Limit {
    /// Whose memory ran out.
    pub(super) fn scope(&self) -> Scope {
        if self.memcg.is_some() { Scope::Memcg } else { Scope::Host }
    }
}

/// Finds the limit that was hit; `None` where nothing is known of the victim's cgroups.
pub(super) fn of(victim: &Victim) -> Option<Limit> {
    if let Some(run) = &victim.run {
        return Some(named(run));
    }
    if victim.levels.is_empty() {
        return None;
    }
    let full = || victim.levels.iter().find(|level| is_full(level)).copied();
    let memcg = reclaimed(victim, FRESH_NS).or_else(full).or_else(|| reclaimed(victim, STALE_NS));
    // Of a victim in many nested cgroups not all are recorded: that none of these was full says nothing of the host.
    let all_are_known = victim.levels.last().is_some_and(|level| level.depth <= 1);
    (memcg.is_some() || all_are_known).then_some(Limit { memcg, confidence: OomMemcgConfidence::Inferred })
}

/// The memcg of the victim's chain for which the trigger reclaimed in vain no longer than that ago.
fn reclaimed(victim: &Victim, within_ns: u64) -> Option<Level> {
    let (id, age_ns) = victim.reclaimed?;
    let level = victim.levels.iter().find(|level| level.memcg.id == id && level.limit_bytes.is_some())?;
    (age_ns <= within_ns).then_some(*level)
}

fn named(run: &Run) -> Limit {
    Limit { memcg: run.oom_memcg, confidence: OomMemcgConfidence::Exact }
}

fn is_full(level: &Level) -> bool {
    level.limit_bytes.is_some_and(|limit| level.usage_bytes.saturating_add(FULL_SLACK_BYTES) >= limit)
}

/// Whether the whole cgroup is killed: `memory.oom.group` set somewhere from the victim's memcg up to the one whose
/// limit was hit (Linux `mem_cgroup_get_oom_group`).
pub(super) fn is_group_kill(victim: &Victim, limit: Option<&Limit>) -> bool {
    let end = limit.and_then(|limit| limit.memcg).map_or(0, |level| level.depth);
    victim.levels.iter().take_while(|level| level.depth >= end).any(|level| level.oom_group)
}

/// The kernel's `enum oom_constraint` (include/linux/oom.h, Linux 5.10 to 7.2).
pub(super) fn constraint_name(constraint: u32) -> Option<&'static str> {
    match constraint {
        0 => Some("CONSTRAINT_NONE"),
        1 => Some("CONSTRAINT_CPUSET"),
        2 => Some("CONSTRAINT_MEMORY_POLICY"),
        3 => Some("CONSTRAINT_MEMCG"),
        _ => None,
    }
}
