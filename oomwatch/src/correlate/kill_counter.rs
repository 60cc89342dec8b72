//! Tells a kill from a mark on a task that was dying anyway, where no hook does: `__oom_kill_process` counts
//! `oom_kill` of the victim's memcg before it marks (`mm/oom_kill.c`, Linux 5.10 to 7.2); other callers of
//! `mark_oom_victim` do not count.

use std::collections::HashMap;

use crate::observation::{Counters, MemcgId, Victim};

/// Memcgs remembered. Beyond it the oldest knowledge goes; a mark there counts as a kill.
const CAPACITY: usize = 65_536;

/// A reading of one memcg's own `oom_kill` counter.
#[derive(Debug, Clone, Copy)]
struct Reading {
    boot_ns: u64,
    kills: u64,
}

/// Last known counters.
#[derive(Debug, Default)]
pub(super) struct KillCounters {
    last: HashMap<MemcgId, Reading>,
}

impl KillCounters {
    /// A new memcg has killed nothing.
    pub(super) fn made(&mut self, memcg: MemcgId, boot_ns: u64) {
        // The news of its birth may come after that of a kill in it: they travel in different rings.
        if !self.last.contains_key(&memcg) {
            self.remember(memcg, Reading { boot_ns, kills: 0 });
        }
    }

    /// What an earlier agent knew.
    pub(super) fn restore(&mut self, memcg: MemcgId, kills: u64) {
        self.remember(memcg, Reading { boot_ns: 0, kills });
    }

    /// Ids are not used again within a boot.
    pub(super) fn removed(&mut self, memcg: MemcgId) {
        self.last.remove(&memcg);
    }

    /// Counters read from files.
    pub(super) fn read(&mut self, counters: &Counters) {
        if let Some(kills) = counters.local_oom_kill {
            let reading = Reading { boot_ns: counters.boot_ns, kills };
            match self.last.get(&counters.memcg) {
                Some(known) if known.kills >= kills => {}
                _ => self.remember(counters.memcg, reading),
            }
        }
    }

    /// Whether the counter moved since it was last seen, so that this mark is a kill. True where nothing is known.
    pub(super) fn is_kill(&mut self, victim: &Victim) -> bool {
        let (Some(level), Some(kills)) = (victim.levels.first(), victim.local_oom_kill) else { return true };
        let known = self.last.get(&level.memcg).copied();
        // A reading that began after the mark may hold this very kill.
        let stood_still = known.is_some_and(|known| known.boot_ns < victim.boot_ns && known.kills >= kills);
        if !stood_still {
            self.remember(level.memcg, Reading { boot_ns: victim.boot_ns, kills });
        }
        !stood_still
    }

    fn remember(&mut self, memcg: MemcgId, reading: Reading) {
        if self.last.len() >= CAPACITY && !self.last.contains_key(&memcg) {
            let oldest = self.last.iter().min_by_key(|(_, reading)| reading.boot_ns).map(|(memcg, _)| *memcg);
            if let Some(oldest) = oldest {
                self.last.remove(&oldest);
            }
        }
        self.last.insert(memcg, reading);
    }
}
