//! What sources measure about themselves: that their loop turns, how long they take, what they cannot resolve. Given
//! to each source; `/metrics` and `/healthz` read it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

use crate::clock;

/// How often a source's loop turns at least, also when nothing happens.
pub(crate) const BEAT: Duration = Duration::from_secs(2);
/// A loop that did not turn for this long stands still: several beats, for a host on its knees.
const SILENCE_NS: u64 = 15_000_000_000;
/// A poll takes some 20 us a sandbox and, with a scan of `/proc`, some milliseconds.
const POLL_SECONDS: [f64; 10] = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 1.0];

/// Counters by one label `reason`.
pub(crate) type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// What all sources measure.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Seconds that a poll of sandboxes took.
    pub(crate) poll_duration: Histogram,
    /// What could not be resolved, by reason.
    pub(crate) resolution_failures: ByReason,
    sources: Mutex<Vec<Arc<Pulse>>>,
}

#[derive(Debug)]
struct Pulse {
    name: &'static str,
    /// When the loop last turned, `CLOCK_BOOTTIME` in nanoseconds; 0 before its first turn and after its last.
    turned_ns: AtomicU64,
}

/// A source's pulse. Dropped with the source, which is dead then.
#[derive(Debug)]
pub(crate) struct Heartbeat(Arc<Pulse>);

/// Whether a source's loop turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// The source.
    pub(crate) name: &'static str,
    /// Its loop turned of late.
    pub(crate) up: bool,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            poll_duration: Histogram::new(POLL_SECONDS),
            resolution_failures: Family::default(),
            sources: Mutex::default(),
        }
    }
}

impl Stats {
    /// A source that is wanted. It counts as dead until its first beat.
    pub(crate) fn source(&self, name: &'static str) -> Heartbeat {
        let pulse = Arc::new(Pulse { name, turned_ns: AtomicU64::new(0) });
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pulse));
        Heartbeat(pulse)
    }

    /// Every wanted source.
    pub(crate) fn sources(&self, now_ns: u64) -> Vec<SourceState> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|pulse| pulse.state(now_ns)).collect()
    }

    /// Something could not be resolved, this often. With 0 the reason is known to be one.
    pub(crate) fn resolution_failed(&self, reason: &'static str, count: u64) {
        self.resolution_failures.get_or_create(&[("reason", reason)]).inc_by(count);
    }
}

impl Pulse {
    fn state(&self, now_ns: u64) -> SourceState {
        let turned_ns = self.turned_ns.load(Ordering::Relaxed);
        SourceState { name: self.name, up: turned_ns != 0 && now_ns.saturating_sub(turned_ns) < SILENCE_NS }
    }
}

impl Heartbeat {
    /// The loop turned.
    pub(crate) fn beat(&self) {
        self.0.turned_ns.store(clock::boot_ns(), Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.turned_ns.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_up_while_its_loop_turns() {
        let stats = Stats::default();
        let up = |now_ns| stats.sources(now_ns).iter().map(|source| source.up).collect::<Vec<_>>();
        let (first, second) = (stats.source("first"), stats.source("second"));
        assert_eq!(up(clock::boot_ns()), [false, false], "neither has turned yet");
        first.beat();
        second.beat();
        let now_ns = clock::boot_ns();
        assert_eq!(up(now_ns), [true, true]);
        assert_eq!(up(now_ns + SILENCE_NS), [false, false], "both stand still");
        drop(first);
        assert_eq!(up(now_ns), [false, true], "a source that ended is dead at once");
        assert_eq!(stats.sources(now_ns)[1].name, "second");
    }
}
