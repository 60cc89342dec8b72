//! Who tells of memory that ran out is the last to be killed for it. A choice of the user (systemd's `OOMScoreAdjust=`) stays
//! what it is.

use std::ffi::CStr;

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// As kubelet's: any other process of the host goes before. Not -1000, for an agent that is at fault itself must end.
const SCORE: &[u8] = b"-999";
const USUAL: &[u8] = b"0";
const FILE: &CStr = c"/proc/self/oom_score_adj";

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
