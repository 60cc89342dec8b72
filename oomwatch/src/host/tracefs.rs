//! tracefs: found where it is mounted, else mounted where only this thread and what it starts see it.

use std::path::Path;

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{HostError, HostRoot};

const MOUNT: &str = "/sys/kernel/tracing";
/// Largest format file read, bytes; the kernel's have below 2 KiB.
const MAX_FORMAT: usize = 1 << 16;

/// Format of the record of a tracepoint, e.g. `oom/mark_victim`, where tracefs is mounted ([`ensure_mounted`]).
///
/// # Errors
/// tracefs is not mounted, or has no such tracepoint.
pub fn format(tracepoint: &str) -> Result<String, HostError> {
    let path = Path::new(MOUNT).join("events").join(tracepoint).join("format");
    let text = HostRoot::default().read_bounded(&path, MAX_FORMAT)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Mounts tracefs where nobody has, for this thread and what it starts alone.
///
/// # Errors
/// It cannot be mounted.
pub fn ensure_mounted() -> Result<(), HostError> {
    let is_mounted = Path::new(MOUNT).join("events").exists();
    if is_mounted { Ok(()) } else { mount_privately() }
}

fn mount_privately() -> Result<(), HostError> {
    let error = |errno: rustix::io::Errno| HostError::Io { path: MOUNT.into(), source: errno.into() };
    // SAFETY: the mount namespace is left, whose mounts still arrive, and with it the working directory that threads share, which
    // nobody changes; no memory or descriptor is shared less.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(error)?;
    // Mounts of the host still arrive here; ours does not leave.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(error)?;
    mount("tracefs", MOUNT, "tracefs", MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV, None).map_err(error)
}
