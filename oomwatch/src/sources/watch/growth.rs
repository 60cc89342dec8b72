//! How fast usage grows, of late and at its fastest.

use std::collections::VecDeque;

/// Growth of late is over this time,
const WINDOW_NS: u64 = 1_000_000_000;
/// or since the last point, at least this time ago, where it has become faster.
const SPACING_NS: u64 = 50_000_000;
/// Growth within less is the clock's, not the sandbox'.
const SHORTEST_NS: u64 = 4_000_000;
/// No memory is faster, bytes per second.
const IMPOSSIBLE: u64 = 64_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Point {
    boot_ns: u64,
    bytes: u64,
}

/// What usage did.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Some of the readings of the last window, [`SPACING_NS`] apart, and one before them. At most 22.
    points: VecDeque<Point>,
    last: Option<Point>,
    fastest: u64,
}

impl Growth {
    pub(super) fn observe(&mut self, boot_ns: u64, bytes: u64) {
        let now = Point { boot_ns, bytes };
        if let Some(speed) = self.last.and_then(|last| speed(last, now)) {
            self.fastest = self.fastest.max(u64::try_from(speed).unwrap_or_default().min(IMPOSSIBLE));
        }
        // The time that the last reading became a point is over: keep it, not this one, to measure from.
        if let Some(last) = self.last
            && self.points.back().is_none_or(|point| last.boot_ns.saturating_sub(point.boot_ns) >= SPACING_NS)
        {
            self.points.push_back(last);
        }
        while self.points.get(1).is_some_and(|second| boot_ns.saturating_sub(second.boot_ns) >= WINDOW_NS) {
            self.points.pop_front();
        }
        self.last = Some(now);
    }

    /// Bytes per second, negative for shrinking.
    pub(super) fn recent(&self) -> Option<i64> {
        let last = self.last?;
        let over_window = self.points.front().and_then(|point| speed(*point, last));
        let mut latest = self.points.iter().rev();
        let since_last_point = latest.find_map(|point| speed(*point, last));
        over_window.max(since_last_point)
    }

    /// The fastest seen between two readings, bytes per second.
    pub(super) fn fastest(&self) -> u64 {
        self.fastest
    }
}

/// From one point to the other; `None` where they are too close to tell.
fn speed(from: Point, to: Point) -> Option<i64> {
    let time = to.boot_ns.checked_sub(from.boot_ns).filter(|time| *time >= SHORTEST_NS)?;
    let change = i128::from(to.bytes) - i128::from(from.bytes);
    i64::try_from(change * 1_000_000_000 / i128::from(time)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn observed(readings: impl IntoIterator<Item = (u64, u64)>) -> Growth {
        let mut growth = Growth::default();
        for (ms, bytes) in readings {
            growth.observe(ms * MS, bytes);
            assert!(growth.points.len() <= 22, "{}", growth.points.len());
        }
        growth
    }

    #[test]
    fn one_reading_is_no_growth() {
        assert_eq!(observed([]).recent(), None);
        assert_eq!(observed([(5, 1000)]).recent(), None);
        assert_eq!(observed([(5, 1000), (5, 9000)]).recent(), None, "no time between");
        assert_eq!(observed([(5, 1000), (1, 9000)]).recent(), None, "a clock that goes back");
    }

    #[test]
    fn steady_growth_is_told_at_any_pace_of_looks() {
        for step in [5, 7, 50, 333, 500, 2000, 60_000] {
            let growth = observed((0..1000).map(|index| (index * step, index * step * 10)));
            assert_eq!(growth.recent(), Some(10_000), "every {step} ms");
            assert_eq!(growth.fastest(), 10_000);
        }
    }

    #[test]
    fn a_sudden_start_is_not_averaged_away() {
        let quiet = (0..20).map(|index| (index * 500, 1_000_000));
        let growth = observed(quiet.chain([(9510, 2_000_000), (9520, 3_000_000), (9550, 6_000_000)]));
        assert_eq!(growth.recent(), Some(100_000_000));
        assert_eq!(growth.fastest(), 100_000_000);
    }

    #[test]
    fn growth_ends_with_the_growing() {
        let grown = (0..100).map(|index| (index * 100, index.min(50) * 1_000_000));
        let growth = observed(grown);
        assert_eq!(growth.recent(), Some(0));
        assert_eq!(growth.fastest(), 10_000_000);
    }

    #[test]
    fn shrinking_is_negative_and_never_the_fastest() {
        let growth = observed((0..10).map(|index| (index * 500, 1_000_000 - index * 1000)));
        assert_eq!(growth.recent(), Some(-2000));
        assert_eq!(growth.fastest(), 0);
    }

    #[test]
    fn extremes_do_no_harm() {
        let growth = observed([(0, 0), (10, u64::MAX), (20, 0), (18_446_744_073_709, u64::MAX)]);
        assert!(growth.recent().is_some());
        assert_eq!(growth.fastest(), IMPOSSIBLE.min(growth.fastest()));
    }
}
