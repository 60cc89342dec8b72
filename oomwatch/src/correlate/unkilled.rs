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
/// Shortest time between two events of one memcg: a stuck process asks for the OOM killer all the time. What is counted
/// in between is told at its end.
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
    /// Without a kill, and not yet told.
    untold: u64,
    /// The last of those.
    last_ns: u64,
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
    /// Not later than the first deadline of all watches.
    next_ns: Option<u64>,
}

/// An `oom` and when the limit was hit, which makes its incident.
type Hit = (u64, Finding);

impl Unkilled {
    pub(super) fn new(sees_no_kill: bool) -> Self {
        Self { watches: HashMap::new(), sees_no_kill, next_ns: None }
    }

    /// A new memcg has counted nothing.
    pub(super) fn made(&mut self, memcg: MemcgId) {
        self.watches.remove(&memcg);
    }

    /// A memcg is gone: what was not told of it yet.
    pub(super) fn removed(&mut self, memcg: MemcgId) -> Option<Hit> {
        let mut watch = self.watches.remove(&memcg)?;
        watch.take(memcg, self.confidence())
    }

    /// Reclaim was futile: raises the question.
    pub(super) fn futile_reclaim(&mut self, reclaim: FutileReclaim) {
        let watch = self.watch(reclaim.level.memcg);
        watch.path = reclaim.path.or(watch.path.take());
        watch.level = Some(reclaim.level);
        if watch.judged.is_none() || watch.excused {
            watch.judged = Some(reclaim.local_oom);
            watch.excused = false;
        }
        watch.counted = watch.counted.max(reclaim.local_oom);
        let raised_ns = *watch.raised_ns.get_or_insert(reclaim.boot_ns);
        self.note_deadline(raised_ns.saturating_add(VERDICT_AFTER_NS));
    }

    fn watch(&mut self, memcg: MemcgId) -> &mut Watch {
        if self.watches.len() >= CAPACITY && !self.watches.contains_key(&memcg) {
            self.forget_oldest();
        }
        self.watches.entry(memcg).or_default()
    }

    fn note_deadline(&mut self, deadline_ns: u64) {
        self.next_ns = Some(self.next_ns.map_or(deadline_ns, |next_ns| next_ns.min(deadline_ns)));
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
    pub(super) fn seen_by_hook(&mut self, ended: &RunEnded) -> Option<Hit> {
        let level = ended.run.oom_memcg?;
        let watch = self.watch(level.memcg);
        watch.level = Some(level);
        watch.untold += 1;
        watch.last_ns = ended.boot_ns;
        self.tell(level.memcg, ended.boot_ns)
    }

    /// Tells what is untold of a memcg, or notes when that is due.
    fn tell(&mut self, memcg: MemcgId, now_ns: u64) -> Option<Hit> {
        let confidence = self.confidence();
        let watch = self.watches.get_mut(&memcg)?;
        match watch.quiet_until_ns().filter(|until_ns| now_ns < *until_ns) {
            Some(until_ns) => {
                self.note_deadline(until_ns);
                None
            }
            None => watch.take(memcg, confidence),
        }
    }

    /// Memcgs whose question is due.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Subject> {
        let due = self.watches.iter().filter(|(_, watch)| watch.question_ns().is_some_and(|due| due <= now_ns));
        due.map(|(memcg, watch)| Subject { memcg: *memcg, path: watch.path.clone() }).collect()
    }

    /// What was counted while a memcg was quiet and is to be told now.
    pub(super) fn flush(&mut self, now_ns: u64) -> Vec<Hit> {
        if self.next_ns.is_none_or(|next_ns| now_ns < next_ns) {
            return Vec::new();
        }
        let confidence = self.confidence();
        let due = self.watches.iter_mut().filter(|(_, watch)| watch.flush_ns().is_some_and(|due| due <= now_ns));
        let hits = due.filter_map(|(memcg, watch)| watch.take(*memcg, confidence)).collect();
        self.next_ns = self.watches.values().filter_map(Watch::deadline).min();
        hits
    }

    /// Who tells of it here.
    fn confidence(&self) -> Confidence {
        if self.sees_no_kill { Confidence::Exact } else { Confidence::Counted }
    }

    /// Answers the question of one memcg.
    pub(super) fn read(&mut self, counters: &Counters) -> Option<Hit> {
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
        if asked > 0 && !sees_no_kill {
            watch.untold += asked;
            watch.last_ns = counters.boot_ns;
            return self.tell(counters.memcg, counters.boot_ns);
        }
        // A process that waits is told once, without a number.
        let waits = counters.under_oom == Some(true);
        if !waits || watch.quiet_until_ns().is_some_and(|until_ns| counters.boot_ns < until_ns) {
            return None;
        }
        watch.told_ns = counters.boot_ns;
        Some((counters.boot_ns, watch.finding(counters.memcg, None, counters.boot_ns, Confidence::Counted)))
    }

    /// When [`Self::due`] or [`Self::flush`] has something next, at the earliest.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.next_ns
    }

    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.watches.len()
    }

    fn forget_oldest(&mut self) {
        let oldest =
            self.watches.iter().min_by_key(|(_, watch)| (watch.untold > 0, watch.killed_ns.max(watch.told_ns)));
        if let Some(memcg) = oldest.map(|(memcg, _)| *memcg) {
            self.watches.remove(&memcg);
        }
    }
}

impl Watch {
    fn deadline(&self) -> Option<u64> {
        self.question_ns().into_iter().chain(self.flush_ns()).min()
    }

    fn question_ns(&self) -> Option<u64> {
        self.raised_ns.map(|raised_ns| raised_ns.saturating_add(VERDICT_AFTER_NS))
    }

    fn flush_ns(&self) -> Option<u64> {
        self.quiet_until_ns().filter(|_| self.untold > 0)
    }

    fn quiet_until_ns(&self) -> Option<u64> {
        (self.told_ns != 0).then(|| self.told_ns.saturating_add(REPORT_EVERY_NS))
    }

    /// What is untold, as told from now on.
    fn take(&mut self, memcg: MemcgId, confidence: Confidence) -> Option<Hit> {
        let count = std::mem::take(&mut self.untold);
        self.told_ns = if count > 0 { self.last_ns.max(self.quiet_until_ns().unwrap_or(0)) } else { self.told_ns };
        (count > 0).then(|| (self.last_ns, self.finding(memcg, Some(count), self.last_ns, confidence)))
    }

    fn finding(&self, memcg: MemcgId, count: Option<u64>, boot_ns: u64, confidence: Confidence) -> Finding {
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
            incident_id: None,
            subject: Some(Subject { memcg, path: self.path.clone() }),
            sandbox: None,
            limit_depth: None,
        }
    }
}
