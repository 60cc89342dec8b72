//! Records that were lost on their way from the kernel: those of kills are told at once, those of cgroups, which cost a
//! description and come in masses, summed up every ten seconds.

use crate::observation::{Lost, LostRecords};

/// Shortest time between two reports.
const TELL_EVERY_NS: u64 = 10_000_000_000;

/// When losses may be told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiet {
    /// Now.
    No,
    /// They were just told; what time it is the next tick knows.
    Begins,
    /// Not before.
    Until(u64),
}

/// Losses that are not told yet.
#[derive(Debug)]
pub(super) struct Losses {
    untold: u64,
    quiet: Quiet,
}

impl Default for Losses {
    fn default() -> Self {
        Self { untold: 0, quiet: Quiet::No }
    }
}

impl Losses {
    /// What is to be told now of a loss, by number.
    pub(super) fn take_in(&mut self, lost: Lost) -> Option<u64> {
        if lost.records != LostRecords::Cgroup {
            return Some(lost.count);
        }
        self.untold = self.untold.saturating_add(lost.count);
        if self.quiet == Quiet::No { self.take() } else { None }
    }

    /// What is to be told after a while, of cgroups.
    pub(super) fn tick(&mut self, now_ns: u64) -> Option<u64> {
        match self.quiet {
            Quiet::Begins => self.quiet = Quiet::Until(now_ns.saturating_add(TELL_EVERY_NS)),
            Quiet::Until(until_ns) if until_ns <= now_ns => {
                self.quiet = Quiet::No;
                return self.take();
            }
            Quiet::No | Quiet::Until(_) => {}
        }
        None
    }

    /// What is left at the end.
    pub(super) fn take(&mut self) -> Option<u64> {
        let untold = Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0)?;
        self.quiet = Quiet::Begins;
        Some(untold)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        match self.quiet {
            Quiet::No => None,
            Quiet::Begins => Some(0),
            Quiet::Until(until_ns) => Some(until_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn masses_of_losses_of_cgroups_are_few_reports_that_add_up() {
        let mut losses = Losses::default();
        let mut told = Vec::new();
        for tenth in 0..250 {
            told.extend(losses.take_in(Lost { records: LostRecords::Cgroup, count: 2 }));
            told.extend(losses.tick(tenth * SECOND / 10));
        }
        assert_eq!(losses.take_in(Lost { records: LostRecords::Oom, count: 7 }), Some(7), "a kill is told at once");
        assert_eq!((told.len(), told[0]), (3, 2), "{told:?}");
        told.extend(losses.take());
        assert_eq!(told.iter().sum::<u64>(), 500);
    }

    #[test]
    fn nothing_is_due_once_it_was_quiet() {
        let mut losses = Losses::default();
        assert_eq!(losses.take_in(Lost { records: LostRecords::Cgroup, count: 2 }), Some(2));
        assert_eq!(losses.next_deadline(), Some(0));
        assert_eq!(losses.tick(SECOND), None);
        assert_eq!(losses.next_deadline(), Some(11 * SECOND));
        assert_eq!(losses.tick(11 * SECOND), None);
        assert_eq!(losses.next_deadline(), None);
    }
}
