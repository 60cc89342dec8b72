//! Reads all cgroups anew where records of their births and deaths were lost.

use super::Pipeline;
use crate::{
    clock,
    host::memory::{MAX_CGROUPS, MemoryHierarchy},
    observation::{CgroupChange, Counters, Observation},
};

/// Shortest time between two scans: one reads up to 100,000 cgroups, and what they lose goes on.
const SCAN_EVERY_NS: u64 = 10_000_000_000;

/// When the next one is due.
#[derive(Debug, Default)]
pub(super) struct Scans {
    last_ns: Option<u64>,
    is_wanted: bool,
}

impl Scans {
    /// Records were lost.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// When a wanted one may be made.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.is_wanted.then(|| self.last_ns.map_or(0, |last_ns| last_ns.saturating_add(SCAN_EVERY_NS)))
    }

    /// Whether to make one now.
    fn take(&mut self, now_ns: u64) -> bool {
        let is_due = self.next_deadline().is_some_and(|deadline_ns| deadline_ns <= now_ns);
        if is_due {
            *self = Self { last_ns: Some(now_ns), is_wanted: false };
        }
        is_due
    }
}

impl Pipeline {
    pub(super) fn scan(&self) -> Vec<Counters> {
        self.hierarchy.as_ref().map(MemoryHierarchy::scan).unwrap_or_default()
    }

    /// Makes a scan that is due.
    pub(super) fn scan_where_due(&mut self, now_ns: u64) {
        if self.scans.take(now_ns) {
            let scanned = self.scan();
            let gone = self.gone(&scanned);
            self.learn(scanned);
            for change in gone {
                self.observe(Observation::CgroupRemoved(change));
            }
        }
    }

    /// Cgroups whose end nobody told.
    fn gone(&self, scanned: &[Counters]) -> Vec<CgroupChange> {
        let Some(hierarchy) = self.hierarchy.as_ref().filter(|_| scanned.len() < MAX_CGROUPS) else {
            return Vec::new();
        };
        let missing = self.registry.not_among(scanned).into_iter();
        let gone = missing.filter(|(memcg, path)| hierarchy.is_gone(*memcg, path));
        gone.map(|(memcg, path)| CgroupChange { boot_ns: clock::boot_ns(), memcg, path: Some(path) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_losses_are_one_scan_in_ten_seconds() {
        let mut scans = Scans::default();
        assert_eq!(scans.next_deadline(), None);
        assert!(!scans.take(7));
        let mut made = Vec::new();
        for second in 100..130 {
            for _ in 0..50 {
                scans.want();
                made.extend(scans.take(second * 1_000_000_000).then_some(second));
            }
        }
        assert_eq!(made, [100, 110, 120]);
        assert_eq!(scans.next_deadline(), Some(130_000_000_000));
        assert!(scans.take(131_000_000_000));
        assert_eq!(scans.next_deadline(), None);
    }
}
