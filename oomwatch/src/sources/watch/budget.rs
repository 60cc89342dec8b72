//! Bounds what looking more often than asked for costs, for all sandboxes together.

use std::time::Duration;

use super::Due;
use crate::clock;

/// Early looks may take one part in so many of one processor.
const SHARE: u64 = 100;
/// Time for looking that can be saved up: 10 s of looking for nothing else.
const MOST_CREDIT_NS: u64 = 100_000_000;

/// Time that early looks may still take.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the unit")]
pub(crate) struct Budget {
    credit_ns: u64,
    /// Spent before it was there.
    debt_ns: u64,
    counted_until_ns: u64,
}

impl Budget {
    /// A full one.
    pub(crate) fn new(boot_ns: u64) -> Self {
        Self { credit_ns: MOST_CREDIT_NS, debt_ns: 0, counted_until_ns: boot_ns }
    }

    /// When a look may be taken: as early as wanted while there is credit, else when there is again, and in any case at
    /// the latest time.
    pub(crate) fn admit(&mut self, now_ns: u64, due: Due) -> u64 {
        if due.wanted_ns == due.latest_ns {
            return due.latest_ns;
        }
        self.earn(now_ns);
        let paid_back_ns = now_ns.saturating_add(self.debt_ns.saturating_mul(SHARE));
        if self.debt_ns == 0 { due.wanted_ns } else { due.wanted_ns.max(paid_back_ns).min(due.latest_ns) }
    }

    /// Takes note of a look that took this time; those at the latest time, and those that are taken with others though nothing
    /// wants them early, cost nothing.
    pub(crate) fn spend(&mut self, now_ns: u64, due: Due, cost: Duration) {
        self.earn(now_ns);
        if due.wanted_ns < due.latest_ns && now_ns < due.latest_ns {
            let cost_ns = clock::ns(cost);
            self.debt_ns = self.debt_ns.saturating_add(cost_ns.saturating_sub(self.credit_ns));
            self.credit_ns = self.credit_ns.saturating_sub(cost_ns);
        }
    }

    fn earn(&mut self, now_ns: u64) {
        let earned_ns = now_ns.saturating_sub(self.counted_until_ns) / SHARE;
        // What is too little to count is counted later.
        self.counted_until_ns = self.counted_until_ns.saturating_add(earned_ns.saturating_mul(SHARE));
        let left_ns = earned_ns.saturating_sub(self.debt_ns);
        self.debt_ns = self.debt_ns.saturating_sub(earned_ns);
        self.credit_ns = self.credit_ns.saturating_add(left_ns).min(MOST_CREDIT_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Looks at so many sandboxes that all want one every 5 ms; the time all looks took and the number of them.
    fn spent(sandboxes: u64, cost: Duration, seconds: u64) -> (Duration, u64) {
        let mut budget = Budget::new(0);
        let mut looks = 0;
        let mut dues = vec![Due { wanted_ns: 0, latest_ns: 0 }; usize::try_from(sandboxes).unwrap()];
        for now_ns in (0..seconds * 1000 * MS).step_by(1_000_000) {
            for due in &mut dues {
                if budget.admit(now_ns, *due) <= now_ns {
                    budget.spend(now_ns, *due, cost);
                    looks += 1;
                    *due = Due { wanted_ns: now_ns + 5 * MS, latest_ns: now_ns + 500 * MS };
                }
            }
        }
        (cost * u32::try_from(looks).unwrap(), looks)
    }

    #[test]
    fn one_sandbox_is_always_looked_at_as_often_as_wanted() {
        let (_time, looks) = spent(1, Duration::from_micros(40), 60);
        assert_eq!(looks, 60 * 200);
    }

    #[test]
    fn early_looks_of_many_stay_within_their_share() {
        for sandboxes in [2, 20, 200] {
            for cost in [Duration::from_micros(14), Duration::from_micros(60), Duration::from_millis(2)] {
                let (time, _looks) = spent(sandboxes, cost, 60);
                let regular = cost * u32::try_from(sandboxes * 60 * 2).unwrap();
                let saved = Duration::from_nanos(MOST_CREDIT_NS);
                let bound = Duration::from_millis(600) + saved + regular + cost;
                assert!(time <= bound, "{sandboxes} at {cost:?}: {time:?} above {bound:?}");
            }
        }
    }

    #[test]
    fn nobody_waits_longer_than_asked_for_however_poor_the_budget() {
        let (_time, looks) = spent(50, Duration::from_secs(1), 20);
        assert!(looks >= 50 * 20 * 2 - 50, "{looks}");
    }

    fn due(now_ns: u64) -> Due {
        Due { wanted_ns: now_ns, latest_ns: now_ns + 1000 * MS }
    }

    #[test]
    fn looks_that_are_not_early_are_free() {
        let mut budget = Budget::new(0);
        for second in 1..1000 {
            let late = Due { wanted_ns: 0, latest_ns: second * 1000 * MS };
            budget.spend(second * 1000 * MS, late, Duration::from_secs(1));
        }
        assert_eq!(budget.admit(1000 * 1000 * MS, due(7)), 7);
    }

    #[test]
    fn credit_does_not_pile_up() {
        let (mut budget, hour_ns) = (Budget::new(0), 3600 * 1000 * MS);
        assert_eq!(budget.admit(hour_ns, due(hour_ns)), hour_ns);
        budget.spend(hour_ns, due(hour_ns), Duration::from_millis(101));
        assert_eq!(budget.admit(hour_ns, due(hour_ns)), hour_ns + 100 * MS);
    }

    #[test]
    fn credit_comes_back() {
        let mut budget = Budget::new(0);
        budget.spend(0, due(0), Duration::from_millis(101));
        assert_eq!(budget.admit(0, due(0)), 100 * MS);
        assert_eq!(budget.admit(99 * MS, due(99 * MS)), 100 * MS);
        assert_eq!(budget.admit(100 * MS, due(100 * MS)), 100 * MS);
        assert_eq!(budget.admit(0, due(0)), 0, "a clock that goes back");
    }
}
