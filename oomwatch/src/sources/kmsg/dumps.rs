//! Whether the kernel may have left out the dump of a kill: it writes ten in five seconds (`oom_rs`,
//! `DEFAULT_RATELIMIT_BURST`), and no more. Dumps without a victim, where nothing could be killed, are beside these.

const BURST: u32 = 10;
/// Five seconds begin with the first dump after those before are over.
const INTERVAL_MICROS: u64 = 5_000_000;
/// For the kernel's ticks, and for the time between its look at the clock and the line.
const SLACK_MICROS: u64 = 1_000_000;

/// Dumps of kills of late, by the log's clock.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    /// When the interval began, and how many there are in it.
    interval: Option<(u64, u32)>,
    /// Until then some may be left out in any case.
    left_out_until: Option<u64>,
}

impl Dumps {
    /// The summary of one is written at this time, microseconds.
    pub(super) fn written(&mut self, micros: u64) {
        let goes_on = |(began, dumps): &(u64, u32)| micros <= began.saturating_add(INTERVAL_MICROS) && *dumps < BURST;
        let (began, dumps) = self.interval.filter(goes_on).unwrap_or((micros, 0));
        self.interval = Some((began, dumps + 1));
    }

    /// The next one is the first of five seconds.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }

    /// One is left out at this time, microseconds, or lines before it are missing.
    pub(super) fn left_out(&mut self, micros: u64) {
        self.left_out_until = Some(micros.saturating_add(INTERVAL_MICROS + SLACK_MICROS));
    }

    /// At this time, microseconds. What was before the first line that was read counts as no dump, unless one is left out.
    pub(super) fn may_be_left_out(&self, micros: u64) -> bool {
        let is_full = |(began, dumps): (u64, u32)| {
            dumps >= BURST && micros <= began.saturating_add(INTERVAL_MICROS + SLACK_MICROS)
        };
        self.interval.is_some_and(is_full) || self.left_out_until.is_some_and(|until| micros < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_dumps_in_five_seconds_are_all() {
        let mut dumps = Dumps::default();
        for number in 1..=10 {
            assert!(!dumps.may_be_left_out(number * 100_000));
            dumps.written(number * 100_000);
        }
        assert!(dumps.may_be_left_out(1_500_000) && dumps.may_be_left_out(5_500_000));
        assert!(!dumps.may_be_left_out(6_200_000));
        // The eleventh begins the next five seconds.
        dumps.written(5_200_000);
        assert!(!dumps.may_be_left_out(5_500_000));
        (0..9).for_each(|_| dumps.written(5_300_000));
        assert!(dumps.may_be_left_out(5_400_000));
    }
}
