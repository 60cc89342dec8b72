//! Whether the kernel may have left out the dump of a kill: it writes ten in five seconds (`oom_rs`,
//! `DEFAULT_RATELIMIT_BURST`), and no more.

use std::collections::VecDeque;

const BURST: usize = 10;
/// Five seconds of the kernel's, and one for its ticks and for the time between its look at the clock and the line.
const INTERVAL_MICROS: u64 = 6_000_000;

/// Dumps of late, by the log's clock.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    begun: VecDeque<u64>,
    /// Until then some may be left out in any case.
    left_out_until: Option<u64>,
}

impl Dumps {
    /// A dump begins at this time, microseconds.
    pub(super) fn begun(&mut self, micros: u64) {
        self.begun.push_back(micros);
        if self.begun.len() > BURST {
            self.begun.pop_front();
        }
    }

    /// One is left out at this time, microseconds, or lines before it are missing.
    pub(super) fn left_out(&mut self, micros: u64) {
        self.left_out_until = Some(micros.saturating_add(INTERVAL_MICROS));
    }

    /// At this time, microseconds. What was before the first line that was read counts as no dump, unless one is left out.
    pub(super) fn may_be_left_out(&self, micros: u64) -> bool {
        let is_burst = |first: &u64| self.begun.len() == BURST && micros.saturating_sub(*first) <= INTERVAL_MICROS;
        self.begun.front().is_some_and(is_burst) || self.left_out_until.is_some_and(|until| micros < until)
    }
}
