//! `/proc/vmstat`: what the kernel counted since boot, host-wide, whatever the pid or cgroup namespace.

use std::path::Path;

use super::{HostError, HostRoot, memory::keyed};
use crate::{clock, observation::KillTotal};

const VMSTAT: &str = "/proc/vmstat";
/// Largest file read, bytes: Linux 7.2 has 5 KB.
const MAX_VMSTAT: usize = 1 << 16;

/// Kills counted by `__oom_kill_process`, those of group members too, each before its victim is marked.
///
/// # Errors
/// The file cannot be read, or counts no kills (before Linux 4.13, or built without `VM_EVENT_COUNTERS`).
pub fn oom_kills() -> Result<KillTotal, HostError> {
    let boot_ns = clock::boot_ns();
    let path = Path::new(VMSTAT);
    let text = HostRoot::default().read_bounded(path, MAX_VMSTAT)?;
    let kills = keyed(&text, b"oom_kill").ok_or_else(|| HostError::format(path, "has no oom_kill"))?;
    Ok(KillTotal { boot_ns, kills })
}
