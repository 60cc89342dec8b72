//! The two clocks of the agent: boot time, which the kernel stamps records with, and the wall clock of events.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Now by `CLOCK_BOOTTIME`, nanoseconds: what `bpf_ktime_get_boot_ns` says.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}

/// Wall-clock time of a moment given in boot time; now for one that lies ahead.
pub fn wall_time(boot_ns: u64) -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let now = SystemTime::now();
    let age = self::boot_ns().saturating_sub(boot_ns);
    now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
}
