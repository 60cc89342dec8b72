//! When a line of the log was written, by `CLOCK_BOOTTIME`. The log has its own clock (`local_clock`), which begins about
//! when `CLOCK_MONOTONIC` does, drifts, and like it stands still while the host sleeps. How far apart they are shows when a
//! line is read right after it is written: the least difference of late is the best guess, and never puts a line before its
//! time.

/// How long a difference is good for: at 100 ppm they drift 12 ms in two of these.
const WINDOW_NS: u64 = 60_000_000_000;

/// When a line was read, nanoseconds by both clocks; by the first one a little earlier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) monotonic_ns: u64,
    pub(super) boot_ns: u64,
}

/// Differences of late.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    since_ns: u64,
    before: Option<i64>,
    now: Option<i64>,
}

impl LogClock {
    /// When a line was written that bears this time, microseconds, and was read then.
    pub(super) fn written_ns(&mut self, micros: u64, read: Read) -> u64 {
        let stamp_ns = micros.saturating_mul(1000);
        let difference = read.monotonic_ns.cast_signed().saturating_sub(stamp_ns.cast_signed());
        let age_ns = read.monotonic_ns.saturating_sub(self.since_ns);
        if age_ns > WINDOW_NS {
            // One of long ago has drifted away.
            let before = self.now.filter(|_| age_ns <= 2 * WINDOW_NS);
            *self = Self { since_ns: read.monotonic_ns, before, now: None };
        }
        self.now = Some(self.now.map_or(difference, |now| now.min(difference)));
        let least = self.before.into_iter().chain(self.now).min().unwrap_or(difference);
        let slept_ns = read.boot_ns.saturating_sub(read.monotonic_ns);
        stamp_ns.saturating_add_signed(least).saturating_add(slept_ns).min(read.boot_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// On a host that slept so long.
    fn read(monotonic_ns: u64, slept_ns: u64) -> Read {
        Read { monotonic_ns, boot_ns: monotonic_ns + slept_ns }
    }

    #[test]
    fn a_line_read_late_was_written_when_its_stamp_says() {
        let mut clock = LogClock::default();
        // Half a second apart, and read at once.
        assert_eq!(clock.written_ns(10_000_000, read(10 * SECOND + SECOND / 2, 0)), 10 * SECOND + SECOND / 2);
        assert_eq!(clock.written_ns(11_000_000, read(13 * SECOND, 0)), 11 * SECOND + SECOND / 2);
        // A better look.
        assert_eq!(clock.written_ns(14_000_000, read(14 * SECOND + SECOND / 4, 0)), 14 * SECOND + SECOND / 4);
        assert_eq!(clock.written_ns(15_000_000, read(16 * SECOND, 0)), 15 * SECOND + SECOND / 4);
        assert_eq!(clock.written_ns(16_000_000, read(46 * SECOND, 0)), 16 * SECOND + SECOND / 4, "half a minute late");
    }

    #[test]
    fn an_old_difference_is_forgotten() {
        let mut clock = LogClock::default();
        assert_eq!(clock.written_ns(0, read(SECOND, 0)), SECOND);
        // Two quiet hours, in which they drifted apart by a second.
        assert_eq!(clock.written_ns(7_200_000_000, read(7202 * SECOND, 0)), 7202 * SECOND);
        let mut clock = LogClock::default();
        assert_eq!(clock.written_ns(0, read(SECOND, 0)), SECOND);
        for minute in 1..=3 {
            let read_ns = minute * (WINDOW_NS + 1000) + 2 * SECOND;
            clock.written_ns((read_ns - 2 * SECOND) / 1000, read(read_ns, 0));
        }
        assert_eq!(clock.written_ns(200_000_000, read(203 * SECOND, 0)), 202 * SECOND);
    }

    #[test]
    fn a_host_that_slept_is_not_late() {
        let mut clock = LogClock::default();
        assert_eq!(clock.written_ns(1_000_000, read(2 * SECOND, 0)), 2 * SECOND);
        let slept_ns = 3600 * SECOND;
        assert_eq!(clock.written_ns(3_000_000, read(4 * SECOND, slept_ns)), 4 * SECOND + slept_ns);
        assert_eq!(clock.written_ns(4_000_000, read(6 * SECOND, slept_ns)), 5 * SECOND + slept_ns);
    }
}
