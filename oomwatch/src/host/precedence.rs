//! Who tells of memory that ran out is the last to be killed for it, and does not wait for those who use it up.
//!
//! A choice of the user (systemd's `OOMScoreAdjust=` and `Nice=`) stays what it is.

use std::ffi::CStr;

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{getpriority_process, setpriority_process},
};

/// As kubelet's: any other process of the host goes before. Not -1000, for an agent that is at fault itself must end.
const OOM_SCORE_ADJ: &[u8] = b"-999";
const NICE: i32 = -10;
const FILE: &CStr = c"/proc/self/oom_score_adj";

/// For this process. Needs `CAP_SYS_RESOURCE` and `CAP_SYS_NICE`; without them it is one among others.
pub fn take() {
    if let Err(error) = change(FILE, b"0", OOM_SCORE_ADJ) {
        tracing::debug!(%error, "the kernel may kill this process as soon as any other");
    }
    if let Err(error) = renice(0, NICE) {
        tracing::debug!(%error, "this process waits for a processor as any other");
    }
}

/// For a child between `fork` and `exec`, which is one among others: makes system calls and nothing else. A child that
/// stays as it was is better than none.
pub fn give_up() {
    let _kept: Result<(), Errno> = renice(NICE, 0);
    let _kept: Result<(), Errno> = change(FILE, OOM_SCORE_ADJ, b"0");
}

fn renice(from: i32, to: i32) -> Result<(), Errno> {
    if getpriority_process(None)? == from { setpriority_process(None, to) } else { Ok(()) }
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
        for (before, from, after) in [("0\n", b"0".as_slice(), "-999"), ("-5\n", b"0", "-5\n"), ("", b"0", "")] {
            std::fs::write(&path, before).unwrap();
            change(&file, from, OOM_SCORE_ADJ).unwrap();
            assert_eq!(HostRoot::default().read_bounded(&path, 8).unwrap(), after.as_bytes());
        }
    }
}
