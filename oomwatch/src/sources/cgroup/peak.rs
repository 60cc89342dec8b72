//! The most memory that a cgroup held, file cache that the kernel could take back left out. Pure. Sizes are bytes.
//!
//! The kernel's own mark (`memory.peak`) sees what happens between two looks, but counts file cache, which fills every
//! cgroup that reads files up to its limit. So it counts only where it rose while this looked on, and less the most
//! cache that was seen. What is measured is a peak in any case.

/// Peak of one cgroup.
#[derive(Debug, Default)]
pub(super) struct Peak {
    held_bytes: u64,
    most_reclaimable_bytes: u64,
    /// The kernel's mark at the first look: older than what this knows of the cache.
    first_mark: Option<u64>,
}

impl Peak {
    /// Takes a look: memory held, what can be taken back, the kernel's mark where it has one.
    pub(super) fn observe(&mut self, held_bytes: u64, reclaimable_bytes: u64, mark: Option<u64>) {
        self.most_reclaimable_bytes = self.most_reclaimable_bytes.max(reclaimable_bytes);
        self.held_bytes = self.held_bytes.max(held_bytes);
        let Some(mark) = mark else { return };
        if mark > *self.first_mark.get_or_insert(mark) {
            self.held_bytes = self.held_bytes.max(mark.saturating_sub(self.most_reclaimable_bytes));
        }
    }

    /// The most.
    pub(super) fn bytes(&self) -> u64 {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak(looks: &[(u64, u64, Option<u64>)]) -> u64 {
        let mut peak = Peak::default();
        for (held, reclaimable, mark) in looks {
            peak.observe(*held, *reclaimable, *mark);
        }
        peak.bytes()
    }

    #[test]
    fn what_was_measured_is_the_least_that_it_was() {
        assert_eq!(peak(&[]), 0);
        assert_eq!(peak(&[(5, 0, None), (9, 0, None), (3, 0, None)]), 9);
        assert_eq!(peak(&[(5, 0, Some(5)), (9, 0, Some(0))]), 9, "a mark that goes back was reset by somebody");
    }

    #[test]
    fn a_rise_between_two_looks_is_seen_by_the_kernel() {
        assert_eq!(peak(&[(5, 0, Some(6)), (5, 0, Some(80)), (5, 0, Some(80))]), 80);
    }

    #[test]
    fn file_cache_is_no_peak() {
        assert_eq!(peak(&[(5, 10, Some(15)), (5, 90, Some(95)), (5, 0, Some(100))]), 10);
    }

    #[test]
    fn a_mark_from_before_the_first_look_says_nothing() {
        assert_eq!(peak(&[(5, 1, Some(1000)), (6, 1, Some(1000))]), 6);
    }

    #[test]
    fn extremes_do_no_harm() {
        assert_eq!(peak(&[(0, u64::MAX, Some(0)), (u64::MAX, 0, Some(u64::MAX))]), u64::MAX);
    }
}
