//! Kills that the kernel counted against kills that were told. The host-wide counter says how many are missing, the
//! cgroups' own counters say whose they were, where that is beyond doubt.
//!
//! Only quiet comparisons count: the same total twice, a second apart, and no kill told in between. The kernel counts
//! before it marks (`__oom_kill_process` in `mm/oom_kill.c`), and totals come through the same queue as kills.

use std::collections::HashMap;

use super::{Finding, Subject};
use crate::{
    event::{Body, Confidence, Missed, MissedSince, Severity, Source},
    observation::{Counters, KillTotal, LostRecords, MemcgId, Victim},
};

/// Shortest time between two equal totals. Between count and mark lie microseconds, and whatever keeps a processor
/// from running: a busy virtual machine, for a part of this.
const QUIET_NS: u64 = 1_000_000_000;
/// Cgroups with kills that are remembered. Beyond it a missed kill is told without its cgroup.
const CAPACITY: usize = 65_536;

/// Kills since the last comparison.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// The counter up to which all is told.
    base: u64,
    /// When that was so, boot time.
    base_ns: u64,
    told: u64,
    /// Of those, kills that the kernel may have counted twice: members of a group kill.
    grouped: u64,
    /// Group kills: the first victim of each is counted twice unless it ended meanwhile (Linux 5.10 to 7.2).
    groups: u64,
    /// The base lags behind by such a second count, perhaps.
    uncertain: bool,
}

/// What is accounted for.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Of the host; `None` until the first reading.
    total: Option<Tally>,
    /// The first of equal totals since the last kill was told.
    unchanged: Option<KillTotal>,
    /// A comparison that found kills missing and waits for the cgroups' counters.
    open: Option<KillTotal>,
    /// Records of kills were lost since the last comparison.
    lost: bool,
    /// The base is what an earlier agent left.
    was_down: bool,
    cgroups: HashMap<MemcgId, Tally>,
    /// Kills of some cgroup could not be kept apart.
    incomplete: bool,
}

impl Tally {
    fn tell(&mut self, boot_ns: u64, groups: u64, grouped: u64) {
        if boot_ns > self.base_ns {
            self.told += 1;
            self.groups += groups;
            self.grouped += grouped;
        }
    }

    /// What the kernel counts beside the kills told, at most. Where records were lost, kills are missing for certain,
    /// and only the one second count that was seen in every group kill excuses them.
    fn excused(&self, lost: bool) -> u64 {
        if lost { self.groups } else { self.grouped }
    }

    /// Kills that should have been told if the counter stands at `counted`.
    fn expected(&self, counted: u64, lost: bool) -> u64 {
        counted.saturating_sub(self.base).saturating_sub(self.excused(lost))
    }

    fn missing(&self, counted: u64, lost: bool) -> u64 {
        self.expected(counted, lost).saturating_sub(self.told)
    }

    /// All is told up to here.
    fn square(&mut self, counted: u64, boot_ns: u64) {
        *self = Self { base: counted, base_ns: boot_ns, ..Self::default() };
    }
}

impl Accounts {
    /// A cgroup as it is when the agent begins.
    pub(super) fn begin(&mut self, counters: &Counters) {
        if let (Some(kills), false) = (counters.local_oom_kill.filter(|kills| *kills > 0), self.was_down) {
            let tally = Tally { base: kills, base_ns: counters.boot_ns, ..Tally::default() };
            self.insert(counters.memcg, tally);
        }
    }

    /// What an earlier agent accounted for: kills in all, and by cgroup where all of that is known.
    pub(super) fn restore(&mut self, kills: u64, cgroups: Option<&[(MemcgId, u64)]>) {
        self.total = Some(Tally { base: kills, ..Tally::default() });
        self.was_down = true;
        self.incomplete = cgroups.is_none();
        for (memcg, kills) in cgroups.into_iter().flatten() {
            self.insert(*memcg, Tally { base: *kills, ..Tally::default() });
        }
    }

    /// Kills accounted for, of those that the kernel counted.
    pub(super) fn accounted(&self) -> Option<u64> {
        self.total.map(|total| total.base.saturating_add(total.told))
    }

    /// The same by cgroup, and whether these are all.
    pub(super) fn by_id(&self) -> (Vec<(MemcgId, u64)>, bool) {
        let kills = self.cgroups.iter().map(|(memcg, tally)| (*memcg, tally.base.saturating_add(tally.told)));
        (kills.collect(), !self.incomplete)
    }

    /// A cgroup is gone, and with it its counter.
    pub(super) fn removed(&mut self, memcg: MemcgId) {
        self.cgroups.remove(&memcg);
    }

    /// Records were lost on their way from the kernel.
    pub(super) fn lost(&mut self, records: LostRecords) {
        self.lost |= matches!(records, LostRecords::Oom | LostRecords::Log);
    }

    /// A kill is told. `begins_group`: it is the first of a group kill.
    pub(super) fn told(&mut self, victim: &Victim, begins_group: bool) {
        self.unchanged = None;
        let in_group = victim.levels.iter().any(|level| level.oom_group);
        // Without its levels nobody knows.
        let unknown = victim.levels.is_empty();
        let (groups, grouped) = (u64::from(begins_group || unknown), u64::from(in_group || begins_group || unknown));
        if let Some(total) = &mut self.total {
            total.tell(victim.boot_ns, groups, grouped);
        }
        if let Some(memcg) = victim.memcg {
            if !self.cgroups.contains_key(&memcg) {
                self.insert(memcg, Tally::default());
            }
            if let Some(tally) = self.cgroups.get_mut(&memcg) {
                tally.tell(victim.boot_ns, groups, grouped);
            }
        }
    }

    /// A kill is told that was counted once.
    pub(super) fn told_by(&mut self, memcg: Option<MemcgId>, boot_ns: u64) {
        self.unchanged = None;
        if let Some(total) = &mut self.total {
            total.tell(boot_ns, 0, 0);
        }
        if let Some(memcg) = memcg {
            self.of(memcg, |tally| tally.tell(boot_ns, 0, 0));
        }
    }

    /// The kernel counted a kill twice that is told once.
    pub(super) fn counted_twice(&mut self, memcg: Option<MemcgId>) {
        let twice = |tally: &mut Tally| {
            tally.groups += 1;
            tally.grouped += 1;
        };
        if let Some(total) = &mut self.total {
            twice(total);
        }
        if let Some(memcg) = memcg {
            self.of(memcg, twice);
        }
    }

    /// A kill told before was in this cgroup.
    pub(super) fn placed(&mut self, memcg: MemcgId) {
        self.of(memcg, |tally| tally.told += 1);
    }

    /// Kills are on their way: a reading now is no quiet one.
    pub(super) fn disturbed(&mut self) {
        self.unchanged = None;
    }

    fn of(&mut self, memcg: MemcgId, change: impl FnOnce(&mut Tally)) {
        if !self.cgroups.contains_key(&memcg) {
            self.insert(memcg, Tally::default());
        }
        if let Some(tally) = self.cgroups.get_mut(&memcg) {
            change(tally);
        }
    }

    fn insert(&mut self, memcg: MemcgId, tally: Tally) {
        if self.cgroups.len() < CAPACITY {
            self.cgroups.insert(memcg, tally);
        } else {
            self.incomplete = true;
        }
    }

    /// Compares, if all was quiet. True where kills are missing and the counters of all cgroups are wanted.
    pub(super) fn read(&mut self, now: KillTotal) -> bool {
        let Some(total) = &mut self.total else {
            self.total = Some(Tally { base: now.kills, base_ns: now.boot_ns, ..Tally::default() });
            return false;
        };
        let first = match self.unchanged {
            Some(first) if first.kills == now.kills => first,
            _ => *self.unchanged.insert(now),
        };
        if now.boot_ns < first.boot_ns.saturating_add(QUIET_NS) {
            return false;
        }
        if total.missing(now.kills, self.lost) > 0 {
            self.open = Some(now);
            return true;
        }
        tracing::debug!(kills = now.kills, told = total.told, "no kill is missing");
        // More told than counted is squared too: some tiers tell a task that was dying anyway as a kill.
        total.square(now.kills, now.boot_ns);
        self.begin_anew();
        false
    }

    fn begin_anew(&mut self) {
        self.lost = false;
        self.was_down = false;
        for tally in self.cgroups.values_mut().filter(|tally| tally.told > 0) {
            let uncertain = tally.uncertain || tally.grouped > 0;
            tally.square(tally.base.saturating_add(tally.told), tally.base_ns);
            tally.uncertain = uncertain;
        }
    }

    /// Says what is missing, by cgroup where the cgroups' counters say so.
    pub(super) fn compare(&mut self, counters: &[Counters]) -> Vec<Finding> {
        let (Some(now), Some(total)) = (self.open.take(), self.total) else { return Vec::new() };
        let since = match (self.was_down, self.lost) {
            (true, _) => MissedSince::AgentDown,
            (false, true) => MissedSince::Overflow,
            (false, false) => MissedSince::Tier,
        };
        let missing = total.missing(now.kills, self.lost);
        let by_cgroup = self.by_cgroup(counters, since);
        let attributed: u64 = by_cgroup.iter().map(|(_, missed)| missed.expected - missed.seen).sum();
        let (mut found, mut rest, mut seen) = (Vec::new(), missing, total.told);
        // Where cgroups miss more than the host, something else moved their counters: then none of it is certain.
        if attributed <= missing {
            rest -= attributed;
            for (subject, missed) in by_cgroup {
                seen = seen.saturating_sub(missed.seen);
                found.push(finding(now.boot_ns, missed, Some(subject)));
            }
        }
        if rest > 0 {
            found.push(finding(now.boot_ns, Missed { expected: seen + rest, seen, since }, None));
        }
        self.square(now, counters);
        found
    }

    fn by_cgroup(&self, counters: &[Counters], since: MissedSince) -> Vec<(Subject, Missed)> {
        let missed = counters.iter().filter_map(|counters| {
            let counted = counters.local_oom_kill?;
            let tally = match self.cgroups.get(&counters.memcg) {
                Some(tally) => *tally,
                None if self.incomplete => return None,
                None => Tally::default(),
            };
            if tally.uncertain || tally.missing(counted, self.lost) == 0 {
                return None;
            }
            let subject = Subject { memcg: counters.memcg, path: Some(counters.path.clone()) };
            Some((subject, Missed { expected: tally.expected(counted, self.lost), seen: tally.told, since }))
        });
        missed.collect()
    }

    fn square(&mut self, now: KillTotal, counters: &[Counters]) {
        if let Some(total) = &mut self.total {
            total.square(now.kills, now.boot_ns);
        }
        self.begin_anew();
        self.incomplete = false;
        for counters in counters {
            if let Some(kills) = counters.local_oom_kill.filter(|kills| *kills > 0) {
                let squared = Tally { base: kills, base_ns: counters.boot_ns, ..Tally::default() };
                match self.cgroups.get_mut(&counters.memcg) {
                    Some(tally) => *tally = squared,
                    None => self.insert(counters.memcg, squared),
                }
            }
        }
    }
}

fn finding(boot_ns: u64, missed: Missed, subject: Option<Subject>) -> Finding {
    Finding {
        boot_ns,
        body: Body::Missed(missed),
        severity: Severity::Critical,
        source: Source::Reconcile,
        confidence: Confidence::Counted,
        incident_id: None,
        subject,
        sandbox: None,
        limit_depth: None,
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
