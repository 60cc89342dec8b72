//! Notices that a memory cgroup of cgroup v1 ran out of memory: an eventfd for each, handed to the kernel by
//! `cgroup.event_control` for `memory.oom_control`, and one epoll for all.
//!
//! The kernel gives notice before it kills, to every cgroup below the one at its limit too, and once more at the end of
//! a cgroup (`mm/memcontrol-v1.c`): it says when to look at `oom_kill`, and nothing else.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    fs::OFlags,
    io::Errno,
};

use super::{HostError, HostRoot};

/// Notices taken in one go.
const AT_ONCE: usize = 256;

/// All notices that are asked for.
#[derive(Debug)]
pub struct OomNotices {
    epoll: OwnedFd,
    by_token: HashMap<u64, OwnedFd>,
}

impl OomNotices {
    /// None yet.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new() -> Result<Self, HostError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = epoll.map_err(|errno| HostError::from_io(Path::new("epoll"), errno.into()))?;
        Ok(Self { epoll, by_token: HashMap::new() })
    }

    /// Asks for the notices of the cgroup whose files are in `folder`.
    ///
    /// # Errors
    /// It is gone, there is no descriptor left, or the kernel gives no notices.
    pub fn ask(&mut self, root: &HostRoot, folder: &Path, token: u64) -> Result<(), HostError> {
        let failed = |errno: Errno| HostError::from_io(folder, errno.into());
        let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let subject = root.open(&folder.join("memory.oom_control"), OFlags::RDONLY)?;
        let control = root.open(&folder.join("cgroup.event_control"), OFlags::WRONLY)?;
        let order = format!("{} {}", notice.as_raw_fd(), subject.as_raw_fd());
        rustix::io::write(&control, order.as_bytes()).map_err(failed)?;
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, &notice, data, epoll::EventFlags::IN).map_err(failed)?;
        self.by_token.insert(token, notice);
        Ok(())
    }

    /// Wants no more notices of this cgroup.
    pub fn forget(&mut self, token: u64) {
        self.by_token.remove(&token);
    }

    /// Takes the notices given, without waiting.
    pub fn take(&self) -> Vec<u64> {
        let mut events = Vec::with_capacity(AT_ONCE);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)).is_err() {
            return Vec::new();
        }
        let tokens: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
        for notice in tokens.iter().filter_map(|token| self.by_token.get(token)) {
            if let Err(error) = rustix::io::read(notice, &mut [0_u8; 8]) {
                tracing::trace!(%error, "a notice was taken already");
            }
        }
        tokens
    }
}

impl AsFd for OomNotices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
