//! Who tells of memory that ran out is the last to be killed for it, and waits for a processor less than those that fight for
//! memory. A choice of the user (systemd's `OOMScoreAdjust=` and `Nice=`) stays what it is.

use std::{
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{getpriority_process, setpriority_process},
};

/// As kubelet's: any other process of the host goes before. Not -1000, for an agent that is at fault itself must end.
const SCORE: &[u8] = b"-999";
const USUAL: &[u8] = b"0";
const FILE: &CStr = c"/proc/self/oom_score_adj";
/// A thread's, where it is not the usual one.
const NICE: i32 = -10;
const USUALLY_NICE: i32 = 0;
/// Some thread has it.
static HURRIED: AtomicBool = AtomicBool::new(false);

/// For this process. Needs `CAP_SYS_RESOURCE`; without it the process is one among others.
pub fn begin() {
    if let Err(error) = change(FILE, USUAL, SCORE) {
        tracing::debug!(%error, "the kernel may kill this process as soon as any other");
    }
}

/// For a child between `fork` and `exec`, which is one among others: makes system calls and nothing else. A child that
/// stays as it was is better than none.
pub fn end() {
    let _kept: Result<(), Errno> = change(FILE, SCORE, USUAL);
}

/// This thread's turn comes sooner, and that of threads it starts. Needs `CAP_SYS_NICE`.
pub fn hurry() {
    match change_nice(USUALLY_NICE, NICE) {
        Ok(changed) => {
            HURRIED.fetch_or(changed, Ordering::Relaxed);
        }
        Err(error) => tracing::debug!(%error, "this thread waits for a processor as long as any other"),
    }
}

/// This thread's turn comes as that of any other: it does what others may make long.
pub fn take_time() {
    // A nice value that nobody changed is the user's own.
    if HURRIED.load(Ordering::Relaxed)
        && let Err(error) = change_nice(NICE, USUALLY_NICE)
    {
        tracing::debug!(%error, "this thread's turn comes before that of others");
    }
}

/// Whether it was changed.
fn change_nice(from: i32, to: i32) -> Result<bool, Errno> {
    // Of a thread, as Linux has it.
    let is_it = getpriority_process(None)? == from;
    if is_it {
        setpriority_process(None, to)?;
    }
    Ok(is_it)
}

fn change(file: &CStr, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut score = [0; 8];
    let length = rustix::io::read(&file, &mut score)?;
    if score.get(..length).unwrap_or_default().trim_ascii_end() == from {
        rustix::io::pwrite(&file, to, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostRoot;

    #[test]
    fn only_what_nobody_chose_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oom_score_adj");
        let file = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        for (before, after) in [("0\n", "-999"), ("-5\n", "-5\n"), ("", "")] {
            std::fs::write(&path, before).unwrap();
            change(&file, USUAL, SCORE).unwrap();
            assert_eq!(HostRoot::default().read_bounded(&path, 8).unwrap(), after.as_bytes());
        }
    }
}
