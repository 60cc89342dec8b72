//! When a line of the log was written, by `CLOCK_BOOTTIME`. The log has its own clock (`local_clock`), which begins about
//! when the other does, drifts, and stands still while the host sleeps. How far apart they are shows when a line is read
//! right after it is written: the least difference of late is the best guess, and never puts a line before its time.

/// How long a difference is good for: at 100 ppm they drift 12 ms in two of these.
const WINDOW_NS: u64 = 60_000_000_000;
/// A line is read so much later at most; where it seems more, the host slept.
const LATEST_NS: i64 = 10_000_000_000;

/// Differences of late.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    since_ns: u64,
    before: Option<i64>,
    now: Option<i64>,
}

impl LogClock {
    /// When a line was written that bears this time, microseconds, and was read then.
    pub(super) fn written_ns(&mut self, micros: u64, read_ns: u64) -> u64 {
        let stamp_ns = micros.saturating_mul(1000);
        let difference = read_ns.cast_signed().saturating_sub(stamp_ns.cast_signed());
        if read_ns.saturating_sub(self.since_ns) > WINDOW_NS {
            // One of long ago has drifted away.
            let is_fresh = read_ns.saturating_sub(self.since_ns) <= 2 * WINDOW_NS;
            *self = Self { since_ns: read_ns, before: self.now.filter(|_| is_fresh), now: None };
        }
        let least = self.before.into_iter().chain(self.now).min().unwrap_or(difference);
        if difference.saturating_sub(least) > LATEST_NS {
            *self = Self { since_ns: read_ns, before: None, now: Some(difference) };
            return read_ns;
        }
        let least = least.min(difference);
        self.now = Some(self.now.map_or(difference, |now| now.min(difference)));
        stamp_ns.saturating_add_signed(least).min(read_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_line_read_late_was_written_when_its_stamp_says() {
        let mut clock = LogClock::default();
        // Half a second apart, and read at once.
        assert_eq!(clock.written_ns(10_000_000, 10 * SECOND + SECOND / 2), 10 * SECOND + SECOND / 2);
        assert_eq!(clock.written_ns(11_000_000, 13 * SECOND), 11 * SECOND + SECOND / 2);
        // A better look.
        assert_eq!(clock.written_ns(14_000_000, 14 * SECOND + SECOND / 4), 14 * SECOND + SECOND / 4);
        assert_eq!(clock.written_ns(15_000_000, 16 * SECOND), 15 * SECOND + SECOND / 4);
    }

    #[test]
    fn an_old_difference_is_forgotten_and_a_sleep_is_none() {
        let mut clock = LogClock::default();
        assert_eq!(clock.written_ns(0, SECOND), SECOND);
        // Two quiet hours, in which they drifted apart by a second.
        assert_eq!(clock.written_ns(7_200_000_000, 7202 * SECOND), 7202 * SECOND);
        let mut clock = LogClock::default();
        assert_eq!(clock.written_ns(0, SECOND), SECOND);
        for minute in 1..=3 {
            let read_ns = minute * (WINDOW_NS + 1000) + 2 * SECOND;
            clock.written_ns((read_ns - 2 * SECOND) / 1000, read_ns);
        }
        assert_eq!(clock.written_ns(200_000_000, 203 * SECOND), 202 * SECOND);
        let after_sleep = 203 * SECOND + 3600 * SECOND;
        assert_eq!(clock.written_ns(201_000_000, after_sleep), after_sleep);
        assert_eq!(clock.written_ns(202_000_000, after_sleep + 2 * SECOND), after_sleep + SECOND);
    }
}
