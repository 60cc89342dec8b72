//! The kernel's log, `/dev/kmsg`: from its end, one record a read, as bytes. What it says is for the source to read.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::{
    fs::{OFlags, SeekFrom, seek},
    io::Errno,
};

use super::{HostError, HostRoot};

const KMSG: &str = "/dev/kmsg";
/// Largest record, bytes (`CONSOLE_EXT_LOG_MAX`, Linux 5.10; later ones are smaller).
const MAX_RECORD: usize = 8192;

/// The log, open.
#[derive(Debug)]
pub struct KernelLog(OwnedFd);

/// What one read gave.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A record.
    Record(&'a [u8]),
    /// Records that were to come next were overwritten.
    Overwritten,
    /// There is no more for now.
    End,
}

impl KernelLog {
    /// Opens the log behind its last record.
    ///
    /// # Errors
    /// It is not there, or the agent may not read it (`CAP_SYSLOG` where `kernel.dmesg_restrict` is set).
    pub fn open_at_end(root: &HostRoot) -> Result<Self, HostError> {
        let path = Path::new(KMSG);
        let log = root.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        seek(&log, SeekFrom::End(0)).map_err(|errno| HostError::from_io(path, errno.into()))?;
        Ok(Self(log))
    }

    /// The next record.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next<'a>(&self, buffer: &'a mut Buffer) -> Result<Entry<'a>, HostError> {
        match rustix::io::read(&self.0, &mut buffer.0[..]) {
            Ok(length) => Ok(Entry::Record(buffer.0.get(..length).unwrap_or_default())),
            Err(Errno::AGAIN) => Ok(Entry::End),
            // One that is larger than any record may be is as good as lost.
            Err(Errno::PIPE | Errno::INVAL) => Ok(Entry::Overwritten),
            Err(errno) => Err(HostError::from_io(Path::new(KMSG), errno.into())),
        }
    }
}

/// Room for a record.
#[derive(Debug)]
pub struct Buffer(Box<[u8; MAX_RECORD]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(Box::new([0; MAX_RECORD]))
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
