//! Tells a kill from a mark on a task that was dying anyway, where no hook does: `__oom_kill_process` counts
//! `oom_kill` of the victim's memcg before it marks (`mm/oom_kill.c`, Linux 5.10 to 7.2); other callers of
//! `mark_oom_victim` do not count.

use std::collections::HashMap;

use crate::observation::{Counters, MemcgId, Victim};

/// Memcgs remembered. Beyond it the oldest knowledge goes; a mark there counts as a kill.
const CAPACITY: usize = 65_536;

/// From the count of a kill to its mark at most. The killer is between them at any moment, and may wait for a processor
/// there: a file that is read then holds a kill whose mark is yet to come.
const COUNTED_AHEAD_NS: u64 = 1_000_000_000;

/// One memcg's own `oom_kill` counter.
#[derive(Debug, Clone, Copy)]
struct Reading {
    boot_ns: u64,
    kills: u64,
}

/// What is known of one memcg's counter.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// At the last mark, or at its birth: all that was counted was marked.
    marked: Option<Reading>,
    /// In its files: marks may be yet to come.
    read: Option<Reading>,
}

/// Last known counters.
#[derive(Debug, Default)]
pub(super) struct KillCounters {
    last: HashMap<MemcgId, Known>,
}

impl KillCounters {
    /// A new memcg has killed nothing.
    pub(super) fn made(&mut self, memcg: MemcgId, boot_ns: u64) {
        // The news of its birth may come after that of a kill in it: they travel in different rings.
        self.known(memcg).marked.get_or_insert(Reading { boot_ns, kills: 0 });
    }

    /// What an earlier agent knew.
    pub(super) fn restore(&mut self, memcg: MemcgId, kills: u64) {
        self.known(memcg).marked = Some(Reading { boot_ns: 0, kills });
    }

    /// Ids are not used again within a boot.
    pub(super) fn removed(&mut self, memcg: MemcgId) {
        self.last.remove(&memcg);
    }

    /// Counters read from files.
    pub(super) fn read(&mut self, counters: &Counters) {
        if let Some(kills) = counters.local_oom_kill {
            let read = &mut self.known(counters.memcg).read;
            if read.is_none_or(|read| read.kills < kills) {
                *read = Some(Reading { boot_ns: counters.boot_ns, kills });
            }
        }
    }

    /// Whether the counter moved since it was last seen, so that this mark is a kill. True where nothing is known.
    pub(super) fn is_kill(&mut self, victim: &Victim) -> bool {
        let (Some(level), Some(kills)) = (victim.levels.first(), victim.local_oom_kill) else { return true };
        let known = self.known(level.memcg);
        let before = |reading: Reading, at_most_ns: u64| {
            reading.kills >= kills && reading.boot_ns.saturating_add(at_most_ns) < victim.boot_ns
        };
        // A file that says 0 holds no kill at all.
        let ahead_ns = |read: Reading| if read.kills == 0 { 0 } else { COUNTED_AHEAD_NS };
        let stood_still = known.marked.is_some_and(|marked| before(marked, 0))
            || known.read.is_some_and(|read| before(read, ahead_ns(read)));
        if !stood_still && known.marked.is_none_or(|marked| marked.boot_ns < victim.boot_ns) {
            known.marked = Some(Reading { boot_ns: victim.boot_ns, kills });
        }
        !stood_still
    }

    fn known(&mut self, memcg: MemcgId) -> &mut Known {
        if self.last.len() >= CAPACITY && !self.last.contains_key(&memcg) {
            let oldest = self.last.iter().min_by_key(|(_, known)| known.boot_ns()).map(|(memcg, _)| *memcg);
            if let Some(oldest) = oldest {
                self.last.remove(&oldest);
            }
        }
        self.last.entry(memcg).or_default()
    }
}

impl Known {
    fn boot_ns(&self) -> Option<u64> {
        self.marked.iter().chain(&self.read).map(|reading| reading.boot_ns).max()
    }
}
