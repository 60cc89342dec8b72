//! A limit that was hit without a kill: the OOM killer is switched off (cgroup v1), or may kill nobody.
//!
//! Where the return of `mem_cgroup_out_of_memory` is hooked, it says so. Elsewhere futile reclaim raises the question,
//! and a second later the counters answer it: the OOM killer was asked for, and no kill came from the memcg or below.

use std::collections::HashMap;

use super::{Finding, Subject};
use crate::{
    cgroup_path::CgroupPath,
    event::{Body, Confidence, Memcg, Oom, Severity, Source},
    observation::{Counters, FutileReclaim, Level, MemcgId, RunEnded, Victim},
    workload::escape::escape,
};

/// From the first futile reclaim to the verdict: a kill that relieves the memcg is told long before.
const VERDICT_AFTER_NS: u64 = 1_000_000_000;
/// Shortest time between two events of one memcg: a stuck process asks for the OOM killer all the time.
const REPORT_EVERY_NS: u64 = 10_000_000_000;
/// Memcgs watched at once.
const CAPACITY: usize = 4096;

/// What is known of one memcg at its limit.
#[derive(Debug, Clone, Default)]
struct Watch {
    path: Option<CgroupPath>,
    level: Option<Level>,
    /// Counter `oom` up to which all is told; `None` until it was once seen.
    judged: Option<u64>,
    /// The last question was answered by a kill, which excuses the calls of all tasks that waited behind it.
    excused: bool,
    /// Highest counter `oom` seen.
    counted: u64,
    /// Runs without a kill seen by the hook and not yet told.
    hooked: u64,
    /// When the question was raised that waits for its answer.
    raised_ns: Option<u64>,
    /// When a kill last relieved the memcg.
    killed_ns: u64,
    /// When an event was last told; 0: never.
    told_ns: u64,
}

/// Memcgs at their limit.
#[derive(Debug)]
pub(super) struct Unkilled {
    watches: HashMap<MemcgId, Watch>,
    sees_no_kill: bool,
}

impl Unkilled {
    pub(super) fn new(sees_no_kill: bool) -> Self {
        Self { watches: HashMap::new(), sees_no_kill }
    }

    /// A new memcg has counted nothing.
    pub(super) fn made(&mut self, memcg: MemcgId) {
        self.watches.remove(&memcg);
    }

    /// Reclaim was futile: raises the question.
    pub(super) fn futile_reclaim(&mut self, reclaim: FutileReclaim) {
        if self.watches.len() >= CAPACITY && !self.watches.contains_key(&reclaim.level.memcg) {
            self.forget_oldest();
        }
        let watch = self.watches.entry(reclaim.level.memcg).or_default();
        watch.path = reclaim.path.or(watch.path.take());
        watch.level = Some(reclaim.level);
        if watch.judged.is_none() || watch.excused {
            watch.judged = Some(reclaim.local_oom);
            watch.excused = false;
        }
        watch.counted = watch.counted.max(reclaim.local_oom);
        watch.raised_ns.get_or_insert(reclaim.boot_ns);
    }

    /// A kill relieves every memcg above the victim.
    pub(super) fn killed(&mut self, victim: &Victim) {
        for level in &victim.levels {
            if let Some(watch) = self.watches.get_mut(&level.memcg) {
                watch.killed_ns = victim.boot_ns;
            }
        }
    }

    /// The hook saw a run end without a kill.
    pub(super) fn seen_by_hook(&mut self, ended: &RunEnded, incident_id: String) -> Option<Finding> {
        let level = ended.run.oom_memcg?;
        let watch = self.watches.entry(level.memcg).or_default();
        watch.level = Some(level);
        watch.hooked += 1;
        if watch.told_ns != 0 && ended.boot_ns < watch.told_ns.saturating_add(REPORT_EVERY_NS) {
            return None;
        }
        watch.told_ns = ended.boot_ns;
        let count = std::mem::take(&mut watch.hooked);
        Some(watch.finding(level.memcg, Some(count), ended.boot_ns, Confidence::Exact, incident_id))
    }

    /// Memcgs whose question is due.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Subject> {
        let due = self.watches.iter().filter(|(_, watch)| watch.deadline().is_some_and(|due| due <= now_ns));
        due.map(|(memcg, watch)| Subject { memcg: *memcg, path: watch.path.clone() }).collect()
    }

    /// Answers the question of one memcg.
    pub(super) fn read(&mut self, counters: &Counters, incident_id: String) -> Option<Finding> {
        let sees_no_kill = self.sees_no_kill;
        let watch = self.watches.get_mut(&counters.memcg)?;
        let raised_ns = watch.raised_ns.take()?;
        let judged = watch.judged.unwrap_or_default();
        watch.counted = watch.counted.max(counters.local_oom.unwrap_or_default());
        watch.judged = Some(watch.counted);
        if watch.killed_ns >= raised_ns {
            watch.excused = true;
            return None;
        }
        let asked = watch.counted.saturating_sub(judged);
        let waits = counters.under_oom == Some(true);
        let unkilled = waits || (asked > 0 && !sees_no_kill);
        let quiet = watch.told_ns != 0 && counters.boot_ns < watch.told_ns.saturating_add(REPORT_EVERY_NS);
        if !unkilled || quiet {
            return None;
        }
        watch.told_ns = counters.boot_ns;
        let count = (asked > 0).then_some(asked);
        Some(watch.finding(counters.memcg, count, counters.boot_ns, Confidence::Counted, incident_id))
    }

    /// When [`Self::due`] has something next.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.watches.values().filter_map(Watch::deadline).min()
    }

    fn forget_oldest(&mut self) {
        let oldest = self.watches.iter().min_by_key(|(_, watch)| watch.killed_ns.max(watch.told_ns));
        if let Some(memcg) = oldest.map(|(memcg, _)| *memcg) {
            self.watches.remove(&memcg);
        }
    }
}

impl Watch {
    fn deadline(&self) -> Option<u64> {
        self.raised_ns.map(|raised_ns| raised_ns.saturating_add(VERDICT_AFTER_NS))
    }

    fn finding(
        &self,
        memcg: MemcgId,
        count: Option<u64>,
        boot_ns: u64,
        confidence: Confidence,
        incident_id: String,
    ) -> Finding {
        let oom_memcg = Memcg {
            path: self.path.as_ref().map(|path| escape(path.as_bytes())),
            id: Some(memcg.id),
            limit_bytes: self.level.and_then(|level| level.limit_bytes),
            usage_bytes: self.level.map(|level| level.usage_bytes),
        };
        Finding {
            boot_ns,
            body: Body::Oom(Oom { oom_memcg, count }),
            severity: Severity::Warning,
            source: if confidence == Confidence::Exact { Source::Bpf } else { Source::Cgroup },
            confidence,
            incident_id: Some(incident_id),
            subject: Some(Subject { memcg, path: self.path.clone() }),
            sandbox: None,
            limit_depth: None,
        }
    }
}
