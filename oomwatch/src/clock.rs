//! The clocks of the agent: boot time, which the kernel stamps records with, the wall clock of events, and the one that the
//! kernel's log comes near to.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Readings of the clocks that lie so near to one another are of the same moment.
const AT_ONCE_NS: u64 = 20_000;
/// Readings at the most.
const READINGS: u32 = 8;

/// Now by `CLOCK_BOOTTIME`, nanoseconds: what `bpf_ktime_get_boot_ns` says.
pub fn boot_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// Now by `CLOCK_MONOTONIC`, nanoseconds: it stands still while the host sleeps.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}

/// A duration in nanoseconds; what does not fit lasts longer than the host.
pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Wall-clock time of a moment given in boot time; now for one that lies ahead.
pub fn wall_time(boot_ns: u64) -> SystemTime {
    let (now, now_ns) = both();
    let age = now_ns.saturating_sub(boot_ns);
    now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
}

/// Both clocks at one moment. Where the processor was lost between two readings, these are of two.
fn both() -> (SystemTime, u64) {
    let read = || {
        let before_ns = boot_ns();
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = SystemTime::now();
        let after_ns = boot_ns();
        (after_ns.saturating_sub(before_ns), now, before_ns.midpoint(after_ns))
    };
    let mut nearest = read();
    for _ in 1..READINGS {
        if nearest.0 <= AT_ONCE_NS {
            break;
        }
        let next = read();
        if next.0 < nearest.0 {
            nearest = next;
        }
    }
    (nearest.1, nearest.2)
}
