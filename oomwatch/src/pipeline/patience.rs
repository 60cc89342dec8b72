//! When to judge by the time that passed: not before what happened meanwhile could be read. An agent that stood still, or
//! hardly got a processor, finds its deadlines over and the news unread. Pure.

/// A deadline that is looked at this much later: sources had no time either.
const LATE_NS: u64 = 100_000_000;
/// What they get then.
const GRACE_NS: u64 = 300_000_000;
/// As often in a row: on a host where nothing is ever in time, something is to be told after all.
const MOST: u8 = 2;

/// Waits a little longer where that is due.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until_ns: u64,
    granted: u8,
}

impl Patience {
    /// When to look at this deadline.
    pub(super) fn look_at(&self, deadline_ns: u64) -> u64 {
        deadline_ns.max(self.until_ns)
    }

    /// Whether what has this deadline is to be judged now.
    pub(super) fn is_over(&mut self, deadline_ns: u64, now_ns: u64) -> bool {
        let late_ns = now_ns.checked_sub(self.look_at(deadline_ns));
        match late_ns {
            None => false,
            Some(late_ns) if late_ns > LATE_NS && self.granted < MOST => {
                self.granted += 1;
                self.until_ns = now_ns.saturating_add(GRACE_NS);
                false
            }
            Some(_) => {
                self.granted = 0;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_deadline_in_time_is_over_at_once() {
        let mut patience = Patience::default();
        assert!(!patience.is_over(1000 * MS, 999 * MS));
        assert!(patience.is_over(1000 * MS, 1000 * MS));
        assert!(patience.is_over(1000 * MS, 1100 * MS));
    }

    #[test]
    fn after_standing_still_sources_have_their_time_first() {
        let mut patience = Patience::default();
        assert!(!patience.is_over(1000 * MS, 5000 * MS));
        assert_eq!(patience.look_at(1000 * MS), 5300 * MS);
        assert!(!patience.is_over(1000 * MS, 5299 * MS));
        assert!(patience.is_over(1000 * MS, 5300 * MS));
        // Another deadline of then is over with it, a later one is in time.
        assert!(patience.is_over(1200 * MS, 5301 * MS));
        assert!(patience.is_over(5350 * MS, 5360 * MS));
    }

    #[test]
    fn where_nothing_is_ever_in_time_the_end_comes_all_the_same() {
        let mut patience = Patience::default();
        let looks = (5..).map(|second| second * 1000 * MS);
        assert_eq!(looks.take_while(|now_ns| !patience.is_over(1000 * MS, *now_ns)).count(), usize::from(MOST));
    }
}
