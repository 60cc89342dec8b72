//! Readings of one workload's memory in; crossings of its threshold out, and when to look again.
//!
//! A crossing is told once: `near_limit` at the threshold, `over_limit` at a limit that nothing enforces, then nothing
//! until usage stayed below the re-arm line for [`REARM_AFTER`], which is `recovered`.
//!
//! A look is due before the sandbox can have come from the last reading to its threshold, growing at the fastest rate
//! seen of it and never less than [`GROWTH_CEILING`]. So a crossing is seen at most [`SHORTEST_WAIT`] after it happened,
//! and before the limit is reached where 5 % of it takes longer than that: limits of 120 MB and more at the ceiling.
//! Above the threshold there is nothing to be early for. [`Budget`] bounds what early looks cost all sandboxes together.

mod budget;
mod growth;

pub(crate) use budget::Budget;

use std::time::Duration;

use growth::Growth;

use crate::{clock, observation::MemoryLine};

/// Fastest growth to reckon with before any was seen, bytes per second. Measured: 443 MB/s (20221219, ptrace) and
/// 1,099 MB/s (20240729, systrap), one process touching new pages as fast as it can.
pub(crate) const GROWTH_CEILING: u64 = 1_200_000_000;
/// Time between two looks at the same sandbox is never shorter.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(5);
/// How long usage must stay below the re-arm line: freed memory shows within 22 ms, so programs that free and take
/// again would be told of for each turn.
pub(crate) const REARM_AFTER: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Warn from this share of the limit on.
    pub(crate) threshold_percent: u8,
    /// Below this share the warning is over; at most the threshold.
    pub(crate) rearm_percent: u8,
    /// Longest time between two looks.
    pub(crate) poll_interval: Duration,
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Not 0.
    pub(crate) bytes: u64,
    /// The kernel lets nobody pass it.
    pub(crate) enforced: bool,
}

/// One look at a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When.
    pub(crate) boot_ns: u64,
    /// Memory held.
    pub(crate) usage_bytes: u64,
    /// The limit in force; `None` where there is none.
    pub(crate) limit: Option<Limit>,
}

/// What was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// Usage came to the threshold.
    NearLimit,
    /// Usage came to a limit that nothing enforces.
    OverLimit,
}

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// What happened.
    pub(crate) kind: Kind,
    /// The reading that showed it.
    pub(crate) reading: Reading,
    /// Growth of late, negative for shrinking; `None` where there was but one reading.
    pub(crate) growth_bytes_per_second: Option<i64>,
    /// Until the limit, at that growth; `None` where it is not on its way there.
    pub(crate) time_to_limit: Option<Duration>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Usage rose to a line.
    Rose(Line),
    /// Usage fell below the re-arm line and stayed there, or the limit is gone.
    Recovered,
}

impl From<Kind> for MemoryLine {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Rose(Line::NearLimit) => Self::Near,
            Kind::Rose(Line::OverLimit) => Self::Over,
            Kind::Recovered => Self::Recovered,
        }
    }
}

/// When to look again, nanoseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// To miss nothing.
    pub(crate) wanted_ns: u64,
    /// In any case.
    pub(crate) latest_ns: u64,
}

/// One workload's memory over time.
#[derive(Debug)]
pub(crate) struct Watch {
    settings: Settings,
    growth: Growth,
    /// The highest line told of since the last recovery.
    told: Option<Line>,
    below_since_ns: Option<u64>,
    last: Option<Reading>,
    peak_bytes: u64,
    /// Found once, for it is asked for far more often than it changes.
    due: Due,
}

impl Watch {
    pub(crate) fn new(settings: Settings) -> Self {
        let due = Due { wanted_ns: 0, latest_ns: 0 };
        Self { settings, growth: Growth::default(), told: None, below_since_ns: None, last: None, peak_bytes: 0, due }
    }

    /// From now on this is asked for. What was told stays told.
    pub(crate) fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.due = self.next();
    }

    /// Forgets what was told.
    pub(crate) fn tell_again(&mut self) {
        self.told = None;
        self.below_since_ns = None;
        self.due = self.next();
    }

    /// Takes a reading. A limit of 0 is none.
    pub(crate) fn observe(&mut self, reading: Reading) -> Option<Crossing> {
        let reading = Reading { limit: reading.limit.filter(|limit| limit.bytes > 0), ..reading };
        self.growth.observe(reading.boot_ns, reading.usage_bytes);
        self.peak_bytes = self.peak_bytes.max(reading.usage_bytes);
        self.last = Some(reading);
        let kind = self.rose(&reading).or_else(|| self.recovered(&reading));
        self.due = self.next();
        let kind = kind?;
        let growth_bytes_per_second = self.growth.recent();
        let time_to_limit = time_to_limit(&reading, growth_bytes_per_second);
        Some(Crossing { kind, reading, growth_bytes_per_second, time_to_limit })
    }

    /// Nothing could be read: look again at the usual time.
    pub(crate) fn skip(&mut self, boot_ns: u64) {
        if let Some(last) = &mut self.last {
            last.boot_ns = boot_ns;
        } else {
            self.last = Some(Reading { boot_ns, usage_bytes: 0, limit: None });
        }
        self.due = self.next();
    }

    /// When to look again; at once where nothing was seen yet.
    pub(crate) fn due(&self) -> Due {
        self.due
    }

    fn next(&self) -> Due {
        let Some(last) = self.last else { return Due { wanted_ns: 0, latest_ns: 0 } };
        let poll_ns = clock::ns(self.settings.poll_interval);
        let latest_ns = last.boot_ns.saturating_add(poll_ns);
        let wanted_ns = match (self.told, last.limit) {
            (None, Some(limit)) => {
                let room = self.threshold_bytes(limit).saturating_sub(last.usage_bytes);
                let wait_ns = self.growth.fastest().max(GROWTH_CEILING).time_for(room);
                last.boot_ns.saturating_add(wait_ns.max(clock::ns(SHORTEST_WAIT))).min(latest_ns)
            }
            _ => latest_ns,
        };
        Due { wanted_ns, latest_ns }
    }

    /// A line was reached and is not recovered from.
    pub(crate) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Growth of late, and the time to the limit at that growth.
    pub(crate) fn trend(&self) -> (Option<i64>, Option<Duration>) {
        let growth = self.growth.recent();
        (growth, self.last.as_ref().and_then(|last| time_to_limit(last, growth)))
    }

    /// The most that any reading showed.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// The line reached, where that was not told before.
    fn rose(&mut self, reading: &Reading) -> Option<Kind> {
        let limit = reading.limit?;
        let reached = if !limit.enforced && reading.usage_bytes >= limit.bytes {
            Line::OverLimit
        } else if reading.usage_bytes >= self.threshold_bytes(limit) {
            Line::NearLimit
        } else {
            return None;
        };
        self.below_since_ns = None;
        if self.told >= Some(reached) {
            return None;
        }
        self.told = Some(reached);
        Some(Kind::Rose(reached))
    }

    fn recovered(&mut self, reading: &Reading) -> Option<Kind> {
        self.told?;
        let rearm_percent = self.settings.rearm_percent.min(self.settings.threshold_percent);
        let is_below = reading.limit.is_none_or(|limit| reading.usage_bytes < share(limit.bytes, rearm_percent));
        if !is_below {
            self.below_since_ns = None;
            return None;
        }
        let since_ns = *self.below_since_ns.get_or_insert(reading.boot_ns);
        if reading.boot_ns.saturating_sub(since_ns) < clock::ns(REARM_AFTER) {
            return None;
        }
        self.below_since_ns = None;
        self.told = None;
        Some(Kind::Recovered)
    }

    /// Usage that counts as near this limit.
    pub(crate) fn threshold_bytes(&self, limit: Limit) -> u64 {
        share(limit.bytes, self.settings.threshold_percent)
    }
}

/// So many percent of it, rounded up, so that usage of so much is at least that share.
fn share(bytes: u64, percent: u8) -> u64 {
    let share = (u128::from(bytes) * u128::from(percent)).div_ceil(100);
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn time_to_limit(reading: &Reading, growth_bytes_per_second: Option<i64>) -> Option<Duration> {
    let room = reading.limit?.bytes.checked_sub(reading.usage_bytes).filter(|room| *room > 0)?;
    let growth = u64::try_from(growth_bytes_per_second?).ok().filter(|growth| *growth > 0)?;
    Some(Duration::from_nanos(growth.time_for(room)))
}

/// A speed in bytes per second.
trait Speed {
    /// Nanoseconds for so many bytes, rounded down.
    fn time_for(self, bytes: u64) -> u64;
}

impl Speed for u64 {
    fn time_for(self, bytes: u64) -> u64 {
        let time = u128::from(bytes) * 1_000_000_000 / u128::from(self.max(1));
        Self::try_from(time).unwrap_or(Self::MAX)
    }
}

#[cfg(test)]
mod tests;
